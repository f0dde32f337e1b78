"""What is wrong with the sizes of samples on which a model fails: how much is tried to find out."""

from collections.abc import Mapping

import numpy as np
import pytest

from extractkit.core.plan import SampleLengths
from extractkit.core.values import Array
from extractkit.engine.batches import collate
from extractkit.engine.sizes import OwnSizes, SizeFaults
from extractkit.errors import SampleError
from extractkit.models import Encoded
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


class TestOwnSizes:
    """Samples in a padded batch whose own sizes the program does not take."""

    @staticmethod
    def refused(program: Counting, in_all: int, *lengths: int) -> list[int]:
        """Rows of one padded batch, of a job with so many different lengths."""
        samples = [Encoded({"tokens": np.ones(n, np.int32)}, {"token": n}) for n in lengths]
        every = SampleLengths(in_all, {"token": np.arange(in_all)})
        sizes = OwnSizes(MODEL.signature, lambda: program, every)
        found = sizes.refused(collate(MODEL.signature, samples, 8))
        assert set(found.values()) <= {"it does not take that"}
        return list(found)

    @pytest.mark.parametrize("different", [5, 50])
    @pytest.mark.parametrize("lengths", [(9, 12, 12, 14, 17), (12, 9, 17, 14, 12)])
    def test_each_is_found(self, different: int, lengths: tuple[int, ...]) -> None:
        refused = self.refused(Counting(4), different, *lengths)
        assert [lengths[row] for row in refused] == [n for n in lengths if n % 4]

    def test_one_among_many_lengths_is_found(self) -> None:
        assert self.refused(Counting(2), 65, *range(2, 60, 2), 61) == [29]

    def test_a_program_that_takes_all_sizes_is_run_at_few(self) -> None:
        program = Counting(1)
        assert self.refused(program, 65, *range(2, 64)) == []
        assert program.calls < 30

    def test_so_is_one_that_takes_none_below_a_length(self) -> None:
        class Long(Counting):
            def __call__(self, features: Mapping[str, Array], lengths: object) -> list[Array]:
                if features["tokens"].shape[1] < 5:
                    raise SampleError("it does not take that")
                return []

        assert self.refused(Long(1), 65, 9, 4, 5, 2, 30) == [1, 3]

    @pytest.mark.parametrize("order", [(5, 40), (16, 40), (40, 5, 16), (32, 40, 16, 5)])
    def test_it_does_not_matter_which_samples_a_process_sees_first(
        self, order: tuple[int, ...]
    ) -> None:
        class Windows(Counting):
            def __call__(self, features: Mapping[str, Array], lengths: object) -> list[Array]:
                length = features["tokens"].shape[1]
                if length > 16 and length % 16:
                    raise SampleError("it does not take that")
                return []

        lengths = (*order, 63)
        refused = self.refused(Windows(1), 65, *lengths)
        assert [lengths[row] for row in refused] == [40, 63]

    def test_what_is_not_padded_is_not_tried(self) -> None:
        program = Counting(4)
        assert self.refused(program, 50, 16, 16) == []
        assert program.calls == 0

    def test_one_that_takes_all_between_two_is_run_at_the_smallest_and_largest(self) -> None:
        program = Counting(1)
        every = SampleLengths(57, {"token": np.arange(3, 60)})
        sizes = OwnSizes(MODEL.signature, lambda: program, every, lambda: True)
        samples = [Encoded({"tokens": np.ones(n, np.int32)}, {"token": n}) for n in (9, 5, 8)]
        assert sizes.refused(collate(MODEL.signature, samples, 8)) == {}
        assert program.calls == 3  # 3, 4 and 59
