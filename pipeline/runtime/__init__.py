"""What runs a model on this machine, how long it takes, and how close two answers are."""
