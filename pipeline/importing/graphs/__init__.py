"""In this room ONNX graphs of other programs come into one form, proven to be the same function."""
