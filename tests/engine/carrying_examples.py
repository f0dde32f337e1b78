"""A model in plain NumPy that carries a state: the sum of what it has pooled so far."""

from collections.abc import Mapping, Sequence

import numpy as np

from extractkit.core.job import Job
from extractkit.core.requests import Value
from extractkit.core.values import Array, State
from extractkit.models import CarryingProgram, Compilation, Fetch
from extractkit.testing.reference import ReferenceModel
from tests.engine.examples import TEXTS, job

CARRIED = ({"path": ["pool:output", ":output"]}, {"kind": "weight"})


class CarryingReference(ReferenceModel):
    """Adds to every value of a sample what the samples in front of it had pooled."""

    def samples_carried(self) -> int:
        return 1

    def carrying_program(
        self, fetches: Sequence[Fetch], compilation: Compilation
    ) -> CarryingProgram:
        plain = self.program([*fetches, Fetch(Value("pool:output"))], compilation)

        def call(
            features: Mapping[str, Array], lengths: Mapping[str, Array], state: State
        ) -> tuple[list[Array], State]:
            *values, pooled = plain(features, lengths)
            return [value + state[0] for value in values], (state[0] + pooled[0],)

        return CarryingProgram(1, (np.zeros(4, np.float32),), call)


def carrying(texts: Sequence[str] = TEXTS[:12], **runtime: object) -> Job:
    """A job over texts of several lengths, five samples a shard."""
    settings = {"shard_size": 5, **runtime}
    return job(*CARRIED, model=CarryingReference(), inputs=texts, sinks=("hdf5", "npz"), **settings)
