"""Running a model of the tests for a few tensors."""

from collections.abc import Iterable, Mapping

import numpy as np

from extractkit.core.requests import Value
from extractkit.core.values import Array
from extractkit.models import Compilation, Fetch
from extractkit.models.keras_models.model import KerasModel


def values_of(
    model: KerasModel, addresses: Iterable[str], batch: Mapping[str, Array], mode: str = "graph"
) -> dict[str, Array]:
    """The tensors for a batch in which no sample is padded, as the model makes them."""
    keys = list(addresses)
    lengths: dict[str, Array] = {}
    for spec in model.signature.specs:
        array = batch[spec.name]
        for axis, dim in enumerate(spec.dims, 1):
            if dim is not None:
                lengths[dim] = np.full(len(array), array.shape[axis], np.int32)
    fetches = [Fetch(Value(model.catalog[key].address)) for key in keys]
    return dict(zip(keys, model.program(fetches, Compilation(mode))(batch, lengths), strict=True))
