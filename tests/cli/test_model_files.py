"""A model's file on the command line, in place of its format."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import save_file

from extractkit import cli
from extractkit.commands.arguments import spell_out
from extractkit.config import spell_out as spell_out_overrides
from extractkit.config.hydra_internals import parse_override
from extractkit.errors import ConfigError
from tests.cli.called import Program


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with two files of weights, a graph, and what is no model."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.safetensors", "b, c.safetensors"):
        save_file({"kernel": np.ones((2, 3), "float32")}, name)
    with tf.Graph().as_default() as graph:
        tf.constant([1.0, 2.0], name="weights")
    Path("net.pb").write_bytes(graph.as_graph_def().SerializeToString())
    Path("notes.txt").write_text("hello")
    Path("weights.pkl").write_bytes(b"\x80\x04K\x01.")
    Path("my", "model").mkdir(parents=True)
    Path("my", "model", "net.pb.yaml").touch()
    return tmp_path


WEIGHTS = ["model=checkpoint", "model.path=a.safetensors"]


@pytest.mark.parametrize(
    ("typed", "spelt"),
    [
        (["a.safetensors"], WEIGHTS),
        (["model=a.safetensors"], WEIGHTS),
        (["model='a.safetensors'"], WEIGHTS),
        (["--json", "a.safetensors", "selectors=weights"],
         ["--json", *WEIGHTS, "selectors=weights"]),
        (["model=checkpoint", "a.safetensors"], WEIGHTS),
        (["net.pb"], ["model=frozen_graph", "model.path=net.pb"]),
        (["b, c.safetensors"], ["model=checkpoint", 'model.path="b, c.safetensors"']),
        (["-m", "model=a.safetensors,a.safetensors"],
         ["-m", "model=checkpoint", "model.path=a.safetensors,a.safetensors"]),
        # Not files: names of formats, values of options, other overrides.
        (["model=bert"], ["model=bert"]),
        (["-m", "model=bert,keras"], ["-m", "model=bert,keras"]),
        (["--config-dir", "my", "model=net.pb"], ["--config-dir", "my", "model=net.pb"]),
        (["--config-dir=my", "model=net.pb"], ["--config-dir=my", "model=net.pb"]),
        (["--trust", "notes.txt", "model=bert"], ["--trust", "notes.txt", "model=bert"]),
        (["inputs.path=notes.txt"], ["inputs.path=notes.txt"]),
        (["tensor"], ["tensor"]),
    ],
)  # fmt: skip
def test_a_file_is_replaced_by_its_format_and_path(
    files: Path, typed: list[str], spelt: list[str]
) -> None:
    assert spell_out(typed)[0] == spelt


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["notes.txt"], "model=notes.txt exists, but its format is not recognized. "
         "Available: 'applications', "),
        (["weights.pkl"], "model=weights.pkl is a pickle. Reading a pickle runs code"),
        (["s3://bucket/net"], "model=s3://bucket/net is not on this machine. Copy it to "
         "this machine and give the path of the copy: aws s3 cp --recursive s3://bucket/net NAME"),
        (["model=b.safetensors"], "model=b.safetensors: there is no such file, and no format of "
         "that name. In '.': Available: 'a.safetensors', 'b, c.safetensors', "),
        (["a.safetensors", "net.pb"], "'net.pb' is a second model: a.safetensors is weights in "
         "safetensors. Give one"),
        (["-m", "model=a.safetensors,net.pb"], "model=a.safetensors,net.pb: a sweep over files "
         "takes files of one format; a.safetensors is weights in safetensors, net.pb is a "
         "GraphDef. Run a sweep for each format"),
    ],
)  # fmt: skip
def test_what_is_no_model_is_refused(files: Path, typed: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        spell_out(typed)
    assert str(refused.value).startswith(message)


def test_a_folder_is_named_for_what_it_holds(files: Path) -> None:
    tf.train.Checkpoint(v=tf.Variable(1.0)).write("steps/ck-1")
    assert spell_out(["steps"])[1] == ["steps is a folder of TensorFlow checkpoints"]


@pytest.mark.parametrize("place", [".", "my/model"])
def test_a_path_ends_the_sentence_without_a_full_stop(files: Path, place: str) -> None:
    with pytest.raises(ConfigError) as refused:
        spell_out([place])
    advice = str(refused.value).partition("Name the format: extractkit tensors model=NAME ")[2]
    assert parse_override(*shlex.split(advice)).value() == place


def test_a_path_may_have_an_equals_sign(files: Path) -> None:
    Path("a b=1").mkdir()
    save_file({"kernel": np.ones((2, 3), "float32")}, "a b=1/v[1].safetensors")
    typed = spell_out(["tensors", "a b=1/v[1].safetensors"])[0]
    assert typed == ["tensors", "model=checkpoint", 'model.path="a b=1/v[1].safetensors"']


def test_an_override_is_no_path(files: Path) -> None:
    Path("model.seed=1").touch()
    assert spell_out(["model.seed=1"])[0] == ["model.seed=1"]


def test_a_path_that_cannot_be_looked_at_is_refused(files: Path) -> None:
    with pytest.raises(ConfigError, match=r"model=x+\.pb cannot be looked up: File name too long"):
        spell_out_overrides([f"model={'x' * 300}.pb"])


def test_the_whole_command_is_printed_and_run(program: Program, place: Path) -> None:
    save_file({"kernel": np.ones((2, 3), "float32")}, place / "net, old.safetensors")
    done = program("--json", "net, old.safetensors", "tensors")
    assert done.returncode == cli.DONE
    assert [one["address"] for one in json.loads(done.stdout)["tensors"]] == [":kernel"]
    command = """extractkit tensors --json model=checkpoint 'model.path="net, old.safetensors"'"""
    assert done.stderr.splitlines()[0] == (
        f"extractkit: net, old.safetensors is weights in safetensors. In full: {command}"
    )


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["tensrs"], "'tensrs' is neither a verb nor an override. Nearest: 'tensors', "),
        (["--exact", "tensors"], "--exact belongs to plan, not to tensors"),
        (["--json"], "--json belongs to tensors and plan, not to run"),
    ],
)
def test_a_command_that_is_refused_is_not_announced(
    files: Path, typed: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError) as refused:
        cli.execute([*typed, "a.safetensors"])
    assert str(refused.value).startswith(message)
    assert capsys.readouterr().err == ""
