"""Functions of TensorFlow 2: traced, inlined, or run eagerly."""
