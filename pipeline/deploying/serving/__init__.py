"""In this room a package answers over HTTP: images are decoded, and classified in batches."""
