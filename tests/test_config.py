"""Composing: every YAML file, every mistake and its message, and Hydra's state left alone."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from extractkit.commands.arguments import taken
from extractkit.commands.verbs import TRUST
from extractkit.config import GROUPS, config_directory, options
from extractkit.config.compose import compose
from extractkit.config.overrides import as_list, as_text
from extractkit.config.plain_data import Composition, job_of
from extractkit.core.component import Component
from extractkit.core.trust import Trust
from extractkit.errors import ConfigError

MODEL = ("model=keras", "model.path=m.keras")
CHOICES = [
    (group, option) for group in GROUPS if group != "experiment" for option in options(group)
]

Write = Callable[[str, str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a YAML file of the user's; returns the override that makes Hydra look for it."""

    def write(name: str, text: str) -> str:
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return f"hydra.searchpath=[file://{tmp_path}]"

    return write


def composed(*overrides: str) -> Composition:
    return compose([*MODEL, *overrides])


def message(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        compose(overrides)
    return str(caught.value)


# --------------------------------------------------------------------------- what composes


def test_a_composition_leaves_nothing_to_the_next() -> None:
    """Files of a choice are found once, by what chooses them, settings apart."""
    first = composed("selectors=layers", "inputs=random", "inputs.samples=3")
    other = composed("selectors=[layers,attention]", "inputs=random", "sinks=npz")
    again = composed("selectors=layers", "inputs=random", "inputs.samples=4")
    assert [one.job.inputs.arguments["samples"] for one in (first, again)] == [3, 4]
    assert first.job.selectors == again.job.selectors
    assert first.job.model == again.job.model
    assert len(other.job.selectors) > len(first.job.selectors)
    assert other.job.sinks != first.job.sinks == again.job.sinks


def test_a_choice_by_a_variable_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    for option in ("random", "texts", "random"):
        monkeypatch.setenv("OPTION", option)
        found = composed("selectors=layers", "inputs=${oc.env:OPTION}")
        assert found.job.inputs == composed("selectors=layers", f"inputs={option}").job.inputs


def test_a_configuration_that_is_registered_later_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    store = ConfigStore.instance()
    monkeypatch.setattr(store, "repo", deepcopy(store.repo))
    with pytest.raises(ConfigError, match="inputs=later"):
        composed("selectors=layers", "inputs=later")
    node = {"defaults": ["random"], "samples": 7}
    for samples in (7, 8):
        store.store("later", {**node, "samples": samples}, group="inputs")
        later = composed("selectors=layers", "inputs=later")
        assert later.job.inputs.arguments["samples"] == samples


@pytest.mark.parametrize(("group", "option"), CHOICES, ids="/".join)
def test_every_option_of_every_group_composes(group: str, option: str) -> None:
    chosen = [f"{group}={option}"]
    chosen += [] if group == "model" else MODEL[:1]
    needs_path = group == "model" and option not in ("bert", "module", "applications")
    chosen += ["model.path=some/file"] if needs_path else []
    chosen += ["model.architecture=ResNet50"] if option == "applications" else []
    assert compose(chosen).job.given == tuple(chosen)


def test_files_of_the_packages_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = composed("selectors=outputs", "hydra.run.dir=a")
    monkeypatch.setattr(OmegaConf, "load", lambda file: pytest.fail(f"{file} is read again"))
    second = composed("selectors=outputs", "hydra.run.dir=a")
    assert (second.job, second.hydra_files) == (first.job, first.hydra_files)
    changed = composed("selectors=outputs", "hydra.run.dir=a", "runtime.batch_size=3")
    assert changed.job.runtime.batch_size == 3
    assert composed("selectors=outputs", "hydra.run.dir=a").job == first.job


def test_files_of_other_directories_are_read_each_time(write: Write) -> None:
    for size in (3, 5):
        path = write("runtime/mine", f"defaults: [default]\nbatch_size: {size}\n")
        found = composed("selectors=outputs", "runtime=mine", path)
        assert found.job.runtime.batch_size == size


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_composes_as_its_head_says(experiment: str) -> None:
    text = (config_directory() / "experiment" / f"{experiment}.yaml").read_text("utf-8")
    (command,) = re.findall(r"^#   python -m extractkit (.*)$", text, re.MULTILINE)
    trusted, overrides = taken(command.removeprefix("-m ").split(), TRUST.flag)
    assert overrides[0] == f"experiment={experiment}"
    assert compose(overrides, trusted=trusted).job.selectors


def test_the_defaults() -> None:
    job = composed().job
    assert job.model.target == "extractkit.models.keras_file.load"
    assert job.model.arguments["path"] == "m.keras"
    assert job.model.arguments["safe_mode"] is True
    assert job.model_name == "keras"
    assert job.inputs.target == "extractkit.inputs.texts.Texts"
    assert job.selectors == ()
    assert list(job.sinks) == ["hdf5"]
    assert job.runtime.shard_size is None
    assert set(job.resolved) == {"model", "inputs", "selectors", "sinks", "runtime"}


@pytest.mark.parametrize("chosen", ["selectors=attention", "selectors=[attention]"])
def test_one_selector_needs_no_list(chosen: str) -> None:
    assert [selector.name for selector in composed(chosen).job.selectors] == ["attention"]


def test_ready_selectors_and_ones_own_combine() -> None:
    job = composed("selectors=[layers,attention]", '+selectors.mine.path="*:output"').job
    assert [selector.name for selector in job.selectors] == ["layers", "attention", "mine"]


def test_sinks_keep_the_order_in_which_they_were_chosen() -> None:
    assert list(composed("sinks=[npz,hdf5]").job.sinks) == ["npz", "hdf5"]


def test_an_experiment_can_be_overridden() -> None:
    job = compose(["experiment=attention_first_layer", "selectors=layers"]).job
    assert [selector.name for selector in job.selectors] == ["layers", "first_layer"]


def test_the_run_directory_is_absolute_and_known_to_the_configuration(tmp_path: Path) -> None:
    job = composed(f"hydra.run.dir={tmp_path}/run", "model.path=${hydra:runtime.output_dir}/m")
    assert job.directory == tmp_path / "run"
    assert job.job.model.arguments["path"] == f"{tmp_path}/run/m"


def test_what_hydra_composed_is_kept_for_the_run_directory(tmp_path: Path) -> None:
    files = composed(f"hydra.run.dir={tmp_path}/run", "inputs.column=${oc.env:HOME}").hydra_files
    assert list(files) == ["config.yaml", "hydra.yaml", "overrides.yaml"]
    assert "column: ${oc.env:HOME}\n" in files["config.yaml"]
    assert f"dir: {tmp_path}/run\n" in files["hydra.yaml"]
    assert files["overrides.yaml"] == (
        "- model=keras\n- model.path=m.keras\n- inputs.column=${oc.env:HOME}\n"
    )


def test_overrides_are_recorded_as_they_were_typed() -> None:
    assert composed("inputs.column=${oc.env:HOME}").job.given[-1] == "inputs.column=${oc.env:HOME}"


def test_live_components_stand_in_for_groups() -> None:
    live = {
        "model": Component("model", "extractkit.testing.reference.ReferenceModel"),
        "inputs": Component("inputs", "extractkit.inputs.random.Random"),
    }
    job = compose(["selectors=layers"], live).job
    assert (job.model, job.inputs) == (live["model"], live["inputs"])
    assert job.given == ("selectors=layers",)


# ----------------------------------------------------------------------- the choice of options


def test_a_missing_model_names_the_models_and_the_command() -> None:
    said = message("selectors=attention")
    assert said.startswith("model is not chosen. Available: 'applications', 'bert', 'checkpoint', ")
    assert said.endswith(" Choose one: extractkit model=bert")


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("model=brt", "model=brt does not exist. Nearest: 'bert', 'keras', 'tflite'."),
        ("sinks=[hdf]", "sinks=hdf does not exist. Available: 'hdf5', 'npz'."),
        (
            "experiment=x",
            "experiment=x does not exist. Available: "
            "'alleles', 'attention_first_layer', 'attention_patterns', 'attribution', "
            "'training_dynamics'.",
        ),
        ("hydra/sweeper=x", "hydra/sweeper=x does not exist. Available: 'basic'."),
    ],
)
def test_a_misspelt_option_names_what_exists(override: str, text: str) -> None:
    assert message(*MODEL, override) == text


