"""This room surrounds the loop of training: its processes, signals, memory, and log."""
