"""Sweeps as people run them: the index, failures, going on, and Hydra's launchers."""

import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import extractkit
from extractkit import cli
from extractkit.runs import sweeps
from tests.sweep_examples import placed

SOURCES = str(Path(extractkit.__file__).parents[1])
OWN = """
import os, signal, sys, time
from pathlib import Path
from extractkit.testing.reference import ReferenceModel

def fragile():
    if not Path("mended").exists():
        raise RuntimeError("boom")
    return ReferenceModel(seed=7)

def sleeping():
    if not Path("mended").exists():
        print("loading", file=sys.stderr, flush=True)
        time.sleep(60)
    return ReferenceModel(seed=8)

def dying():
    os.kill(os.getpid(), signal.SIGKILL)

def counted():
    with Path("loaded").open("a") as file:
        file.write(f"{os.getpid()}\\n")
    return ReferenceModel(seed=9)
"""
NAMES = ("fragile", "sleeping", "dying", "counted")
KERAS = """
import keras

def build(units):
    return keras.Sequential([
        keras.Input((None,), dtype="int32", name="tokens"),
        keras.layers.Embedding(50, 8, mask_zero=True, name="embedding"),
        keras.layers.Dense(units, "tanh", name="hidden"),
        keras.layers.Dropout(0.5, name="dropout"),
        keras.layers.GlobalAveragePooling1D(name="pool"),
    ])
"""

