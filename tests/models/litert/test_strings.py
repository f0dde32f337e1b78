"""Strings in TensorFlow Lite files, in, out and stored, as LiteRT itself gives them."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

import extractkit
from extractkit.models.litert.catalog import stored_value
from extractkit.models.litert.graph import GraphTensor

VALUES = [b"a\0\xff\0", "é".encode(), b""]
LABELS = [b"zero\0", "één".encode(), b""]


class Words(tf.Module):
    """Words and a label that are picked by number."""

    @tf.function(
        input_signature=[tf.TensorSpec([3], tf.string, "s"), tf.TensorSpec([2], tf.int32, "i")]
    )
    def __call__(self, s: tf.Tensor, i: tf.Tensor) -> dict[str, tf.Tensor]:
        labels = tf.gather(tf.constant(LABELS), i)
        return {"picked": tf.gather(s, i), "labels": labels, "doubled": tf.cast(i, tf.float32) * 2}


class Alone(tf.Module):
    """One string, in another shape."""

    @tf.function(input_signature=[tf.TensorSpec([1], tf.string, "s")])
    def __call__(self, s: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": tf.reshape(s, [1, 1]), "flat": tf.gather(s, [0])}


def converted(module: tf.Module, path: Path) -> Path:
    function = module.__call__.get_concrete_function()
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([function], module).convert())
    return path


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return converted(Words(), tmp_path_factory.mktemp("words") / "words.tflite")


def test_every_byte_goes_in_and_comes_out(words: Path, tmp_path: Path) -> None:
    rows = [{"s": VALUES, "i": [0, 2]}, {"s": VALUES[::-1], "i": [1, 2]}]
    inputs = {
        "s": np.array([row["s"] for row in rows], object),
        "i": np.array([row["i"] for row in rows], np.int32),
    }
    run = extractkit.extract(
        ["model=tflite", f"model.path={words}", "+selectors.all.path=**"],
        inputs=inputs,
        run_dir=tmp_path / "run",
    )
    runner = Interpreter(model_path=str(words)).get_signature_runner("serving_default")
    for number in range(2):
        wanted = runner(**{name: values[number] for name, values in inputs.items()})
        for name, value in wanted.items():
            found = run[f":output.{name}"][number]
            assert np.asarray(found, value.dtype).tolist() == value.tolist(), name
    stored = [view[...].tolist() for view in run.select(kind="weight").values()]
    assert LABELS in stored


def test_one_string_takes_texts_and_whole_files(tmp_path: Path) -> None:
    path = converted(Alone(), tmp_path / "alone.tflite")
    (tmp_path / "texts.txt").write_text("one\nétwo\n", encoding="utf-8")
    (tmp_path / "bytes.bin").write_bytes(VALUES[0])
    for source, name, wanted in [
        ("texts", "texts.txt", [b"one", "étwo".encode()]),
        ("files", "bytes.bin", [VALUES[0]]),
    ]:
        run = extractkit.extract(
            ["model=tflite", f"model.path={path}", "selectors=outputs", f"inputs={source}",
             f"inputs.path={tmp_path / name}"],
            run_dir=tmp_path / source,
        )  # fmt: skip
        for address in (":output.y", ":output.flat"):
            assert np.ravel(run[address][:]).tolist() == wanted


def string_tensor(content: bytes, count: int) -> GraphTensor:
    return GraphTensor(0, "s", "STRING", (count,), False, None, (0, len(content)))


def test_stored_strings_that_do_not_hold_together_are_refused() -> None:
    """The file itself is read: LiteRT would believe any offset."""
    content = np.array([2, 12 + 4, 17, 19], "<i4").tobytes() + b"abc"
    assert stored_value(content, string_tensor(content, 2)).tolist() == [b"a", b"bc"]
    for place, value in [(0, 3), (0, -1), (4, 3), (4, 18), (8, 20)]:
        broken = content[:place] + np.int32(value).tobytes() + content[place + 4 :]
        with pytest.raises(ValueError, match="of tensor 's'"):
            stored_value(broken, string_tensor(broken, 2))
    with pytest.raises(ValueError, match="2 strings of tensor 's' do not fill"):
        stored_value(content, string_tensor(content, 3))
