"""What was measured becomes records: typed, frozen, and published as JSON schemas."""
