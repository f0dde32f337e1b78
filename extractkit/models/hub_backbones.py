"""Backbones and tasks built from keras-hub presets and from Google's BERT releases.

The weights of a Google release are mapped to keras-hub's backbone by name. Its tokenizer works like
the release's own `tokenization.py`; whether it lowercases is inferred from the vocabulary.
"""

import functools
import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np

from extractkit.core.values import Array
from extractkit.errors import ConfigError, ModelError, choices
from extractkit.models.foreign import error_summary
from extractkit.models.hub_preset import Preset
from extractkit.models.keras_internals import bert_block, layers_in
from extractkit.models.recognition import held
from extractkit.models.weight_files import WeightFile, open_weights
from extractkit.models.weight_files.tensorflow_checkpoint import INDEX_ENDING


def tasks() -> dict[str, Any]:
    """Return every task of every backbone by name."""
    return {
        name: found
        for name, found in _classes(keras_hub.models, keras_hub.models.Task).items()
        if found is not keras_hub.models.Task
    }


def class_for(package: Any, kind: Any, backbone: Any) -> Any:
    """Return the class of this kind for this backbone in a package of keras-hub, or None."""
    for found in _classes(package, kind).values():
        if found.backbone_cls is type(backbone):
            return found
    return None


def _classes(package: Any, kind: Any) -> dict[str, Any]:
    return {
        name: found
        for name, found in vars(package).items()
        if isinstance(found, type) and issubclass(found, kind)
    }


_TANH_GELU = ("gelu_approximate", "gelu_new", "gelu_fast", "gelu_pytorch_tanh")


def configure_bert(backbone: Any, preset: Preset) -> None:
    """Set the activation and the epsilon of a BERT from its `config.json`.

    Other backbones, and keras-hub's own presets, are not changed.

    Raises:
        ModelError: keras-hub cannot build the positions or the activation.
    """
    if not (isinstance(backbone, keras_hub.models.BertBackbone) and preset.is_hugging_face):
        return
    positions = preset.config.get("position_embedding_type", "absolute")
    name, known = hidden_activation(preset), _activations()
    if positions != "absolute" or name not in known:
        raise ModelError(
            f"model.path={preset.name!r} has position_embedding_type={positions!r} and "
            f"hidden_act={name!r}; model={preset.model} takes 'absolute' and one of "
            f"{', '.join(known)}"
        )
    for layer in backbone.transformer_layers:
        # keras-hub builds every BERT with the tanh approximation.
        bert_block(layer).intermediate.activation = known[name]
    for layer in layers_in(backbone):
        if isinstance(layer, keras.layers.LayerNormalization):
            layer.epsilon = preset.config.get("layer_norm_eps", 1e-12)


def hidden_activation(preset: Preset) -> str:
    """Return the activation of a BERT's feed-forward layers, by its name in `config.json`."""
    if not preset.is_hugging_face:
        return _TANH_GELU[0]
    # "gelu" is Hugging Face's default.
    return str(preset.config.get("hidden_act", "gelu"))


def _activations() -> dict[str, Any]:
    return {
        "gelu": functools.partial(keras.activations.gelu, approximate=False),
        "relu": keras.activations.relu,
        "silu": keras.activations.silu,
        "swish": keras.activations.silu,
        **dict.fromkeys(_TANH_GELU, functools.partial(keras.activations.gelu, approximate=True)),
    }


_log = logging.getLogger(__name__)

_UNFIT = re.compile(r"Unable to find a subclass of \w+ that is compatible with (\w+)")


def read_backbone(preset: Preset) -> Any:
    """Return the `keras_hub.models.Backbone` of a preset, with its weights.

    Raises:
        ModelError: The preset does not exist, or keras-hub cannot read it.
    """
    _check_name(preset)
    with preset.reading():
        backbone = keras_hub.models.Backbone.from_preset(preset.name)
    configure_bert(backbone, preset)
    return backbone


def read_task(preset: Preset, task: str) -> Any:
    """Return a `keras_hub.models.Task` (backbone and head) of a preset.

    A head without weights in the preset gets random ones, which is logged.

    Raises:
        ConfigError: keras-hub has no such task, or none for this backbone.
        ModelError: The preset does not exist, or keras-hub cannot read it.
    """
    known = tasks()
    if task not in known:
        raise ConfigError(f"model.task={task!r} is not a task of keras-hub. {choices(task, known)}")
    _check_name(preset)
    with preset.reading():
        try:
            # Preprocessors of texts and images are loaded separately from the model.
            model = known[task].from_preset(preset.name, preprocessor=None)
        except ValueError as error:
            if unfit := _UNFIT.search(str(error)):
                raise ConfigError(_no_such_task(task, unfit[1])) from error
            raise
        except TypeError as error:
            raise ModelError(
                f"model.path={preset.name!r} does not say how the head of model.task={task} is "
                f"made: {error_summary(error)}. Save the task itself: task.save_to_preset(DIR)"
            ) from error
    configure_bert(model.backbone, preset)
    if head_is_random(preset, model):
        _log.warning(
            "model.path=%r holds no weights for the head of %s: they are random",
            preset.name,
            type(model).__name__,
        )
    return model


