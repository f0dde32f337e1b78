"""Reading values back against computing them again: seconds for 1,000 samples, tensor by tensor.

Each tensor has a job of its own, which computes nothing that it does not need. Its time is that of
the stage `extract`, without loading the model. Reading opens the run, compares the digests of its
files and reads all samples, in their own shapes, from the system's page cache.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

import extractkit
from tests.corpus import stdlib_docstrings

TEXTS, PICTURES, SERIES = 256, 64, 1024


def main() -> None:
    """Print the rows of the table in the documentation."""
    print("| model | tensor | kB per sample | computing, s | reading, s | ratio |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, (shown, model, inputs, address) in enumerate(works()):
            run = extractkit.extract(
                [*model, f"+selectors.one.path='{address}'"],
                inputs=inputs,
                run_dir=folder / str(number),
                **({} if model else {"model": lstm()}),
            )
            computing = run.manifest.volatile.timings["extract"]
            began = perf_counter()
            opened = extractkit.open(run.path)
            assert isinstance(opened, extractkit.Run)
            (view,) = opened.values()
            size = sum(value.nbytes for value in view)
            reading = perf_counter() - began
            of_1000 = 1000 / len(view)
            print(
                f"| {shown} | `{address}` | {size / len(view) / 1e3:,.1f} "
                f"| {computing * of_1000:.2f} | {reading * of_1000:.3f} "
                f"| {computing / reading:,.0f} |",
                flush=True,
            )


def works() -> Iterator[tuple[str, list[str], Any, str]]:
    """Yield the name of a model, its configuration (none: the LSTM), inputs and an address."""
    texts = stdlib_docstrings(TEXTS)
    for layer in (0, 5):
        for of in (":output", "/self_attention_layer/softmax:output"):
            yield "MiniLM", ["model=bert"], texts, f"transformer_layer_{layer}{of}"
    draw = np.random.default_rng(0)
    pictures = draw.random((PICTURES, 224, 224, 3), np.float32)
    resnet = ["model=applications", "model.architecture=ResNet50", "model.weights=null"]
    for address in ("conv2_block3_out:output", "conv5_block3_out:output", "avg_pool:output"):
        yield "ResNet50", resnet, pictures, address
    series = draw.random((SERIES, 200, 16), np.float32)
    for address in ("lstm:output", "head:output"):
        yield "LSTM of 128 units, 200 steps", [], series, address


def lstm() -> Any:
    """Return a Keras model of one LSTM."""
    import keras

    layers = [
        keras.Input((200, 16)),
        keras.layers.LSTM(128, return_sequences=True, name="lstm"),
        keras.layers.Dense(1, name="head"),
    ]
    return keras.Sequential(layers)
