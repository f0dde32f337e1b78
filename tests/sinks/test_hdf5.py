"""The HDF5 sink; `tensors.h5` is read with plain h5py."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from extractkit.core.shards import Shard
from extractkit.core.spec import TensorSpec
from extractkit.core.values import Dense, Ragged, Values
from extractkit.errors import ConfigError, JobError, RunDirectoryError
from extractkit.sinks import Sink, StoredShard, StoredTensor, hdf5
from extractkit.sinks.hdf5 import Hdf5Sink
from extractkit.testing.sinks import SinkContract, example_constants, example_values


class TestHdf5Sink(SinkContract):
    def sink(self) -> Sink:
        return Hdf5Sink()


class TestGzip(SinkContract):
    def sink(self) -> Sink:
        return Hdf5Sink(compression="gzip")


class TestLzf(SinkContract):
    def sink(self) -> Sink:
        return Hdf5Sink(compression="lzf")


def stored_shard(
    directory: Path, start: int, stop: int, values: Mapping[str, Values]
) -> StoredShard:
    name = "constants" if start == stop else f"{start:09d}-{stop:09d}"
    path = directory / "shards" / f"{name}.h5"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(Hdf5Sink().serialize(values))
    return StoredShard(Shard(start, stop), path)


def write_index(
    directory: Path, tensors: Sequence[StoredTensor], shards: Sequence[StoredShard]
) -> None:
    for name, content in Hdf5Sink().finish(directory, tensors, shards).items():
        (directory / name).write_bytes(content)


def described(key: str, value: Values, constant: bool = False) -> StoredTensor:
    array = value.values
    if constant:
        return StoredTensor(
            key, TensorSpec.of(array.dtype.name, (None,) * array.ndim, array.shape), True
        )
    if isinstance(value, Dense):
        dims = ("sample", *(None,) * (array.ndim - 1))
        return StoredTensor(
            key, TensorSpec.of(array.dtype.name, dims, (None, *array.shape[1:])), False
        )
    rank = value.sample(0).ndim
    return StoredTensor(
        key,
        TensorSpec.of(
            array.dtype.name,
            ("sample", *("token",) * rank),
            (None,) * (rank + 1),
        ),
        False,
    )


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, list[dict[str, Values]]]:
    """A run directory of two shards (5 and 3 samples) and constants, with its tensors.h5."""
    directory = tmp_path / "run 100%b"
    directory.mkdir()
    shards = [example_values(5, seed=1), example_values(3, seed=2)]
    tensors = [described(key, value) for key, value in shards[0].items()]
    tensors += [described(key, value, True) for key, value in example_constants().items()]
    stored: Sequence[StoredShard] = [
        stored_shard(directory, 5, 8, shards[1]),
        stored_shard(directory, 0, 0, example_constants()),
        stored_shard(directory, 0, 5, shards[0]),
    ]
    write_index(directory, tensors, stored)
    return directory, shards


def shown(values: Any) -> Any:
    """What plain h5py reads, rows of uint8 as bytes."""
    if isinstance(values, np.ndarray) and h5py.check_vlen_dtype(values.dtype) == np.uint8:
        flat = np.array([*(row.tobytes() for row in values.flat), None], object)[:-1]
        return flat.reshape(values.shape)
    return values


def check_index(path: Path, shards: list[dict[str, Values]]) -> None:
    with h5py.File(path) as file:
        for key, value in shards[0].items():
            both = [value, shards[1][key]]
            joined = np.concatenate([part.values for part in both])
            if isinstance(value, Dense):
                np.testing.assert_array_equal(shown(file[key][:]), joined)
                continue
            np.testing.assert_array_equal(shown(file[key]["values"][:]), joined)
            offsets = file[key]["offsets"][:]
            assert offsets.dtype == np.int64
            samples = [part.sample(i) for part in both for i in range(len(part))]
            assert offsets.tolist() == np.cumsum([0, *map(len, _rows(both))]).tolist()
            for index, sample in enumerate(samples):
                flat = shown(file[key]["values"][offsets[index] : offsets[index + 1]])
                shape = file[key]["shapes"][index] if "shapes" in file[key] else flat.shape
                np.testing.assert_array_equal(flat.reshape(shape), sample)
        for key, value in example_constants().items():
            found, kind = file[key][()], h5py.check_vlen_dtype(file[key].dtype)
            single = kind == np.uint8 and not file[key].shape
            found = np.array(found.tobytes(), object) if single else shown(found)
            np.testing.assert_array_equal(found, value.values)


def _rows(parts: list[Values]) -> list[np.ndarray]:
    return [
        part.values[part.offsets[i] : part.offsets[i + 1]]
        for part in parts
        if isinstance(part, Ragged)
        for i in range(len(part))
    ]


def test_the_index_shows_all_shards_as_one_file(run: tuple[Path, list[dict[str, Values]]]) -> None:
    check_index(run[0] / "tensors.h5", run[1])


def test_the_index_is_found_from_any_working_directory_and_after_a_move(
    run: tuple[Path, list[dict[str, Values]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoy = tmp_path / "decoy"
    decoy.mkdir()
    stored_shard(decoy, 0, 5, example_values(5, seed=3))
    moved = tmp_path / "elsewhere" / "moved"
    moved.parent.mkdir()
    run[0].rename(moved)
    monkeypatch.chdir(decoy)
    check_index(moved / "tensors.h5", run[1])
    monkeypatch.chdir(moved.parent)
    check_index(Path("moved/tensors.h5"), run[1])
    monkeypatch.chdir(moved)
    check_index(Path("tensors.h5"), run[1])


def test_a_missing_shard_reads_as_nan_and_as_not_present(
    run: tuple[Path, list[dict[str, Values]]],
) -> None:
    (run[0] / "shards/000000005-000000008.h5").unlink()
    (run[0] / "shards/constants.h5").unlink()
    with h5py.File(run[0] / "tensors.h5") as file:
        for key in ("a:op/X", "dtypes/float16:output", "dtypes/complex64:output"):
            assert not np.isnan(file[key][:5]).any()
            assert np.isnan(file[key][5:]).all()
        assert np.isnan(file["a:kernel"][:]).all()
        assert np.isnan(file["a:epsilon"][()])
        assert np.isnan(file["é:output/values"][-1:]).all()
        for key in ("dtypes/int32:output", "dtypes/bool:output", ":output"):
            assert file[f"{key}:present"][:].tolist() == [True] * 5 + [False] * 3
        assert not file["a:steps:present"][:].any()
        assert "a:op/X:present" not in file


def test_axes_carry_their_names(run: tuple[Path, list[dict[str, Values]]]) -> None:
    with h5py.File(run[0] / "tensors.h5") as file:
        assert [dim.label for dim in file["a:op/X"].dims] == ["sample", "", ""]
        assert list(file["é:output"].attrs["dims"]) == ["sample", "token", "token", "token"]
        assert "shards/" in file.attrs["about"]


def test_a_constant_that_is_a_number_and_one_of_integers_are_in_the_index(
    run: tuple[Path, list[dict[str, Values]]],
) -> None:
    with h5py.File(run[0] / "tensors.h5") as file:
        assert file["a:epsilon"].shape == ()
        assert file["a:steps:present"][:].all()


def test_another_process_makes_the_same_bytes() -> None:
    program = (
        "import hashlib, sys\n"
        "from extractkit.sinks.hdf5 import Hdf5Sink\n"
        "from extractkit.testing.sinks import example_values\n"
        "image = Hdf5Sink().serialize(example_values())\n"
        "sys.stdout.write(hashlib.sha256(image).hexdigest())\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "MALLOC_PERTURB_": "165"}
    other = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    assert other.stdout == hashlib.sha256(Hdf5Sink().serialize(example_values())).hexdigest()


@pytest.mark.parametrize(
    "texts",
    [
        np.array([["é", "b"], ["", "longer"]], object),
        np.array([["é", "b"], ["", "longer"]]),
        np.array([[b"\xff\xfe", b"b"], [b"", b"longer"]], object),
        np.array([[b"x", b"b"], [b"", b"longer"]]),
    ],
    ids=["str objects", "fixed str", "bytes objects", "fixed bytes"],
)
def test_texts_come_back_as_objects_and_show_in_the_index(
    texts: np.ndarray, tmp_path: Path
) -> None:
    values: dict[str, Values] = {"a:output": Dense(texts)}
    shard = stored_shard(tmp_path, 0, 2, values)
    found = Hdf5Sink().read(shard.path, "a:output", 0, 2)
    assert isinstance(found, Dense)
    assert found.values.tolist() == texts.tolist()
    tensors = [
        StoredTensor(
            "a:output",
            TensorSpec.of(
                "object",
                ("sample", None),
                (None, 2),
            ),
            False,
        )
    ]
    write_index(tmp_path, tensors, [shard])
    with h5py.File(tmp_path / "tensors.h5") as file:
        shown = file["a:output"][:].ravel().tolist()
        assert shown == [t.encode() if isinstance(t, str) else t for t in texts.ravel().tolist()]
        assert file["a:output:present"][:].all()


def test_bytes_with_zeros_show_in_the_index(tmp_path: Path) -> None:
    """Some shards hold texts and some hold bytes that HDF5's texts could not."""
    keys = {"a:output": "dense", "b:output": "ragged", "c:output": "text", "d:output": "bytes"}
    shards, expected = [], []
    for start, strings in ((0, [b"x", b""]), (2, [b"a\0", b"\0\0"]), (4, [b"\xff", b"y"])):
        values: dict[str, Values] = {
            "a:output": Dense(np.array(strings, object)),
            "b:output": Ragged(np.array(strings, object), np.array([0, 0, 2])),
            "c:output": Dense(np.array([b"p", b"q"], object)),
            "d:output": Dense(np.array([b"\0", strings[0]], object)),
        }
        shards.append(stored_shard(tmp_path, start, start + 2, values))
        expected += strings
    tensors = [
        StoredTensor(key, TensorSpec.of("string", ("sample",), (None,)), False) for key in keys
    ]
    write_index(tmp_path, tensors, shards)
    with h5py.File(tmp_path / "tensors.h5") as file:
        for node in (file["a:output"], file["b:output/values"]):
            assert h5py.check_vlen_dtype(node.dtype) == np.uint8
            assert [row.tobytes() for row in node[:]] == expected
        assert file["c:output"][:].tolist() == [b"p", b"q"] * 3
        assert file["d:output"].is_virtual
        found = [row.tobytes() for row in file["d:output"][:]]
        assert found == [b"\0", b"x", b"\0", b"a\0", b"\0", b"\xff"]


