"""Presets of keras-hub: backbones, tokenizers, preprocessing."""
