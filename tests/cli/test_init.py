"""A first job for a model's file: written with comments, and run by the command that is printed."""

import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml

import extractkit
from extractkit import cli
from extractkit.errors import ConfigError
from tests.cli.called import variables
from tests.models.session_graphs import frozen
from tests.test_config_schema import mistakes


def dense() -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(3, name="hidden"), keras.layers.Dense(2, name="top")]
    return keras.Sequential([keras.Input((4,), name="x"), *layers])


def keras_archive() -> str:
    dense().save("net.keras")
    return "net.keras"


def saved_model() -> str:
    tf.saved_model.save(dense(), "saved")
    return "saved"


def tflite() -> str:
    converter = tf.lite.TFLiteConverter.from_keras_model(dense())
    Path("my net.tflite").write_bytes(converter.convert())
    return "my net.tflite"


def frozen_graph() -> str:
    def build() -> None:
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], "x")
        tf.identity(tf.nn.relu(x, name="hidden"), name="top")

    frozen(build, ["top"], Path("net.pb").absolute())
    return "net.pb"


def text_model() -> str:
    class Lengths(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def __call__(self, text: tf.Tensor) -> tf.Tensor:
            return tf.strings.length(text)

    tf.saved_model.save(Lengths(), "lengths")
    return "lengths"


@pytest.mark.parametrize("make", [keras_archive, saved_model, tflite, frozen_graph, text_model])
def test_the_printed_command_runs_the_written_job(
    make: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preloaded: Path
) -> None:
    monkeypatch.chdir(tmp_path)

    def shell(line: str) -> str:
        paths = variables(PATH=os.pathsep.join([str(preloaded), os.environ["PATH"]]))
        ended = subprocess.run(
            line, shell=True, env=paths, capture_output=True, text=True, check=False
        )
        assert ended.returncode == cli.DONE, ended.stderr
        return ended.stdout.splitlines()[-1]

    printed = shell(shlex.join(["extractkit", "init", make()]))
    (written,) = Path("conf/experiment").iterdir()
    text = written.read_text("utf-8")
    assert f"#   {printed}\n" in text
    schema = text.splitlines()[1].removeprefix("# yaml-language-server: $schema=")
    assert (written.parent / schema).is_file()
    assert mistakes(yaml.safe_load(text)) == []
    run = extractkit.open(shell(printed))
    (view,) = run.values()
    assert len(run.samples) == (48 if make is text_model else 32)
    assert np.isfinite(view[:]).all()
    assert np.ptp(view[:]) > 0


def test_the_first_selector_is_of_a_hidden_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.execute(["init", keras_archive(), "--output", "a/b"]) == cli.DONE
    job = yaml.safe_load(Path("a/b/experiment/net.yaml").read_text("utf-8"))
    assert job["selectors"] == {"first": {"path": "hidden:output"}}
    assert job["model"] == {"path": "net.keras"}


def test_nothing_is_replaced_and_mistakes_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path("conf/experiment/net.yaml")
    with pytest.raises(ConfigError, match=r"^init: 'net.kears' does not exist. There is none.$"):
        cli.execute(["init", "net.kears"])
    Path("notes.txt").write_text("hello")
    with pytest.raises(ConfigError, match=r"notes\.txt"):
        cli.execute(["init", "notes.txt"])
    assert not Path("conf").exists()
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(ConfigError) as refused:
        cli.execute(["init", keras_archive()])
    assert str(refused.value) == (
        f"init: {file} exists. Remove it, or choose another folder: --output DIR"
    )
    assert file.read_text() == "mine"
    Path("taken").touch()
    with pytest.raises(ConfigError, match=r"^init: taken could not be written: File exists"):
        cli.execute(["init", "net.keras", "--output", "taken"])
