"""The names and shapes under which other programs store a MobileNet v1, one file each."""