def head_is_random(preset: Preset, task: Any) -> bool:
    """Return whether a task has a head whose weights are not in its directory."""
    converted = "ForImageClassification" in str(preset.config.get("architectures", ""))
    return bool(task.has_task_weights()) and not converted and not preset.has("task.weights.h5")


def _check_name(preset: Preset) -> None:
    presets = keras_hub.models.Backbone.presets
    if preset.directory is None and "://" not in preset.name and preset.name not in presets:
        here = [one.name for one in Path.cwd().iterdir() if one.is_dir() and one.name[0] != "."]
        raise ModelError(
            f"model.path={preset.name!r} is neither a folder nor a preset of keras-hub. "
            f"{choices(preset.name, presets)} Folders here: {choices(preset.name, here)}"
        )


def _no_such_task(task: str, backbone: str) -> str:
    fitting = [
        name
        for name, value in tasks().items()
        if value.backbone_cls is not None and value.backbone_cls.__name__ == backbone
    ]
    return f"model.task={task!r} does not exist for a {backbone}. {choices(task, fitting)}"


CONFIG = "bert_config.json"

_CHECKPOINT = "bert_model.ckpt"
_VOCABULARY = "vocab.txt"
_SCOPE = "bert/"
_UNKNOWN, _BEGIN, _END = "[UNK]", "[CLS]", "[SEP]"
# The longest word in tokenization.py.
_LONGEST_WORD = 200
_NEEDED = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)


