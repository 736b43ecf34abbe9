"""This room runs models, measures how long they take, and compares their answers."""
