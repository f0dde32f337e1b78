"""Keras models: files, architectures, weights, and the trace behind their catalog."""