def test_objects_that_are_no_strings_are_refused() -> None:
    with pytest.raises(JobError) as refusal:
        Hdf5Sink().serialize({"a:output": Dense(np.array([b"a", None], object))})
    assert str(refusal.value) == (
        "sinks.hdf5 cannot store 'a:output': None is NoneType, neither text nor bytes"
    )


def test_an_unknown_compression_is_named_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match=r"sinks.hdf5.compression='zip' .*'gzip', 'lzf'"):
        Hdf5Sink(compression="zip")


@pytest.mark.parametrize("given", ["yes", "Auto", 1.5, None])
def test_an_index_that_is_neither_made_nor_left_out_is_refused(given: object) -> None:
    with pytest.raises(ConfigError) as refusal:
        Hdf5Sink(index=given)  # type: ignore[arg-type]
    assert str(refusal.value) == (
        f"sinks.hdf5.index={given!r} does not exist. Available: 'auto', true, false. By the number "
        f"of shards: sinks.hdf5.index=auto"
    )


def test_the_index_is_left_out_where_few_programs_could_open_all_shards(
    run: tuple[Path, list[dict[str, Values]]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tensors = [described(key, value) for key, value in run[1][0].items()]
    stored = [
        StoredShard(Shard(a, b), run[0] / f"shards/{Shard(a, b).key}.h5")
        for a, b in [(0, 5), (5, 8)]
    ]
    made = {}
    for most in (2, 1):
        monkeypatch.setattr(hdf5, "INDEXED_SHARDS", most)
        for index in ("auto", True, False):
            with caplog.at_level("INFO"):
                made[most, index] = set(Hdf5Sink(index=index).finish(run[0], tensors, stored))
            reported = "tensors.h5 is not written: few programs may open 2 shards at once"
            assert (reported in caplog.text) == ((most, index) == (1, "auto"))
            caplog.clear()
    assert made == {
        (2, "auto"): {"tensors.h5"}, (2, True): {"tensors.h5"}, (2, False): set(),
        (1, "auto"): set(), (1, True): {"tensors.h5"}, (1, False): set(),
    }  # fmt: skip


def test_more_shards_than_a_process_may_open_read_as_missing(tmp_path: Path) -> None:
    """Why there is a limit: HDF5 opens all of them for one read, and says nothing."""
    shards = [
        stored_shard(tmp_path, at, at + 1, {"a:output": Dense(np.full((1, 2), float(at)))})
        for at in range(100)
    ]
    tensors = [
        StoredTensor(
            "a:output",
            TensorSpec.of(
                "float64",
                ("sample", None),
                (None, 2),
            ),
            False,
        )
    ]
    write_index(tmp_path, tensors, shards)
    program = (
        "import h5py, numpy, resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]),) * 2)\n"
        "with h5py.File(sys.argv[1]) as file:\n"
        "    print(int(numpy.isnan(file['a:output'][:]).any(axis=1).sum()))\n"
    )
    missing = [
        int(
            subprocess.run(
                [sys.executable, "-c", program, str(tmp_path / "tensors.h5"), files],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for files in ("50", "150")
    ]
    assert missing[0] > 50
    assert missing[1] == 0
    with h5py.File(tmp_path / "tensors.h5") as file:
        assert "ulimit -n" in file.attrs["about"]


@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
def test_arrays_are_part_of_the_file_without_a_copy(compression: str | None) -> None:
    """The oracle is the file that h5py writes to memory of its own."""
    random = np.random.default_rng(0)
    grid = random.random((90, 800))
    values: dict[str, Values] = {
        "a:output": Ragged(random.random((90, 400)).astype("float32"), np.arange(0, 91, 9)),
        "b:output": Dense(random.integers(0, 2, (100, 700)).astype(bool)),
        "c:output": Dense(grid.astype(">f8")),
        "d:output": Dense(grid.T),
        "e:output": Dense(grid[:2]),
        "f:output": Dense(np.array([b"x" * 100_000, b""], object)),
    }
    sink = Hdf5Sink(compression)
    buffers = sink.buffers(values)
    lent = {
        key
        for key, value in values.items()
        for buffer in buffers
        if value.values.dtype != object
        and np.shares_memory(np.frombuffer(buffer, np.uint8), value.values)
    }
    assert lent == (set() if compression else {"a:output", "b:output", "c:output"})
    expected = BytesIO()
    with h5py.File(expected, "w") as file:
        for key, value in values.items():
            sink.add(file, key, value)
    assert b"".join(buffers) == expected.getvalue()


def test_compression_makes_repetitive_values_smaller() -> None:
    values: dict[str, Values] = {"a:output": Dense(np.zeros((1000, 1000), "float32"))}
    assert len(Hdf5Sink("gzip").serialize(values)) < len(Hdf5Sink().serialize(values)) / 100


@pytest.mark.parametrize("trap", ["external link", "external storage", "virtual"])
def test_a_shard_that_points_at_another_file_is_refused(trap: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as secret:
        secret["a:output"] = np.arange(3.0)
    with h5py.File(tmp_path / "shard.h5", "w") as file:
        if trap == "external link":
            file["a:output"] = h5py.ExternalLink("secret.h5", "/a:output")
        elif trap == "virtual":
            layout = h5py.VirtualLayout((3,), "f8")
            layout[:] = h5py.VirtualSource("secret.h5", "a:output", (3,))
            file.create_virtual_dataset("a:output", layout)
        else:
            storage = [(str(tmp_path / "secret.h5"), 0, 24)]
            file.create_dataset("a:output", (3,), "f8", external=storage)
    with pytest.raises(RunDirectoryError, match="points outside"):
        Hdf5Sink().read(tmp_path / "shard.h5", "a:output", 0, 1)
