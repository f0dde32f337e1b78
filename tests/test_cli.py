"""The program as people call it: exit codes, what goes where, and what is left on disk.

Jobs run on the reference model, so that nothing waits for TensorFlow.
"""

import fcntl
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import extractkit
from extractkit import cli
from extractkit.config.directory import GROUPS, options
from extractkit.errors import JobError, UserError

SOURCES = str(Path(extractkit.__file__).parents[1])
SLOW_MODEL = """
import atexit, os, sys, time
from extractkit.testing.reference import ReferenceModel

def chatty():
    print("hello from the model")
    return ReferenceModel()

def broken():
    raise RuntimeError("boom")

def leaving():
    sys.exit(3)

def slow():
    print("loading", file=sys.stderr, flush=True)
    time.sleep(60)

class Sick(ReferenceModel):
    def forward(self, tokens):
        found = super().forward(tokens)
        return {key: value * float("nan") for key, value in found.items()}

def last(write=os.write, sleep=time.sleep):
    write(2, b"late\\n")
    sleep(1)

class Late:
    def __del__(self, last=last):
        last()

def taken_down_late():
    global late
    late = Late()
    return ReferenceModel()

def ending_late():
    atexit.register(last)
    return ReferenceModel()
"""

ON_RUNS = ("show", "resume", "finalize", "rerun", "verify", "diff")

Program = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A working directory with a folder of configuration and a module of the user's own."""
    models = tmp_path / "my" / "model"
    models.mkdir(parents=True)
    target = "_target_: extractkit.testing.reference.ReferenceModel\nseed: 0\n"
    (models / "reference.yaml").write_text(target, encoding="utf-8")
    for name in ("chatty", "broken", "leaving", "slow", "ending_late", "taken_down_late", "Sick"):
        (models / f"{name}.yaml").write_text(f"_target_: own.{name}\n", encoding="utf-8")
    (tmp_path / "own.py").write_text(SLOW_MODEL, encoding="utf-8")
    return tmp_path


@pytest.fixture
def program(place: Path) -> Program:
    """Call the program in that directory, as the console script does: without it on the path."""

    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments),
            cwd=place,
            env=variables(**environment),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return call


def command(*arguments: str) -> list[str]:
    start = "from extractkit.__main__ import main; main()"
    job = any("=" in argument for argument in arguments) and arguments[0] not in ON_RUNS
    own = ["--config-dir", "my", "--trust", "own"] if job else []
    return [sys.executable, "-P", "-c", start, *arguments, *own]


