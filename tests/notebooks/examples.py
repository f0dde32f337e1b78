"""A model whose tensors need each kind of chart, computed without TensorFlow."""

from functools import cached_property

import numpy as np

from extractkit.core.catalog import Catalog, Kind, TensorRecord
from extractkit.core.spec import TensorSpec
from extractkit.core.values import Array
from extractkit.testing.reference import ReferenceModel

LAYERS, HEADS, CHANNELS = 2, 3, 20
SIDE = 6


class Pictured(ReferenceModel):
    """Attention with heads in two layers, and maps with a height and a width."""

    @cached_property
    def catalog(self) -> Catalog:
        spec = TensorSpec.of(
            "float32", ("sample", "head", "token", "token"), (None, HEADS, None, None)
        )
        maps = TensorSpec.of(
            "float32", ("sample", "height", "width", "channel"), (None, SIDE, SIDE, CHANNELS)
        )
        records = [
            *(
                TensorRecord(f"layer_{at}/softmax:output", Kind.LAYER_OUTPUT, spec)
                for at in range(LAYERS)
            ),
            TensorRecord("block/<b>image:output", Kind.LAYER_OUTPUT, maps),
        ]
        return Catalog([*records, *super().catalog.records], self.name)

    def forward(self, tokens: Array) -> dict[str, Array]:
        found = super().forward(tokens)
        scores = np.log(found["attention:op/Softmax"] + 1e-6)
        for layer in range(LAYERS):
            sharp = np.stack([np.exp(scores * (0.2 + layer + head)) for head in range(HEADS)])
            shares = (sharp / sharp.sum(-1, keepdims=True)).astype(np.float32)
            found[f"layer_{layer}/softmax:output"] = shares
        size = SIDE * SIDE * CHANNELS
        numbers = np.arange(size, dtype=np.float32) * np.float32(len(tokens) + 1)
        found["block/<b>image:output"] = numbers.reshape(SIDE, SIDE, CHANNELS)
        return found
