"""A configuration from somebody else runs nothing but what is meant to be configured.

Each one names a module that is importable and tells if it runs. It is composed as a single job and
as a sweep, for storing and for looking, and by the library.
"""

import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import hydra
import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from extractkit.commands import jobs
from extractkit.config import ROOT, config_directory, security
from extractkit.config.app import launch
from extractkit.config.compose import VERSION_BASE, compose
from extractkit.config.hydra_internals import BASIC_LAUNCHER, BASIC_SWEEPER, own_state
from extractkit.config.overrides import trust_of
from extractkit.config.plain_data import Composition
from extractkit.core.trust import Trust
from extractkit.errors import ConfigError, ExtractkitError
from tests.security.canary import Canary

_JOB = {
    "model": "model: {_target_: CANARY.call}",
    "factory": "model: {factory: {_target_: CANARY.call}}",
    "class method": "model: {factory: {_target_: CANARY.Call.make}}",
    "class method of the model": "model: {_target_: CANARY.Call.make}",
    "class method of Keras": "model: {factory: {_target_: keras.Model.from_config, "
    "config: {layers: [{_target_: CANARY.call}]}}}",
    "partial": "model: {factory: {_target_: CANARY.call, _partial_: true}}",
    "deep in a list": "model: {factory: {_target_: keras.Sequential, "
    "layers: [{_target_: keras.layers.ReLU, a: [[{b: {_target_: CANARY.call}}]]}]}}",
    "custom object": "model: {custom_objects: {Mine: CANARY.call}}",
    "module to import": "model: {imports: [CANARY]}",
    "serialized object": "model: {factory: {_target_: tf_keras.layers.Dense, units: 1, "
    "activation: {class_name: function, module: CANARY, config: call}}}",
    "target from another key": "runtime: {device: CANARY.call}\n"
    "model: {factory: {_target_: '${runtime.device}'}}",
    "decoded": "model: {factory: \"${oc.decode:'{_target_: CANARY.call}'}\"}",
    "module below our own name": "model: {_target_: extractkit.api.given, "
    "live: {_target_: CANARY.call}}",
    "sink": "sinks: {mine: {_target_: CANARY.Call}}",
    "inputs": "inputs: {_target_: CANARY.call}",
    "samples": "inputs: {dataset: {_target_: CANARY.call}}",
}

_HYDRA = {
    "callback": "callbacks: {x: {_target_: CANARY.Call}}",
    "callback's argument": "callbacks: {x: {_target_: extractkit.config.app.KeepOff, "
    "a: [{_target_: CANARY.Call}]}}",
    "our callback's argument": "callbacks: {directories: {_args_: [{_target_: CANARY.Call}]}}",
    "decoded callback": "callbacks: {x: \"${oc.decode:'{_target_: CANARY.Call}'}\"}",
    "callback by hydra": "callbacks: {x: {_target_: hydra.utils.get_method, path: CANARY.call}}",
    "launcher": "launcher: {_target_: CANARY.Call}",
    "sweeper": "sweeper: {_target_: CANARY.Call}",
    "sweeper's argument": "sweeper: {params: {x: {_target_: CANARY.Call}}}",
    "decoded parameter": "sweeper: {params: {x: \"${oc.decode:'{_target_: CANARY.Call}'}\"}}",
    "handler": "hydra_logging: {handlers: {console: {class: CANARY.Call}}}",
    "handler's factory": "hydra_logging: {handlers: {console: {'()': CANARY.Call}}}",
    "formatter": "hydra_logging: {formatters: {simple: {'()': CANARY.Call}}}",
    "filter": "hydra_logging: {filters: {x: {'()': CANARY.Call}}}",
    "stream": "hydra_logging: {handlers: {console: {stream: 'ext://CANARY.call'}}}",
    "decoded handler": 'hydra_logging: {handlers: "${oc.decode:'
    "'{console: {class: CANARY.Call}}'}\"}",
    "job's handler": "job_logging: {root: {handlers: []}, handlers: {console: "
    "{class: CANARY.Call}}}",
    "decoded log": 'job_logging: "${oc.decode:'
    "'{root: {}, handlers: {x: {class: CANARY.Call}}}'}\"",
    "file for a log": "hydra_logging: {handlers: {console: {class: logging.FileHandler, "
    "filename: CANARY.log}}}",
    "environment": "job: {env_set: {PYTHONPATH: CANARY}}",
    "name with a directory": "job: {name: ../CANARY}",
    "directory above": "output_subdir: ../CANARY",
}

HOSTILE = [
    *(pytest.param(f"{text}\n", id=name) for name, text in _JOB.items()),
    *(pytest.param(f"hydra: {{{text}}}\n", id=f"hydra: {name}") for name, text in _HYDRA.items()),
]

