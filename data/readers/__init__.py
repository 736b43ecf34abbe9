"""Each file of this room reads a format in which people keep images, or an address."""
