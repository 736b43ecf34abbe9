"""Network architectures as data, and the torch modules built from them."""
