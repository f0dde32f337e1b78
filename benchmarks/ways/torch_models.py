"""The models of the comparison in PyTorch, with the weights that TensorFlow has."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import BertModel

from benchmarks.ways import Assets


class Bert(nn.Module):
    """MiniLM, which returns what a work needs of each layer.

    For `first_layer`, the other layers are taken off.
    """

    def __init__(self, folder: Path, work: str) -> None:
        super().__init__()
        attention = "eager" if work == "attention" else "sdpa"
        self.bert = BertModel.from_pretrained(
            str(folder), attn_implementation=attention, add_pooling_layer=False
        ).eval()
        self.attention = work == "attention"
        if work == "first_layer":
            self.bert.encoder.layer = self.bert.encoder.layer[:1]

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> Sequence[torch.Tensor]:
        """Map ids and mask (texts, tokens) to a tensor a layer: states, or probabilities."""
        found = self.bert(
            input_ids=ids,
            attention_mask=mask,
            output_hidden_states=not self.attention,
            output_attentions=self.attention,
        )
        return tuple(found.attentions if self.attention else found.hidden_states[1:])


class _Convolution(nn.Module):
    """A convolution and its batch normalisation, as `keras.applications.ResNet50` has them."""

    def __init__(
        self, weights: dict[str, np.ndarray], name: str, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__()
        kernel = weights[f"{name}_conv/kernel"]
        self.conv = nn.Conv2d(
            kernel.shape[2], kernel.shape[3], kernel.shape[0], stride, padding=padding
        )
        self.conv.weight.data = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
        self.conv.bias.data = torch.from_numpy(weights[f"{name}_conv/bias"])
        self.norm = nn.BatchNorm2d(kernel.shape[3], eps=1.001e-5)
        for ours, theirs in {
            "weight": "gamma",
            "bias": "beta",
            "running_mean": "moving_mean",
            "running_var": "moving_variance",
        }.items():
            getattr(self.norm, ours).data = torch.from_numpy(weights[f"{name}_bn/{theirs}"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normalised: torch.Tensor = self.norm(self.conv(x))
        return normalised


class _Block(nn.Module):
    def __init__(self, weights: dict[str, np.ndarray], name: str, stride: int) -> None:
        super().__init__()
        self.shortcut = (
            _Convolution(weights, f"{name}_0", stride)
            if f"{name}_0_conv/kernel" in weights
            else nn.Identity()
        )
        self.first = _Convolution(weights, f"{name}_1", stride)
        self.second = _Convolution(weights, f"{name}_2", padding=1)
        self.third = _Convolution(weights, f"{name}_3")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.third(torch.relu(self.second(torch.relu(self.first(x)))))
        return torch.relu(self.shortcut(x) + inner)


class ResNet50(nn.Module):
    """ResNet50 with Keras's weights: pictures (n, 224, 224, 3) to the outputs of four stages."""

    BLOCKS = (3, 4, 6, 3)

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.stem = _Convolution(weights, "conv1", 2, padding=3)
        self.pool = nn.MaxPool2d(3, 2, padding=1)
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    _Block(
                        weights, f"conv{stage}_block{block}", 2 if block == 1 and stage > 2 else 1
                    )
                    for block in range(1, count + 1)
                )
            )
            for stage, count in enumerate(self.BLOCKS, start=2)
        )

    def forward(self, pictures: torch.Tensor) -> Sequence[torch.Tensor]:
        """Return (n, height, width, channels) for each stage."""
        x = self.pool(torch.relu(self.stem(pictures.permute(0, 3, 1, 2))))
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x.permute(0, 2, 3, 1).contiguous())
        return tuple(found)


class Lstm(nn.Module):
    """Keras's LSTM: (n, steps, features) to its output at every step."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        super().__init__()
        kernel, recurrent, bias = (weights[name] for name in ("kernel", "recurrent_kernel", "bias"))
        self.lstm = nn.LSTM(kernel.shape[0], recurrent.shape[0], batch_first=True)
        self.lstm.weight_ih_l0.data = torch.from_numpy(kernel.T.copy())
        self.lstm.weight_hh_l0.data = torch.from_numpy(recurrent.T.copy())
        self.lstm.bias_ih_l0.data = torch.from_numpy(bias)
        self.lstm.bias_hh_l0.data = torch.zeros_like(self.lstm.bias_ih_l0)

    def forward(self, sequences: torch.Tensor) -> Sequence[torch.Tensor]:
        """Return the outputs (n, steps, units)."""
        return (self.lstm(sequences)[0],)


def resnet50(assets: Assets) -> nn.Module:
    """Build ResNet50 with the weights of `resnet50.npz`."""
    return ResNet50(dict(np.load(assets.folder / "resnet50.npz"))).eval()


def lstm(assets: Assets) -> nn.Module:
    """Build the LSTM with the weights of `lstm.npz`."""
    return Lstm(dict(np.load(assets.folder / "lstm.npz"))).eval()