Program = Callable[..., subprocess.CompletedProcess[str]]
# Of jobs that failed.
BOOM, EMPTY = "RuntimeError: boom", "selectors is empty"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A working directory with models of its own."""
    placed(tmp_path, **{name: f"_target_: own.{name}\n" for name in NAMES})
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    return tmp_path


def command(*arguments: str, python: str | Path = "") -> list[str]:
    start = "from extractkit.__main__ import main; main()"
    return [str(python or sys.executable), "-P", "-c", start, *arguments]


def variables() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    return {**kept, "PYTHONPATH": SOURCES, "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
def program(place: Path, light: Path) -> Program:
    """Call the program in that directory."""
    return calling(place, light / "python")


def calling(place: Path, python: Path) -> Program:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments, python=python),
            cwd=place,
            env=variables(),
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )

    return call


def sweep(*arguments: str) -> list[str]:
    given = ("-m", "inputs.path=texts.txt", "hydra.sweep.dir=s", "--config-dir", "my")
    return [*arguments, *given, "--trust", "own"]


def statuses(directory: Path) -> list[str]:
    return [str(job.status) for job in sweeps.read(directory).jobs]


def digests(run: Path) -> dict[object, str]:
    return dict(extractkit.open(run).journal.digests())


# ----------------------------------------------------------------------------------- the index


def test_a_sweep_leaves_an_index_and_tells_where(program: Program, place: Path) -> None:
    done = program(*sweep("model=reference", "model.seed=1,2", "selectors=layers"))
    assert done.returncode == cli.DONE
    assert done.stdout.splitlines() == [f"{place}/s/0", f"{place}/s/1", f"{place}/s"]
    assert f"sweep of 2 jobs: 2 finished. Look at it: extractkit show {place}/s" in done.stderr
    found = sweeps.read(place / "s")
    assert found.status == "finished"
    assert found.overrides[:2] == ("model=reference", "model.seed=1,2")
    assert [job.values["model.seed"] for job in found.jobs] == [1, 2]
    assert [job.overrides[1] for job in found.jobs] == ["model.seed=1", "model.seed=2"]
    assert found.config_dir == str(place / "my")
    assert not (place / "s" / ".lock").exists()


def test_a_failed_job_keeps_its_message(program: Program, place: Path) -> None:
    done = program(*sweep("model=fragile,reference", "selectors=layers,none"))
    assert done.returncode == cli.MISTAKEN
    assert done.stdout.splitlines() == [f"{place}/s/2", f"{place}/s"]
    jobs = sweeps.read(place / "s").jobs
    assert [(job.status, job.exit_code) for job in jobs] == [
        ("failed", 1),
        ("failed", 2),
        ("finished", None),
        ("failed", 2),
    ]
    assert jobs[0].error == BOOM
    assert str(jobs[1].error).startswith(EMPTY)
    assert f"  job 0 (model=fragile selectors=layers inputs.path=texts.txt): {BOOM}" in done.stderr
    assert (
        f"Resume the sweep: extractkit resume {place}/s --trust own. Jobs 1, 3 were refused, "
        f"and are refused again until the configuration is corrected."
    ) in done.stderr


def test_the_advice_after_a_refused_job_finishes_the_sweep(program: Program, place: Path) -> None:
    given = ("model=reference", "inputs.path=texts.txt", "-m", "--config-dir", "my")
    swept = (*given, "hydra.sweep.dir=s")
    done = program(*swept, "model.seed=1,x", "selectors=layers")
    assert done.returncode == cli.MISTAKEN
    assert "Resume the sweep" not in done.stderr
    advice = (
        f"Job 1 was refused, and is refused again until the configuration is corrected. Correct it "
        f"and start the sweep again in another directory (run_dir=DIR); "
        f"runtime.reuse_from={place}/s reuses the finished runs. If the overrides are "
        f"right, and a file, a package or disk space was missing, add that and resume: "
        f"extractkit resume {place}/s\n"
    )
    assert done.stderr.endswith(advice)
    assert program("resume", "s").stderr.endswith(advice)
    again = (*given, "hydra.sweep.dir=t", f"runtime.reuse_from={place}/s")
    mended = program(*again, "model.seed=1,2", "selectors=layers")
    assert mended.returncode == cli.DONE, mended.stderr
    assert mended.stdout.splitlines() == [f"{place}/s/0", f"{place}/t/1", f"{place}/t"]


def test_mistakes_alone_leave_nothing(program: Program, place: Path) -> None:
    before = {path.name for path in place.iterdir()}
    done = program(*sweep("model=reference", "model.seed=1,2", "selectors=none"))
    assert (done.returncode, done.stdout) == (cli.MISTAKEN, "")
    done = program(*sweep("model=reference", "model.sede=1,2", "selectors=layers"))
    assert (done.returncode, done.stdout) == (cli.MISTAKEN, "")
    assert {path.name for path in place.iterdir()} == before


def test_a_taken_directory_is_reported_before_anything_runs(program: Program, place: Path) -> None:
    given = sweep("model=reference", "model.seed=1,2", "selectors=layers")
    program(*given)
    before = (place / "s" / "sweep.json").read_bytes()
    done = program(*given)
    assert (done.returncode, done.stdout) == (cli.MISTAKEN, "")
    assert done.stderr == (
        f"extractkit: run_dir={place}/s holds a sweep. Resume it: extractkit resume "
        f"{place}/s. Choose another directory: run_dir=…\n"
    )
    assert (place / "s" / "sweep.json").read_bytes() == before


def test_jobs_lie_inside_of_their_sweep(program: Program, place: Path) -> None:
    done = program(*sweep("model=reference", "selectors=layers", "hydra.sweep.subdir=../t"))
    assert done.returncode == cli.MISTAKEN
    assert (
        f"hydra.sweep.subdir leads to {place}/t, which is not inside of run_dir={place}/s"
    ) in done.stderr
    assert not (place / "t").exists()
    assert not (place / "s").exists()


def test_a_run_that_is_reused_stands_in_a_jobs_place(program: Program, place: Path) -> None:
    given = ("model=reference", "inputs.path=texts.txt", "selectors=layers", "--config-dir", "my")
    program(*given, "model.seed=2", "hydra.run.dir=runs/two")
    done = program(
        *sweep("model=reference", "model.seed=1,2", "selectors=layers", "runtime.reuse_from=runs")
    )
    assert done.stdout.splitlines() == [f"{place}/s/0", f"{place}/runs/two", f"{place}/s"]
    found = extractkit.open(place / "s")
    assert found.runs[1].path == place / "runs" / "two"
    assert found.table[1]["samples"] == 3


def test_show_prints_the_table(program: Program, place: Path) -> None:
    program(*sweep("model=reference,fragile", "selectors=layers"))
    shown = program("show", "s")
    assert shown.returncode == cli.DONE
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert ["job", "model", "status", "samples", "tensors", "size", "time", "run"] in lines
    assert ["jobs", "2", "jobs:", "1", "finished,", "1", "failed"] in lines
    assert ["next", "Resume", "the", "sweep:", "extractkit", "resume", "s"] in lines
    assert "job 1: RuntimeError: boom" in shown.stdout
    document = json.loads(program("show", "s", "--json").stdout)
    assert [job["values"]["model"] for job in document["jobs"]] == ["reference", "fragile"]


def test_other_verbs_say_that_it_is_a_sweep(program: Program, place: Path) -> None:
    program(*sweep("model=reference", "selectors=layers"))
    for verb in (["verify", "s"], ["rerun", "s"], ["diff", "s", "s/0"]):
        done = program(*verb)
        assert done.returncode == cli.MISTAKEN
        assert "s is a sweep, not one run. Give one of its runs; those are listed by: " in (
            done.stderr
        )


# ------------------------------------------------------------------------------------- failures


def test_fail_fast_begins_no_job_after_a_failure(program: Program, place: Path) -> None:
    done = program(*sweep("model=reference,fragile,counted", "selectors=layers"), "--fail-fast")
    assert done.returncode == cli.FAILED
    assert statuses(place / "s") == ["finished", "failed", "not started"]
    jobs = sweeps.read(place / "s").jobs
    assert jobs[2].error == "not begun, since job 1 has failed"
    assert not (place / "loaded").exists()
    assert not (place / "s" / "2").exists()
    (place / "mended").touch()
    again = program("resume", "s", "--trust", "own")
    assert again.returncode == cli.DONE
    assert statuses(place / "s") == ["finished"] * 3


def test_fail_fast_is_for_runs(program: Program) -> None:
    done = program("plan", "model=reference", "--fail-fast")
    assert done.returncode == cli.MISTAKEN
    assert "--fail-fast belongs to run, not to plan" in done.stderr


# --------------------------------------------------------------------------------------- resume


def test_resume_does_what_is_missing_and_leaves_the_rest(program: Program, place: Path) -> None:
    given = sweep("model=reference,fragile,counted", "selectors=layers")
    assert program(*given).returncode == cli.FAILED
    before = sweeps.read(place / "s").jobs
    shutil.rmtree(place / "s" / "2")
    (place / "mended").touch()
    done = program("resume", "s", "--trust", "own")
    assert done.returncode == cli.DONE
    assert done.stdout.splitlines() == [*(f"{place}/s/{n}" for n in range(3)), f"{place}/s"]
    assert f"{place}/s/0 is finished, and nothing of it is damaged" in done.stderr
    found = sweeps.read(place / "s")
    assert (found.status, found.attempt) == ("finished", 2)
    assert found.jobs[0].seconds == before[0].seconds
    assert found.jobs[0].timings == before[0].timings
    # As if nothing had happened.
    program(*given, "hydra.sweep.dir=t")
    for number in range(3):
        assert digests(place / "s" / str(number)) == digests(place / "t" / str(number))


def test_a_finished_sweep_is_left_alone(program: Program, place: Path) -> None:
    program(*sweep("model=reference", "model.seed=1,2", "selectors=layers"))
    before = {path: path.stat().st_mtime_ns for path in (place / "s").rglob("*") if path.is_file()}
    done = program("resume", "s")
    assert (done.returncode, done.stdout) == (cli.DONE, f"{place}/s\n")
    assert done.stderr == f"{place}/s is finished, and nothing of it is damaged\n"
    after = {path: path.stat().st_mtime_ns for path in (place / "s").rglob("*") if path.is_file()}
    assert after == before


def test_damage_in_a_finished_sweep_is_mended(program: Program, place: Path) -> None:
    program(*sweep("model=reference", "model.seed=1,2", "selectors=layers"))
    whole = digests(place / "s" / "1")
    (shard,) = (place / "s" / "1" / "shards").iterdir()
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    done = program("resume", "s")
    assert done.returncode == cli.DONE
    assert shard.read_bytes() == content
    assert digests(place / "s" / "1") == whole


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
def test_a_sweep_that_is_stopped_can_be_resumed(
    number: signal.Signals, program: Program, place: Path
) -> None:
    given = sweep("model=reference,sleeping,counted", "selectors=layers")
    with subprocess.Popen(
        command(*given), cwd=place, env=variables(), stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        while process.stderr.readline() != "loading\n":
            pass
        process.send_signal(number)
        said = process.stderr.read()
        assert process.wait(timeout=60) != cli.DONE
    if number is signal.SIGINT:
        assert f"Resume the sweep: extractkit resume {place}/s --trust own" in said
        assert process.returncode == cli.INTERRUPTED
        assert sweeps.read(place / "s").status == "interrupted"
        assert statuses(place / "s") == ["finished", "interrupted", "not started"]
    else:
        assert statuses(place / "s") == ["finished", "started", "not started"]
    stopped = extractkit.open(place / "s")
    assert [row["model"] for row in stopped.table] == ["reference", "sleeping", "counted"]
    assert (stopped.table[2]["error"], stopped.keys) == ("not begun", ("model",))
    assert np.isnan(stopped.to_xarray("attention:output").sel(model="counted")).all()
    (place / "mended").touch()
    done = program("resume", "s", "--trust", "own")
    assert done.returncode == cli.DONE, done.stderr
    assert statuses(place / "s") == ["finished"] * 3


def test_a_sweep_is_resumed_from_another_directory(program: Program, place: Path) -> None:
    """Relative paths stay those of the directory in which it was begun."""
    program(*sweep("model=reference", "model.seed=1,2", "selectors=layers"))
    shutil.rmtree(place / "s" / "1")
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        command("resume", "../s"), cwd=elsewhere, env=variables(), capture_output=True, text=True
    )
    assert done.returncode == cli.DONE, done.stderr
    assert extractkit.open(place / "s" / "1").manifest.samples == 3


def test_a_run_of_another_job_is_not_resumed(program: Program, place: Path) -> None:
    program(*sweep("model=reference,fragile", "selectors=layers"))
    shutil.rmtree(place / "s" / "1")
    shutil.move(place / "s" / "0", place / "s" / "1")
    (place / "mended").touch()
    done = program("resume", "s", "--trust", "own")
    assert done.returncode == cli.MISTAKEN
    assert f"{place}/s/1 holds the run of another job: model=reference selectors=layers" in (
        done.stderr
    )


def test_a_single_run_is_resumed_as_before(program: Program, place: Path) -> None:
    program("model=reference", "selectors=layers", "hydra.run.dir=r", "--config-dir", "my")
    done = program("resume", "r")
    assert (done.returncode, done.stdout) == (cli.DONE, f"{place}/r\n")


# ---------------------------------------------------------------------------- one loaded model


def test_jobs_that_share_a_model_load_it_once(program: Program, place: Path) -> None:
    done = program(*sweep("model=counted", "selectors=layers,outputs,none,weights"))
    assert done.returncode == cli.MISTAKEN
    assert (place / "loaded").read_text(encoding="utf-8").count("\n") == 1
    assert statuses(place / "s") == ["finished", "finished", "failed", "finished"]


def test_a_run_in_a_sweep_equals_a_run_alone(place: Path, preloaded: Path) -> None:
    """A real Keras model, its weights drawn from a seed, in one process and in several."""
    program = calling(place, preloaded / "python")
    (place / "own.py").write_text(KERAS, encoding="utf-8")
    np.save(place / "tokens.npy", np.arange(1, 61, dtype=np.int32).reshape(6, 10) % 50)
    model = ("model=keras", "model.factory._target_=own.build", "model.factory.units=5")
    given = (*model, "inputs=arrays", "inputs.path=tokens.npy", "runtime.batch_size=4")
    chosen = ("layers", "[layers,weights]", "outputs", "layers")
    swept = program(*given, "-m", f"selectors={','.join(chosen)}", "hydra.sweep.dir=s")
    assert swept.returncode == cli.DONE, swept.stderr
    jobs = sweeps.read(place / "s").jobs
    # What was taken over was not loaded, and what was the same program not compiled.
    assert max(job.timings["load"] for job in jobs[1:]) < 0.5 * jobs[0].timings["load"]
    for number, selectors in enumerate(chosen[:3]):
        alone = place / f"alone{number}"
        done = program(*given, f"selectors={selectors}", f"hydra.run.dir={alone}")
        assert done.returncode == cli.DONE, done.stderr
        assert digests(alone) == digests(place / "s" / str(number))
        first, second = (
            extractkit.open(run).manifest for run in (alone, place / "s" / str(number))
        )
        assert first.identity == second.identity is not None
    assert digests(place / "s" / "3") == digests(place / "s" / "0")


# -------------------------------------------------------------------------------------- launchers


def installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


LAUNCHERS = {
    "joblib": "hydra-joblib-launcher",
    "submitit_local": "hydra-submitit-launcher",
    "ray": "hydra-ray-launcher",
}


@pytest.fixture(params=LAUNCHERS)
def launcher(request: pytest.FixtureRequest) -> str:
    """A launcher of Hydra's that runs jobs in other processes."""
    if not installed(LAUNCHERS[request.param]):
        pytest.skip(f"{LAUNCHERS[request.param]} is not installed")
    return str(request.param)


