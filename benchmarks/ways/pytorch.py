"""PyTorch: transformers' BERT, sorted by length, stored without padding; other models by hand."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.ways import Assets, Work, array_work, serve, text_work
from benchmarks.ways.torch_models import Bert, lstm, resnet50

torch.set_num_threads(2)


def _texts(name: str, assets: Assets) -> Work:
    model = Bert(assets.minilm, name)

    def forward(ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> Sequence[NDArray[Any]]:
        mask = torch.from_numpy((np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64))
        with torch.inference_mode():
            return [one.numpy() for one in model(torch.from_numpy(ids), mask)]

    return text_work(assets, name, forward)


def _arrays(model: torch.nn.Module, samples: NDArray[np.float32]) -> Work:
    def forward(batch: NDArray[np.float32]) -> Sequence[NDArray[Any]]:
        with torch.inference_mode():
            return [one.numpy() for one in model(torch.from_numpy(batch))]

    return array_work(samples, forward)


if __name__ == "__main__":
    serve(
        {
            **{
                name: partial(_texts, name)
                for name in ("hidden_states", "attention", "pooled", "first_layer")
            },
            "resnet50": lambda assets: _arrays(resnet50(assets), assets.array("pictures")),
            "lstm": lambda assets: _arrays(lstm(assets), assets.array("sequences")),
        },
        ["torch", "transformers"],
    )
