"""Each method of this room chooses the range of a tensor from the histogram of its values."""
