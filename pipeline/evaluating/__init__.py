"""This room measures accuracy on labelled images, and names the classes of single ones."""
