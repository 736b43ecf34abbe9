"""This room measures accuracy on labelled images, and predicts what others show."""
