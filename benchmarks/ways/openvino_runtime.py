"""OpenVINO: models from ONNX files, texts sorted by length, stored without padding."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from benchmarks.ways import TEXT_WORKS, Assets, Work, array_work, serve, text_work
from benchmarks.ways.onnx_files import exported


def _compiled(path: object) -> openvino.CompiledModel:
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 2}
    return core.compile_model(core.read_model(str(path)), "CPU", settings)


def _texts(name: str, assets: Assets) -> Work:
    model = _compiled(exported(assets, name))

    def forward(ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> Sequence[NDArray[Any]]:
        mask = (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)
        return list(model({"ids": ids, "mask": mask}).to_tuple())

    return text_work(assets, name, forward)


def _arrays(model: openvino.CompiledModel, samples: NDArray[np.float32]) -> Work:
    return array_work(samples, lambda batch: list(model([batch]).to_tuple()))


if __name__ == "__main__":
    serve(
        {
            **{name: partial(_texts, name) for name in TEXT_WORKS},
            "resnet50": lambda assets: _arrays(
                _compiled(exported(assets, "resnet50")), assets.array("pictures")
            ),
            "lstm": lambda assets: _arrays(
                _compiled(exported(assets, "lstm")), assets.array("sequences")
            ),
            "saved_model": lambda assets: _arrays(_compiled(assets.onnx), assets.array("audio")),
        },
        ["openvino", "torch"],
    )