def variables(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS",)}
    return {**kept, "PYTHONPATH": SOURCES, "PYTHONDONTWRITEBYTECODE": "1", **more}


def left_in(place: Path) -> set[str]:
    return {path.name for path in place.iterdir()} - {"my", "own.py"}


# ----------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["model=bert", "--help"]])
def test_help_lists_verbs_and_choices(program: Program, arguments: list[str]) -> None:
    done = program(*arguments)
    assert (done.returncode, done.stderr) == (cli.DONE, "")
    for group in GROUPS:
        assert f"  {group:<10} {', '.join(options(group))}\n" in done.stdout
    assert "  tensors    what can be selected" in done.stdout


@pytest.mark.parametrize("verb", ["run", "tensors", "plan", "show"])
def test_every_verb_has_help_of_its_own(program: Program, verb: str) -> None:
    done = program(verb, "--help")
    assert done.returncode == cli.DONE
    assert done.stdout.startswith(f"Usage: extractkit {'[run]' if verb == 'run' else verb} ")


def test_help_and_show_import_neither_tensorflow_nor_hydra(program: Program, place: Path) -> None:
    assert program("model=reference", "selectors=layers", "hydra.run.dir=r").returncode == 0
    for arguments in ("['--help']", "['show', 'r']", "['show', 'r', '--json']"):
        probe = (
            f"import sys; from extractkit import cli; cli.execute({arguments}); "
            "found = {'tensorflow', 'keras', 'hydra', 'omegaconf'} & set(sys.modules); "
            "sys.exit(repr(found) if found else 0)"
        )
        done = subprocess.run(
            [sys.executable, "-c", probe], cwd=place, env=variables(), check=False,
            capture_output=True, text=True,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")


def test_help_answers_within_a_second(program: Program) -> None:
    began = time.perf_counter()
    program("--help")
    assert time.perf_counter() - began < 1


def test_version(program: Program) -> None:
    assert program("--version").stdout.startswith("extractkit ")


# --------------------------------------------------------------------------------------- run


@pytest.mark.parametrize("verb", [[], ["run"]])
def test_run_leaves_a_run_and_prints_its_directory(
    program: Program, place: Path, verb: list[str]
) -> None:
    done = program(*verb, "model=reference", "selectors=layers", "hydra.run.dir=out/r")
    assert (done.returncode, done.stdout) == (cli.DONE, f"{place}/out/r\n")
    assert "3 tensors of 48 samples, about " in done.stderr
    assert f"look at it  extractkit show {place}/out/r\n" in done.stderr
    assert extractkit.open(place / "out" / "r")["pool:output"].shape == (48, 4)
    assert sorted(path.name for path in (place / "out/r/.hydra").iterdir()) == [
        "config.yaml",
        "hydra.yaml",
        "overrides.yaml",
    ]


def test_what_a_model_prints_is_no_result(program: Program, place: Path) -> None:
    done = program("model=chatty", "selectors=outputs", "hydra.run.dir=r")
    assert done.stdout == f"{place}/r\n"
    assert "hello from the model\n" in done.stderr
    assert json.loads(program("tensors", "model=chatty", "--json").stdout)


def test_a_finished_run_is_not_touched(program: Program, place: Path) -> None:
    arguments = ("model=reference", "selectors=outputs", "hydra.run.dir=r")
    program(*arguments)
    before = {path: path.read_bytes() for path in (place / "r").rglob("*") if path.is_file()}
    done = program(*arguments)
    assert (done.returncode, done.stdout) == (cli.MISTAKEN, "")
    assert "r holds a finished run of " in done.stderr
    after = {path: path.read_bytes() for path in (place / "r").rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["model=brt"], "model=brt does not exist. Nearest: "),
        (["model=reference"], "selectors is empty: nothing would be extracted."),
        (["model=reference", "+selectors.mine.path=nope"], "matched 0 of 11 tensors"),
        (["model=reference", "selectors=layers", "inputs.path=no.txt"], "inputs.path='no.txt'"),
        (["-m", "model=reference", "+selectors.mine.path=nope"], "matched 0 of 11 tensors"),
        (["-m", "model=reference,brt", "selectors=layers"], "model=brt does not exist."),
        (["model=reference", "selectors=layers", "--config-name=x"], "--config-name=x: no x.yaml"),
        (["model=reference", "selectors=layers", "--json"], "--json belongs to tensors and plan"),
        (["tensor", "model=reference"], "'tensor' is neither a verb (which comes first) nor"),
        (["show"], "show: the following arguments are required: RUN. Usage: extractkit show"),
        (["show", "nowhere"], "nowhere is no run directory: it holds no manifest.json"),
    ],
)  # fmt: skip
def test_a_mistake_gets_one_message_and_leaves_nothing(
    program: Program, place: Path, arguments: list[str], said: str
) -> None:
    done = program(*arguments)
    assert (done.returncode, done.stdout) == (cli.MISTAKEN, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("extractkit: ") == 1
    assert left_in(place) == set()


def test_a_directory_of_configuration_that_is_missing_is_named(place: Path) -> None:
    done = subprocess.run(
        [*command("model=bert"), "--config-dir", "nowhere"], cwd=place, env=variables(),
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == cli.MISTAKEN
    assert f"--config-dir: Additional config directory '{place}/nowhere' not found" in done.stderr


def test_an_unexpected_failure_keeps_its_traceback(program: Program, place: Path) -> None:
    done = program("model=broken", "selectors=layers")
    assert done.returncode == cli.FAILED
    assert "RuntimeError: boom" in done.stderr
    assert 'own.py", line' in done.stderr


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
        assert hint.startswith(f"Go on with the run: extractkit resume {place}/outputs/")
        assert hint.endswith(" --trust own")
        assert said == "extractkit: interrupted"
        assert process.wait(timeout=30) == cli.INTERRUPTED


@pytest.mark.parametrize("model", ["ending_late", "taken_down_late"])
def test_after_its_end_nothing_interrupts_it_any_more(model: str, place: Path) -> None:
    arguments = (f"model={model}", "selectors=layers", "hydra.run.dir=r")
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
        command("model=slow", "selectors=layers", "inputs.path=t.txt", "hydra.run.dir=r"),
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
    given = command("model=ending_late", "selectors=layers", "hydra.run.dir=r")
    with subprocess.Popen(
        ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *given],
        cwd=place, env=variables(), stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        while not (place / "r").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGHUP)
        assert process.wait(timeout=60) == cli.DONE


# ------------------------------------------------------------------------------------- sweeps


def test_a_failing_job_does_not_end_a_sweep(program: Program, place: Path) -> None:
    done = program(
        "-m", "model=broken,leaving,reference", "selectors=layers,none", "hydra.sweep.dir=s"
    )
    assert done.stdout == f"{place}/s/4\n{place}/s\n"
    assert done.returncode == cli.MISTAKEN  # the worst of 1, 1 and 2
    for said in ("boom", "the job called sys.exit(3)", "selectors is empty"):
        assert said in done.stderr
    # Jobs that failed keep their logs; of the mistaken ones nothing stays.
    left = {path.name for path in (place / "s").iterdir()}
    assert left == {"0", "2", "4", "jobs", "multirun.yaml", "sweep.json"}


def test_jobs_of_a_sweep_are_numbered(program: Program, place: Path) -> None:
    done = program("model=reference", "-m", "selectors=layers,outputs", "hydra.sweep.dir=s")
    assert (done.returncode, done.stdout) == (cli.DONE, f"{place}/s/0\n{place}/s/1\n{place}/s\n")


# ------------------------------------------------------------------------------ tensors and plan


def test_tensors_prints_an_array_of_records(program: Program, place: Path) -> None:
    done = program("tensors", "model=reference", "--json")
    records = json.loads(done.stdout)
    assert (done.returncode, len(records)) == (cli.DONE, 11)
    keys = {"address", "kind", "port", "layer", "layer_type", "op_type", "dtype", "shape", "dims"}
    assert keys < set(records[0])
    assert left_in(place) == set()


def test_tensors_with_a_selector_shows_what_it_matches(program: Program) -> None:
    records = json.loads(program("tensors", "model=reference", "selectors=ops", "--json").stdout)
    assert [record["kind"] for record in records] == ["op"] * 4
    shown = program("tensors", "model=reference", "selectors=ops").stdout
    assert ":op/Softmax" in shown
    assert ":output" not in shown
    assert "cannot be extracted: no axis of it follows the samples" in shown


def test_plan_looks_at_the_directory_that_was_asked_for(program: Program, place: Path) -> None:
    done = program("plan", "model=reference", "selectors=layers", "hydra.run.dir=a/b", "--json")
    document = json.loads(done.stdout)
    assert document["directory"] == f"{place}/a/b"
    assert document["matches"] == {"layers": 3}
    assert document["bound"] == "upper bound"
    assert left_in(place) == set()


def test_an_exact_plan_reads_the_samples(program: Program) -> None:
    done = program("plan", "model=reference", "selectors=layers", "--exact", "--json")
    assert json.loads(done.stdout)["bound"] == "exact"


def test_a_sweep_of_plans_is_one_array_and_leaves_nothing(program: Program, place: Path) -> None:
    done = program(
        "plan",
        "-m",
        "model=reference",
        "selectors=layers,none,outputs",
        "hydra.sweep.dir=s",
        "--json",
    )
    first, second, third = json.loads(done.stdout)
    assert done.returncode == cli.MISTAKEN
    assert [first["directory"], third["directory"]] == [f"{place}/s/0", f"{place}/s/2"]
    assert second["error"].startswith("selectors is empty")
    assert left_in(place) == set()


def test_a_job_that_does_not_compose_keeps_its_place_in_the_array(program: Program) -> None:
    done = program(
        "plan", "-m", "model=reference", "selectors=layers", "runtime.batch_size=many,8", "--json"
    )
    first, second = json.loads(done.stdout)
    assert first["error"].startswith("runtime.batch_size='many' is not a whole number")
    assert second["samples"] == 48


def test_a_sweep_of_one_is_an_array_too(program: Program) -> None:
    (records,) = json.loads(program("tensors", "-m", "model=reference", "--json").stdout)
    assert len(records) == 11


def test_a_terminal_of_another_encoding_is_no_mistake(program: Program) -> None:
    done = program("tensors", "model=reference", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (cli.DONE, "")
    assert r"\u2514\u2500\u2500 :output  float32  sample \xd7 4" in done.stdout


def test_nobody_reading_is_no_mistake(place: Path) -> None:
    arguments = command("tensors", "model=reference", "selectors=ops")
    with subprocess.Popen(
        arguments, cwd=place, env=variables(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=30) == cli.DONE


# ---------------------------------------------------------------------------------------- show


def test_show_tells_of_a_run(program: Program) -> None:
    program("model=reference", "selectors=layers", "hydra.run.dir=r")
    done = program("show", "r")
    assert (done.returncode, done.stderr) == (cli.DONE, "")
    assert "status    finished\n" in done.stdout
    assert "embedding:output  float32  sample × token × 4" in done.stdout
    document = json.loads(program("show", "r", "--json").stdout)
    assert document["status"] == "finished"
    assert document["job_given"] == ["model=reference", "selectors=layers"]


# --------------------------------------------------------------------------------------- Hydra


def test_hydra_prints_configurations(program: Program, place: Path) -> None:
    done = program("model=reference", "--cfg", "job")
    assert (done.returncode, done.stderr) == (cli.DONE, "")
    assert "model:\n  _target_: extractkit.testing.reference.ReferenceModel\n" in done.stdout
    done = program("--info", "defaults", "model=reference", "selectors=attention")
    assert "selectors/attention" in done.stdout
    assert left_in(place) == set()


@pytest.mark.parametrize("line", ["extractkit selectors=", "extractkit plan selectors="])
def test_hydra_completes(program: Program, line: str) -> None:
    done = program("-sc", "query=bash", COMP_LINE=line)
    assert done.stdout.split() == [f"selectors={name}" for name in options("selectors")]


def test_an_option_that_nobody_knows_is_refused(program: Program) -> None:
    done = program("model=reference", "--nope")
    assert done.returncode == cli.MISTAKEN
    assert "unrecognized arguments: --nope" in done.stderr


# -------------------------------------------------------------------------------- in one process


def test_exit_codes_of_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.report(UserError("mend it")) == cli.MISTAKEN
    assert cli.report(JobError("it broke")) == cli.FAILED
    assert cli.report(KeyboardInterrupt()) == cli.INTERRUPTED
    assert capsys.readouterr() == (
        "",
        "extractkit: mend it\nextractkit: it broke\nextractkit: interrupted\n",
    )


# --------------------------------------------------------------------------------------- runs


@pytest.fixture
def run(program: Program, place: Path) -> Path:
    """A finished run of twelve shards of the reference model."""
    arguments = ("model=reference", "selectors=layers", "inputs.limit=12", "runtime.shard_size=1")
    assert program(*arguments, "hydra.run.dir=r").returncode == cli.DONE
    return place / "r"


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
    done = program(
        "model=Sick", "selectors=layers", "runtime.non_finite=fail", "hydra.run.dir=sick"
    )
    assert done.returncode == cli.FAILED
    assert "runtime.non_finite=skip. That takes a new run" in done.stderr
    assert "Go on with" not in done.stderr
    (run / ".hydra" / "config.yaml").unlink()
    done = program("resume", str(run))
    assert done.returncode == cli.FAILED
    assert done.stderr.endswith(f"For a run that lacks nothing: extractkit rerun {run}\n")
    assert "Go on with" not in done.stderr
    (run / "shards").rename(place / "elsewhere")
    (run / "shards").symlink_to(place / "elsewhere")
    done = program("resume", str(run))
    assert (done.returncode, done.stderr) == (
        cli.MISTAKEN,
        f"extractkit: {run}/shards is no directory but a link: it may lead out of its run. Put the "
        f"directory itself in its place\n",
    )


def test_a_whole_run_is_left_alone(program: Program, run: Path) -> None:
    before = (run / "manifest.json").stat().st_mtime_ns
    done = program("resume", "r")
    assert (done.returncode, done.stdout) == (cli.DONE, f"{run}\n")
    assert "is finished, and nothing of it is damaged" in done.stderr
    assert (run / "manifest.json").stat().st_mtime_ns == before


def test_a_run_is_repeated_and_compared(program: Program, run: Path, place: Path) -> None:
    done = program("rerun", "r", "hydra.run.dir=again")
    assert (done.returncode, done.stdout) == (cli.DONE, f"{place}/again\n")
    assert f"the values are those of {run}, to the bit" in done.stderr
    assert program("diff", "r", "again").returncode == cli.DONE
    other = ("model=reference", "model.seed=1", "selectors=layers", "inputs.limit=12")
    assert program(*other, "hydra.run.dir=other").returncode == cli.DONE
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
    done = program(*same, "runtime.reuse_from=.", "hydra.run.dir=new")
    assert (done.returncode, done.stdout) == (cli.DONE, f"{run}\n")
    assert f"reused {run}" in done.stderr
    assert not (place / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["resume", "nowhere"], "nowhere is no run directory: it holds no manifest.json"),
        (["resume"], "resume: the following arguments are required: RUN. Usage: extractkit resume"),
        (
            ["verify", "r", "--recompute", "x"],
            "argument --recompute: 'x' is no whole number of 0 or more",
        ),
        (["rerun", "r", "elsewhere"], "'elsewhere' is no run directory to write to"),
        (
            ["rerun", "r", "runtime.seed=1"],
            "rerun: 'runtime.seed=1' cannot be given: the run keeps its settings. What may be "
            "given is where it runs: runtime.engine, runtime.workers, runtime.shard_timeout, "
            "runtime.ray_address, runtime.worker_cpus, runtime.worker_gpus\n",
        ),
        (["resume", "r", "runtime.shards=1/2"], "resume: 'runtime.shards=1/2' cannot be given: "),
        (["resume", "r", "runtime.workers=1,2"], "gives several values. Give one\n"),
        (["rerun", "r", "runtime.workers=2"], "is of no use to runtime.engine=local"),
        (["rerun", "r", "hydra.run.dir=r"], "holds a finished run"),
        (["diff", "r"], "diff: the following arguments are required: B. Usage: extractkit diff"),
        (["diff", "r", "r", "--rtol", "-1"], "rtol=-1.0 is not a finite number of 0 or more"),
        (["diff", "r", "r", "--only", "nothing*"], "nothing*"),
        (["resume", "r", "--trust", "a b"], "--trust 'a b' names no module"),
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


# ----------------------------------------------------------------------------------- workers

JOB = ("model=reference", "selectors=layers", "inputs.limit=12", "runtime.shard_size=1")


def stored(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "shards").iterdir()}


def test_a_job_on_two_processes_makes_the_same_run(
    program: Program, run: Path, place: Path
) -> None:
    done = program(*JOB, "runtime.engine=processes", "hydra.run.dir=two")
    assert (done.returncode, done.stdout) == (cli.DONE, f"{place}/two\n")
    assert stored(place / "two") == stored(run)
    assert program("diff", "r", "two").returncode == cli.DONE
    assert program("verify", "two").returncode == cli.DONE


def test_a_run_is_gone_on_with_and_repeated_elsewhere(
    program: Program, run: Path, place: Path
) -> None:
    kept, shards = stored(run), sorted((run / "shards").iterdir())
    configured = json.loads((run / "manifest.json").read_text())["job_resolved"]
    shards[0].unlink()
    words = ("runtime.engine=processes", "runtime.workers=1")
    assert program("resume", "r", "--trust", "own", *words).returncode == cli.DONE
    assert stored(run) == kept
    assert program("rerun", "r", "hydra.run.dir=n", *words, "--trust", "own").returncode == cli.DONE
    assert stored(place / "n") == kept
    for one in (run, place / "n"):
        found = json.loads((one / "manifest.json").read_text())
        assert found["job_resolved"] == configured
        assert found["volatile"]["workers"]


def test_parts_of_a_job_are_joined_to_the_same_run(
    program: Program, run: Path, place: Path
) -> None:
    made = program(*JOB, "runtime.shards=2/2", "hydra.run.dir=p")
    assert (made.returncode, made.stdout) == (cli.DONE, f"{place}/p/parts/2-of-2\n")
    assert re.search(r"^part +2/2$", program("show", "p/parts/2-of-2").stdout, re.MULTILINE)
    missing = program("finalize", "p")
    assert (missing.returncode, missing.stdout) == (cli.MISTAKEN, "")
    assert missing.stderr == (
        f"extractkit: 1 of the 2 parts of {place}/p are missing or not finished: 1/2 is missing: "
        f"extractkit {' '.join(JOB)} runtime.shards=1/2 hydra.run.dir={place}/p\n"
    )
    assert program(*JOB, "runtime.shards=1/2", "hydra.run.dir=p").returncode == cli.DONE
    done = program("finalize", "p")
    assert (done.returncode, done.stdout, done.stderr) == (cli.DONE, f"{place}/p\n", "")
    assert stored(place / "p") == stored(run)
    assert sorted(path.name for path in (place / "p").iterdir()) == sorted(
        path.name for path in run.iterdir()
    )
    assert program("verify", "p", "--recompute", "1").returncode == cli.DONE
    again = program("rerun", "p", "hydra.run.dir=whole")
    assert f"the values are those of {place}/p, to the bit" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["runtime.shards=5/4"],
            "runtime.shards='5/4' is no part of a job. Give i/n, i from 1 to n: the parts of four "
            "are 1/4, 2/4, 3/4 and 4/4",
        ),
        (
            ["runtime.engine=local", "runtime.workers=2"],
            "runtime.workers=2 is of no use to runtime.engine=local. Add runtime.engine=processes "
            "or runtime.engine=ray, or leave it out",
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
    done = program(*JOB, *arguments, "hydra.run.dir=r")
    assert (done.returncode, done.stdout) == (cli.MISTAKEN, "")
    assert done.stderr == f"extractkit: {message}\n"
    assert not (place / "r").exists()


def test_parts_are_no_jobs_of_a_sweep(program: Program) -> None:
    done = program("-m", *JOB, "runtime.shards=1/2,2/2", "hydra.sweep.dir=s")
    assert done.returncode == cli.MISTAKEN
    assert "runtime.shards=1/2 in a sweep: each job has a directory of its own" in done.stderr
