"""Two runs held against each other: joined by tensor and by sample, measured block by block."""
