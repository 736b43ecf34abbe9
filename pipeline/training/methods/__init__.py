"""This room has what is different from plain training: detectors, distillation, trained grids."""
