"""Comparison of layers between a model and a whole saved model that is given for its weights.

Keras loads only variables from such a file. If vocabularies, boundaries or other settings of layers
differ, the values would not be those of the saved model.
"""

import json
import logging
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from extractkit.advice import choice_override
from extractkit.errors import ModelError
from extractkit.models.failures import error_summary
from extractkit.models.keras_models.saved import Description, SavedKeras, description_of
from extractkit.models.weight_files import WeightFile

_log = logging.getLogger(__name__)

_VOCABULARY = "vocabulary"
_STATE = (_VOCABULARY, "vocabulary_size", "bin_boundaries", "idf_weights", "mean", "variance")
# Settings for names, training, and the implementation of the same values.
_IGNORED = {
    *("name", "trainable", "dtype", "module", "registered_name", "shared_object_id", "seed"),
    *("layers", "input_layers", "output_layers", "inbound_nodes"),
    *("build_config", "compile_config", "build_input_shape", "quantization_config"),
    *("batch_shape", "batch_input_shape", "batch_size", "input_shape"),
    *("momentum", "implementation", "unroll", "use_cudnn", "synchronized", "unit_forget_bias"),
}
_IGNORED_ENDINGS = ("initializer", "regularizer", "constraint", "dropout")
_CONTAINERS = ("Functional", "Model", "Sequential")
# Layers that are only active in training.
_TRAINING = {
    *("InputLayer", "ActivityRegularization", "PruneLowMagnitude"),
    *("Dropout", "AlphaDropout", "GaussianDropout", "GaussianNoise"),
    *("SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"),
    *("RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation", "RandomContrast"),
    *("RandomBrightness", "RandomHeight", "RandomWidth", "RandomHue", "RandomSaturation"),
    *("RandomColorJitter", "RandomColorDegeneration", "RandomShear", "RandomErasing"),
    *("RandomPerspective", "RandomGaussianBlur", "RandomGrayscale", "RandomInvert"),
    *("RandomSharpness", "RandomPosterization", "RandomElasticTransform"),
    *("RandAugment", "AugMix", "MixUp", "CutMix"),
}
_LARGEST_VOCABULARY = 1 << 28
_SHOWN = 3
_LISTED = 20


@dataclass(frozen=True)
class _Difference:
    what: str
    is_state: bool


class LayerComparison:
    """Compares the layers of a model with those of whole saved models given for its weights.

    Code of Lambda layers is not compared, since its bytes include line numbers.

    Args:
        model: The model.
        saved: The file of the model. Without one, or if another major version of Keras wrote it,
            different settings are only logged, and only different state is refused: code chose the
            settings, or the two versions write them differently.
    """

    def __init__(self, model: Any, saved: SavedKeras | None) -> None:
        self._model = model
        self._saved = saved
        # Loading weights does not change them, so they are made once for all checkpoints.
        self._made: dict[bool, Description | None] = {}

    def check(self, weights: WeightFile, key: str, paths: Sequence[str]) -> None:
        """Refuse weights in a whole model whose layers differ.

        Args:
            key: The configuration key of the weights.
            paths: All files given by it, for the advice.

        Raises:
            ModelError: Layers differ.
        """
        theirs = description_of(weights)
        if theirs is None:
            return
        saved = self._saved
        ours = None if saved is None or saved.is_folder else saved.description
        strict = ours is not None and ours.major == theirs.major
        if ours is None and (ours := self._description(with_assets=bool(theirs.assets))) is None:
            return
        found = [*_state_differences(ours, theirs), *_setting_differences(ours, theirs)]
        wrong = [one for one in found if strict or one.is_state]
        at = f"{key}={weights.path!r}"
        of = "the model" if saved is None else saved.at
        if wrong:
            raise ModelError(
                f"{at} is a whole model whose layers differ from those of {of}: {_listed(wrong)}. "
                f"Weights alone are loaded from it, so the values would not be those of the model "
                f"that was saved. Run each file by itself, without {key}: {_advice(paths)}. If "
                f"the layers of {of} are meant, give weights alone: "
                f"model.save_weights('model.weights.h5')"
            )
        if found:
            _log.warning("%s has other settings than %s, which stay: %s", at, of, _listed(found))

    def _description(self, *, with_assets: bool) -> Description | None:
        if with_assets not in self._made:
            self._made[with_assets] = _saved_description(self._model, with_assets=with_assets)
        return self._made[with_assets]


def _listed(found: Sequence[_Difference]) -> str:
    more = len(found) - _SHOWN
    listed = "; ".join(one.what for one in found[:_SHOWN])
    return f"{listed}; and {more} more" if more > 0 else listed


def _advice(paths: Sequence[str]) -> str:
    listed = choice_override("model.path", paths[:_LISTED])
    more = ", and so on" if len(paths) > _LISTED else ""
    return f"{listed if len(paths) == 1 else f'-m {listed}'}{more}"


def _saved_description(model: Any, *, with_assets: bool) -> Description | None:
    """Return the description that a saved file of the model would have, or None."""
    try:
        if not with_assets:
            return Description(json.loads(model.to_json()), {}, None)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.keras"
            model.save(file)
            return Description.of_archive(file)
    except Exception as error:  # noqa: BLE001 - custom layers may raise anything
        _log.warning(
            "The layers cannot be compared with those of the files: %s", error_summary(error)
        )
        return None


