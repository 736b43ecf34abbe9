"""In this room each row of a benchmark has a process, in which an engine runs one model."""
