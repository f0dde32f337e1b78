"""The model that is trained."""

import keras
from keras import layers

HIDDEN = 4
WIDTH = 64
DIGITS = 10


def network() -> keras.Model:
    """Hidden layers for 64 pixels, then one number for each digit (logits)."""
    hidden = [layers.Dense(WIDTH, "relu", name=f"hidden_{at + 1}") for at in range(HIDDEN)]
    return keras.Sequential([keras.Input((64,)), *hidden, layers.Dense(DIGITS, name="logits")])
