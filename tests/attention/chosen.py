"""What `selectors=attention` chooses, and its values."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from extractkit.core.catalog import TensorRecord
from extractkit.core.selectors import parse_selector
from extractkit.core.values import Array
from extractkit.models.keras_models.model import KerasModel
from tests.models.programs import values_of

CONF = Path(__file__).parents[2] / "conf" / "selectors" / "attention.yaml"
ATTENTION = parse_selector("attention", yaml.safe_load(CONF.read_text("utf-8"))["attention"])


def chosen(model: Any) -> list[TensorRecord]:
    """The records that the ready selector matches, in the order of the catalog."""
    return list(ATTENTION.select(model.catalog))


def probabilities(
    model: KerasModel, batch: dict[str, Array], mode: str = "graph"
) -> dict[str, Array]:
    """Their values for a batch, by address."""
    return values_of(model, [record.address for record in chosen(model)], batch, mode)


def softmax(scores: Array, mask: Array | bool = True) -> Array:
    """The softmax over the last axis in float64; rows without any unmasked key are zero."""
    masked = np.where(mask, scores.astype(np.float64), -np.inf)
    with np.errstate(invalid="ignore"):
        raised = np.exp(masked - masked.max(-1, keepdims=True))
        return np.nan_to_num(raised / raised.sum(-1, keepdims=True))
