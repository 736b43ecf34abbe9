"""This room compares answers: of two models, or of kernels with what their codes define."""
