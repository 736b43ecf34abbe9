"""A folded float model becomes an int8 model that is proven on the real kernels."""