@pytest.mark.parametrize("given", [(), MODEL])
def test_a_misspelt_group_is_named_whether_or_not_the_rest_composes(given: tuple[str]) -> None:
    assert message(*given, "selector=attention") == (
        "selector=attention: 'selector' does not exist. "
        "Nearest: 'selectors', 'experiment', 'model'."
    )
    assert message("modle=bert").startswith("modle=bert: 'modle' does not exist. Nearest: 'model'")


@pytest.mark.parametrize("override", ["sinks=[]", "~inputs", "~model"])
def test_a_group_without_a_choice_is_refused(override: str) -> None:
    given = ("model=bert",) if override != "~model" else ()
    assert f"{override.strip('~=[]')} is not chosen. Available: " in message(*given, override)


# ----------------------------------------------------------------------------- unknown keys


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("model.pth=x", "model.pth does not exist. Nearest: 'path', "),
        ("+model.pth=x", "model.pth does not exist. Nearest: 'path', "),
        (
            "model.dropout=false",
            "model.dropout does not exist here: it is a setting of model=meta_graph. Nearest: ",
        ),
        (
            "model.signature=x",
            "model.signature does not exist here: it is a setting of model=module, "
            "model=saved_model, model=tflite. Nearest: ",
        ),
        ("+inputs.pth=x", "inputs.pth does not exist. Available: 'column', 'columns', 'labels', "),
        ("+foo=1", "foo does not exist. Available: 'inputs', 'model', 'runtime', "),
        ("foo=1", "foo=1: 'foo' does not exist. Nearest: "),
        ("+runtime.bach=1", "runtime.bach does not exist. Nearest: 'batch_size', "),
        ("runtime.bach=1", "runtime.bach does not exist. Nearest: 'batch_size', "),
        ("+sinks.hdf5.x=1", "sinks.hdf5.x does not exist. Available: 'compression', 'index'."),
        ("hydra.run.dri=x", "hydra.run.dri does not exist. Available: 'dir'."),
        ("model.path.x=1", "model.path.x does not exist: model.path is a single value"),
        ("+selectors.mine.regx=x", "selectors.mine.regx does not exist. Nearest: 'regex', "),
        ("+selectors.mine.not.pth=x", "selectors.mine.not.pth does not exist. Nearest: 'path', "),
        ("+selectors.mine.any=[{pth:x}]", "selectors.mine.any.pth does not exist. Nearest: "),
        (
            "+selectors.mine.all=[{not:{any:[{kin:op}]}}]",
            "selectors.mine.all.not.any.kin does not exist. Nearest: 'kind', ",
        ),
    ],
)
def test_an_unknown_key_is_refused_wherever_it_stands(override: str, text: str) -> None:
    assert message(*MODEL, override).startswith(text)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("model/mine", "_target_: extractkit.models.keras_file.load\npth: x\n", "model.pth"),
        ("selectors/mine", "mine:\n  any:\n    - regx: x\n", "selectors.mine.any.regx"),
        ("experiment/mine", "# @package _global_\nmodels: 1\n", "models"),
    ],
)
def test_an_unknown_key_in_a_file_is_refused(write: Write, name: str, text: str, said: str) -> None:
    group, _, option = name.partition("/")
    given = () if group == "model" else MODEL
    assert message(*given, f"{group}={option}", write(name, text)).startswith(
        f"{said} does not exist. "
    )


