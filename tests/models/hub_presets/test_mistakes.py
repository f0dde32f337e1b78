"""What `model=keras_hub` says to what it cannot take."""

import importlib.util
import json
from pathlib import Path

import pytest

from extractkit.errors import ConfigError, MissingExtraError, ModelError
from extractkit.models.hub import load
from tests.models import tiny_presets

TAKES = (
    "model=keras_hub takes a directory with config.json and weights, in keras-hub's or Hugging "
    "Face's layout, or the name of a preset"
)


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    return tiny_presets.saved(tiny_presets.gpt2, tmp_path / "gpt2")


def refused(path: object, **settings: object) -> str:
    with pytest.raises(ModelError) as caught:
        load(str(path), **settings)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


def misconfigured(path: object, **settings: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load(str(path), **settings)  # type: ignore[arg-type]
    return str(caught.value)


def test_a_preset_that_does_not_exist_names_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2_base").mkdir()
    assert refused("gpt2_bas_en") == (
        "model.path='gpt2_bas_en' is neither a folder nor a preset of keras-hub. "
        "Nearest: 'gpt2_base_en', 'gpt2_large_en', 'bge_base_en'. "
        "Folders here: Available: 'gpt2_base'."
    )


def test_a_directory_that_does_not_exist_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "gpt2").mkdir()
    path = str(tmp_path / "gpt")
    assert refused(path) == (
        f"model.path={path!r} does not exist. Folders in {str(tmp_path)!r}: Available: 'gpt2'."
    )


def test_a_directory_without_a_model(tmp_path: Path) -> None:
    assert (
        refused(tmp_path)
        == f"model.path={str(tmp_path)!r} has no config.json. It is empty. {TAKES}"
    )


def test_a_file(gpt2: Path) -> None:
    file = gpt2 / "model.weights.h5"
    assert refused(file) == (
        f"model.path={str(file)!r} is a file of a model. Give its folder: model.path={gpt2}"
    )


def test_a_hub_of_which_settings_would_go_unseen() -> None:
    assert refused("hf://somebody/model") == (
        "model.path='hf://somebody/model' is not on this machine. Copy it to this machine and give "
        "the path of the copy: hf download somebody/model --local-dir NAME"
    )


def test_a_url_that_keras_hub_does_not_download() -> None:
    assert refused("https://host/preset") == (
        "model.path='https://host/preset' is not on this machine. Copy it to this machine and give "
        "the path of the copy: curl -LO https://host/preset"
    )


def unreadable(directory: Path, said: str) -> None:
    message = refused(directory)
    assert message.startswith(f"model.path={str(directory)!r} cannot be read by keras-hub: {said}")
    assert message.endswith(TAKES)


def test_a_damaged_configuration(gpt2: Path) -> None:
    (gpt2 / "config.json").write_text("{not json")
    unreadable(gpt2, "JSONDecodeError: Expecting property name")


def test_a_configuration_of_something_else(gpt2: Path) -> None:
    (gpt2 / "config.json").write_text("{}")
    unreadable(gpt2, "ValueError: Unrecognized format for config.json")


