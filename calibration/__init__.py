"""This room makes integers of a float network: it chooses images, ranges and roundings."""
