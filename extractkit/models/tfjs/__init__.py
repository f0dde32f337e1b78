"""Models of TensorFlow.js: graphs with their weights as constants, and Keras layers."""