# Those that run by themselves, once nothing refuses them; the others would need a plugin's help.
_SINGING = (
    *(
        "model",
        "class method of the model",
        "factory",
        "class method",
        "deep in a list",
        "target from another key",
        "decoded",
        "sink",
        "inputs",
    ),
    *("callback", "callback's argument", "our callback's argument", "decoded callback"),
    *("handler", "handler's factory", "formatter", "filter", "stream", "decoded handler"),
    "job's handler",
)
SINGING = [case for case in HOSTILE if str(case.id).removeprefix("hydra: ") in _SINGING]

# One of each kind: whether the job would store something decides only where Hydra may write.
_LOOKED_AT = ("factory", "sink", "samples", "callback", "launcher", "sweeper's argument", "handler")
_LOOKED_AT += ("job's handler", "file for a log", "name with a directory", "directory above")
LOOKED_AT = [case for case in HOSTILE if str(case.id).removeprefix("hydra: ") in _LOOKED_AT]

CHOSEN = ("model=module", "inputs=random", "experiment=hostile")


@pytest.fixture
def hostile(request: pytest.FixtureRequest, canary: Canary, tmp_path: Path, place: Path) -> Path:
    """A configuration directory with an experiment that wants the canary to run."""
    return experiment(tmp_path / "conf", canary.placed(request.param))


def experiment(directory: Path, text: str, name: str = "hostile") -> Path:
    path = directory / "experiment" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"# @package _global_\n{text}", encoding="utf-8")
    return directory


def attempt(arguments: list[str], *, dry: bool, trusted: tuple[str, ...] = ()) -> list[Exception]:
    """What a command reports, or stops with; of a job only the components are built."""
    failures: list[Exception] = []

    def report(error: Exception) -> int:
        failures.append(error)
        return 2

    def job(composed: Composition) -> None:
        composed.job.inputs.build()
        for sink in composed.job.sinks.values():
            sink.build()
        if composed.job.model_name == "module":  # a real model takes its time
            composed.job.model.build()

    try:
        launch(arguments, job, report, dry=dry, trusted=trusted)
    except ExtractkitError as error:
        failures.append(error)
    return failures


