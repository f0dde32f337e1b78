"""`model=keras_hub`: what it takes, how texts and pixels become inputs, which tasks it has."""

import logging
from pathlib import Path

import keras
import keras_hub
import numpy as np
import pytest

from extractkit.inputs import InputSpec, Sample
from extractkit.models.bert import load as load_bert
from extractkit.models.hub import load
from extractkit.models.keras_models.model import KerasModel
from tests.models import tiny_bert, tiny_presets
from tests.models.programs import values_of

# "ab ab a" and its tokens by hand: "Ġ a" is merged first, then "Ġa b", then "a b".
TEXT, TOKENS = "ab ab a", ("<|endoftext|>", "ab", "Ġab", "Ġa")
IDS = [tiny_presets.VOCABULARY.index(token) for token in TOKENS]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tiny_presets.saved(tiny_presets.gpt2, tmp_path_factory.mktemp("hub") / "gpt2")
    return tiny_presets.with_tokenizer(directory)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tiny_presets.saved(tiny_presets.vit, tmp_path_factory.mktemp("hub") / "vit")
    return tiny_presets.with_converter(directory)


def text(value: str, index: int = 0) -> Sample:
    return Sample(index, str(index), "test", value)


def image(pixels: object) -> Sample:
    return Sample(0, "0", "test", {"images": np.asarray(pixels)})


def rows(specs: tuple[InputSpec, ...]) -> dict[str, tuple[object, ...]]:
    return {spec.name: (spec.dtype, spec.shape, spec.dims, spec.low, spec.high) for spec in specs}


def test_rows_of_tokens_share_their_axis_and_tell_their_numbers(gpt2: Path) -> None:
    signature = load(str(gpt2)).signature
    assert rows(signature.specs) == {
        "token_ids": ("int32", (None,), ("token",), 0, len(tiny_presets.VOCABULARY)),
        "padding_mask": ("int32", (None,), ("token",), 1, 2),
    }
    assert signature.takes_text
    assert signature.longest == {"token": tiny_presets.POSITIONS}


def test_texts_become_the_tokens_of_the_presets_own_tokenizer(gpt2: Path) -> None:
    model = load(str(gpt2))
    one, none = model.encode([text(TEXT), text("", 1)])
    assert (one.tokens, one.truncated, one.sizes) == (TOKENS, False, {"token": 4})
    assert one.features["token_ids"].tolist() == IDS
    assert one.features["padding_mask"].tolist() == [1, 1, 1, 1]
    assert none.features["token_ids"].tolist() == [tiny_presets.START]


def test_a_text_that_is_cut_off_is_marked(gpt2: Path) -> None:
    model = load(str(gpt2), max_length=4)
    whole, cut = model.encode([text(TEXT), text(TEXT + "b", 1)])
    assert (whole.truncated, cut.truncated) == (False, False)
    (cut,) = model.encode([text(TEXT + "cc")])
    assert (cut.truncated, cut.tokens) == (True, TOKENS)
    assert model.preprocessing["max_length"] == 4


def test_a_token_that_is_the_same_as_padding_stays(gpt2: Path) -> None:
    (encoded,) = load(str(gpt2)).encode([text("a!")])
    assert encoded.features["token_ids"].tolist() == [tiny_presets.START, 1, 0]
    assert encoded.features["padding_mask"].tolist() == [1, 1, 1]


def test_without_a_tokenizer_it_takes_token_ids(tmp_path: Path) -> None:
    model = load(str(tiny_presets.saved(tiny_presets.llama, tmp_path / "llama")))
    assert not model.signature.takes_text
    assert model.signature.longest is None
    assert model.describe()["preprocessing"] == {}


def test_outputs_are_those_of_the_backbone(gpt2: Path) -> None:
    batch = {"token_ids": np.array([IDS], np.int32), "padding_mask": np.ones((1, 4), np.int32)}
    live = keras_hub.models.Backbone.from_preset(str(gpt2))
    found = values_of(load(str(gpt2)), [":output"], batch)
    np.testing.assert_allclose(found[":output"], live(batch), atol=1e-6)


