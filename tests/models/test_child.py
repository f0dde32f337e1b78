"""What is reported of a child process that looked at a file, whatever happened to it."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from extractkit.errors import ModelError
from extractkit.models import isolation
from extractkit.models.isolation import Answer, ask

AT = "model.path='m'"

Run = Callable[[str], Answer]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run these lines in a child that is to look at a file of 10 MB, most of it a hole."""
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "m"
    file.touch()
    os.truncate(file, 10_000_000)

    def run(code: str) -> Answer:
        (tmp_path / "a_child.py").write_text(code, encoding="utf-8")
        return ask("a_child", "argument", file, AT)

    return run


def refusal(run: Run, code: str) -> str:
    with pytest.raises(ModelError) as caught:
        run(code)
    return str(caught.value)


def test_it_finds_what_this_process_finds_and_answers(run: Run) -> None:
    code = "import sys\nprint(sys.argv[1:])\nsys.exit('first\\nlast')"
    assert run(code) == Answer(1, b"['argument']\n", "last")
    assert run("") == Answer(0, b"", "")


def test_a_crash(run: Run) -> None:
    assert refusal(run, "import os\nos.kill(os.getpid(), 11)") == (
        f"{AT} is damaged, or not whole, or its library fails on it: reading it crashed the "
        "process that tried (signal 11)"
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_end_from_outside_says_nothing_of_the_file(run: Run, number: int) -> None:
    assert refusal(run, f"import os\nos.kill(os.getpid(), {int(number)})") == (
        f"{AT} has not been read: something ended the process that looked at it (signal "
        f"{int(number)}), as systems do when memory is short. Free memory, and try again"
    )


@pytest.mark.parametrize(
    "code",
    [
        "raise MemoryError('Unable to allocate 8 EiB')",
        "import os, sys\n"
        "print('what(): std::bad_alloc', file=sys.stderr, flush=True)\n"
        "os.kill(os.getpid(), 6)",
    ],
)
def test_more_memory_than_there_is(run: Run, code: str) -> None:
    assert refusal(run, code) == (
        f"{AT} is damaged, or too large: it asks for more memory than there is"
    )


def test_a_hang_is_reported_by_the_time_that_it_took(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "SECONDS", 0)
    monkeypatch.setattr(isolation, "BYTES_PER_SECOND", 10_000_000)
    assert refusal(run, "import signal\nsignal.pause()") == (
        f"{AT} took longer than 1 s to look at. If the machine or the disk is slow, try again, "
        "with a copy on a local disk"
    )


def test_a_larger_file_may_take_longer(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []

    def ended(command: list[str], timeout: float, **_: object) -> object:
        limits.append(timeout)
        return subprocess.CompletedProcess(command, 0, b"", b"")

    monkeypatch.setattr(subprocess, "run", ended)
    run("")
    assert limits == [120 + 5]


def test_a_loop_without_an_end(run: Run) -> None:
    """As a child tells that limits its own processor time."""
    assert refusal(run, "import os, signal\nos.kill(os.getpid(), signal.SIGXCPU)") == (
        f"{AT} took more processor time to look at than a file of its size should"
    )
