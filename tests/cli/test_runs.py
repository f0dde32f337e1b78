"""The verbs on runs that are there: resume, verify, diff, rerun."""

import json
from pathlib import Path

import pytest

from extractkit import cli
from tests.cli.called import Program


def test_a_run_of_which_a_shard_is_lost_is_found_out_and_mended(
    program: Program, run: Path
) -> None:
    shard = sorted((run / "shards").iterdir())[3]
    before = shard.read_bytes()
    shard.write_bytes(before[:-1])
    found = program("verify", "r", "--json")
    assert (found.returncode, found.stderr) == (cli.FAILED, "")
    assert shard.name in json.dumps(json.loads(found.stdout))
    mended = program("resume", "r")
    assert (mended.returncode, mended.stdout) == (cli.DONE, f"{run}\n")
    assert "11 of 12 shards are committed already" in mended.stderr
    assert shard.read_bytes() == before
    assert program("verify", "r").returncode == cli.DONE
    assert program("verify", "r", "--recompute", "3").returncode == cli.DONE


def test_where_going_on_cannot_help_it_is_not_advised(
    program: Program, run: Path, place: Path
) -> None:
    done = program("model=Sick", "selectors=layers", "runtime.non_finite=fail", "run_dir=sick")
    assert done.returncode == cli.FAILED
    assert "runtime.non_finite=skip. That takes a new run" in done.stderr
    assert "Resume the run" not in done.stderr
    (run / ".hydra" / "config.yaml").unlink()
    done = program("resume", str(run))
    assert done.returncode == cli.FAILED
    assert done.stderr.endswith(f"For a run that lacks nothing: extractkit rerun {run}\n")
    assert "Resume the run" not in done.stderr
    (run / "shards").rename(place / "elsewhere")
    (run / "shards").symlink_to(place / "elsewhere")
    done = program("resume", str(run))
    assert (done.returncode, done.stderr) == (
        cli.MISTAKEN,
        f"extractkit: {run}/shards is not a directory but a link: it may lead out of its run. Put "
        f"the directory itself in its place\n",
    )


def test_a_whole_run_is_left_alone(program: Program, run: Path) -> None:
    before = (run / "manifest.json").stat().st_mtime_ns
    done = program("resume", "r")
    assert (done.returncode, done.stdout) == (cli.DONE, f"{run}\n")
    assert "is finished, and nothing of it is damaged" in done.stderr
    assert (run / "manifest.json").stat().st_mtime_ns == before


def test_a_run_is_repeated_and_compared(program: Program, run: Path, place: Path) -> None:
    done = program("rerun", "r", "run_dir=again")
    assert (done.returncode, done.stdout) == (cli.DONE, f"{place}/again\n")
    assert f"the values are those of {run}, to the bit" in done.stderr
    assert program("diff", "r", "again").returncode == cli.DONE
    other = ("model=reference", "model.seed=1", "selectors=layers", "inputs.limit=12")
    assert program(*other, "run_dir=other").returncode == cli.DONE
    found = program("diff", "r", "other", "--json")
    assert (found.returncode, found.stderr) == (cli.FAILED, "")
    assert json.loads(found.stdout)["beyond"] is True


@pytest.mark.parametrize("verb", ["verify", "show", "resume"])
def test_a_run_that_looks_like_an_option_is_pointed_out(
    verb: str, program: Program, run: Path, place: Path
) -> None:
    run.rename(place / "-lead")
    done = program(verb, "-lead")
    assert done.returncode == cli.MISTAKEN
    assert "required: RUN. For the run '-lead' write ./-lead. Usage: " in done.stderr
    assert program(verb, "./-lead").returncode == cli.DONE
    assert "./" not in program(verb, "-lea" + "d" * 300).stderr


def test_a_finished_run_of_the_same_identity_is_taken(
    program: Program, run: Path, place: Path
) -> None:
    same = ("model=reference", "selectors=layers", "inputs.limit=12", "runtime.shard_size=1")
    done = program(*same, "runtime.reuse_from=.", "run_dir=new")
    assert (done.returncode, done.stdout) == (cli.DONE, f"{run}\n")
    assert f"reused {run}" in done.stderr
    assert not (place / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["resume", "nowhere"], "nowhere does not exist. In "),
        (["resume"], "resume: the following arguments are required: RUN. Usage: extractkit resume"),
        (
            ["verify", "r", "--recompute", "x"],
            "argument --recompute: 'x' is not a whole number of 0 or more",
        ),
        (["rerun", "r", "elsewhere"], "'elsewhere' is not a run directory to write to"),
        (
            ["rerun", "r", "runtime.seed=1"],
            "rerun: 'runtime.seed=1' cannot be given: the run keeps its settings. Only where it "
            "runs may be given: runtime.engine, runtime.workers, runtime.shard_timeout, "
            "runtime.ray_address, runtime.worker_cpus, runtime.worker_gpus, runtime.self_check\n",
        ),
        (["resume", "r", "runtime.part=1/2"], "resume: 'runtime.part=1/2' cannot be given: "),
        (["resume", "r", "runtime.workers=1,2"], "gives several values. Give one\n"),
        (["rerun", "r", "runtime.workers=2"], "has no effect with runtime.engine=local"),
        (["rerun", "r", "run_dir=r"], "holds a finished run"),
        (["diff", "r"], "diff: the following arguments are required: B. Usage: extractkit diff"),
        (["diff", "r", "r", "--rtol", "-1"], "rtol=-1.0 is not a finite number of 0 or more"),
        (["diff", "r", "r", "--only", "nothing*"], "nothing*"),
        (["resume", "r", "--trust", "a b"], "--trust 'a b' does not name a module"),
        (["show", "r", "more"], "show: unrecognized arguments: more"),
    ],
)
def test_a_mistake_about_a_run_gets_one_message(
    program: Program, run: Path, arguments: list[str], said: str
) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    done = program(*arguments)
    assert (done.returncode, done.stdout) == (cli.MISTAKEN, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
