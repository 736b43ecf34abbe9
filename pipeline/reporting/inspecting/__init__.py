"""This room shows what a model file or the state of a training holds; nothing is run."""
