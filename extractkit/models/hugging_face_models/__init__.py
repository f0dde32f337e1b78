"""TensorFlow models of transformers 4: their directories, classes, inputs and preprocessing."""
