"""Transforms of a selector's values before they leave the model. One file per family."""
