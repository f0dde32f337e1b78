"""Sweeps of the reference model in this process, which needs no TensorFlow for it."""

from pathlib import Path

from extractkit.commands.jobs import run
from extractkit.commands.runs import resume_sweep

TARGET = "extractkit.testing.reference.ReferenceModel"
REFERENCE = f"_target_: {TARGET}\nseed: 0\nlongest: 64\n"
TEXTS = "one\nthree\nseventeen\n"


def placed(directory: Path, **models: str) -> Path:
    """A working directory with texts, a folder of configuration and these models in it."""
    folder = directory / "my" / "model"
    folder.mkdir(parents=True)
    for name, text in {"reference": REFERENCE, **models}.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    (directory / "texts.txt").write_text(TEXTS, encoding="utf-8")
    return directory


class Failures(list[Exception]):
    """What failed in a sweep, each reported as a mistake."""

    def report(self, error: Exception) -> int:
        self.append(error)
        return 2


def swept(*arguments: str, fail_fast: bool = False) -> list[Exception]:
    """Run a sweep into `s` below the working directory; what failed in it."""
    failures = Failures()
    given = ["model=reference", "inputs.path=texts.txt", "hydra.sweep.dir=s", *arguments]
    run([*given, "-m", "--config-dir", "my"], failures.report, [], fail_fast=fail_fast)
    return failures


def resumed(directory: Path) -> list[Exception]:
    """Go on with a sweep; what failed in it."""
    failures = Failures()
    resume_sweep(directory, [], failures.report)
    return failures
