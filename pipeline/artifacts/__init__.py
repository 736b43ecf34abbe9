"""This room has files that know where they come from: models with their facts, and runs."""
