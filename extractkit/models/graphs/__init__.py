"""Any TensorFlow graph: its catalog, its axes, and tensors of it rebuilt."""