@pytest.mark.parametrize(
    ("hostile", "dry"),
    [
        *(pytest.param(*case.values, False, id=f"run-{case.id}") for case in HOSTILE),
        *(pytest.param(*case.values, True, id=f"dry-{case.id}") for case in LOOKED_AT),
    ],
    indirect=["hostile"],
)
@pytest.mark.parametrize("options", [[], ["-m"]], ids=["job", "sweep"])
def test_nothing_that_a_file_names_runs(
    hostile: Path, options: list[str], dry: bool, canary: Canary, place: Path, tmp_path: Path
) -> None:
    before = {path.name for path in tmp_path.iterdir()}
    failures = attempt([*CHOSEN, "--config-dir", str(hostile), *options], dry=dry)
    assert not canary.sang
    assert failures
    assert all("is refused: " in str(error) for error in failures), failures
    assert {path.name for path in tmp_path.iterdir()} == before
    assert not [path for path in place.rglob("*") if path.is_file()]


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # a canary is no callback
@pytest.mark.parametrize("hostile", SINGING, indirect=True)
def test_each_of_them_runs_where_nobody_looks(
    hostile: Path, canary: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the tests above would be passed by what is harmless anyway."""
    monkeypatch.setattr(security, "check_hydra", lambda *_, **__: None)
    monkeypatch.setattr(Trust, "check", lambda *_: None)
    attempt([*CHOSEN, "--config-dir", str(hostile)], dry=False)
    assert canary.sang


@pytest.mark.parametrize("hostile", HOSTILE, indirect=True)
def test_the_library_refuses_the_same(hostile: Path, canary: Canary) -> None:
    with pytest.raises(ConfigError, match=" is refused: "):
        compose([*CHOSEN, f"hydra.searchpath=[file://{hostile}]"])
    assert not canary.sang


@pytest.fixture
def plugin() -> Iterator[None]:
    """A launcher and a sweeper that take arguments of any kind, as installed plugins offer them."""
    store = ConfigStore.instance()
    plugins = {"launcher": BASIC_LAUNCHER, "sweeper": BASIC_SWEEPER}
    for group, target in plugins.items():
        node = {"_target_": target, "setup": None, "name": "${hydra.job.name}", "count": 1}
        store.store(group=f"hydra/{group}", name="open", node=node)
    yield
    for group in plugins:
        del store.repo["hydra"][group]["open.yaml"]


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("group", ["launcher", "sweeper"])
@pytest.mark.parametrize(
    ("argument", "allowed"),
    [
        ("count: 4", True),
        ("name: '${hydra.job.name}'", True),
        ("setup: [module load CANARY]", False),
        ("setup: {_target_: CANARY.Call}", False),
        ("setup: '${oc.decode:CANARY}'", False),
        ("name: CANARY", False),
    ],
)
def test_a_plugins_texts_are_typed_or_its_own(
    group: str, argument: str, allowed: bool, tmp_path: Path, place: Path
) -> None:
    text = f"defaults: [{{override /hydra/{group}: open}}]\nhydra: {{{group}: {{{argument}}}}}\n"
    conf = experiment(tmp_path / "conf", text)
    chosen = [*CHOSEN, f"hydra.searchpath=[file://{conf}]"]
    if allowed:
        assert compose(chosen).job
        return
    with pytest.raises(ConfigError) as caught:
        compose(chosen)
    assert str(caught.value).endswith(("--trust hydra." + group, "--trust CANARY"))


@pytest.mark.parametrize("scheme", ["pkg", "structured"])
def test_a_search_path_imports_no_package(
    scheme: str, canary: Canary, tmp_path: Path, place: Path
) -> None:
    text = f"defaults: [config]\nhydra: {{searchpath: ['{scheme}://{canary.module}']}}\n"
    (tmp_path / "primary.yaml").write_text(text)
    arguments = ["--config-dir", str(tmp_path), "--config-name", "primary", "model=bert"]
    (failure,) = attempt(arguments, dry=True)
    assert str(failure).startswith(f"hydra.searchpath.0='{scheme}://{canary.module}' is refused: ")
    assert not canary.sang


def test_a_sweepers_parameters_count_as_a_files_word(
    canary: Canary, tmp_path: Path, place: Path
) -> None:
    text = canary.placed("hydra: {sweeper: {params: {inputs._target_: CANARY.call}}}\n")
    conf = experiment(tmp_path / "conf", text)
    (failure,) = attempt(["-m", *CHOSEN, "--config-dir", str(conf)], dry=True)
    assert str(failure).startswith(f"inputs._target_='{canary.module}.call' is refused: ")
    assert not canary.sang


def test_each_job_of_a_sweep_is_looked_at(canary: Canary, tmp_path: Path, place: Path) -> None:
    conf = experiment(tmp_path / "conf", "runtime: {batch_size: 3}\n", "harmless")
    experiment(conf, canary.placed("hydra: {job_logging: {root: {}, x: 'ext://CANARY.call'}}\n"))
    arguments = ["-m", "model=bert", "experiment=harmless,hostile", "--config-dir", str(conf)]
    (failure,) = attempt(arguments, dry=True)
    assert "hydra.job_logging.x=" in str(failure)
    assert not canary.sang


def test_no_pickle_is_read_for_hydra(place: Path) -> None:
    for option in ("--experimental-rerun", "--exp"):
        (failure,) = attempt([option, "config.pickle"], dry=True)
        assert str(failure).startswith(f"{option} is refused: it would unpickle a file")


# ----------------------------------------------------------------------------- what the user trusts


@pytest.mark.parametrize(
    ("arguments", "trusted"),
    [
        (["inputs._target_=CANARY.Call"], ()),
        (["-m", "inputs._target_=CANARY.Call,CANARY.call"], ()),
        (["inputs={_target_: CANARY.Call}"], ()),
        (["experiment=mine"], ("CANARY",)),
        (["-m", "experiment=mine"], ("CANARY.call",)),
    ],
)
def test_what_is_typed_or_trusted_runs(
    arguments: list[str], trusted: tuple[str, ...], canary: Canary, tmp_path: Path, place: Path
) -> None:
    text = "defaults: [{override /inputs: null}]\ninputs: {_target_: CANARY.call}\n"
    conf = experiment(tmp_path / "conf", canary.placed(text), "mine")
    inputs = [] if trusted else ["inputs=random"]
    typed = [canary.placed(argument) for argument in arguments]
    named = tuple(map(canary.placed, trusted))
    options = ["model=bert", *inputs, *typed, "--config-dir", str(conf)]
    attempt(sorted(options, key="-m".__eq__), dry=True, trusted=named)
    assert canary.sang


@pytest.mark.parametrize("typed", [True, False], ids=["typed", "trusted"])
def test_a_callback_that_is_typed_or_trusted_runs(
    typed: bool, canary: Canary, tmp_path: Path, place: Path
) -> None:
    text = canary.placed("hydra: {callbacks: {x: {_target_: CANARY.Call}}}\n")
    conf = experiment(tmp_path / "conf", text)
    option = canary.placed("+hydra.callbacks.x._target_=CANARY.Call")
    arguments = ["model=bert", option] if typed else ["model=bert", "experiment=hostile"]
    with pytest.warns(UserWarning, match="Callback Call"):  # it has no method of a callback
        attempt(
            [*arguments, "--config-dir", str(conf)],
            dry=True,
            trusted=() if typed else (canary.module,),
        )
    assert canary.sang


def test_safe_mode_is_turned_off_by_the_user_alone(tmp_path: Path, place: Path) -> None:
    text = "defaults: [{override /model: keras}]\nmodel: {path: m.keras, safe_mode: false}\n"
    conf = experiment(tmp_path / "conf", text)
    chosen = ["experiment=hostile", f"hydra.searchpath=[file://{conf}]"]
    with pytest.raises(ConfigError) as caught:
        compose(chosen)
    assert str(caught.value) == (
        "model.safe_mode=false is refused: a file sets it, not the command line, and it lets "
        "foreign code run. If you trust it, type it, or: --trust model.safe_mode"
    )
    for typed, trusted in ((["model.safe_mode=false"], ()), ([], ("model.safe_mode",))):
        assert compose([*chosen, *typed], trusted=trusted).job.model.arguments["safe_mode"] is False


@pytest.mark.parametrize("address", ["203.0.113.1:6379", "auto"])
def test_a_ray_cluster_is_named_by_the_user_alone(
    address: str, tmp_path: Path, place: Path
) -> None:
    text = f"runtime: {{engine: ray, ray_address: '{address}'}}\n"
    conf = experiment(tmp_path / "conf", text)
    chosen = ["model=bert", "inputs=random", "experiment=hostile"]
    chosen.append(f"hydra.searchpath=[file://{conf}]")
    with pytest.raises(ConfigError) as caught:
        compose(chosen)
    assert str(caught.value) == (
        f"runtime.ray_address='{address}' is refused: a file sets it, not the command line, "
        f"and it lets foreign code run. If you trust it, type it, or: "
        f"--trust runtime.ray_address"
    )
    for typed, trusted in (
        ([f"runtime.ray_address={address}"], ()),
        ([], ("runtime.ray_address",)),
    ):
        job = compose([*chosen, *typed], trusted=trusted).job
        assert job.runtime.ray_address == address
        assert jobs.trust_needed(job) == ["runtime.ray_address"]  # to go on with its run
        assert not typed or jobs.sweep_trust_needed(trust_of(typed)) == ["runtime.ray_address"]
    assert compose([*chosen, "runtime.ray_address=null"]).job.runtime.ray_address is None


def test_a_file_may_change_what_runs_nothing(tmp_path: Path, place: Path) -> None:
    text = (
        "hydra: {launcher: {}, sweeper: {max_batch_size: 2, params: {runtime.seed: '1,2'}}, "
        "run: {dir: elsewhere}, verbose: false, job: {name: mine, env_copy: [PATH]}}\n"
    )
    conf = experiment(tmp_path / "conf", text)
    chosen = ["model=bert", "inputs=random", "experiment=hostile", "--config-dir", str(conf)]
    assert attempt(chosen, dry=True) == []
    assert attempt(["-m", *chosen], dry=True) == []


def test_the_guard_goes_along_to_other_processes(
    canary: Canary, tmp_path: Path, place: Path
) -> None:
    conf = experiment(tmp_path, canary.placed("hydra: {callbacks: {x: {_target_: CANARY.Call}}}\n"))
    with own_state(), security.guarded(Trust()):
        hydra.initialize_config_dir(str(config_directory()), version_base=VERSION_BASE)
        sent = pickle.loads(pickle.dumps(GlobalHydra.instance().config_loader()))
    overrides = ["model=bert", "experiment=hostile", f"hydra.searchpath=[file://{conf}]"]
    with pytest.raises(ConfigError, match=r"^hydra\.callbacks\.x\._target_='canary_\d+\.Call' is"):
        sent.load_configuration(ROOT, overrides, RunMode.RUN)


def test_the_guard_of_one_thread_outlasts_that_of_another(
    canary: Canary, tmp_path: Path, place: Path
) -> None:
    text = canary.placed("hydra: {callbacks: {x: {_target_: CANARY.Call}}}\n")
    conf = experiment(tmp_path, text)
    entered, left = threading.Event(), threading.Event()

    def other() -> None:
        with security.guarded(Trust()):
            entered.set()
            left.wait(60)

    thread = threading.Thread(target=other)
    thread.start()
    entered.wait(60)
    with security.guarded(Trust()), own_state():
        left.set()
        thread.join(60)
        with (
            hydra.initialize_config_dir(str(config_directory()), version_base=VERSION_BASE),
            pytest.raises(ConfigError, match=r"^hydra\.callbacks\.x\._target_="),
        ):
            hydra.compose(
                ROOT,
                ["model=bert", "experiment=hostile", f"hydra.searchpath=[file://{conf}]"],
                return_hydra_config=True,
            )
