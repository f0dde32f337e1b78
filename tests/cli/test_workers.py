"""Jobs on several processes and in parts, from the command line."""

import json
import re
from pathlib import Path

import pytest

from extractkit import cli
from tests.cli.called import Program

JOB = ("model=reference", "selectors=layers", "inputs.limit=12", "runtime.shard_size=1")


def stored(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "shards").iterdir()}


def test_a_job_on_two_processes_makes_the_same_run(
    program: Program, run: Path, place: Path
) -> None:
    done = program(*JOB, "runtime.engine=processes", "run_dir=two")
    assert (done.returncode, done.stdout) == (cli.DONE, f"{place}/two\n")
    assert stored(place / "two") == stored(run)
    assert program("diff", "r", "two").returncode == cli.DONE
    assert program("verify", "two").returncode == cli.DONE


def test_a_run_is_resumed_and_repeated_elsewhere(program: Program, run: Path, place: Path) -> None:
    kept, shards = stored(run), sorted((run / "shards").iterdir())
    configured = json.loads((run / "manifest.json").read_text())["job_resolved"]
    shards[0].unlink()
    words = ("runtime.engine=processes", "runtime.workers=1")
    assert program("resume", "r", "--trust", "own", *words).returncode == cli.DONE
    assert stored(run) == kept
    assert program("rerun", "r", "run_dir=n", *words, "--trust", "own").returncode == cli.DONE
    assert stored(place / "n") == kept
    for one in (run, place / "n"):
        found = json.loads((one / "manifest.json").read_text())
        assert found["job_resolved"] == configured
        assert found["volatile"]["workers"]


def test_parts_of_a_job_are_joined_to_the_same_run(
    program: Program, run: Path, place: Path
) -> None:
    made = program(*JOB, "runtime.part=2/2", "run_dir=p")
    assert (made.returncode, made.stdout) == (cli.DONE, f"{place}/p/parts/2-of-2\n")
    assert re.search(r"^part +2/2$", program("show", "p/parts/2-of-2").stdout, re.MULTILINE)
    missing = program("join", "p")
    assert (missing.returncode, missing.stdout) == (cli.MISTAKEN, "")
    assert missing.stderr == (
        f"extractkit: 1 of the 2 parts of {place}/p are missing or not finished: 1/2 is missing: "
        f"extractkit --config-dir {place}/my {' '.join(JOB)} runtime.part=1/2 run_dir={place}/p\n"
    )
    assert program(*JOB, "runtime.part=1/2", "run_dir=p").returncode == cli.DONE
    done = program("join", "p")
    assert (done.returncode, done.stdout, done.stderr) == (cli.DONE, f"{place}/p\n", "")
    assert stored(place / "p") == stored(run)
    assert sorted(path.name for path in (place / "p").iterdir()) == sorted(
        path.name for path in run.iterdir()
    )
    assert program("verify", "p", "--recompute", "1").returncode == cli.DONE
    again = program("rerun", "p", "run_dir=whole")
    assert f"the values are those of {place}/p, to the bit" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["runtime.part=5/4"],
            "runtime.part='5/4' is not a part of a job. Give i/n, i from 1 to n: the parts of four "
            "are 1/4, 2/4, 3/4 and 4/4",
        ),
        (
            ["runtime.engine=local", "runtime.workers=2"],
            "runtime.workers=2 has no effect with runtime.engine=local. Add "
            "runtime.engine=processes or runtime.engine=ray, or leave it out",
        ),
        (
            ["runtime.engine=proceses"],
            "runtime.engine='proceses' does not exist. Available: 'local', 'processes', 'ray'.",
        ),
        (
            ["runtime.engine=ray", "runtime.ray_address=127.0.0.1:1"],
            "runtime.ray_address=127.0.0.1:1: no Ray cluster answers there ([Errno 111] Connection "
            "refused). Start one with: ray start --head, and name it by "
            "runtime.ray_address=HOST:6379; or give runtime.ray_address=null to have one started "
            "here",
        ),
    ],
)
def test_workers_and_parts_that_there_cannot_be(
    program: Program, place: Path, arguments: list[str], message: str
) -> None:
    done = program(*JOB, *arguments, "run_dir=r")
    assert (done.returncode, done.stdout) == (cli.MISTAKEN, "")
    assert done.stderr == f"extractkit: {message}\n"
    assert not (place / "r").exists()


def test_parts_are_no_jobs_of_a_sweep(program: Program) -> None:
    done = program("-m", *JOB, "runtime.part=1/2,2/2", "run_dir=s")
    assert done.returncode == cli.MISTAKEN
    assert "runtime.part=1/2 in a sweep: each job has a directory of its own" in done.stderr
