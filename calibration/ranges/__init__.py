"""Methods that choose the range of a tensor from the histogram of its values."""
