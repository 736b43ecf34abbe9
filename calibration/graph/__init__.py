"""In this room the float graph is parsed, shaped for kernels, and written with integers."""
