"""In this room a model file becomes a package that programs without this project can use."""
