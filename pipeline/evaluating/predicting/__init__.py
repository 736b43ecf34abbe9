"""This room answers images: single ones, or very many in parts, each of which becomes one file."""
