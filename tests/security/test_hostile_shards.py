"""Shard files from somebody else are refused by name: nothing outside is read, nothing inflates."""

import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest

from extractkit.core.digests import PREFERRED, digest
from extractkit.core.shards import Shard
from extractkit.core.spec import TensorSpec
from extractkit.core.values import Dense, Ragged, Values, encoded, sample_shapes
from extractkit.errors import RunDirectoryError
from extractkit.sinks import LocatesValues, Sink, StoredShard, StoredTensor
from extractkit.sinks.hdf5 import Hdf5Sink
from extractkit.sinks.npz import NpzSink
from extractkit.testing.sinks import example_values
from tests.security.hostile_shards import HDF5, KEY, NPZ, Maker

CASES = [
    *(pytest.param(Hdf5Sink(), maker, id=f"hdf5: {name}") for name, maker in HDF5.items()),
    *(pytest.param(NpzSink(), maker, id=f"npz: {name}") for name, maker in NPZ.items()),
]
_MEMORY = 256 << 20


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file that a shard must not lead to."""
    path = tmp_path / "secret.h5"
    with h5py.File(path, "w") as file:
        file[KEY] = np.arange(3.0)
    (tmp_path / "secret.bin").write_bytes(bytes(24))
    return path


@pytest.fixture
def little_memory() -> Iterator[None]:
    """An address space that holds little more than what is there already."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(("sink", "maker"), CASES)
def test_what_no_sink_has_written_is_refused(
    sink: Sink, maker: Maker, tmp_path: Path, secret: Path
) -> None:
    path = tmp_path / f"shard{sink.suffix}"
    maker(path, secret)
    with pytest.raises(RunDirectoryError) as caught:
        sink.read(path, KEY, 0, 1)
    assert str(path) in str(caught.value)
    with suppress(RunDirectoryError):  # shapes alone do not tell what a chunk inflates to
        assert len(sink.read_shapes(path, KEY, 0, 1)) == 1
    assert isinstance(sink, LocatesValues)
    with suppress(RunDirectoryError):
        assert sink.locate(path, KEY) is None


@pytest.mark.parametrize("name", ["external link", "virtual", "never written", "huge shapes"])
def test_no_index_is_made_of_them(name: str, tmp_path: Path, secret: Path) -> None:
    path = tmp_path / "shard.h5"
    HDF5[name](path, secret)
    tensor = StoredTensor(KEY, TensorSpec.of("float64", ("sample",), (None,)), False)
    with pytest.raises(RunDirectoryError, match="'a:output'"):
        Hdf5Sink().finish(tmp_path, [tensor], [StoredShard(Shard(0, 3), path)])


def test_a_link_on_the_way_to_a_tensor_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shard.h5"
    with h5py.File(path, "w") as file:
        file["real/b:output"] = np.arange(3.0)
        file["a"] = h5py.SoftLink("/real")
    with pytest.raises(RunDirectoryError, match=r"'a/b:output' .* by a link$"):
        Hdf5Sink().read(path, "a/b:output", 0, 1)


@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
def test_what_a_sink_has_written_is_read_however_well_it_compresses(
    compression: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "shard.h5"
    zeros, offsets = np.zeros((4, 1 << 20), "float32"), np.array([0, 1, 4])
    values = {"a:output": Dense(zeros), "b:output": Ragged(zeros, offsets)}
    path.write_bytes(Hdf5Sink(compression).serialize(values))
    for key in values:
        assert len(Hdf5Sink().read(path, key, 0, 2)) == 2


@pytest.mark.parametrize("sink", [Hdf5Sink(), Hdf5Sink("gzip"), NpzSink()], ids=repr)
def test_a_bit_that_flips_is_refused_or_reported_by_the_digest(sink: Sink, tmp_path: Path) -> None:
    """A sink refuses, or returns as many samples as were asked for.

    Of another type or shape they may be (a byte order is one bit, and a part's name with one bit
    changed is none): that they are those which were written, their digest tells.
    """
    values = example_values()
    content = sink.serialize(values)
    random = np.random.default_rng(0)
    path = tmp_path / f"shard{sink.suffix}"
    read = alike = 0
    for _ in range(100):
        damaged = bytearray(content)
        damaged[random.integers(len(content))] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        for key, value in values.items():
            try:
                found = sink.read(path, key, 0, len(value))
            except RunDirectoryError:
                continue
            assert len(found) == len(sample_shapes(found)) == len(value), key
            same = digest([(key, found)], PREFERRED) == digest([(key, value)], PREFERRED)
            assert same == _identical(found, value), key
            read += 1
            alike += found.values.dtype == value.values.dtype and np.array_equal(
                sample_shapes(found), sample_shapes(value)
            )
    # Most of a file is values: a flipped bit in these leaves type and shape as they were.
    assert alike > 0.99 * read > 0


def _identical(one: Values, other: Values) -> bool:
    """Whether type, shapes and every bit are the same."""
    a, b = one.values, other.values
    shapes = np.array_equal(sample_shapes(one), sample_shapes(other))
    if a.dtype.hasobject and b.dtype.hasobject:  # whose own bytes are addresses
        return shapes and list(map(encoded, a.flat)) == list(map(encoded, b.flat))
    return a.dtype == b.dtype and shapes and a.tobytes() == b.tobytes()
