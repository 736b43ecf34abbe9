"""In this room weights and biases are equalized, rounded and corrected, layer by layer."""
