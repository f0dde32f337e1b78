"""Bytes through a whole job: what the model is given, computes and is stored, byte for byte."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import extractkit
from extractkit.core.component import Component
from extractkit.errors import ConfigError
from extractkit.models import Model
from extractkit.models.graphs.feeding import checked_constants
from extractkit.models.module import load
from extractkit.runs.reader import Run

BLOBS = [b"", b"\x00", b"a\x00\x00", b"\x00a", b"\xff\xfe\x00", b"plain", "é\x00".encode()]
SUFFIX = b"\x00|\x00\x00"


@tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="blob")])
def echo(blob: tf.Tensor) -> dict[str, tf.Tensor]:
    return {
        "same": tf.identity(blob),
        "suffixed": tf.strings.join([blob, SUFFIX]),
        "length": tf.strings.length(blob),
        "split": tf.strings.bytes_split(blob).to_tensor(b""),
        "suffix": tf.constant(SUFFIX),
    }


@tf.function(input_signature=[tf.TensorSpec([], tf.string, name="blob")])
def echo_one(blob: tf.Tensor) -> dict[str, tf.Tensor]:
    return {"same": tf.identity(blob), "length": tf.strings.length(blob)}


def joined(suffix: bytes) -> object:
    captured = tf.constant(suffix)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="blob")])
    def join(blob: tf.Tensor) -> tf.Tensor:
        return tf.strings.join([blob, captured])

    return join


FUNCTIONS = {"echo": echo, "echo_one": echo_one}


def function(name: str) -> object:
    return FUNCTIONS[name]


def adapted(target: str, **arguments: object) -> Model:
    return load(Component("model.factory", f"{__name__}.{target}", arguments))


def run(tmp_path: Path, sinks: str, name: str = "echo") -> Run:
    return extractkit.extract(
        ["selectors=outputs", f"sinks={sinks}", "runtime.shard_size=2"],
        model=adapted("function", name=name),
        inputs=BLOBS,
        run_dir=tmp_path / f"run{len(list(tmp_path.iterdir()))}",
    )


@pytest.mark.parametrize("sinks", ["hdf5", "npz"])
def test_every_byte_is_stored_and_read_back(sinks: str, tmp_path: Path) -> None:
    found = run(tmp_path, sinks)
    assert np.asarray(found[":output.same"]).tolist() == BLOBS
    assert np.asarray(found[":output.suffixed"]).tolist() == [blob + SUFFIX for blob in BLOBS]
    assert np.asarray(found[":output.length"]).tolist() == list(map(len, BLOBS))
    assert np.asarray(found[":output.suffix"]).item() == SUFFIX
    for index, blob in enumerate(BLOBS):
        assert found[":output.same"].sample(index).item() == blob
        assert found[":output.same"][index].item() == blob
    assert found[":output.same"][2:4].tolist() == BLOBS[2:4]
    assert [one.item() for one in found[":output.same"]] == BLOBS


def test_runs_are_verified_compared_and_labelled(tmp_path: Path) -> None:
    one, other = run(tmp_path, "hdf5"), run(tmp_path, "npz")
    assert not extractkit.verify(
        one.path, recompute=2, seed=0, model=adapted("function", name="echo"), inputs=BLOBS
    ).failed
    assert not extractkit.verify(other.path).failed
    assert not extractkit.diff(one, other).beyond
    cut = extractkit.extract(
        ["selectors=outputs"],
        model=adapted("function", name="echo"),
        inputs=[blob.rstrip(b"\x00") for blob in BLOBS],
        run_dir=tmp_path / "cut",
    )
    assert extractkit.diff(one, cut).beyond
    labelled = one.to_xarray()
    assert labelled[":output.same"].values.tolist() == BLOBS


def test_a_model_of_one_sample_a_call(tmp_path: Path) -> None:
    found = run(tmp_path, "npz", "echo_one")
    assert np.asarray(found[":output.same"]).tolist() == BLOBS
    assert np.asarray(found[":output.length"]).tolist() == list(map(len, BLOBS))
    assert not extractkit.verify(
        found.path, recompute=1, seed=0, model=adapted("function", name="echo_one"), inputs=BLOBS
    ).failed


def test_bytes_that_are_text_are_in_the_samples_table(tmp_path: Path) -> None:
    found = extractkit.extract(
        ["selectors=outputs"],
        model=adapted("function", name="echo"),
        inputs=["a\x00", "b"],
        run_dir=tmp_path / "run",
    )
    assert [json.loads(json.dumps(row))["text"] for row in found.samples] == ["a\x00", "b"]
    assert np.asarray(found[":output.same"]).tolist() == [b"a\x00", b"b"]


class TestConstants:
    def test_strings_keep_their_zeros(self) -> None:
        with tf.Graph().as_default():
            tensors = {
                "one": tf.compat.v1.placeholder(tf.string, []),
                "many": tf.compat.v1.placeholder(tf.string, [2]),
            }
        given = {"one": "a\x00", "many": ["b\x00\x00", ""]}
        found = checked_constants(given, tensors, ())
        assert found["one"].item() == "a\x00"
        assert found["many"].tolist() == ["b\x00\x00", ""]

    def test_what_is_no_string_is_refused(self) -> None:
        with tf.Graph().as_default():
            tensors = {"many": tf.compat.v1.placeholder(tf.string, [2])}
        with pytest.raises(ConfigError) as refusal:
            checked_constants({"many": ["a", 1]}, tensors, ())
        assert str(refusal.value) == (
            "model.constants.many=['a', 1] is not string, which this input takes"
        )


def test_an_input_that_is_parsed_is_known_by_its_operations() -> None:
    features = {"v": tf.io.FixedLenFeature([2], tf.float32)}

    @tf.function(input_signature=[tf.TensorSpec([None, 1], tf.string, name="examples")])
    def parse(examples: tf.Tensor) -> tf.Tensor:
        return tf.io.parse_example(tf.reshape(examples, [-1]), features)["v"]

    FUNCTIONS["parse"] = parse
    parsed = [
        [spec.parsed for spec in adapted("function", name=name).signature.specs]
        for name in ("parse", "echo")
    ]
    assert parsed == [[True], [False]]


def test_zeros_of_a_captured_string_are_part_of_the_definition() -> None:
    def digest(suffix: bytes) -> str | None:
        return adapted("joined", suffix=suffix).definition_digest()

    assert digest(b"a") == digest(b"a") != digest(b"a\x00")
