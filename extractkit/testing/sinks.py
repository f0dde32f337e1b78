"""The contract tests of sinks.

A test module of a sink subclasses `SinkContract` and provides the sink:

    class TestMySink(SinkContract):
        def sink(self) -> Sink:
            return MySink()

pytest then collects the tests below.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from extractkit.core.digests import Algorithm, digest
from extractkit.core.shards import Shard
from extractkit.core.spec import TensorSpec
from extractkit.core.values import Array, Dense, Ragged, Values, sample_shapes
from extractkit.errors import RunDirectoryError
from extractkit.sinks import LocatesValues, Sink, StoredShard, StoredTensor, serialized

BY = Algorithm.SHA256
"""The algorithm by which values are compared here."""

DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64"),
)
"""Every numeric dtype that a sink must store."""

AWKWARD = (b"", b"\0", b"a\0\0", b"\0a", b"\xff\xfe\0", b"plain", "é".encode(), b"\n")
"""Strings that a sink must store: any bytes, including zeros at their end."""


def example_values(samples: int = 5, seed: int = 0) -> dict[str, Values]:
    """Return one shard with every form of values, under deliberately awkward keys."""
    random = np.random.default_rng(seed)
    lengths = random.integers(0, 4, samples)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    areas = np.concatenate([[0], np.cumsum(2 * lengths**2)]).astype(np.int64)
    shapes = np.stack([np.full(samples, 2), lengths, lengths], axis=1).astype(np.int64)
    values: dict[str, Values] = {
        f"dtypes/{dtype}:output": Dense(random.integers(0, 2, (samples, 3)).astype(dtype))
        for dtype in DTYPES
    }
    strings = np.array([AWKWARD[number % len(AWKWARD)] for number in range(6 * samples)], object)
    values |= {
        "text:output": Dense(
            np.array([f"é{number}".encode() for number in range(samples)], object)
        ),
        "bytes:output": Dense(strings[: 2 * samples].reshape(samples, 2, 1)),
        "bytes:op/X": Ragged(strings[: offsets[-1]], offsets),
        "bytes:op/Y": Ragged(np.resize(strings, areas[-1]), areas, shapes),
    }
    return values | {
        "a:op/X": Dense(random.random((samples, 2, 3))),
        "a:op/X.1": Dense(random.random(samples)),
        "a/b%3Ac d@2:op/X": Ragged(random.random((offsets[-1], 4)).astype("float32"), offsets),
        "é:output": Ragged(random.random(areas[-1]).astype("float16"), areas, shapes),
        ":output": Ragged(random.integers(-9, 9, offsets[-1]), offsets),
        ":output@small": Dense(np.zeros((samples, 0), "float32")),
    }


def example_constants() -> dict[str, Values]:
    """Return a constants shard: a matrix, a vector of integers, a number, and strings."""
    return {
        "a:name": Dense(np.array(b"single\0", object)),
        "a:text": Dense(np.array(b"text", object)),
        "a:names": Dense(np.array([AWKWARD, AWKWARD], object)),
        "a:kernel": Dense(np.arange(6.0, dtype="float32").reshape(2, 3)),
        "a:steps": Dense(np.arange(4)),
        "a:epsilon": Dense(np.array(1e-6)),
    }


class SinkContract:
    """Tests that every sink must pass."""

    def sink(self) -> Sink:
        """Return the sink under test."""
        raise NotImplementedError

    def written(self, directory: Path, values: Mapping[str, Values]) -> Path:
        """Write a shard file with these values, and return its path."""
        path = directory / f"shard{self.sink().suffix}"
        path.write_bytes(self.sink().serialize(values))
        return path

    def test_the_suffix_of_its_files_starts_with_a_dot(self) -> None:
        assert self.sink().suffix.startswith(".")

    def test_equal_values_give_equal_bytes(self) -> None:
        assert self.sink().serialize(example_values()) == self.sink().serialize(example_values())

    def test_its_buffers_are_the_same_bytes(self) -> None:
        values = example_values()
        assert b"".join(serialized(self.sink(), values)) == self.sink().serialize(values)

    def test_other_values_give_other_bytes(self) -> None:
        assert self.sink().serialize(example_values(seed=1)) != self.sink().serialize(
            example_values(seed=2)
        )

    def test_a_whole_shard_comes_back_bit_for_bit(self, tmp_path: Path) -> None:
        values = example_values()
        path = self.written(tmp_path, values)
        for key, value in values.items():
            found = self.sink().read(path, key, 0, len(value))
            assert digest([(key, found)], BY) == digest([(key, value)], BY), key

    def test_any_range_of_samples_comes_back(self, tmp_path: Path) -> None:
        values = example_values(samples=4)
        path = self.written(tmp_path, values)
        for key, value in values.items():
            for start, stop in [(0, 1), (1, 3), (3, 4), (2, 2), (0, 0), (4, 4)]:
                found = self.sink().read(path, key, start, stop)
                assert len(found) == stop - start
                for index in range(len(found)):
                    assert_same(found.sample(index), value.sample(start + index))

    def test_located_values_are_those_that_are_read(self, tmp_path: Path) -> None:
        values = example_values(samples=4)
        path = self.written(tmp_path, values)
        sink = self.sink()
        if not isinstance(sink, LocatesValues):
            return
        for key in values:
            if (located := sink.locate(path, key)) is None:
                continue
            assert len(located) == 4
            for start, stop in [(0, 4), (1, 3), (2, 2)]:
                pair = located.read(start, stop), self.sink().read(path, key, start, stop)
                assert len({digest([(key, found)], BY) for found in pair}) == 1

    def test_shapes_come_back_without_the_values(self, tmp_path: Path) -> None:
        values = example_values()
        path = self.written(tmp_path, values)
        for key, value in values.items():
            found = self.sink().read_shapes(path, key, 1, 4)
            assert found.dtype == np.int64
            np.testing.assert_array_equal(found, sample_shapes(value)[1:4])

    def test_memory_that_is_not_contiguous_is_stored_in_its_logical_order(
        self, tmp_path: Path
    ) -> None:
        grid = np.arange(24.0).reshape(2, 3, 4)
        for array in (grid[:, ::2], grid.T, np.asfortranarray(grid)):
            path = self.written(tmp_path, {"a:output": Dense(array)})
            found = self.sink().read(path, "a:output", 0, len(array))
            assert isinstance(found, Dense)
            assert_same(found.values, array)

    def test_a_shard_of_no_samples_is_possible(self, tmp_path: Path) -> None:
        values: dict[str, Values] = {
            "a:output": Dense(np.zeros((0, 3))),
            "b:output": Ragged(np.zeros((0, 3)), np.zeros(1, np.int64)),
        }
        path = self.written(tmp_path, values)
        for key in values:
            assert len(self.sink().read(path, key, 0, 0)) == 0

    def test_constants_come_back_whole(self, tmp_path: Path) -> None:
        values = example_constants()
        path = self.written(tmp_path, values)
        for key, value in values.items():
            assert_same(self.sink().read_constant(path, key), value.values)

    def test_samples_that_are_not_there_are_an_error(self, tmp_path: Path) -> None:
        values = example_values(samples=2)
        path = self.written(tmp_path, values)
        for key in values:
            for start, stop in [(0, 3), (-1, 1), (2, 1)]:
                for read in (self.sink().read, self.sink().read_shapes):
                    assert key in refusal(IndexError, read, path, key, start, stop)

    def test_what_is_missing_or_damaged_is_named(self, tmp_path: Path) -> None:
        path = self.written(tmp_path, example_values())
        cut = tmp_path / f"cut{self.sink().suffix}"
        cut.write_bytes(path.read_bytes()[:100])
        for file, key, named in [
            (path, "a:op/Y", "'a:op/X'"),
            (cut, "a:op/X", cut.name),
            (tmp_path / "none", "a:op/X", "none"),
        ]:
            assert named in refusal(RunDirectoryError, self.sink().read, file, key, 0, 1)

    def test_finish_gives_the_same_files_every_time_and_writes_none(self, tmp_path: Path) -> None:
        (tmp_path / "shards").mkdir()
        path = tmp_path / f"shards/000000000-000000005{self.sink().suffix}"
        path.write_bytes(self.sink().serialize({"a:op/X": example_values()["a:op/X"]}))
        spec = TensorSpec.of("float64", ("sample", None, None), (None, 2, 3))
        tensors = [StoredTensor("a:op/X", spec, constant=False)]
        shards = [StoredShard(Shard(0, 5), path)]
        first = self.sink().finish(tmp_path, tensors, shards)
        assert all(Path(name).name == name for name in first)
        assert self.sink().finish(tmp_path, tensors, shards) == first
        assert {file.name for file in tmp_path.iterdir()} == {"shards"}


def refusal(expected: type[Exception], call: Callable[..., object], *arguments: object) -> str:
    """Return the message of the error that the call must raise."""
    try:
        call(*arguments)
    except expected as error:
        return str(error)
    raise AssertionError(f"no {expected.__name__} was raised")


def assert_same(found: Array, expected: Array) -> None:
    """Check that arrays are equal in dtype, shape and every element."""
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)
