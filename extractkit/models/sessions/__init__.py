"""Graphs of TensorFlow 1, run in a session."""
