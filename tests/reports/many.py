"""A model of many tensors, each a few numbers."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from extractkit.core.catalog import Catalog, Kind, TensorRecord
from extractkit.core.spec import TensorSpec
from extractkit.core.values import Array
from extractkit.models import Compilation, Fetch, Program
from extractkit.testing.reference import ReferenceModel

COUNT = 1000


class Many(ReferenceModel):
    """A thousand multiples of the length of a text, and of its square."""

    @cached_property
    def catalog(self) -> Catalog:
        spec = TensorSpec.of("float32", ("sample", None), (None, 2))
        records = [
            TensorRecord(f"block_{at // 10}/unit_{at % 10}:output", Kind.LAYER_OUTPUT, spec)
            for at in range(COUNT)
        ]
        return Catalog([*records, TensorRecord(":output", Kind.MODEL_OUTPUT, spec)], self.name)

    def program(self, fetches: Sequence[Fetch], compilation: Compilation) -> Program:
        order = {record.address: at for at, record in enumerate(self.catalog.records)}
        factors = [np.float32(order[fetch.address] + 1) for fetch in fetches]

        def run(features: Mapping[str, Array], lengths: Mapping[str, Array]) -> list[Array]:
            sizes = lengths["token"].astype(np.float32)
            both = np.stack([sizes, sizes**2], axis=1)
            return [both * factor for factor in factors]

        return run

    def forward(self, tokens: Array) -> dict[str, Array]:
        size = np.float32(len(tokens))
        return {":output": np.array([size, size**2], np.float32) * np.float32(COUNT + 1)}