def test_a_new_selector_wants_a_plus() -> None:
    assert message(*MODEL, "selectors.mine.path=x") == (
        "selectors.mine does not exist yet. Add it with a plus: +selectors.mine.path=x"
    )


# ------------------------------------------------------------------------ values and targets


def test_a_missing_value_is_named_with_the_way_to_give_it() -> None:
    assert message("model=tflite") == "model.path is not set. Give it: model.path=…"


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("runtime.batch_size=many", "runtime.batch_size='many' is not a whole number"),
        ("+selectors.mine=x", "selectors.mine='x' is not a mapping of predicates."),
        ("model._target_=nope.load", "model._target_='nope.load' cannot be imported: No module"),
        ("model._target_=null", "model._target_ is missing. Give the dotted path of a callable"),
        ("+sinks.mine.path=x", "sinks.mine._target_ is missing."),
        ("model.path=${nope}", "model.path: Interpolation key 'nope' not found"),
        ("model.path=${nope:x}", "model.path: Unsupported interpolation type nope"),
        ("inputs=null", "Config group override must be a string or a list. Got NoneType"),
        ("runtime.seed=range(1,3)", "runtime.seed=range(1,3) is a sweep. Add -m to run one job"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(override: str, text: str) -> None:
    assert message(*MODEL, override).startswith(text)


# ---------------------------------------------------------------------------- files of the user's


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("path: [a\n_target_: b: c\n", 2, "expected ',' or ']', but got ':'"),
        ("path: a\npath: b\n", 2, "found duplicate key path"),
        ("path:\n\ta: b\n", 2, "found character '\\t' that cannot start any token"),
    ],
)
def test_broken_yaml_is_reported_by_file_and_line(
    write: Write, tmp_path: Path, text: str, line: int, said: str
) -> None:
    search = write("model/mine", text)
    assert message("model=mine", search) == (
        f"{tmp_path}/model/mine.yaml, line {line}: not valid YAML: {said}"
    )


