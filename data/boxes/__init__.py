"""Images with boxes around objects are read here, in the formats that people have."""
