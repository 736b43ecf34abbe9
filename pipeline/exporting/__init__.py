"""A checkpoint becomes ONNX, its BatchNorms are folded, and its precision is converted."""
