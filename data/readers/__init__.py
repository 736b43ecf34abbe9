"""Readers of the formats in which people keep images, and of addresses."""