def test_a_model_of_transformers_that_keras_hub_does_not_convert(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    message = refused(tmp_path)
    assert "KerasHub has no converter for huggingface/transformers models with model" in message
    assert message.endswith(f"With transformers 4: model=hugging_face model.path={tmp_path}")


def test_a_configuration_that_is_no_mapping(gpt2: Path) -> None:
    (gpt2 / "config.json").write_text("[]")
    unreadable(gpt2, "")


def test_damaged_weights(gpt2: Path) -> None:
    file = gpt2 / "model.weights.h5"
    file.write_bytes(file.read_bytes()[:-1000])
    unreadable(gpt2, "OSError: Unable to synchronously open file (truncated file")


def test_missing_weights(gpt2: Path) -> None:
    (gpt2 / "model.weights.h5").unlink()
    unreadable(gpt2, "FileNotFoundError: `model.weights.json` doesn't exist in preset directory")


@pytest.mark.filterwarnings("ignore:Skipping nested container")
def test_weights_of_another_shape(gpt2: Path) -> None:
    config = json.loads((gpt2 / "config.json").read_text())
    config["config"]["hidden_dim"] = 16
    (gpt2 / "config.json").write_text(json.dumps(config))
    unreadable(gpt2, "ValueError: A total of ")


def test_a_damaged_tokenizer(gpt2: Path) -> None:
    file = tiny_presets.with_tokenizer(gpt2) / "tokenizer.json"
    file.write_text(file.read_text()[:-20])
    unreadable(gpt2, "JSONDecodeError")


def test_a_tokenizer_without_its_vocabulary(gpt2: Path) -> None:
    (tiny_presets.with_tokenizer(gpt2) / "assets/tokenizer/vocabulary.json").unlink()
    unreadable(gpt2, "FileNotFoundError: `assets/tokenizer/vocabulary.json` doesn't exist")


def test_a_task_that_does_not_exist_names_the_nearest(gpt2: Path) -> None:
    assert misconfigured(gpt2, task="CausalML") == (
        "model.task='CausalML' is not a task of keras-hub. "
        "Nearest: 'CausalLM', 'OPTCausalLM', 'GPT2CausalLM'."
    )


def test_a_task_that_the_backbone_has_not_names_those_that_it_has(gpt2: Path) -> None:
    assert misconfigured(gpt2, task="ImageClassifier") == (
        "model.task='ImageClassifier' does not exist for a GPT2Backbone. Available: 'GPT2CausalLM'."
    )


def test_a_head_that_the_preset_does_not_describe(tmp_path: Path) -> None:
    directory = tiny_presets.saved(tiny_presets.bert, tmp_path / "bert")
    assert refused(directory, task="TextClassifier") == (
        f"model.path={str(directory)!r} does not describe how to make the head of model."
        f"task=TextClassifier: TypeError: BertTextClassifier.__init__() missing 1 "
        "required positional argument: "
        f"'num_classes'. Save the task itself: task.save_to_preset(DIR)"
    )


@pytest.mark.parametrize("max_length", [-1, 0, 1, 13, True])
def test_a_length_out_of_range(max_length: int, gpt2: Path) -> None:
    assert misconfigured(gpt2, max_length=max_length) == (
        f"model.max_length={max_length} is not a number of tokens from 2 to 12, the positions that "
        f"the model has"
    )


def test_a_length_for_a_model_without_positions(tmp_path: Path) -> None:
    directory = tiny_presets.saved(tiny_presets.llama, tmp_path / "llama")
    assert misconfigured(directory, max_length=1) == (
        "model.max_length=1 is not a number of tokens of 2 or more"
    )


def test_a_length_of_images(tmp_path: Path) -> None:
    directory = tiny_presets.saved(tiny_presets.vit, tmp_path / "vit")
    assert misconfigured(directory, max_length=8) == (
        f"model.max_length=8 is for texts; model.path={str(directory)!r} takes images"
    )


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, None, True])
def test_a_seed_out_of_range(seed: object) -> None:
    assert misconfigured("anywhere", seed=seed) == (
        f"model.seed={seed!r} is not a whole number from 0 to 4294967295"
    )


def test_a_setting_that_is_neither_true_nor_false() -> None:
    assert misconfigured("anywhere", preprocess="maybe") == (
        "model.preprocess='maybe' is not true or false"
    )


@pytest.mark.parametrize("module", ["keras_hub", "safetensors", "tokenizers"])
def test_a_missing_extra_names_the_command(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == module else find(name)
    )
    with pytest.raises(MissingExtraError) as caught:
        load("anywhere")
    assert str(caught.value) == (
        f"model=keras_hub needs {module}, which is not installed. Install it: "
        f"python -m pip install 'extractkit[keras-hub]'"
    )