def test_launchers_run_the_same_sweep(launcher: str, program: Program, place: Path) -> None:
    given = sweep("model=reference,fragile", "selectors=layers,none")
    done = program(*given, f"hydra/launcher={launcher}")
    assert done.returncode == cli.MISTAKEN, done.stderr
    assert done.stdout.splitlines() == [f"{place}/s/0", f"{place}/s"]
    found = sweeps.read(place / "s")
    assert statuses(place / "s") == ["finished", "failed", "failed", "failed"]
    assert found.jobs[2].error == BOOM
    assert f"Resume the sweep: extractkit resume {place}/s --trust own" in done.stderr
    program(*given, "hydra.sweep.dir=basic")
    assert digests(place / "s" / "0") == digests(place / "basic" / "0")
    (place / "mended").touch()
    again = program("resume", "s", "--trust", "own")
    assert again.stdout.splitlines() == [f"{place}/s/0", f"{place}/s/2", f"{place}/s"]
    assert statuses(place / "s") == ["finished", "failed", "finished", "failed"]


@pytest.mark.parametrize(
    "launcher",
    # Submitit waits for 15 seconds until it believes that a process is dead.
    ["joblib", pytest.param("submitit_local", marks=pytest.mark.thorough)],
    indirect=True,
)
def test_a_job_whose_process_dies_does_not_take_the_index_along(
    launcher: str, program: Program, place: Path
) -> None:
    done = program(*sweep("model=dying", "selectors=layers"), f"hydra/launcher={launcher}")
    assert done.returncode == cli.FAILED
    assert f"Resume the sweep: extractkit resume {place}/s --trust own\n" in done.stderr
    reported = done.stderr.splitlines()[-1]
    assert reported.startswith("extractkit: hydra/launcher: ")
    assert reported.endswith(
        "Jobs that have ended are complete. Others may have died, or may still be running"
    )
    assert sweeps.read(place / "s").status == "failed"
    assert statuses(place / "s") == ["started"]


def test_jobs_of_one_worker_share_a_model(program: Program, place: Path) -> None:
    if not installed(LAUNCHERS["joblib"]):
        pytest.skip("hydra-joblib-launcher is not installed")
    given = sweep("model=counted", "selectors=layers,outputs,weights", "hydra/launcher=joblib")
    done = program(*given, "hydra.launcher.n_jobs=2")
    assert done.returncode == cli.DONE, done.stderr
    loaded = (place / "loaded").read_text(encoding="utf-8").splitlines()
    assert len(loaded) == len(set(loaded))  # once in each process
