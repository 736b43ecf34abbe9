"""In this room weights and models of other programs become artifacts of ours."""