def _state_differences(ours: Description, theirs: Description) -> Iterator[_Difference]:
    """Yield the differences in files saved by layers: vocabularies."""
    if not theirs.assets:
        return
    names = _names_by_prefix(ours.config)
    if len(ours.assets) != len(theirs.assets):
        what = f"{len(theirs.assets)} files of vocabularies, the model has {len(ours.assets)}"
        yield _Difference(what, is_state=True)
        return
    if set(ours.assets) == set(theirs.assets):
        pairs = [(file, content, theirs.assets[file]) for file, content in ours.assets.items()]
    else:
        pairs = [
            (file, content, other)
            for (file, content), other in zip(
                ours.assets.items(), theirs.assets.values(), strict=True
            )
        ]
    for file, own, other in pairs:
        if own != other:
            layer = next((name for start, name in names if file.startswith(start)), file)
            yield _Difference(f"{layer!r} {_first_line(own, other)}", is_state=True)


def _first_line(own: bytes, other: bytes) -> str:
    lines = (content.decode("utf-8", "replace").split("\n") for content in (own, other))
    for number, (one, another) in enumerate(zip_longest(*lines)):
        if one != another:
            return f"vocabulary[{number}] is {another!r:.40} in the file, {one!r:.40} in the model"
    return "vocabulary differs"


def _names_by_prefix(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the prefixes of saved files' names, with their layers."""
    inside = config.get("config")
    layers = inside.get("layers") if isinstance(inside, dict) else None
    counted: Counter[str] = Counter()
    names = []
    for layer in layers if isinstance(layers, list) else []:
        kind = "".join(f"_{c.lower()}" if c.isupper() else c for c in layer["class_name"])
        kind = kind.lstrip("_")
        number = f"_{counted[kind]}" if counted[kind] else ""
        counted[kind] += 1
        names.append((f"layers/{kind}{number}/", str(layer["config"].get("name"))))
    return names


def _setting_differences(ours: Description, theirs: Description) -> Iterator[_Difference]:
    own, others = _layers(ours.config), _layers(theirs.config)
    for kind in dict.fromkeys((*own, *others)):
        some, more = own.get(kind, {}), others.get(kind, {})
        if len(some) != len(more):
            what = f"{len(more)} layers {kind} in the file, {len(some)} in the model"
            yield _Difference(what, is_state=False)
            continue
        # Generated names of layers contain a counter.
        pairs = (
            [(name, config, more[name]) for name, config in some.items()]
            if set(some) == set(more)
            else [
                (name, config, other)
                for (name, config), other in zip(some.items(), more.values(), strict=True)
            ]
        )
        for name, config, other in pairs:
            for key in sorted({*config} & {*other}):
                own_value, its_value = config[key], other[key]
                if own_value != its_value and not _same_vocabulary(key, own_value, its_value):
                    what = (
                        f"{name!r} {key} is {_short(its_value)} in the file, "
                        f"{_short(own_value)} in the model"
                    )
                    yield _Difference(what, key in _STATE)


def _same_vocabulary(key: str, one: object, other: object) -> bool:
    """Return whether two vocabularies, each given as tokens or as the path of a file, are equal."""
    return key == _VOCABULARY and _tokens(one) == _tokens(other)


def _tokens(vocabulary: object) -> list[str]:
    """Return the tokens of a vocabulary; the path itself if its file cannot be read."""
    if isinstance(vocabulary, list):
        return [str(token) for token in vocabulary]
    if isinstance(vocabulary, str):
        try:
            # The path may come from a file of a third party, and lead to a device.
            path = Path(vocabulary)
            if path.is_file() and path.stat().st_size <= _LARGEST_VOCABULARY:
                lines = path.read_bytes().decode("utf-8", "surrogateescape").split("\n")
                return [line.removesuffix("\r") for line in lines[: len(lines) - (not lines[-1])]]
        except (OSError, ValueError):
            pass
    return [str(vocabulary)]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _layers(config: Any) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the settings of layers that affect values, by class and name, in order."""
    found: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    waiting = [config]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting.extend(reversed(part))
        if not isinstance(part, dict):
            continue
        kind = str(part.get("class_name")).rpartition(">")[2]
        if _is_layer(part) and kind not in _TRAINING and kind not in _CONTAINERS:
            layers = found[kind]
            name = str(part["config"]["name"])
            while name in layers:
                name += "'"
            layers[name] = _settings(part["config"])
        waiting.extend(
            value
            for key, value in reversed(part.items())
            if key == "layers" or not _is_ignored(key)
        )
    return found


def _is_layer(part: Mapping[str, Any]) -> bool:
    inside = part.get("config")
    return "class_name" in part and isinstance(inside, dict) and "name" in inside


def _is_ignored(key: str) -> bool:
    return key in _IGNORED or key.endswith(_IGNORED_ENDINGS)


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that affect values. None is dropped, as some versions of Keras do."""
    # Keras 2 writes a Lambda's bytecode, with the file and line of its source: not compared.
    code = {key.removesuffix("_type") for key, value in config.items() if value == "lambda"}
    return {
        key: "__lambda__" if key in code else _plain(value)
        for key, value in config.items()
        if value is not None and not _is_ignored(key)
    }


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        # Keras 2 writes a single axis as a list.
        alone = len(value) == 1 and not isinstance(value[0], list | dict)
        return value[0] if alone else [_plain(one) for one in value]
    if isinstance(value, str):
        return value.rpartition(">")[2]  # of a registered name, "package>name", the name
    if not isinstance(value, dict):
        return value
    if value.get("class_name") == "__lambda__":
        return "__lambda__"
    if value.get("class_name") == "function":
        return str(value.get("config")).rpartition(">")[2]
    if _is_layer(value):  # compared separately
        return str(value["class_name"]).rpartition(">")[2]
    return _settings(value)
