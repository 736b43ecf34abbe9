"""In this room a folded float model becomes int8, and is proven on the real kernels."""
