"""Records of what was measured: typed, frozen, and published as JSON schemas."""