@pytest.mark.parametrize(
    "text",
    ["x: &a\n  any: [*a]\n", "&a {x: *a}\n", f"x: {'[' * 3000}{']' * 3000}\n"],
    ids=["below", "whole", "deep"],
)
@pytest.mark.parametrize("group", ["selectors", "model", "experiment"])
def test_yaml_that_holds_itself_is_one_message(group: str, text: str, write: Write) -> None:
    search = write(f"{group}/mine", text)
    given = message(search, *(MODEL if group != "model" else ()), f"{group}=mine")
    assert given == (
        "a configuration file is nested too deeply, or holds itself: an alias (*name) within what "
        "its anchor (&name) refers to. Write the value out"
    )


def test_a_file_that_overrides_an_unknown_group_is_named(write: Write) -> None:
    search = write("experiment/mine", "# @package _global_\ndefaults:\n  - override /modle: x\n")
    assert message(*MODEL, "experiment=mine", search).startswith(
        "In 'experiment/mine': group 'modle' does not exist. Available: "
    )


def test_files_of_the_users_own_add_options(write: Write) -> None:
    search = write("model/mine", "_target_: extractkit.testing.reference.ReferenceModel\n")
    assert compose(["model=mine", search]).job.model_name == "mine"
    assert message("model=min", search).startswith("model=min does not exist. Nearest: 'mine', ")


# ------------------------------------------------------------------------- the override grammar


@pytest.mark.parametrize(
    "value",
    [
        "^a",
        "x(a|b)$",
        "a#b",
        "~/m",
        "a=b",
        "[0-9]+",
        "a{2}",
        'say "x" (',
        "\\d(",
        "ends in \\ (\\",
        "é",
    ],
)
def test_what_the_grammar_refuses_is_answered_with_the_quoted_form_that_works(value: str) -> None:
    said = message("model=keras", f"model.path={value}")
    assert said.startswith(f"{f'model.path={value}'!r} cannot be read: ")
    typed = shlex.split(said.rpartition("Quote its value: ")[2])
    assert compose(["model=keras", *typed]).job.model.arguments["path"] == value