def test_a_bert_of_hugging_face_has_the_settings_of_its_own_configuration(tmp_path: Path) -> None:
    directory = str(tiny_bert.hugging_face(tmp_path / "bert"))
    ids = np.array([[2, 5, 6, 8, 7, 9, 3]], np.int32)
    batch = {"token_ids": ids, "segment_ids": ids * 0, "padding_mask": ids * 0 + 1}
    last = "transformer_layer_1:output"
    one, two = load(directory), load_bert(directory, 12)
    np.testing.assert_array_equal(
        values_of(one, [last], batch)[last], values_of(two, [last], batch)[last]
    )
    sample = text("The houses of cards")
    assert one.encode([sample])[0].tokens == two.encode([sample])[0].tokens


def test_a_task_is_its_backbone_and_its_head(gpt2: Path) -> None:
    model = load(str(gpt2), task="CausalLM")
    batch = {"token_ids": np.array([IDS], np.int32), "padding_mask": np.ones((1, 4), np.int32)}
    live = keras_hub.models.CausalLM.from_preset(str(gpt2), preprocessor=None)
    found = values_of(model, [":output"], batch)[":output"]
    assert found.shape == (1, 4, len(tiny_presets.VOCABULARY))
    np.testing.assert_allclose(found, live(batch), atol=1e-6)
    assert model.encode([text(TEXT)])[0].tokens == TOKENS
    assert model.describe()["class"] == "GPT2CausalLM"
    assert model.describe()["head_is_random"] is False


def classifier(directory: Path) -> Path:
    """A whole task, its head included."""
    keras.utils.set_random_seed(3)
    keras_hub.models.ViTImageClassifier(tiny_presets.vit(), num_classes=3).save_to_preset(
        str(directory)
    )
    return directory


def test_a_saved_task_has_its_own_head(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = str(classifier(tmp_path / "task"))
    pixels = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    live = keras_hub.models.ImageClassifier.from_preset(directory)
    model = load(directory, task="ImageClassifier")
    found = values_of(model, [":output"], {"images": pixels})[":output"]
    np.testing.assert_allclose(found, live(pixels), atol=1e-6)
    assert model.describe()["head_is_random"] is False
    assert not caplog.records


def test_a_head_without_weights_is_random_by_its_seed_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = classifier(tmp_path / "task")
    (directory / "task.weights.h5").unlink()
    with caplog.at_level(logging.WARNING):
        one, two, other = (load(str(directory), "ImageClassifier", seed=s) for s in (1, 1, 2))
    assert one.weights_digest() == two.weights_digest() != other.weights_digest()
    assert one.describe()["head_is_random"] is True
    assert caplog.messages[0] == (
        f"model.path={str(directory)!r} holds no weights for the head of ViTImageClassifier: they "
        f"are random"
    )


def test_pixels_are_rescaled_as_the_preset_says(vit: Path) -> None:
    model = load(str(vit))
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3))
    (encoded,) = model.encode([image(pixels)])
    np.testing.assert_allclose(encoded.features["images"], pixels / 127.5 - 1, atol=1e-6)
    assert model.describe()["preprocessing"] == {
        "converter": "ViTImageConverter",
        "image_size": (32, 32),
        "scale": 1 / 127.5,
        "offset": -1,
    }
    assert rows(model.signature.specs)["images"][3:] == (0, 256)


def test_pixels_stay_as_they_are_where_nothing_rescales_them(vit: Path, tmp_path: Path) -> None:
    plain = tiny_presets.saved(tiny_presets.vit, tmp_path / "plain")
    pixels = np.random.default_rng(0).normal(size=(32, 32, 3)).astype(np.float32)
    for model in (load(str(vit), preprocess=False), load(str(plain))):
        (encoded,) = model.encode([image(pixels)])
        np.testing.assert_array_equal(encoded.features["images"], pixels)
        assert model.describe()["preprocessing"] == {}


def test_images_of_any_size_have_a_height_and_a_width(tmp_path: Path) -> None:
    model = load(str(tiny_presets.saved(tiny_presets.resnet, tmp_path / "resnet")))
    assert model.signature.free_axes == ("height", "width")
    assert model.catalog[":output"].spec.undescribed.labels == (
        "sample",
        "f(height)",
        "f(width)",
        None,
    )


def test_the_catalog_is_the_same_in_every_load(gpt2: Path) -> None:
    def addresses(model: KerasModel) -> list[str]:
        return [record.address for record in model.catalog.records]

    assert addresses(load(str(gpt2))) == addresses(load(str(gpt2)))
