"""The NPZ sink, read with plain NumPy."""

import io
from pathlib import Path

import numpy as np
import pytest

from extractkit.errors import JobError
from extractkit.sinks.npz import NpzSink, member
from extractkit.sinks.protocol import Sink
from extractkit.testing.sinks import SinkContract, example_values
from extractkit.values import Dense, Ragged


class TestNpzSink(SinkContract):
    def sink(self) -> Sink:
        return NpzSink()


def test_plain_numpy_reads_every_array_by_its_escaped_key() -> None:
    values = example_values()
    with np.load(io.BytesIO(NpzSink().serialize(values)), allow_pickle=False) as archive:
        expected = {member(k, part): a for k, v in values.items() for part, a in v.parts().items()}
        assert set(archive.files) == set(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(archive[name], array)


def test_member_names_hold_nothing_that_a_file_system_could_take_for_a_path() -> None:
    assert member("a/b:op/X") == "a%2Fb%3Aop%2FX"
    assert member("../a+b:output@x", "values") == "..%2Fa%2Bb%3Aoutput%40x+values"


def test_python_objects_are_refused_rather_than_pickled() -> None:
    with pytest.raises(JobError, match=r"cannot store 'a:output'.*sinks=hdf5"):
        NpzSink().serialize({"a:output": Dense(np.array([b"x"], object))})


def test_fixed_width_texts_come_back(tmp_path: Path) -> None:
    path = tmp_path / "shard.npz"
    texts = np.array(["é", "longer", ""])
    path.write_bytes(NpzSink().serialize({"a:output": Ragged(texts, np.array([0, 1, 3]))}))
    found = NpzSink().read(path, "a:output", 1, 2)
    assert found.sample(0).tolist() == ["longer", ""]
