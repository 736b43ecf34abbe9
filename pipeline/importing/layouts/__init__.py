"""Each file of this room knows the names under which a program stores a MobileNet."""