@dataclass(frozen=True)
class GoogleRelease(Preset):
    """A directory of one of Google's releases, with settings under Hugging Face's names."""

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The checked `bert_config.json`. Hugging Face uses the same keys."""
        try:
            found = json.loads((self._folder / CONFIG).read_text("utf-8"))
        except (ValueError, RecursionError) as error:
            raise ModelError(
                f"model.path={self.name!r}: {CONFIG} is damaged: {error_summary(error)}. Copy "
                f"it from the release"
            ) from error
        lacking = [
            key
            for key in _NEEDED
            if not isinstance(found, dict) or type(found.get(key)) is not int or found[key] < 1
        ]
        if lacking:
            raise ModelError(
                f"model.path={self.name!r}: {CONFIG} has no whole number of 1 or more for "
                f"{', '.join(lacking)}"
            )
        return {"model_type": "bert", **found}

    @property
    def _folder(self) -> Path:
        assert self.directory is not None, "a release is a local directory"
        return self.directory

    def weights(self) -> WeightFile:
        """Open the checkpoint of the release: `bert_model.ckpt`, or the only one.

        Raises:
            ModelError: It is missing or incomplete.
        """
        prefix = self._folder / _CHECKPOINT
        if any(self._folder.glob(f"{_CHECKPOINT}.*")):
            return open_weights(str(prefix))
        if not any(self._folder.glob(f"*{INDEX_ENDING}")):
            raise ModelError(
                f"model.path={self.name!r} has no checkpoint. {held(self._folder, _CHECKPOINT)} "
                f"Copy the files {_CHECKPOINT}.* from the release"
            )
        return open_weights(str(self._folder))

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """The ids of the tokens.

        Raises:
            ModelError: The vocabulary is missing, or lacks the special tokens.
        """
        file = self._folder / _VOCABULARY
        if not file.is_file():
            raise ModelError(
                f"model.path={self.name!r} has no {_VOCABULARY}, which model=bert needs for texts. "
                f"Copy it from the release"
            )
        try:
            tokens = [line.strip() for line in file.read_text("utf-8").split("\n")]
        except ValueError as error:
            raise ModelError(
                f"model.path={self.name!r}: {_VOCABULARY} is damaged: {error_summary(error)}. Copy "
                f"it from the release"
            ) from error
        if tokens and not tokens[-1]:
            del tokens[-1]
        ids = {token: number for number, token in enumerate(tokens)}
        for token in (_UNKNOWN, _BEGIN, _END):
            if token not in ids:
                raise ModelError(f"model.path={self.name!r}: {_VOCABULARY} has no token {token}")
        if len(tokens) > self.config["vocab_size"]:
            raise ModelError(
                f"model.path={self.name!r}: {_VOCABULARY} has {len(tokens)} tokens, the model "
                f"{self.config['vocab_size']}"
            )
        return ids

    @cached_property
    def lowercases(self) -> bool:
        """Whether the vocabulary has no capital letters: the release's `do_lower_case`.

        Special tokens, which are always in capitals, do not count.
        """
        words = (token for token in self.vocabulary if not token.startswith("["))
        return not any(word != word.lower() for word in words)

    def tokenizer(self) -> Any:
        """Return the release's tokenizer, of the `tokenizers` library."""
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

        ids = self.vocabulary
        made = Tokenizer(
            models.WordPiece(vocab=ids, unk_token=_UNKNOWN, max_input_chars_per_word=_LONGEST_WORD)
        )
        made.normalizer = normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=True,
            strip_accents=self.lowercases,
            lowercase=self.lowercases,
        )
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.post_processor = processors.BertProcessing((_END, ids[_END]), (_BEGIN, ids[_BEGIN]))
        return made

    def tokenizer_digest(self) -> str:
        """Return the SHA-256 over the vocabulary and the lowercase setting."""
        content = json.dumps([self.vocabulary, self.lowercases, _LONGEST_WORD], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


def is_release(directory: Path) -> bool:
    """Return whether a directory is in the layout of Google's releases."""
    return (directory / CONFIG).is_file()


def has_release_names(weights: WeightFile) -> bool:
    """Return whether the weights in a file have Google's names."""
    return f"{_SCOPE}embeddings/word_embeddings" in weights


def release_backbone(release: GoogleRelease) -> Any:
    """Return the backbone of a release, with its weights.

    Raises:
        ModelError: A setting or a weight does not fit.
    """
    import keras_hub

    config = release.config
    if config["hidden_size"] % config["num_attention_heads"]:
        raise ModelError(
            f"model.path={release.name!r}: {CONFIG} has hidden_size={config['hidden_size']}, which "
            f"is not a multiple of num_attention_heads={config['num_attention_heads']}"
        )
    weights = release.weights()
    with release.reading():
        backbone = keras_hub.models.BertBackbone(
            vocabulary_size=config["vocab_size"],
            num_layers=config["num_hidden_layers"],
            num_heads=config["num_attention_heads"],
            hidden_dim=config["hidden_size"],
            intermediate_dim=config["intermediate_size"],
            max_sequence_length=config["max_position_embeddings"],
            num_segments=config.get("type_vocab_size", 2),
        )
    configure_bert(backbone, release)
    assign_release(backbone, weights, f"model.path={release.name!r}")
    return backbone


def assign_release(backbone: Any, weights: WeightFile, at: str) -> None:
    """Assign the weights of a checkpoint with Google's names, without heads and slots.

    Raises:
        ModelError: A weight is missing, or has another number of elements.
    """
    assigned = []
    for name, variable in _names(backbone):
        key = _SCOPE + name
        if key not in weights:
            raise ModelError(f"{at}: the checkpoint has no {key!r}. {choices(key, weights)}")
        shape = tuple(variable.shape)
        stored = weights.entry(key).shape
        if stored != _stored_shape(name, shape):
            raise ModelError(
                f"{at}: {key!r} is {list(stored)} in the checkpoint, {CONFIG} asks for "
                f"{list(_stored_shape(name, shape))}"
            )
        assigned.append((variable, key, shape))
    for variable, key, shape in assigned:
        value: Array = weights.read(key)
        variable.assign(np.reshape(value, shape))


def _stored_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a weight in Google's graph, where heads are not a separate axis."""
    if "/attention/self/" in name:
        return (shape[0], shape[1] * shape[2]) if len(shape) == 3 else (shape[0] * shape[1],)
    if "/attention/output/dense/kernel" in name:
        return (shape[0] * shape[1], shape[2])
    return shape


def _names(backbone: Any) -> Iterator[tuple[str, Any]]:
    """Yield the backbone's variables with Google's names, without the scope."""
    layer = backbone.get_layer
    yield "embeddings/word_embeddings", layer("token_embedding").embeddings
    yield "embeddings/position_embeddings", layer("position_embedding").position_embeddings
    yield "embeddings/token_type_embeddings", layer("segment_embedding").embeddings
    yield from _normalization("embeddings", layer("embeddings_layer_norm"))
    for number in range(backbone.num_layers):
        block = bert_block(layer(f"transformer_layer_{number}"))
        attention, scope = block.attention, f"encoder/layer_{number}"
        yield from _dense(f"{scope}/attention/self/query", attention.query_dense)
        yield from _dense(f"{scope}/attention/self/key", attention.key_dense)
        yield from _dense(f"{scope}/attention/self/value", attention.value_dense)
        yield from _dense(f"{scope}/attention/output/dense", attention.output_dense)
        yield from _normalization(f"{scope}/attention/output", block.attention_norm)
        yield from _dense(f"{scope}/intermediate/dense", block.intermediate)
        yield from _dense(f"{scope}/output/dense", block.output)
        yield from _normalization(f"{scope}/output", block.output_norm)
    yield from _dense("pooler/dense", layer("pooled_dense"))


def _dense(scope: str, layer: Any) -> Iterator[tuple[str, Any]]:
    yield f"{scope}/kernel", layer.kernel
    yield f"{scope}/bias", layer.bias


def _normalization(scope: str, layer: Any) -> Iterator[tuple[str, Any]]:
    yield f"{scope}/LayerNorm/gamma", layer.gamma
    yield f"{scope}/LayerNorm/beta", layer.beta
