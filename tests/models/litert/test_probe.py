"""What the parent makes of a child that was examining a file, whatever happened to it."""

import subprocess
import sys
from pathlib import Path

import pytest

from extractkit.errors import ModelError
from extractkit.models.litert.interpreter import Settings
from extractkit.models.litert.probe import probe


def outcome(
    monkeypatch: pytest.MonkeyPatch, returncode: int = 0, stdout: bytes = b"", stderr: bytes = b""
) -> str:
    """The message for a child that ended like this."""

    def ended(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(command, returncode, stdout, stderr)

    monkeypatch.setattr(subprocess, "run", ended)
    with pytest.raises(ModelError) as caught:
        probe(Path("some.tflite"), None, Settings())
    return str(caught.value)


def test_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that ends itself as a wrong address would."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nkill -SEGV $$\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(ModelError) as caught:
        probe(Path("some.tflite"), None, Settings())
    assert str(caught.value) == (
        "model.path='some.tflite' is damaged: reading it ended the process (signal 11)"
    )


def test_more_memory_than_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    said = b"terminate called after throwing an instance of 'std::bad_alloc'\n  what(): std::"
    assert "asks for more memory than there is" in outcome(monkeypatch, -6, stderr=said)
    assert "asks for more memory" in outcome(monkeypatch, 1, stderr=b"MemoryError: Unable to\n")


def test_a_refusal_by_litert_ends_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    said = b"INFO: noise\nRuntimeError: Encountered unresolved custom op: Blur\n"
    assert outcome(monkeypatch, 1, stderr=said) == (
        "model.path='some.tflite' cannot be run by LiteRT: "
        "RuntimeError: Encountered unresolved custom op: Blur"
    )


def test_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(command: list[str], timeout: float, **_: object) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hangs)
    with pytest.raises(ModelError, match=r"damaged, or too slow: no answer after 120 s"):
        probe(Path("some.tflite"), None, Settings())


def test_a_mistake_that_the_child_found_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert outcome(monkeypatch, stdout=b'\n{"refused": "no such thing"}\n') == "no such thing"
