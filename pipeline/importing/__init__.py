"""Weights and models of other programs become artifacts of ours."""
