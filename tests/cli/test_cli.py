"""The program as people call it: exit codes, what goes where, and what is left on disk.

Jobs run on the reference model, so that nothing waits for TensorFlow.
"""

import json
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import extractkit
from extractkit import cli
from extractkit.config import GROUPS, config_directory, options
from extractkit.errors import JobError, UserError
from tests.cli.called import Program, check_not_imported, command, left_in, variables

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
    assert program("model=reference", "selectors=layers", "run_dir=r").returncode == 0
    for arguments in (["--help"], ["show", "r"], ["show", "r", "--json"]):
        check_not_imported("{'tensorflow', 'keras', 'hydra', 'omegaconf'}", arguments, place)


def test_show_imports_no_part_of_the_engine_that_computes(program: Program, place: Path) -> None:
    assert program("model=reference", "selectors=layers", "run_dir=r").returncode == 0
    engine = "{name for name in sys.modules if name.startswith('extractkit.engine.')}"
    check_not_imported(engine, ["show", "r"], place)


def test_help_answers_within_a_second(place: Path) -> None:
    """Of processor time: the machine may have other work."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command("--help"), cwd=place, env=variables(), capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


def test_garbage_is_collected_once_as_the_program_ends(place: Path) -> None:
    probe = (
        "import atexit, gc; atexit.register(lambda: print(gc.isenabled())); "
        "from extractkit.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe, "--version"], cwd=place, env=variables(), check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.endswith("\nFalse\n")


@pytest.mark.parametrize(
    ("streams", "code", "words"),
    [
        (">/dev/full", cli.FAILED, "standard output cannot be written: No space left on device"),
        (">&-", cli.DONE, ""),
        ("<&- >&- 2>&-", cli.DONE, ""),
        ("2>/dev/full", cli.DONE, ""),
    ],
)
def test_output_that_goes_nowhere(place: Path, streams: str, code: int, words: str) -> None:
    called = f"{shlex.join(command('completion', 'bash'))} {streams}"
    done = subprocess.run(
        ["sh", "-c", called], cwd=place, env=variables(), check=False, text=True,
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (code, words and f"extractkit: {words}\n")


def test_no_words_are_completed_for_an_unknown_shell(program: Program) -> None:
    done = program("completion", "zhs", "--", "ver")
    assert (done.returncode, done.stdout) == (cli.MISTAKEN, "")
    assert done.stderr.startswith("extractkit: completion: ")


def test_version(program: Program) -> None:
    assert program("--version").stdout.startswith("extractkit ")


# --------------------------------------------------------------------------------------- run


@pytest.mark.parametrize("verb", [[], ["run"]])
def test_run_leaves_a_run_and_prints_its_directory(
    program: Program, place: Path, verb: list[str]
) -> None:
    done = program(*verb, "model=reference", "selectors=layers", "run_dir=out/r")
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
    done = program("model=chatty", "selectors=outputs", "run_dir=r")
    assert done.stdout == f"{place}/r\n"
    assert "hello from the model\n" in done.stderr
    assert json.loads(program("tensors", "model=chatty", "--json").stdout)


def test_a_finished_run_is_not_touched(program: Program, place: Path) -> None:
    arguments = ("model=reference", "selectors=outputs", "run_dir=r")
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
        (["tensor", "model=reference"], "'tensor' is neither a verb nor"),
        (["show"], "show: the following arguments are required: RUN. Usage: extractkit show"),
        (["show", "nowhere"], "nowhere does not exist. In the working directory: "),
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


# ------------------------------------------------------------------------------------- sweeps


def test_a_failing_job_does_not_end_a_sweep(program: Program, place: Path) -> None:
    done = program("-m", "model=broken,leaving,reference", "selectors=layers,none", "run_dir=s")
    assert done.stdout == f"{place}/s/4\n{place}/s\n"
    assert done.returncode == cli.MISTAKEN  # the worst of 1, 1 and 2
    for said in ("boom", "the job called sys.exit(3)", "selectors is empty"):
        assert said in done.stderr
    # Jobs that failed keep their logs; of the mistaken ones nothing stays.
    left = {path.name for path in (place / "s").iterdir()}
    assert left == {"0", "2", "4", "jobs", "multirun.yaml", "sweep.json"}


def test_jobs_of_a_sweep_are_numbered(program: Program, place: Path) -> None:
    done = program("model=reference", "-m", "selectors=layers,outputs", "run_dir=s")
    assert (done.returncode, done.stdout) == (cli.DONE, f"{place}/s/0\n{place}/s/1\n{place}/s\n")


# ------------------------------------------------------------------------------ tensors and plan


def test_tensors_prints_all_records(program: Program, place: Path) -> None:
    done = program("tensors", "model=reference", "--json")
    document = json.loads(done.stdout)
    assert document["schema"] == 1
    records = document["tensors"]
    assert (done.returncode, len(records)) == (cli.DONE, 11)
    keys = {"address", "kind", "port", "layer", "layer_type", "op_type", "dtype", "shape", "dims"}
    assert keys < set(records[0])
    assert left_in(place) == set()


def test_tensors_with_a_selector_shows_what_it_matches(program: Program) -> None:
    done = program("tensors", "model=reference", "selectors=ops", "--json")
    records = json.loads(done.stdout)["tensors"]
    assert [record["kind"] for record in records] == ["op"] * 4
    shown = program("tensors", "model=reference", "selectors=ops").stdout
    assert ":op/Softmax" in shown
    assert ":output" not in shown
    assert "cannot be extracted: no axis of it follows the samples" in shown


def test_plan_looks_at_the_directory_that_was_asked_for(program: Program, place: Path) -> None:
    done = program("plan", "model=reference", "selectors=layers", "run_dir=a/b", "--json")
    document = json.loads(done.stdout)
    assert document["directory"] == f"{place}/a/b"
    assert document["matches"] == {"layers": 3}
    assert document["bound"] == "upper bound"
    assert document["schema"] == 6
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
        "run_dir=s",
        "--json",
    )
    first, second, third = json.loads(done.stdout)
    assert done.returncode == cli.MISTAKEN
    assert [first["directory"], third["directory"]] == [f"{place}/s/0", f"{place}/s/2"]
    assert second["error"].startswith("selectors is empty")
    assert [one["schema"] for one in (first, second, third)] == [6, 6, 6]
    assert left_in(place) == set()


def test_a_job_that_does_not_compose_keeps_its_place_in_the_array(program: Program) -> None:
    done = program(
        "plan", "-m", "model=reference", "selectors=layers", "runtime.batch_size=many,8", "--json"
    )
    first, second = json.loads(done.stdout)
    assert first["error"].startswith("runtime.batch_size='many' is not a whole number")
    assert second["samples"] == 48


def test_a_sweep_of_one_is_an_array_too(program: Program) -> None:
    (document,) = json.loads(program("tensors", "-m", "model=reference", "--json").stdout)
    assert len(document["tensors"]) == 11


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
    program("model=reference", "selectors=layers", "run_dir=r")
    done = program("show", "r")
    assert (done.returncode, done.stderr) == (cli.DONE, "")
    assert ["status", "finished"] in [line.split() for line in done.stdout.splitlines()]
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


def test_an_error_that_is_raised_from_itself_is_reported(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = UserError("mend it")
    error.__cause__ = error
    assert cli.report(error) == cli.MISTAKEN
    assert capsys.readouterr().err == "extractkit: mend it\n"


def test_the_advice_to_list_tensors_finds_the_same_configuration(
    program: Program, place: Path
) -> None:
    (place / "my" / "root.yaml").write_text((config_directory() / "config.yaml").read_text())
    wrong = program("plan", "model=reference", "+selectors.a.path=nothing", "--config-name=root")
    assert wrong.returncode == cli.MISTAKEN
    _, _, listed = wrong.stderr.strip().partition("List them: extractkit ")
    assert shlex.split(listed) == [
        *("tensors", "--config-dir", str(place / "my"), "--config-name", "root"),
        *("--trust", "own", "model=reference"),
    ]
    assert program(*shlex.split(listed)).returncode == cli.DONE


@pytest.mark.parametrize(
    "arguments", [["join", "n" * 300], ["plan", "selectors=layers", f"run_dir={'n' * 300}"]]
)
def test_a_name_that_is_too_long_is_a_mistake(program: Program, arguments: list[str]) -> None:
    done = program(*arguments, *(["model=reference"] if "plan" in arguments else []))
    assert done.returncode == cli.MISTAKEN
    (line,) = done.stderr.splitlines()
    assert line == f"extractkit: '{'n' * 60}…' cannot be looked up: File name too long"
