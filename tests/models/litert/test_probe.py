"""What the parent makes of a child that was examining a file, whatever happened to it."""

import subprocess
from pathlib import Path

import pytest
import tensorflow as tf

from extractkit.errors import ModelError
from extractkit.models import isolation
from extractkit.models.litert import TFLiteFile
from extractkit.models.litert.examination import probe
from extractkit.models.litert.interpreter import Settings
from extractkit.models.tflite import load


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Never looked into: what becomes of the child is made up."""
    path = tmp_path / "some.tflite"
    path.write_bytes(b"TFL3")
    return path


def outcome(
    monkeypatch: pytest.MonkeyPatch,
    file: Path,
    returncode: int = 0,
    stdout: bytes = b"",
    stderr: bytes = b"",
) -> str:
    """The message for a child that ended like this."""

    def ended(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(command, returncode, stdout, stderr)

    monkeypatch.setattr(subprocess, "run", ended)
    with pytest.raises(ModelError) as caught:
        probe(TFLiteFile(file), None, Settings())
    return str(caught.value).replace(str(file), file.name)


def test_a_refusal_by_litert_ends_in_its_own_words(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = b"INFO: noise\nRuntimeError: Encountered unresolved custom op: Blur\n"
    assert outcome(monkeypatch, file, 1, stderr=said) == (
        "model.path='some.tflite' cannot be run by LiteRT: "
        "RuntimeError: Encountered unresolved custom op: Blur"
    )
    assert outcome(monkeypatch, file, 1).endswith("cannot be run by LiteRT: no message")


def test_a_mistake_that_the_child_found_is_reported_as_it_is(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported = outcome(monkeypatch, file, stdout=b'\n{"refused": "no such thing"}\n')
    assert reported == "no such thing"


def test_a_file_that_never_ends_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = tf.function(
        lambda x: tf.while_loop(lambda y: tf.reduce_sum(y) > -1.0, lambda y: (tf.abs(y),), [x]),
        input_signature=[tf.TensorSpec([1, 3])],
        autograph=False,
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], tf.Module()
    )
    file = tmp_path / "endless.tflite"
    file.write_bytes(converter.convert())
    monkeypatch.setattr(isolation, "SECONDS", 3)
    with pytest.raises(ModelError) as refused:
        load(str(file))
    assert str(refused.value) == (
        f"model.path={str(file)!r} took longer than 3 s to look at. If the machine or the disk is "
        "slow, try again, with a copy on a local disk"
    )
