"""TensorFlow Lite files, run by LiteRT."""
