"""`cast: bfloat16`: rounded to nearest even, stored as bits, read as float32."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import tensorflow as tf

import extractkit
from extractkit.core.spec import TensorSpec
from extractkit.core.transforms import Masked
from extractkit.core.transforms.pipeline import Pipeline
from extractkit.core.values import Array, Dense, Ragged, Values, as_stored, from_stored
from extractkit.errors import JobError
from extractkit.sinks.npz import member
from extractkit.testing.reference import ReferenceModel

TEXTS = ["abc", "a", "hello", "it is"]
ADDRESS = "attention:output"


def rounded(values: Array) -> Array:
    """The bits of the nearest bfloat16 of each float32, half to even, in Python's integers."""

    def one(bits: int) -> int:
        sign, size = bits & 0x8000_0000, bits & 0x7FFF_FFFF
        if size > 0x7F80_0000:  # NaN
            return 0x7FC0
        upper, rest = divmod(size, 1 << 16)
        upper += rest > 0x8000 or (rest == 0x8000 and upper % 2 == 1)
        return sign >> 16 | upper

    words = np.asarray(values, np.float32).reshape(-1).view(np.uint32)
    found = np.array([one(int(word)) for word in words], np.uint16)
    return found.reshape(np.shape(values))


def awkward() -> Array:
    """Ties, neighbours of ties, subnormals, the largest numbers, NaN and any bits."""
    upper = np.array([0x0000, 0x0001, 0x3F80, 0x3F81, 0x7F7E, 0x7F7F, 0x007F, 0xBF81], np.uint32)
    rest = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    ties = (upper[:, None] << 16 | rest).reshape(-1).view(np.float32)
    words = np.random.default_rng(0).integers(0, 1 << 32, 3000, dtype=np.uint64)
    anything = words.astype(np.uint32).view(np.float32)
    return np.concatenate([ties, anything, np.array([np.inf, -np.inf, np.nan], np.float32)])


def test_every_kind_of_number_is_rounded_to_nearest_even_in_both_forms() -> None:
    values = awkward()
    spec = TensorSpec.of("float32", ("sample", None), (None, len(values)))
    bound = Pipeline.parse({"cast": "bfloat16"}, "selectors.s").bind("a:b", spec)[""]
    assert (bound.spec.dtype, bound.stored_dtype) == ("bfloat16", "bfloat16")
    in_graph = tf.cast(bound.in_graph(tf, Masked(tf.constant(values[None]), {})), tf.float32)
    of_tensorflow = tf.cast(tf.cast(values, tf.bfloat16), tf.float32).numpy()
    expected = rounded(values)
    for found in (bound.in_numpy(values), in_graph.numpy()[0], of_tensorflow):
        nan = np.isnan(values)
        assert np.isnan(found[nan]).all()
        np.testing.assert_array_equal(found[~nan].view(np.uint32) >> 16, expected[~nan])


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", "int64", "uint8", "bool"])
def test_both_forms_agree_for_other_types(dtype: str) -> None:
    draw = np.random.default_rng(1)
    values = (draw.normal(size=500) * 10.0 ** draw.integers(-3, 4, 500)).astype(dtype)
    spec = TensorSpec.of(dtype, ("sample", None), (None, 500))
    bound = Pipeline.parse({"cast": "bfloat16"}, "selectors.s").bind("a:b", spec)[""]
    in_graph = tf.cast(bound.in_graph(tf, Masked(tf.constant(values[None]), {})), tf.float32)
    found = bound.in_numpy(values)
    np.testing.assert_array_equal(found, in_graph.numpy()[0])
    np.testing.assert_array_equal(found.view(np.uint32) >> 16, rounded(values.astype(np.float32)))


BITS = np.arange(1 << 16, dtype=np.uint16)


@pytest.mark.parametrize(
    "bits",
    [
        Dense(BITS.reshape(256, 256)),
        Dense(np.array(0x3F80, np.uint16)),
        Dense(np.asfortranarray(BITS[:24].reshape(2, 3, 4))[:, ::2]),
        Ragged(BITS[:6], np.array([0, 2, 6]), absent=(1,)),
    ],
)
def test_all_bits_come_back(bits: Values) -> None:
    values = from_stored(bits, "bfloat16")
    assert values.values.dtype == np.float32
    again = as_stored(values, "bfloat16")
    assert again.values.dtype == np.uint16
    assert isinstance(again.values, np.ndarray)
    np.testing.assert_array_equal(again.values, bits.values)


