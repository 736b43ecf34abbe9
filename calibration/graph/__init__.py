"""The float graph is parsed, shaped for the kernels, and written with integers."""
