"""What a refusal of a directory of transformers advises is followed, and has to succeed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers", "4")

import transformers

from extractkit.models import hugging_face
from tests.advised import Answer, ask, refused
from tests.optional.hugging_face.test_preparation import pictures, with_tokenizer
from tests.optional.hugging_face.zoo import arrays, saved

pytestmark = pytest.mark.hugging_face


def plan(directory: Path, *overrides: str) -> Answer:
    words = ("plan", "model=hugging_face", f"model.path={directory}", "selectors=outputs")
    return ask(*words, *overrides)


def changed(file: Path, **settings: Any) -> None:
    """Write JSON again, with other settings; without those that are None."""
    content = {**json.loads(file.read_text()), **settings}
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def without_start(directory: Path) -> None:
    saved("t5", directory)
    with_tokenizer(directory)
    changed(directory / "config.json", decoder_start_token_id=None)


def damaged_tokenizer(directory: Path) -> None:
    saved("bert", directory)
    with_tokenizer(directory)
    (directory / "tokenizer.json").write_text("{")


def slow_tokenizer(directory: Path) -> None:
    saved("bert", directory)
    (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "CTRLTokenizer"}')
    (directory / "vocab.json").write_text('{"<unk>": 0, "a</w>": 1}')
    (directory / "merges.txt").write_text("#version\n")


@pytest.mark.parametrize(
    ("name", "build", "text"),
    [
        ("t5", without_start, "config.json has no decoder_start_token_id, so a text gives the "),
        ("bert", damaged_tokenizer, "its tokenizer cannot be read: Exception: EOF while parsing "),
        ("bert", slow_tokenizer, "CTRLTokenizer has no fast form, which reports where it cuts. "),
    ],
)
def test_where_texts_cannot_be_prepared_arrays_are_taken(
    name: str, build: Any, text: str, tmp_path: Path
) -> None:
    build(tmp_path / "dir")
    (tmp_path / "texts.txt").write_text("a bird sings\nhigh\n")
    answer = plan(tmp_path / "dir", "inputs=texts", f"inputs.path={tmp_path / 'texts.txt'}")
    assert answer.code == 2
    assert text in answer.message
    assert answer.overrides[-1] == "inputs=arrays"
    np.savez(tmp_path / "ids.npz", **arrays(name))
    followed = plan(tmp_path / "dir", "inputs=arrays", f"inputs.path={tmp_path / 'ids.npz'}")
    assert followed.code == 0, followed.message


def test_where_images_cannot_be_prepared_arrays_are_taken(tmp_path: Path) -> None:
    saved("vit", tmp_path / "dir")
    settings = tmp_path / "dir" / "preprocessor_config.json"
    settings.write_text('{"image_processor_type": "NoSuchProcessor"}')
    pictures(tmp_path / "pictures")
    images = ("inputs=images", f"inputs.path={tmp_path / 'pictures'}")
    answer = plan(tmp_path / "dir", *images)
    assert answer.code == 2
    assert "its image processor cannot be read" in answer.message
    assert answer.overrides[-1] == "inputs=arrays"
    np.savez(tmp_path / "pixels.npz", **arrays("vit"))
    followed = plan(tmp_path / "dir", "inputs=arrays", f"inputs.path={tmp_path / 'pixels.npz'}")
    assert followed.code == 0, followed.message

    transformers.ViTImageProcessor(size={"height": 40, "width": 40}).save_pretrained(
        settings.parent
    )
    answer = plan(tmp_path / "dir", *images)
    assert answer.code == 2
    assert "makes an image of shape [3, 40, 40], and the model takes [3, 32, 32]" in answer.message
    changed(settings, size={"height": 32, "width": 32})
    assert plan(tmp_path / "dir", *images).code == 0


@pytest.mark.parametrize("shards", ["5GB", "10KB"])
def test_weights_in_several_hdf5_files_are_saved_as_safetensors(
    shards: str, tmp_path: Path
) -> None:
    """TensorFlow's safetensors in several files have an index with other names than the files."""
    model = saved("bert", tmp_path / "whole")
    model.save_pretrained(str(tmp_path / "split"), max_shard_size="10KB")
    words = ("tensors", "model=hugging_face", f"model.path={tmp_path / 'split'}")
    message = refused(*words).message
    assert (
        "Save them as safetensors: model.save_pretrained(DIR, safe_serialization=True)" in message
    )
    kind = transformers.TFBertModel
    kind.from_pretrained(str(tmp_path / "split")).save_pretrained(
        str(tmp_path / "again"), safe_serialization=True, max_shard_size=shards
    )
    assert (tmp_path / "again/model.safetensors.index.json").is_file() is (shards == "10KB")
    loaded = hugging_face.load(str(tmp_path / "again"))
    for own, wanted in zip(loaded.keras_model.weights, model.weights, strict=True):
        np.testing.assert_array_equal(own.numpy(), wanted.numpy())


