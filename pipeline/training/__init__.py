"""In this room images become a checkpoint, by a training loop that can be interrupted."""
