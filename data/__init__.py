"""This room reads images, and makes arrays of them."""
