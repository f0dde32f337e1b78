"""onnxruntime: models from ONNX files, texts sorted by length, stored without padding."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.ways import TEXT_WORKS, Assets, Work, array_work, serve, text_work
from benchmarks.ways.onnx_files import exported


def _session(path: object) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _texts(name: str, assets: Assets) -> Work:
    session = _session(exported(assets, name))

    def forward(ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> Sequence[NDArray[Any]]:
        mask = (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)
        found: Sequence[NDArray[Any]] = session.run(None, {"ids": ids, "mask": mask})
        return found

    return text_work(assets, name, forward)


def _arrays(session: onnxruntime.InferenceSession, samples: NDArray[np.float32]) -> Work:
    (given,) = session.get_inputs()
    return array_work(samples, lambda batch: session.run(None, {given.name: batch}))


if __name__ == "__main__":
    serve(
        {
            **{name: partial(_texts, name) for name in TEXT_WORKS},
            "resnet50": lambda assets: _arrays(
                _session(exported(assets, "resnet50")), assets.array("pictures")
            ),
            "lstm": lambda assets: _arrays(
                _session(exported(assets, "lstm")), assets.array("sequences")
            ),
            "saved_model": lambda assets: _arrays(_session(assets.onnx), assets.array("audio")),
        },
        ["onnxruntime", "torch"],
    )
