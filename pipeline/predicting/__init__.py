"""This room answers very many images: a job is cut into parts, and each part becomes one file."""
