"""Records of what was measured, and pure functions from records to documents."""
