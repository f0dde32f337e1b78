"""Tiny presets of keras-hub with random weights, as `save_to_preset` writes them."""

import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import keras
import keras_hub

VOCABULARY = ["!", "a", "b", "Ġ", "ab", "Ġa", "<|endoftext|>", "c", "Ġab"]
MERGES = ["Ġ a", "Ġa b", "a b"]
START = VOCABULARY.index("<|endoftext|>")
POSITIONS = 12


def bert() -> Any:
    return keras_hub.models.BertBackbone(len(VOCABULARY), 2, 2, 8, 16, max_sequence_length=12)


def distil_bert() -> Any:
    return keras_hub.models.DistilBertBackbone(len(VOCABULARY), 2, 2, 8, 16, max_sequence_length=12)


def gpt2() -> Any:
    return keras_hub.models.GPT2Backbone(
        len(VOCABULARY), 2, 2, 8, 16, max_sequence_length=POSITIONS
    )


def llama() -> Any:
    """Two heads share one key."""
    return keras_hub.models.LlamaBackbone(
        vocabulary_size=len(VOCABULARY),
        num_layers=2,
        num_query_heads=4,
        num_key_value_heads=2,
        hidden_dim=16,
        intermediate_dim=16,
    )


def mistral() -> Any:
    return keras_hub.models.MistralBackbone(
        vocabulary_size=len(VOCABULARY),
        num_layers=2,
        num_query_heads=4,
        num_key_value_heads=2,
        hidden_dim=16,
        intermediate_dim=16,
        sliding_window=4,
    )


def roberta() -> Any:
    return keras_hub.models.RobertaBackbone(len(VOCABULARY), 2, 2, 8, 16, max_sequence_length=12)


def vit() -> Any:
    return keras_hub.models.ViTBackbone(
        image_shape=(32, 32, 3), patch_size=8, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16
    )


def resnet() -> Any:
    """Takes images of any size."""
    return keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],  # keras-hub takes no fewer
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64],
        stackwise_num_blocks=[1],
        stackwise_num_strides=[1],
        block_type="basic_block",
    )


def saved(build: Callable[[], Any], directory: Path, seed: int = 0) -> Path:
    """The backbone, with random weights that are not near zero, in a directory of its own."""
    shutil.copytree(_built(build, seed).name, directory, dirs_exist_ok=True)
    return directory


@cache
def _built(build: Callable[[], Any], seed: int) -> "tempfile.TemporaryDirectory[str]":
    """Build it once in each process, which takes longer than what most tests do with it."""
    keras.utils.set_random_seed(seed)
    backbone = build()
    backbone.set_weights([keras.random.normal(w.shape, stddev=0.3) for w in backbone.weights])
    directory = tempfile.TemporaryDirectory()
    backbone.save_to_preset(directory.name)
    return directory


def with_tokenizer(directory: Path) -> Path:
    """The same directory with GPT-2's kind of tokenizer."""
    keras_hub.models.GPT2Tokenizer(vocabulary=_numbered(), merges=MERGES).save_to_preset(
        str(directory)
    )
    return directory


def with_converter(directory: Path) -> Path:
    """The same directory with what rescales pixels to -1 … 1."""
    keras_hub.layers.ViTImageConverter(
        image_size=(32, 32), scale=1 / 127.5, offset=-1
    ).save_to_preset(str(directory))
    return directory


def _numbered() -> dict[str, int]:
    return {token: index for index, token in enumerate(VOCABULARY)}