def test_a_number_with_more_bits_is_not_cut() -> None:
    with pytest.raises(JobError, match="more than its 16 bits"):
        as_stored(Dense(np.array([1.001], np.float32)), "bfloat16")


def extracted(directory: Path, sink: str) -> extractkit.Run:
    return extractkit.extract(
        model=ReferenceModel(),
        inputs=TEXTS,
        selectors={
            "half": {"path": ADDRESS, "cast": "bfloat16"},
            "rows": {"path": ADDRESS},
            "pooled": {"path": "pool:output", "cast": "bfloat16"},
            "kernel": {"path": "attention:kernel", "cast": "bfloat16"},
            "squares": {"path": ADDRESS, "cast": "bfloat16", "statistics": ["moments"]},
        },
        sinks=[sink],
        runtime={"shard_size": 2},
        run_dir=directory,
    )


@pytest.mark.parametrize("sink", ["hdf5", "npz"])
def test_a_run_stores_two_bytes_and_reads_float32(sink: str, tmp_path: Path) -> None:
    run = extracted(tmp_path / "run", sink)
    half, rows = run[f"{ADDRESS}@half"], run[f"{ADDRESS}@rows"]
    assert half.dtype == np.float32
    recorded = {tensor.key: tensor.stored.spec.dtype for tensor in run.manifest.tensors}
    assert recorded[f"{ADDRESS}@half"] == recorded["attention:kernel"] == "bfloat16"
    for index in range(len(TEXTS)):
        found = half.sample(index)
        np.testing.assert_array_equal(
            found.view(np.uint32) >> 16, rounded(rows.sample(index)), strict=False
        )
    np.testing.assert_array_equal(half[1:3, 0], half.padded()[1:3, 0])
    kernel = np.asarray(run["attention:kernel"])
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(
        kernel.view(np.uint32) >> 16, rounded(ReferenceModel().weights["attention:kernel"])
    )
    wide = np.concatenate([half.sample(i) for i in range(len(TEXTS))]).astype(np.float64)
    moments = run.statistics[f"{ADDRESS}@squares"].moments
    np.testing.assert_allclose(moments.mean, wide.mean(0), rtol=1e-12)
    assert not extractkit.verify(run.path, recompute=9, model=ReferenceModel(), inputs=TEXTS).failed


def test_files_hold_the_bits_and_their_type(tmp_path: Path) -> None:
    run = extracted(tmp_path / "h", "hdf5")
    with h5py.File(run.path / "tensors.h5") as file:
        node = file["pool:output"]
        assert node.dtype == np.uint16
        assert node.attrs["dtype"] == "bfloat16"
        assert file["pool:output:present"][:].all()
        np.testing.assert_array_equal(
            (node[:].astype(np.uint32) << 16).view(np.float32), run["pool:output"][:]
        )
        assert file[f"{ADDRESS}@half"].attrs["dtype"] == "bfloat16"
        assert "dtype" not in file[f"{ADDRESS}@rows"].attrs
    other = extracted(tmp_path / "n", "npz")
    (first, *_) = sorted((other.path / "shards").glob("000000000*2.npz"))
    with np.load(first) as archive:
        assert archive[member("pool:output")].dtype == np.uint16


def test_a_missing_sample_is_nan(tmp_path: Path) -> None:
    run = extractkit.extract(
        model=ReferenceModel(),
        inputs=["abc", "", "hello"],
        selectors={
            "half": {"path": "embedding:output", "do": [{"mean": "token"}, {"cast": "bfloat16"}]}
        },
        runtime={"non_finite": "skip"},
        run_dir=tmp_path / "run",
    )
    assert list(run.missing) == [1]
    assert np.isnan(run["embedding:output"][1]).all()
    assert np.isfinite(run["embedding:output"][[0, 2]]).all()
    assert not extractkit.verify(run.path).failed


def test_a_tensor_of_that_type_is_stored_as_float32_unless_it_is_cast() -> None:
    spec = TensorSpec.of("bfloat16", ("sample", None), (None, 3))
    stored = {
        str(do): Pipeline.parse({"do": do}, "selectors.s").bind("a:b", spec)[""].stored_dtype
        for do in ([], ["abs"], [{"cast": "bfloat16"}], [{"cast": "bfloat16"}, {"mean": 1}])
    }
    assert list(stored.values()) == ["float32", "float32", "bfloat16", "float32"]
