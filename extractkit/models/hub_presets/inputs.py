"""What a preset's model takes: rows of token ids, images, or whatever else its inputs are."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from extractkit.inputs.protocol import InputSpec, Signature
from extractkit.models.keras_models.signature import input_structure, signature

TOKEN = "token"
"""The free axis of a model that takes one row of tokens."""

# Names that keras-hub's backbones have in common; the first part in those with two rows of tokens.
_ROW = re.compile(r"(?:(\w+)_)?(token_ids|segment_ids|padding_mask)")


def preset_signature(name: str, model: Any, backbone: Any) -> Signature:
    """What a backbone or task takes, rows of tokens sharing one length.

    Args:
        name: for messages.
    """
    taken = signature(name, input_structure(model))
    return replace(taken, specs=tuple(_spec(spec, backbone) for spec in taken.specs))


def longest(specs: Sequence[InputSpec], backbone: Any) -> dict[str, int]:
    """The most tokens that a model has positions for, for each axis of tokens; may be none."""
    positions = getattr(backbone, "max_sequence_length", None)
    axes = {dim for spec in specs if _is_row(spec) for dim in spec.dims if dim}
    return {} if positions is None else dict.fromkeys(sorted(axes), int(positions))


def takes_one_row(specs: Sequence[InputSpec]) -> bool:
    """Whether the inputs are one row of tokens, such as a text becomes."""
    axes = {dim for spec in specs for dim in spec.dims}
    return axes == {TOKEN} and all(map(_is_row, specs))


def takes_images(specs: Sequence[InputSpec]) -> bool:
    """Whether the only input is an image (height, width, channels)."""
    return [len(spec.shape) for spec in specs] == [3]


def _is_row(spec: InputSpec) -> bool:
    return _ROW.fullmatch(spec.name) is not None and len(spec.shape) == 1


def _spec(spec: InputSpec, backbone: Any) -> InputSpec:
    row = _ROW.fullmatch(spec.name)
    if row is None or spec.shape != (None,):
        return spec
    axis = f"{row[1]}_{TOKEN}" if row[1] else TOKEN
    low, high = {
        "token_ids": (0, getattr(backbone, "vocabulary_size", None)),
        "segment_ids": (0, getattr(backbone, "num_segments", 1)),
        "padding_mask": (1, 2),
    }[row[2]]
    return replace(spec, dims=(axis,), low=low, high=high)
