"""ONNX files of the works, exported from PyTorch for the engines that read ONNX."""

from pathlib import Path

import torch

from benchmarks.ways import TEXT_WORKS, Assets
from benchmarks.ways.torch_models import Bert, lstm, resnet50


def exported(assets: Assets, work: str) -> Path:
    """Export the model of a work, unless that has been done, and return the file."""
    path = assets.folder / f"{work}.onnx"
    if path.exists():
        return path
    inputs: tuple[torch.Tensor, ...]
    if work in TEXT_WORKS:
        model: torch.nn.Module = Bert(assets.minilm, work)
        inputs = (torch.ones(2, 7, dtype=torch.int64), torch.ones(2, 7, dtype=torch.int64))
        axes = {"ids": {0: "text", 1: "token"}, "mask": {0: "text", 1: "token"}}
    else:
        model = resnet50(assets) if work == "resnet50" else lstm(assets)
        samples = assets.array("pictures" if work == "resnet50" else "sequences")
        inputs = (torch.from_numpy(samples[:2]),)
        axes = {"x": {0: "sample"}}
    with torch.inference_mode():
        torch.onnx.export(
            model,
            inputs,
            str(path),
            input_names=list(axes),
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )
    return path
