"""`model=bert`: a BERT backbone with its tokenizer, through keras-hub.

The default is MiniLM (all-MiniLM-L6-v2) from the installed weights package. A directory may be one
of Google's releases: `bert_config.json`, a TensorFlow 1 checkpoint, `vocab.txt`. Its weights are
mapped to the backbone by name. Its tokenizer works like the release's own `tokenization.py`;
whether it lowercases is inferred from the vocabulary.
"""

import hashlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from extractkit.advice import override
from extractkit.core.checkpoints import CheckpointFiles, StepPattern
from extractkit.core.extras import BERT_WEIGHTS, BERT_WEIGHTS_INSTALL
from extractkit.core.keys import DecidesValues
from extractkit.core.values import Array
from extractkit.errors import MissingExtraError, ModelError, choices, counted
from extractkit.models.failures import error_summary
from extractkit.models.given_weights import given_weights
from extractkit.models.hub_preset import Preset, find_preset, require_keras_hub
from extractkit.models.process import quiet_start
from extractkit.models.recognition import held, refuse_unreachable
from extractkit.models.weight_files import WeightFile, open_weights
from extractkit.models.weight_files.tensorflow_checkpoint import INDEX_ENDING

if TYPE_CHECKING:
    from extractkit.models.keras_models.model import KerasModel


_WEIGHTS_PACKAGE = BERT_WEIGHTS.name.replace("-", "_")


def load(
    path: DecidesValues[str | None] = None,
    max_length: DecidesValues[int] = 128,
    checkpoint: DecidesValues[str | None] = None,
    checkpoints: DecidesValues[CheckpointFiles] = None,
    checkpoint_step: DecidesValues[StepPattern] = None,
) -> "KerasModel":
    """Load a BERT model with its tokenizer.

    Args:
        path: A directory in Hugging Face's, keras-hub's or Google's layout (`bert_config.json`), or
            the name of a keras-hub preset. If None, the weights package.
        max_length: The longest text in tokens, [CLS] and [SEP] included. The rest is cut off.
        checkpoint: Weights of the backbone to load in place of its own: `.weights.h5`,
            `.safetensors`.
        checkpoints: Many of them as an axis: a pattern ('steps/*.weights.h5'), or a list.
        checkpoint_step: A regular expression for their steps: 'step_([0-9]+)'.

    Raises:
        MissingExtraError: keras-hub, safetensors, tokenizers or the weights are not installed.
        ModelError: keras-hub cannot read a BERT with a tokenizer from the path.
        ConfigError: `max_length` is not between 2 and what the model has positions for.
    """
    directory = str(installed_weights()) if path is None else path
    require_keras_hub("bert")
    if "://" not in directory:
        refuse_unreachable(directory)
    folder = Path(directory).expanduser()
    release = GoogleRelease("bert", str(folder), folder) if is_release(folder) else None
    preset = find_preset("bert", directory) if release is None else release

    def load_into(found: WeightFile, key: str) -> str:
        if release is None or not has_release_names(found):
            return load_weights(backbone, found, key)
        assign_release(backbone, found, f"{key}={found.path!r}")
        return BY_NAME

    weights = given_weights(checkpoint, checkpoints, checkpoint_step, load_into)
    # Imported late: TensorFlow and keras-hub take seconds, and arguments are checked first.
    with quiet_start():
        import keras_hub

        from extractkit.models.hub_model import text_model
        from extractkit.models.hub_preset import hidden_activation, read_backbone
        from extractkit.models.keras_models.loading import ReloadedModel, reloaded
        from extractkit.models.keras_models.weights import BY_NAME, load_weights, load_with_keras

    backbone = read_backbone(preset) if release is None else release_backbone(release)
    if not isinstance(backbone, keras_hub.models.BertBackbone):
        raise ModelError(
            f"model.path={preset.name!r} holds a {type(backbone).__name__}, model=bert takes a "
            f"BertBackbone; try model=keras_hub {override('model.path', preset.name)}"
        )
    origin: dict[str, object] = {
        "path": preset.name,
        "hidden_activation": hidden_activation(preset),
        **weights.origin,
    }
    weights.load()

    def load_again(own: Any, found: WeightFile, key: str) -> None:
        if release is None or not has_release_names(found):
            load_with_keras(own, found, key)
        else:
            assign_release(own, found, f"{key}={found.path!r}")

    def reload(checkpoint: int | None) -> ReloadedModel:
        if release is None:
            own, made_by = read_backbone(preset), "keras_hub.models.Backbone.from_preset"
        else:  # for which keras-hub has no function
            own, made_by = release_backbone(release), "extractkit's own reading of the release"
        return reloaded(own, made_by, weights, checkpoint, load_again)

    model = text_model(preset, backbone, max_length, origin, weights.axis, reload)
    if not model.signature.takes_text:
        raise ModelError(
            f"model.path={preset.name!r} has no tokenizer (tokenizer.json or vocab.txt), and "
            f"model=bert takes texts. For token ids: model=keras_hub "
            f"{override('model.path', preset.name)}"
        )
    return model


def installed_weights() -> Path:
    """Return the folder with MiniLM's weights, without importing the package."""
    spec = importlib.util.find_spec(_WEIGHTS_PACKAGE)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        if (folder := Path(location) / "model").is_dir():
            return folder
    raise MissingExtraError(
        f"model=bert uses the weights in the package {BERT_WEIGHTS.name}, which is not installed. "
        f"Install it: {BERT_WEIGHTS_INSTALL} (or give a directory of your own: model.path=DIR)"
    )


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
                f"model.path={self.name!r}: {_VOCABULARY} has {counted(len(tokens), 'token')}, "
                f"the model {self.config['vocab_size']}"
            )
        return ids

    @cached_property
    def lowercases(self) -> bool:
        """Whether the vocabulary has no capital letters: the release's `do_lower_case`.

        Special tokens, which are always in capitals, do not count.
        """
        words = (token for token in self.vocabulary if not token.startswith("["))
        return not any(word != word.lower() for word in words)

    def prescribed_tokenizer(self) -> tuple[Any, str]:
        """Return the tokenizer of the release and its digest."""
        return self.tokenizer(), self.tokenizer_digest()

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

    from extractkit.models.hub_preset import configure_bert

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
    from extractkit.models.keras_internals import bert_block

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
