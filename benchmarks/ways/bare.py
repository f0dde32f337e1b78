"""The bare forward pass: TensorFlow returns the values that a work needs, and nothing is stored.

Texts are sorted and batched as in `tensorflow_loop`, and tokenized before the clock starts.
"""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.ways import BATCH_SIZE, TEXT_WORKS, Assets, Work, serve
from benchmarks.ways.keras_models import bert, lstm, resnet50
from benchmarks.ways.tensorflow_loop import TOKENS, Forward, signature_of, traced


def _texts(name: str, assets: Assets) -> Work:
    forward = traced(bert(assets.minilm, name), TOKENS)
    batches = [
        (ids.astype(np.int32), (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int32))
        for ids, lengths in assets.batches()
    ]

    def run(_: object) -> None:
        for batch in batches:
            forward(*batch)

    return Work(run, None)


def _arrays(forward: Forward, samples: NDArray[np.float32]) -> Work:
    def run(_: object) -> None:
        for first in range(0, len(samples), BATCH_SIZE):
            forward(samples[first : first + BATCH_SIZE])

    return Work(run, None)


if __name__ == "__main__":
    serve(
        {
            **{name: partial(_texts, name) for name in TEXT_WORKS},
            "resnet50": lambda assets: _arrays(traced(resnet50(assets)), assets.array("pictures")),
            "lstm": lambda assets: _arrays(traced(lstm(assets)), assets.array("sequences")),
            "saved_model": lambda assets: _arrays(signature_of(assets), assets.array("audio")),
        },
        ["tensorflow", "keras"],
    )
