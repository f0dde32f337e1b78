"""Signals, and terminals that close, while the program works and after it has ended."""

import fcntl
import os
import pty
import signal
import subprocess
import termios
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

import extractkit
from extractkit import cli
from tests.cli.called import command, variables


def started(place: Path, *arguments: str) -> subprocess.Popen[str]:
    """The program, to be sent signals."""
    return subprocess.Popen(
        command(*arguments), cwd=place, env=variables(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # What a shell runs in the background ignores interruptions, and hands that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


@pytest.mark.parametrize(
    "signals",
    [
        [signal.SIGINT],
        [signal.SIGTERM],
        [signal.SIGHUP],
        [signal.SIGINT] * 5,
        [signal.SIGTERM] * 3,
        [signal.SIGHUP, signal.SIGTERM, signal.SIGINT],
    ],
    ids=lambda signals: "-".join(one.name for one in signals),
)
def test_an_interruption_has_a_code_of_its_own(
    signals: Sequence[signal.Signals], place: Path
) -> None:
    with started(place, "model=slow", "selectors=layers") as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "loading\n"
        for one in signals:
            process.send_signal(one)
            time.sleep(0.03)
        hint, said = process.stderr.read().splitlines()
        assert hint.startswith(f"Resume the run: extractkit resume {place}/outputs/")
        assert hint.endswith(" --trust own")
        assert said == "extractkit: interrupted"
        assert process.wait(timeout=30) == cli.INTERRUPTED


@pytest.mark.parametrize("model", ["ending_late", "taken_down_late"])
def test_after_its_end_nothing_interrupts_it_any_more(model: str, place: Path) -> None:
    arguments = (f"model={model}", "selectors=layers", "run_dir=r")
    with started(place, *arguments) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == f"{place}/r\n"
        while process.stderr.readline() != "late\n":
            assert process.poll() is None
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            process.send_signal(one)
            time.sleep(0.03)
        assert process.stderr.read() == ""
        assert process.wait(timeout=30) == cli.DONE


def test_a_terminal_that_closes_interrupts(place: Path) -> None:
    (place / "t.txt").write_text("a\nb\n", "utf-8")
    ours, its = pty.openpty()
    with subprocess.Popen(
        command("model=slow", "selectors=layers", "inputs.path=t.txt", "run_dir=r"),
        cwd=place, env=variables(), stdin=its, stdout=its, stderr=its,
        start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    ) as process:  # fmt: skip
        os.close(its)
        said = b""
        while b"loading" not in said:
            said += os.read(ours, 1000)
        os.close(ours)
        assert process.wait(timeout=30) == cli.INTERRUPTED
    assert extractkit.open(place / "r").status == "interrupted"


def test_what_is_ignored_from_the_start_stays_ignored(place: Path) -> None:
    """As `nohup` asks for."""
    given = command("model=ending_late", "selectors=layers", "run_dir=r")
    with subprocess.Popen(
        ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *given],
        cwd=place, env=variables(), stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        while not (place / "r").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGHUP)
        assert process.wait(timeout=60) == cli.DONE
