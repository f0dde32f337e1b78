"""extractkit: whole jobs, from the first sample read to the finished run.

Tokenizing, reading and hashing the inputs, and forcing files to disk are part of it, and loading
and tracing the model are not, as in the other ways. The second argument is the compiler.
"""

import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

import extractkit
from benchmarks.ways import TEXT_WORKS, Assets, Totals, Work, serve
from benchmarks.ways.keras_models import STAGES, lstm, resnet50
from extractkit.engine import Silent

COMPILER = sys.argv[2] if len(sys.argv) > 2 else "graph"
LAYERS = "^transformer_layer_[0-9]+:output"
SELECTORS: Mapping[str, Mapping[str, object]] = {
    "hidden_states": {"regex": LAYERS},
    "attention": {"path": "*/softmax:output"},
    "pooled": {"regex": LAYERS, "do": [{"mean": "token"}]},
    "first_layer": {"path": "transformer_layer_0:output"},
    "resnet50": {"path": [f"{name}:output" for name in STAGES]},
    "lstm": {"path": "memory:output"},
    "saved_model": {"kind": "model_output"},
    "tflite": {"kind": "model_output"},
    "weights": {"kind": "weight"},
}


class _Clock(Silent):
    """Notes when the samples have been surveyed and when the run is complete."""

    def planned(self, *plan: object) -> None:
        self.surveyed = perf_counter()

    def finished(self, summary: object) -> None:
        self.done = perf_counter()


class _Job:
    """A job of `extractkit.extract`; its seconds exclude loading, tracing and the self-check."""

    def __init__(self, name: str, assets: Assets) -> None:
        self._selector = SELECTORS[name]
        self._overrides: Sequence[str] = ()
        self._model: Any = None
        self._inputs: Any = assets.texts
        if name in TEXT_WORKS:
            self._overrides = ["model=bert"]
        elif name == "weights":
            self._overrides, self._inputs = ["model=bert"], assets.texts[:1]
        elif name in ("resnet50", "lstm"):
            self._model = resnet50(assets) if name == "resnet50" else lstm(assets)
            self._inputs = assets.array("pictures" if name == "resnet50" else "sequences")
        else:
            path = assets.saved_model if name == "saved_model" else assets.tflite
            self._overrides = [f"model={name}", f"model.path={path}"]
            self._inputs = assets.array("audio")

    def run(self, path: Path) -> float:
        shutil.rmtree(path, ignore_errors=True)
        clock = _Clock()
        run = extractkit.extract(
            self._overrides,
            model=self._model,
            inputs=self._inputs,
            selectors={"s": self._selector},
            runtime={"compile": COMPILER},
            run_dir=path,
            listener=clock,
        )
        return run.manifest.volatile.timings["survey"] + clock.done - clock.surveyed

    def totals(self, path: Path) -> Totals:
        arrays = []
        run = extractkit.open(path)
        assert isinstance(run, extractkit.Run)
        for view in run.values():
            if view.constant:
                arrays.append(np.asarray(view))
            else:
                arrays += [view.sample(index) for index in range(len(view))]
        return Totals.of(arrays)


def _work(name: str, assets: Assets) -> Work:
    job = _Job(name, assets)
    return Work(job.run, job.totals)


NOT_COMPILED = ("lstm", "tflite", "weights")  # a loop, no graph of TensorFlow, nothing to compute

if __name__ == "__main__":
    serve(
        {
            name: partial(_work, name)
            for name in SELECTORS
            if COMPILER == "graph" or name not in NOT_COMPILED
        },
        ["extractkit", "tensorflow", "keras"],
    )
