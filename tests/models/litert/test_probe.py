"""What the parent makes of a child that was examining a file, whatever happened to it."""

import subprocess
from pathlib import Path

import pytest

from extractkit.errors import ModelError
from extractkit.models.litert.examination import probe
from extractkit.models.litert.file import TFLiteFile
from extractkit.models.litert.interpreter import Settings


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
