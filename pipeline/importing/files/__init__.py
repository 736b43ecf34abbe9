"""In this room tensors are read from the files of other programs; no code in them runs."""
