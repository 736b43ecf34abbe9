"""How a float network becomes integers: which images, which ranges, which roundings."""
