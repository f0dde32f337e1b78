"""`model=applications`: an image architecture of `keras.applications`."""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from extractkit.core.keys import DecidesValues
from extractkit.core.values import Array
from extractkit.errors import ConfigError, ModelError, choices
from extractkit.models.failures import error_summary
from extractkit.models.process import check_seed, kernels_kept, quiet_start

if TYPE_CHECKING:
    from extractkit.models.keras_models.model import ImageModel

NAME = "applications"

IMAGENET = "imagenet"
"""The value of `model.weights` for the weights that Keras caches or downloads."""

_WEIGHTS = "model.weights"
_POOLINGS = ("avg", "max")


def load(
    architecture: DecidesValues[str],
    weights: DecidesValues[str | None] = None,
    include_top: DecidesValues[bool] = True,
    input_shape: DecidesValues[Sequence[int | None] | None] = None,
    classes: DecidesValues[int | None] = None,
    pooling: DecidesValues[str | None] = None,
    preprocess: DecidesValues[bool] = True,
    seed: DecidesValues[int] = 0,
) -> "ImageModel":
    """Build an architecture of `keras.applications`.

    Args:
        architecture: The architecture's name ("ResNet50").
        weights: A file with its weights (`.weights.h5`, `.h5`, `.keras`, a checkpoint), or
            "imagenet", which Keras takes from its cache or downloads. If None, random weights.
        include_top: Whether to include the classifier.
        input_shape: (height, width, channels) of an image. If None, the architecture's default, or
            any size without the classifier.
        classes: The number of classes. If None, the 1,000 of ImageNet.
        pooling: "avg" or "max" over the last feature map, without the classifier.
        preprocess: Whether to apply the architecture's own `preprocess_input` to images of RGB
            pixels 0 … 255.
        seed: The seed of random weights.

    Raises:
        ConfigError: The architecture does not exist, or settings do not fit it.
        ModelError: The weights do not exist, cannot be read, or do not fit.
    """
    check_seed(seed)
    _check(include_top, classes, pooling, preprocess)
    # Imported late: TensorFlow takes seconds to import, and the arguments are checked first.
    with quiet_start():
        import keras

        from extractkit.models.keras_models.catalog import input_structure, packer, signature
        from extractkit.models.keras_models.loading import ReloadedModel
        from extractkit.models.keras_models.model import ImageModel, image_signature
        from extractkit.models.keras_models.weights import load_weights, load_with_keras
        from extractkit.models.weight_files import open_weights

    build = _architecture(architecture)
    given = None if weights in (None, IMAGENET) else str(weights)
    file = None if given is None else open_weights(given, _WEIGHTS)
    keras.utils.set_random_seed(seed)
    settings = {
        "include_top": include_top,
        "input_shape": None if input_shape is None else tuple(input_shape),
        "classes": 1000 if classes is None else classes,
        "pooling": pooling,
    }
    kept = IMAGENET if weights == IMAGENET else None
    model = _built(build, architecture, kept, settings)
    loaded_by = None if file is None else load_weights(model, file, _WEIGHTS)

    def reload(checkpoint: int | None) -> ReloadedModel:
        with kernels_kept():  # the operations by which Keras draws weights have no state
            keras.utils.set_random_seed(seed)
        own = _built(build, architecture, kept, settings)
        made_by = f"keras.applications.{architecture}"
        if file is None:
            return ReloadedModel(own, made_by)
        load = partial(load_with_keras, own, file, _WEIGHTS)
        return ReloadedModel(own, f"{made_by} and {loaded_by}", load)

    structure = input_structure(model)
    own = sys.modules[build.__module__]
    return ImageModel(
        name=NAME,
        keras_model=model,
        signature=image_signature(signature(NAME, structure), pixels=preprocess),
        pack=packer(structure),
        preprocessing={"function": f"{own.__name__}.preprocess_input"} if preprocess else {},
        prepare=_preparing(own.preprocess_input) if preprocess else None,
        origin={
            "architecture": architecture,
            "weights_from": weights if given is None else str(Path(given).expanduser().resolve()),
            **settings,
            "seed": seed,
        },
        reload=reload,
    ).settled()


def _check(include_top: object, classes: object, pooling: str | None, preprocess: object) -> None:
    for key, value in (("include_top", include_top), ("preprocess", preprocess)):
        if not isinstance(value, bool):
            raise ConfigError(f"model.{key}={value!r} is not true or false")
    if pooling is not None and pooling not in _POOLINGS:
        raise ConfigError(
            f"model.pooling={pooling!r} does not exist. {choices(pooling, _POOLINGS)}"
        )
    if include_top and pooling is not None:
        raise ConfigError(
            f"model.pooling={pooling!r} is for the architecture without its classifier. Add "
            f"model.include_top=false"
        )
    if not include_top and classes is not None:
        raise ConfigError(
            f"model.classes={classes!r} is for the classifier. Leave it out, or add "
            f"model.include_top=true"
        )


def _architecture(name: str) -> Callable[..., Any]:
    import keras

    known = {
        key: value
        for key, value in vars(keras.applications).items()
        if inspect.isfunction(value) and key[0].isupper()
    }
    if name not in known:
        raise ConfigError(
            f"model.architecture={name!r} is not in keras.applications. {choices(name, known)}"
        )
    return known[name]


def _built(
    build: Callable[..., Any], name: str, weights: str | None, settings: Mapping[str, object]
) -> Any:
    try:
        return build(weights=weights, **settings)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"model.architecture={name} cannot be built with "
            f"{', '.join(f'model.{key}={value}' for key, value in settings.items())}: "
            f"{error_summary(error)}"
        ) from error
    except Exception as error:  # downloads fail in many ways
        raise ModelError(
            f"model.weights={weights!r} cannot be fetched for {name}: {error_summary(error)}. "
            f"Give a file: model.weights=FILE, or random weights: model.weights=null"
        ) from error


def _preparing(preprocess_input: Callable[[Array], Array]) -> Callable[[Array], Array]:
    def prepare(pixels: Array) -> Array:
        # A copy, since Keras changes its argument in place.
        return np.asarray(preprocess_input(np.array(pixels)))

    return prepare
