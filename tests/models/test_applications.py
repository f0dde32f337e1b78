"""`model=applications`: Keras's ready architectures, their pixels and their weights."""

from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from extractkit.core.values import Array
from extractkit.errors import ConfigError, ModelError
from extractkit.inputs import Sample
from extractkit.models import Model
from extractkit.models.applications import load
from extractkit.testing.models import ModelContract
from tests.models.programs import values_of

SMALL = {"input_shape": [32, 32, 3], "classes": 4}


def pixels(samples: int = 2) -> Array:
    return np.random.default_rng(0).integers(0, 256, (samples, 32, 32, 3)).astype(np.float32)


def sample(array: Array) -> Sample:
    return Sample(0, "0", "test", {"input": array})


class TestMobileNet(ModelContract):
    def model(self) -> Model:
        return load("MobileNet", **SMALL)  # type: ignore[arg-type]


@pytest.mark.thorough
class TestWithoutTop(ModelContract):
    """Height and width are free; of smaller images nothing would be left."""

    length = 32

    def model(self) -> Model:
        return load("MobileNet", include_top=False, pooling="avg")


def test_internal_tensors_of_a_resnet50_are_those_that_keras_hands_out() -> None:
    model = load("ResNet50", **SMALL)  # type: ignore[arg-type]
    own = model.keras_model
    names = ["conv1_conv", "conv2_block1_add", "conv4_block6_out", "avg_pool", "predictions"]
    by_hand = keras.Model(own.input, [own.get_layer(name).output for name in names])
    found = values_of(model, [f"{name}:output" for name in names], {"input": pixels()})
    expected = by_hand(pixels(), training=False)
    for value, one in zip(found.values(), expected, strict=True):
        np.testing.assert_allclose(value, one, rtol=1e-5, atol=1e-5)


def test_pixels_are_prepared_as_the_architecture_was_trained() -> None:
    """Caffe's way (Simonyan and Zisserman 2014): blue first, the mean of ImageNet taken off."""
    model = load("VGG16", include_top=False, input_shape=[32, 32, 3])
    image = pixels(1)[0]
    before = image.copy()
    (encoded,) = model.encode([sample(image)])
    expected = image[..., ::-1] - np.array([103.939, 116.779, 123.68])
    np.testing.assert_allclose(encoded.features["input"], expected, atol=1e-4)
    np.testing.assert_array_equal(image, before)
    function = "keras.src.applications.vgg16.preprocess_input"
    assert model.describe()["preprocessing"] == {"function": function}
    assert (model.signature.specs[0].low, model.signature.specs[0].high) == (0, 256)


def test_pixels_stay_as_they_are_if_asked_to() -> None:
    model = load("MobileNet", preprocess=False, **SMALL)  # type: ignore[arg-type]
    image = pixels(1)[0]
    np.testing.assert_array_equal(model.encode([sample(image)])[0].features["input"], image)
    assert model.describe()["preprocessing"] == {}


def test_random_weights_follow_the_seed() -> None:
    one, two, other = (load("MobileNet", seed=seed, **SMALL) for seed in (1, 1, 2))  # type: ignore[arg-type]
    assert one.weights_digest() == two.weights_digest() != other.weights_digest()


def test_any_size_without_the_classifier() -> None:
    model = load("MobileNet", include_top=False)
    assert model.signature.free_axes == ("height", "width")
    assert model.signature.specs[0].shape == (None, None, 3)


@cache
def mobile_net(classes: int = 4) -> Any:
    """Keras's own, which no test changes."""
    keras.utils.set_random_seed(5)
    build: Any = keras.applications.MobileNet
    return build(weights=None, input_shape=(32, 32, 3), classes=classes)


def saved(directory: Path, name: str, classes: int = 4) -> Path:
    file = directory / name
    if name.endswith(".weights.h5"):
        mobile_net(classes).save_weights(file)
    else:
        mobile_net(classes).save(file)
    return file


