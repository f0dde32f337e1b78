"""`model=applications`: one of Keras's ready architectures for images."""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from extractkit.core.values import Array
from extractkit.errors import ConfigError, ModelError, choices
from extractkit.models.foreign import error_summary
from extractkit.models.tensorflow_process import check_seed, quiet_start

if TYPE_CHECKING:
    from extractkit.models.keras_models.model import ImageModel

NAME = "applications"

IMAGENET = "imagenet"
"""What `model.weights` is for the weights that Keras keeps, or downloads."""

_WEIGHTS = "model.weights"
_POOLINGS = ("avg", "max")


def load(
    architecture: str,
    weights: str | None = None,
    include_top: bool = True,
    input_shape: Sequence[int | None] | None = None,
    classes: int | None = None,
    pooling: str | None = None,
    preprocess: bool = True,
    seed: int = 0,
) -> "ImageModel":
    """Return an architecture of `keras.applications`, ready for images.

    Args:
        architecture: its name ("ResNet50").
        weights: a file with weights of it (`.weights.h5`, `.h5`, `.keras`, a checkpoint), or
            "imagenet", which Keras takes from its cache or downloads; None: random ones.
        include_top: whether it ends in its classifier.
        input_shape: (height, width, channels) of an image; None: what the architecture was made
            for, or any size without the classifier.
        classes: of the classifier; None: the 1,000 of ImageNet.
        pooling: "avg" or "max" over the last feature map, without the classifier.
        preprocess: images are RGB pixels 0 … 255, which the architecture's own `preprocess_input`
            is applied to; false: the model takes them as they are.
        seed: of random weights.

    Raises:
        ConfigError: an architecture that does not exist, or settings that do not fit it.
        ModelError: weights that are not there, cannot be read, or belong to something else.
    """
    check_seed(seed)
    _check(include_top, classes, pooling, preprocess)
    # Imported only now: TensorFlow takes seconds, checking arguments none.
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
    except Exception as error:  # whatever downloading raises
        raise ModelError(
            f"model.weights={weights!r} cannot be fetched for {name}: {error_summary(error)}. Give "
            "a file: "
            f"model.weights=FILE, or random weights: model.weights=null"
        ) from error


def _preparing(preprocess_input: Callable[[Array], Array]) -> Callable[[Array], Array]:
    def prepare(pixels: Array) -> Array:
        # A copy: Keras changes in place what it is given.
        return np.asarray(preprocess_input(np.array(pixels)))

    return prepare
