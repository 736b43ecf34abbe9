"""In this room a checkpoint becomes ONNX, BatchNorms are folded, and precision is converted."""
