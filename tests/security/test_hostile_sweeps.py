"""A sweep from somebody else, when it is resumed, runs nothing that a file may not name.

What it records was typed once, but not by this user: it is a file's word.
"""

import pickle
from pathlib import Path
from typing import Any

import pytest

import extractkit
from extractkit import cli
from extractkit.commands.runs import resume_sweep
from extractkit.config.app import launch
from extractkit.config.plain_data import Composition
from extractkit.errors import ConfigError, ExtractkitError, RunDirectoryError
from extractkit.runs import sweeps as record
from extractkit.runs.manifest import Status
from extractkit.runs.sweeps import SweepRecord
from tests.security.canary import Canary
from tests.sweep_examples import placed

JOB = ("model=reference", "inputs.path=texts.txt", "selectors=layers")

HOSTILE = {
    "model": "model._target_=CANARY.call",
    "swept model": "model._target_=CANARY.call,CANARY.Call",
    "sink": "+sinks.mine._target_=CANARY.Call",
    "inputs": "inputs._target_=CANARY.call",
    "launcher": "hydra.launcher._target_=CANARY.Call",
    "sweeper": "hydra.sweeper._target_=CANARY.Call",
    "callback": "+hydra.callbacks.x={_target_: CANARY.Call}",
    "in place of our callback": "hydra.callbacks.directories._target_=CANARY.Call",
    "handler": "+hydra.hydra_logging.handlers.x={class: CANARY.Call}",
    "search path": "hydra.searchpath=[pkg://CANARY]",
    "environment": "+hydra.job.env_set.PYTHONPATH=CANARY",
    "ray": "runtime={engine: ray, ray_address: CANARY:1}",
    "directory above": "hydra.sweep.subdir=../outside",
    "directory elsewhere": "hydra.sweep.subdir=/tmp/CANARY_outside",
}


@pytest.fixture
def home(place: Path) -> Path:
    """The working directory, with a sweep of somebody else's in it."""
    placed(place)
    (place / "s").mkdir()
    return place


def written(home: Path, *overrides: str, **changes: Any) -> Path:
    given = {"config_dir": str(home / "my"), "working_directory": str(home), **changes}
    sweep = SweepRecord("2026-11-22T15:04:05+00:00", overrides, status=Status.FAILED, **given)
    record.SWEEP_FILE.write(home / "s" / "sweep.json", sweep)
    return home / "s"


def attempt(directory: Path, *trusted: str) -> list[Exception]:
    """What going on reports, or stops with."""
    failures: list[Exception] = []

    def report(error: Exception) -> int:
        failures.append(error)
        return 2

    try:
        resume_sweep(directory, trusted, report)
    except ExtractkitError as error:
        failures.append(error)
    return failures


def test_a_harmless_one_is_resumed(home: Path) -> None:
    """Else the tests below would be passed by what never works."""
    assert not attempt(written(home, *JOB))
    assert (home / "s" / "0" / "manifest.json").exists()


@pytest.mark.parametrize("override", [pytest.param(v, id=k) for k, v in HOSTILE.items()])
def test_what_it_records_is_a_files_word(override: str, home: Path, canary: Canary) -> None:
    before = {path for path in home.rglob("*") if "s" not in path.parts}
    failures = attempt(written(home, *JOB, canary.placed(override)))
    assert not canary.sang
    assert failures
    assert all(isinstance(failure, ConfigError) for failure in failures), failures
    reported = " is refused: ", "which is not inside of"
    assert all(any(words in str(failure) for words in reported) for failure in failures), failures
    assert not list((home / "s").rglob("manifest.json"))
    after = {path for path in home.rglob("*") if "s" not in path.parts}
    assert after == before
    assert not Path(f"/tmp/{canary.module}_outside").exists()


def test_what_the_user_trusts_is_run(home: Path, canary: Canary) -> None:
    attempt(written(home, *JOB, canary.placed(HOSTILE["model"])), canary.module)
    assert canary.sang


@pytest.mark.parametrize(
    "option", ["--experimental-rerun=x.pkl", "--cfg=job", "--info", "-m", "--config-dir=elsewhere"]
)
def test_options_among_the_overrides_are_refused(option: str, home: Path) -> None:
    (failure,) = attempt(written(home, *JOB, option))
    assert isinstance(failure, RunDirectoryError)
    assert str(failure) == f"{home / 's'} records the option {option!r} as an override"


def test_its_configuration_directory_is_looked_at_like_any_other(
    home: Path, canary: Canary
) -> None:
    folder = home / "s" / "conf" / "experiment"
    folder.mkdir(parents=True)
    text = "# @package _global_\nhydra: {callbacks: {x: {_target_: CANARY.Call}}}\n"
    (folder / "hostile.yaml").write_text(canary.placed(text), encoding="utf-8")
    directory = written(home, "model=bert", "experiment=hostile", config_dir=str(folder.parent))
    (failure,) = attempt(directory)
    assert " is refused: " in str(failure)
    assert not canary.sang


def test_no_other_option_hides_in_one(home: Path) -> None:
    (failure,) = attempt(written(home, *JOB, config_name="x --experimental-rerun=y.pkl"))
    assert isinstance(failure, ConfigError)
    assert str(failure).startswith("--config-name=x --experimental-rerun=y.pkl: no x ")


@pytest.mark.parametrize("path", ["pkg://CANARY", "CANARY", "../CANARY"])
def test_no_package_is_imported_for_its_configuration(
    path: str, home: Path, canary: Canary
) -> None:
    (failure,) = attempt(written(home, *JOB, config_path=canary.placed(path)))
    assert "records --config-path=" in str(failure)
    assert not canary.sang


