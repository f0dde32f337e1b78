"""Old names of config keys are refused with the present name and the whole override, corrected."""

import shlex
import subprocess
from pathlib import Path

import pytest

from extractkit import cli
from extractkit.config.compose import compose
from extractkit.errors import ConfigError
from tests.cli.called import command, variables

MODEL = ("model=saved_model", "model.path=folder")
CALLED = "model.inputs is now model.input_axes. Write: "


@pytest.mark.parametrize(
    ("typed", "corrected"),
    [
        (["model.inputs=[x]"], ["model.input_axes=[x]"]),
        (["model.inputs={x: [sample, 4]}"], ["model.input_axes={x: [sample, 4]}"]),
        ([r"model.inputs={Get\:0: [sample]}"], [r"model.input_axes={Get\:0: [sample]}"]),
        (
            ["model.inputs.x=[sample,4]", "model.inputs.y=null"],
            ["model.input_axes.x=[sample,4]", "model.input_axes.y=null"],
        ),
    ],
    ids=["names", "axes", "escaped", "one by one"],
)
def test_an_old_key_is_answered_with_the_present_one(
    typed: list[str], corrected: list[str]
) -> None:
    with pytest.raises(ConfigError) as refused:
        compose([*MODEL, *typed])
    assert str(refused.value) == f"{CALLED}{shlex.join(corrected)}"
    assert compose([*MODEL, *corrected]).job.model.arguments["input_axes"] is not None


def test_all_values_of_a_sweep_are_in_the_answer() -> None:
    with pytest.raises(ConfigError) as refused:
        cli.execute(["plan", "-m", *MODEL, "model.inputs=[x],[y]"])
    assert cli.report(refused.value) == 2
    assert str(refused.value) == f"{CALLED}'model.input_axes=[x],[y]'"


@pytest.mark.parametrize("plus", ["+", "++"])
def test_a_plus_does_not_hide_an_old_key(plus: str) -> None:
    with pytest.raises(ConfigError) as refused:
        compose([*MODEL, f"{plus}model.inputs={{x: [sample, 4]}}"])
    assert str(refused.value) == f"{CALLED}'model.input_axes={{x: [sample, 4]}}'"


@pytest.mark.parametrize(
    ("group", "text"),
    [
        ("model", "defaults: [saved_model]\npath: folder\ninputs: {'a:0': [sample, null]}"),
        (
            "model",
            "_target_: extractkit.models.saved_model.load\npath: folder\n"
            "inputs: {'a:0': [sample, null]}",
        ),
        (
            "experiment",
            "# @package _global_\ndefaults: [{override /model: saved_model}]\n"
            "model: {path: folder, inputs: {'a:0': [sample, null]}}",
        ),
    ],
    ids=["extends a format", "names a loader", "experiment"],
)
def test_an_old_key_in_a_file_is_answered_likewise(group: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "my" / group).mkdir(parents=True)
    (tmp_path / "my" / group / "mine.yaml").write_text(text)
    # Not in this process: Hydra closes log handlers, among them one of TensorFlow's on a stream of
    # pytest's, if another test has imported TensorFlow.
    done = subprocess.run(
        command("plan", f"{group}=mine"),
        cwd=tmp_path,
        env=variables(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    corrected = r"'model.input_axes={a\:0: [sample, null]}'"
    assert (done.returncode, done.stderr) == (2, f"extractkit: {CALLED}{corrected}\n")


def loader(inputs: object) -> object:
    """A loader that is not extractkit's and has an argument of the old name."""
    return inputs


def test_a_loader_of_ones_own_may_have_an_argument_of_the_old_name() -> None:
    model = compose(["~model", f"+model._target_={__name__}.loader", "+model.inputs=[x]"]).job.model
    assert model.arguments == {"inputs": ["x"]}


def test_a_format_that_never_had_the_key_does_not_advise_the_present_one() -> None:
    with pytest.raises(ConfigError, match=r"^model\.inputs does not exist\. Available: "):
        compose(["model=bert", "++model.inputs=[x]"])
