"""Whatever values a tensor has, every sink gives them back."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from extractkit.core.digests import PREFERRED, digest
from extractkit.core.values import Dense, Ragged, Values, sample_shapes
from extractkit.sinks import LocatesValues, Sink
from extractkit.sinks.hdf5 import Hdf5Sink
from extractkit.sinks.npz import NpzSink
from extractkit.testing.sinks import DTYPES, assert_same

SINKS = (Hdf5Sink(), Hdf5Sink("gzip"), Hdf5Sink("lzf"), NpzSink())

KEYS = st.from_regex(r"[a-zé0-9 @%./+]{0,6}[a-z]:(output|op/X|op/X\.1)", fullmatch=True).filter(
    # An address has no empty step and none of dots alone.
    lambda key: not {"", ".", ".."} & set(key.split("/"))
)


@st.composite
def tensors(draw: st.DrawFn) -> Values:
    """Values of 0 … 4 samples: dense, ragged by rows, or ragged along several axes."""
    dtype = np.dtype(draw(st.sampled_from((*DTYPES, "O"))))

    def arrays(dtype: np.dtype[np.generic], shape: int | tuple[int, ...]) -> object:
        strings = st.binary(max_size=4) if dtype.kind == "O" else None
        return hnp.arrays(dtype, shape, elements=strings)

    count = draw(st.integers(0, 4))
    fixed = draw(hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3))
    form = draw(st.sampled_from(["dense", "rows", "shapes"]))
    if form == "dense":
        return Dense(draw(arrays(dtype, (count, *fixed))))
    if form == "rows":
        sizes = draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        return Ragged(draw(arrays(dtype, (int(offsets[-1]), *fixed))), offsets)
    shapes = draw(hnp.arrays(np.int64, (count, 2), elements=st.integers(0, 3)))
    offsets = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))]).astype(np.int64)
    return Ragged(draw(arrays(dtype, int(offsets[-1]))), offsets, shapes)


@pytest.mark.parametrize("sink", SINKS, ids=repr)
# Speed depends on the disk and on what else the machine does.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50)
@given(values=st.dictionaries(KEYS, tensors(), max_size=3), data=st.data())
def test_values_come_back(
    sink: Sink,
    values: dict[str, Values],
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = Path(tmp_path_factory.mktemp("shard")) / f"shard{sink.suffix}"
    path.write_bytes(sink.serialize(values))
    for key, value in values.items():
        whole = sink.read(path, key, 0, len(value))
        assert digest([(key, whole)], PREFERRED) == digest([(key, value)], PREFERRED)
        located = sink.locate(path, key) if isinstance(sink, LocatesValues) else None
        if located is not None:
            assert digest([(key, located.read(0, len(located)))], PREFERRED) == digest(
                [(key, value)], PREFERRED
            )
        bounds = sorted(data.draw(st.lists(st.integers(0, len(value)), min_size=2, max_size=3)))
        for start, stop in pairwise(bounds):
            part = sink.read(path, key, start, stop)
            assert len(part) == stop - start
            for index in range(start, stop):
                assert_same(part.sample(index - start), value.sample(index))
            shapes = sink.read_shapes(path, key, start, stop)
            np.testing.assert_array_equal(shapes, sample_shapes(value)[start:stop])