def test_a_quote_survives_the_shell_in_the_quoted_form() -> None:
    said = message("model=keras", "model.path=it's")
    typed = said.rpartition("Quote its value: ")[2]
    done = subprocess.run(
        f"{sys.executable} -c 'import sys; print(sys.argv[1])' {typed}",
        shell=True, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert compose(["model=keras", done.stdout.rstrip("\n")]).job.model.arguments["path"] == "it's"


def test_a_list_that_the_grammar_refuses_is_also_offered_as_a_list() -> None:
    said = message(*MODEL, "+selectors.mine.path=[^a,b]")
    assert said.endswith(
        """Quote its value: '+selectors.mine.path="[^a,b]"' or, as a list, """
        """'+selectors.mine.path=["^a","b"]'"""
    )


@pytest.mark.parametrize(
    "value",
    [
        "{Get:0: [sample, 16], Get:1: [sample, 16]}",
        "{Get:0:[sample,16],Get:1:[sample,16]}",
        r"{Get\:0: [sample, 16], Get:1: [sample, 16]}",
    ],
)
def test_colons_in_the_names_of_a_mapping_are_answered_with_the_escaped_form(value: str) -> None:
    override = f"model.input_axes={value}"
    said = message("model=meta_graph", override)
    assert said.startswith(f"{override!r} cannot be read: ")
    typed = shlex.split(said.rpartition(". Escape the colons in its names: ")[2])
    inputs = compose(["model=meta_graph", "model.path=m", *typed]).job.model.arguments["input_axes"]
    assert inputs == {"Get:0": ["sample", 16], "Get:1": ["sample", 16]}


def test_a_mapping_that_escapes_do_not_mend_is_offered_as_text() -> None:
    said = message("model=meta_graph", "model.input_axes={Get:0: [sample], Get:1}")
    assert "Quote its value: " in said


def test_several_values_are_asked_back() -> None:
    assert message(*MODEL, "+selectors.mine.path=a,b:c") == (
        "+selectors.mine.path=a,b:c gives several values. "
        """For one text: '+selectors.mine.path="a,b:c"'; """
        "for a list: '+selectors.mine.path=[a,b:c]'; for one job each: add -m"
    )


def test_a_word_is_no_override() -> None:
    assert message("model") == "'model' is not an override. Write key=value, as in model=bert"
    assert message("my model=x").startswith("'my model=x' cannot be read: 'my model' is not a key.")


def test_there_is_no_quoted_form_of_what_is_not_key_and_value() -> None:
    assert as_text("word") is None
    assert as_list("key=value") is None


# ------------------------------------------------------------------------------ Hydra's state


def test_another_hydra_application_goes_on_undisturbed(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("mine: 1\n", encoding="utf-8")
    with initialize_config_dir(str(tmp_path), version_base="1.3", job_name="theirs"):
        theirs = GlobalHydra.instance().hydra
        composed()
        message("model=brt")
        assert GlobalHydra.instance().hydra is theirs
        assert not HydraConfig.initialized()


def test_nothing_of_hydra_is_left_behind() -> None:
    composed()
    assert not GlobalHydra.instance().is_initialized()
    assert not HydraConfig.initialized()


# ------------------------------------------------------------------------------- plain data


def test_a_job_from_plain_data_is_the_composed_one() -> None:
    job = composed("selectors=attention", "runtime.seed=3").job
    assert job_of(job.resolved, job.given, job.model_name) == job


def test_plain_data_is_refused_as_a_file_is() -> None:
    entries = {**composed().job.resolved, "inputs": {"_target_": "mine.Samples"}}
    with pytest.raises(ConfigError, match=r"^inputs._target_='mine.Samples' is refused: "):
        job_of(entries, (), "keras")
    with pytest.raises(ConfigError, match=r"^inputs._target_='mine.Samples' cannot be imported: "):
        job_of(entries, (), "keras", trust=Trust(modules=("mine",)))


def test_a_variable_to_copy_that_is_not_there_is_named() -> None:
    assert message(*MODEL, "hydra.job.env_copy=[NOWHERE_17]") == (
        "hydra.job.env_copy: 'NOWHERE_17' is not in the environment"
    )
