"""What is wrong with the sizes of samples on which a model fails: how much is tried to find out."""

from collections.abc import Mapping

import numpy as np

from extractkit.core.values import Array
from extractkit.engine.batches import collate
from extractkit.engine.sizes import SizeFaults
from extractkit.errors import SampleError
from extractkit.models.protocol import Encoded
from extractkit.testing.reference import ReferenceModel

MODEL = ReferenceModel()


class Counting:
    """A program that takes lengths which are multiples of `multiple`, and counts its calls."""

    def __init__(self, multiple: int) -> None:
        self.multiple, self.calls = multiple, 0

    def __call__(self, features: Mapping[str, Array], lengths: Mapping[str, Array]) -> list[Array]:
        self.calls += 1
        if features["tokens"].shape[1] % self.multiple:
            raise SampleError("it does not take that")
        return []


def faults_of(faults: SizeFaults, *lengths: int) -> list[str | None]:
    samples = [Encoded({"tokens": np.ones(n, np.int32)}, {"token": n}) for n in lengths]
    return [faults.of(collate(MODEL.signature, [sample])) for sample in samples]


def test_a_size_is_tried_once_for_all_samples() -> None:
    program = Counting(4)
    faults = SizeFaults(MODEL, [":output"], program)
    found = faults_of(faults, 9, 9)
    assert found[0] == found[1]
    assert "it has 9 along 'token', where 8, 12 or another multiple of 4" in str(found[0])
    calls = program.calls
    faults_of(faults, 9, 9, 9)
    assert program.calls == calls


def test_nothing_longer_than_the_model_takes_is_tried() -> None:
    program = Counting(128)
    assert faults_of(SizeFaults(MODEL, [":output"], program), 60) == [None]
    assert program.calls


def test_a_search_that_finds_nothing_is_not_repeated() -> None:
    program = Counting(1_000_003)
    faults = SizeFaults(MODEL, [":output"], program)
    assert faults_of(faults, 9) == [None]
    calls = program.calls
    assert faults_of(faults, 30, 31, 32) == [None, None, None]
    assert program.calls == calls