def test_weights_of_another_name_are_given_as_a_checkpoint(tmp_path: Path) -> None:
    saved("bert", tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "model.fp16.safetensors")
    words = ("tensors", "model=hugging_face", f"model.path={tmp_path}")
    message = refused(*words).message
    assert "It holds 'model.fp16.safetensors', " in message
    assert "Weights in a file of another name: model.checkpoint=FILE" in message
    assert ask(*words, f"model.checkpoint={tmp_path / 'model.fp16.safetensors'}").code == 0


def test_what_keras_hub_does_not_convert_is_for_transformers(tmp_path: Path) -> None:
    saved("t5", tmp_path)
    for model in ("keras_hub", "bert"):
        answer = refused("tensors", f"model={model}", f"model.path={tmp_path}")
        assert "KerasHub has no converter" in answer.message
        followed = ask(*answer.advised("model", "model.path"))
        assert followed.code == 0, followed.message


def test_a_length_of_texts_is_refused_where_there_are_none(tmp_path: Path) -> None:
    saved("vit", tmp_path)
    words = ("tensors", "model=hugging_face", f"model.path={tmp_path}")
    message = refused(*words, "model.max_length=5").message
    assert "model.max_length=5 is for texts" in message
    assert "Leave it out" in message
    assert ask(*words).code == 0


def test_an_architecture_of_another_kind_is_answered_with_one_that_fits(tmp_path: Path) -> None:
    saved("bert", tmp_path)
    words = ("tensors", "model=hugging_face", f"model.path={tmp_path}")
    message = refused(*words, "model.architecture=GPT2Model").message
    assert "is a class for the model_type 'gpt2'; config.json in " in message
    assert "Nearest: 'BertModel', " in message
    assert ask(*words, "model.architecture=BertModel").code == 0
    changed(tmp_path / "config.json", architectures=["BertOfSomebody"])
    message = refused(*words).message
    assert "'BertModel'. Choose one whose weights are there: model.architecture=NAME" in message
    assert ask(*words, "model.architecture=BertModel").code == 0


def test_a_model_that_does_not_know_its_images_needs_their_size(tmp_path: Path) -> None:
    narrow = {"embed_dim": [8, 8, 8], "num_heads": [1, 1, 1], "depth": [1, 2, 3]}
    config = transformers.CvtConfig(**narrow, image_size=32, architectures=["TFCvtModel"])
    model = transformers.TFCvtModel(config)
    model.build_in_name_scope()
    model.save_pretrained(str(tmp_path), safe_serialization=True)
    changed(tmp_path / "config.json", image_size=None)
    words = ("tensors", "model=hugging_face", f"model.path={tmp_path}")
    message = refused(*words).message
    assert "config.json does not describe which images a TFCvtModel takes" in message
    assert 'Add their size and channels to it: "image_size": 224, "num_channels": 3' in message
    changed(tmp_path / "config.json", image_size=32)
    followed = ask(*words)
    assert followed.code == 0, followed.message