NAMES = ["mobile.weights.h5", "mobile.h5", "mobile.keras"]


@pytest.mark.parametrize("name", NAMES)
def test_weights_from_a_file(name: str, tmp_path: Path) -> None:
    file = saved(tmp_path, name)
    live = mobile_net()
    model = load("MobileNet", weights=str(file), seed=1, **SMALL)  # type: ignore[arg-type]
    for mine, theirs in zip(model.keras_model.get_weights(), live.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert model.describe()["weights_from"] == str(file)


def refused(**settings: object) -> str:
    with pytest.raises(ModelError) as caught:
        load(**{"architecture": "MobileNet", **SMALL, **settings})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def misconfigured(**settings: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load(**{"architecture": "MobileNet", **settings})  # type: ignore[arg-type]
    return str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_head_of_another_size_names_weight_and_shapes(name: str, tmp_path: Path) -> None:
    file = saved(tmp_path, name, classes=5)
    message = refused(weights=str(file))
    assert message.startswith(f"model.weights={str(file)!r} does not fit the model: ")
    assert "[1, 1, 1024, 5] in the file" in message
    assert "[1, 1, 1024, 4] in the model" in message


@pytest.mark.parametrize("name", NAMES)
def test_another_architecture_names_what_differs(name: str, tmp_path: Path) -> None:
    file = saved(tmp_path, name)
    message = refused(weights=str(file), architecture="MobileNetV2")
    assert message.startswith(f"model.weights={str(file)!r} does not fit the model: ")
    assert "in the file" in message


def test_a_weights_file_that_does_not_exist(tmp_path: Path) -> None:
    file = tmp_path / "mobile.weights.h5"
    assert refused(weights=str(file)).startswith(f"model.weights={str(file)!r} does not exist")


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_weights_file(name: str, tmp_path: Path) -> None:
    file = saved(tmp_path, name)
    file.write_bytes(file.read_bytes()[:3000])
    said = refused(weights=str(file))
    assert said.startswith(f"model.weights={str(file)!r} is ")
    assert "damaged" in said


def test_weights_that_cannot_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: object, **settings: object) -> None:
        raise OSError("URL fetch failure on https://example.org: no route to host")

    monkeypatch.setattr(keras.src.applications.mobilenet.file_utils, "get_file", unreachable)
    assert refused(weights="imagenet", classes=None, input_shape=None) == (
        "model.weights='imagenet' cannot be fetched for MobileNet: OSError: URL fetch failure "
        "on https://example.org: no route to host. Give a file: model.weights=FILE, or random "
        "weights: model.weights=null"
    )


def test_an_architecture_that_does_not_exist_names_the_nearest() -> None:
    assert misconfigured(architecture="Resnet50") == (
        "model.architecture='Resnet50' is not in keras.applications. "
        "Nearest: 'ResNet50', 'ResNet50V2', 'ResNet101'."
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pooling": "avg"}, "model.pooling='avg' is for the architecture without its classifier. "
         "Add model.include_top=false"),
        ({"pooling": "mean"}, "model.pooling='mean' does not exist. Available: 'avg', 'max'."),
        ({"classes": 3, "include_top": False}, "model.classes=3 is for the classifier. Leave "
         "it out, or add model.include_top=true"),
        ({"include_top": "no"}, "model.include_top='no' is not true or false"),
        ({"seed": -1}, "model.seed=-1 is not a whole number from 0 to 4294967295"),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together(settings: dict[str, object], message: str) -> None:
    assert misconfigured(**settings) == message


def test_a_shape_that_the_architecture_does_not_take() -> None:
    assert misconfigured(input_shape=[8, 8, 3]) == (
        "model.architecture=MobileNet cannot be built with model.include_top=True, "
        "model.input_shape=(8, 8, 3), model.classes=1000, model.pooling=None: ValueError: Input "
        "size must be at least 32x32; Received: input_shape=(8, 8, 3)"
    )