@pytest.mark.parametrize("name", ["config.yaml", "hydra.yaml"])
def test_hydra_writes_through_no_link(name: str, home: Path) -> None:
    elsewhere = home / "mine"
    elsewhere.write_text("mine", encoding="utf-8")
    directory = written(home, *JOB, "hydra.output_subdir=x", "hydra/job_logging=default")
    (directory / "0" / "x").mkdir(parents=True)
    (directory / "0" / "x" / name).symlink_to(elsewhere)
    (directory / "0" / "extractkit.log").symlink_to(elsewhere)
    (directory / "multirun.yaml").symlink_to(elsewhere)
    failures = attempt(directory)
    assert elsewhere.read_text(encoding="utf-8") == "mine"
    assert failures  # the run's directory is not empty


def test_a_run_that_is_a_link_leads_nowhere(home: Path) -> None:
    elsewhere = home / "elsewhere"
    elsewhere.mkdir()
    directory = written(home, *JOB)
    (directory / "0").symlink_to(elsewhere)
    (failure,) = attempt(directory)
    assert "0 is a link that leads out of the sweep, to " in str(failure)
    assert not list(elsewhere.iterdir())


def test_no_pickle_of_it_is_read(
    home: Path, canary: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    monkeypatch.setenv("PYTHONPATH", str(Path(extractkit.__file__).parents[1]))

    class Sings:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return __import__, (canary.module,)

    directory = written(home, *JOB, "hydra/launcher=submitit_local")
    folder = directory / ".submitit" / "1000"
    folder.mkdir(parents=True)
    for name in ("1000_0_result.pkl", "1000_submitted.pkl"):
        (folder / name).write_bytes(pickle.dumps(Sings()))
    assert resume_sweep(directory, (), cli.report) == []
    assert not canary.sang
    assert (directory / ".submitit.1" / "1000").is_dir()
    assert not (directory / ".submitit" / "1000").exists()


# ------------------------------------------------------------- launchers, whatever file names them

SLURM = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"


def composed(place: Path, text: str, *arguments: str, trusted: tuple[str, ...] = ()) -> str:
    """Compose a sweep with an experiment of this `hydra` node; what it is refused with."""
    file = place / "conf" / "experiment" / "mine.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"# @package _global_\n{text}\n", encoding="utf-8")
    failures: list[str] = []

    def report(error: Exception) -> int:
        failures.append(str(error))
        return 2

    def job(_: Composition) -> None:
        return None

    given = ["model=bert", "experiment=mine", "-m", "--config-dir", str(place / "conf")]
    try:
        launch([*arguments, *given], job, report, dry=True, trusted=trusted)
    except ExtractkitError as error:
        failures.append(str(error))
    return "".join(failures)


def chosen(launcher: str, settings: str = "") -> str:
    return f"defaults: [override /hydra/launcher: {launcher}]\nhydra: {{launcher: {{{settings}}}}}"


@pytest.mark.parametrize(
    ("launcher", "settings"),
    [
        ("joblib", "n_jobs: 2"),
        ("submitit_local", "timeout_min: 5, cpus_per_task: 2"),
        ("ray", "ray: {init: {num_cpus: 1}}"),
    ],
)
def test_a_file_may_choose_launchers_of_this_machine(
    launcher: str, settings: str, place: Path
) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    assert composed(place, chosen(launcher, settings)) == ""


@pytest.mark.parametrize(
    "settings",
    [
        "setup: [module load x]",
        "partition: gpu",
        'additional_parameters: {"x\\ncurl": 1}',
        'additional_parameters: {"x\\ncurl": {}}',
        'additional_parameters: {"x y": true}',
    ],
)
def test_what_a_queue_would_run_is_refused_even_if_the_launcher_was_typed(
    settings: str, place: Path
) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    reported = composed(
        place, f"hydra: {{launcher: {{{settings}}}}}", "hydra/launcher=submitit_slurm"
    )
    assert "is refused: a file " in reported
    assert reported.endswith("If you trust it, type it, or: --trust hydra.launcher")


def test_a_file_may_not_send_jobs_to_other_machines(place: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    reported = composed(place, chosen("submitit_slurm"))
    assert reported == (
        f"hydra.launcher._target_={SLURM!r} is refused: a file sets it, not the command line, "
        f"and Hydra could run foreign code with it. If you trust it, type it, or: --trust "
        f"hydra.launcher"
    )
    assert composed(place, chosen("submitit_slurm"), trusted=("hydra.launcher",)) == ""


@pytest.mark.parametrize(
    "typed",
    [
        ("hydra/launcher=submitit_slurm",),
        ("hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu"),
        ("hydra/launcher=submitit_slurm", "+hydra.launcher.additional_parameters.qos=high"),
    ],
)
def test_the_user_may(typed: tuple[str, ...], place: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    assert composed(place, "hydra: {job: {name: mine}}", *typed) == ""


@pytest.mark.filterwarnings(r"ignore:[\s\S]*ConfigStore schema:UserWarning")
def test_the_name_of_one_launcher_is_not_that_of_another(place: Path, canary: Canary) -> None:
    """A file of a typed name may hold another target."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    mine = place / "conf" / "hydra" / "launcher" / "submitit_slurm.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text(canary.placed("_target_: CANARY.Call\n"), encoding="utf-8")
    reported = composed(
        place,
        canary.placed("hydra: {launcher: {_target_: CANARY.Call}}"),
        "hydra/launcher=submitit_slurm",
    )
    assert "is refused: a file " in reported
    assert not canary.sang
