"""`selectors=attention` on every backbone of keras-hub, as small as it can be built.

Without `EXTRACTKIT_ALL_BACKBONES`, a third of them: one of each kind of attention (`make backbones`
runs all).
"""

import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
import pytest
from keras_hub.src.models.sam.sam_layers import MultiHeadAttentionWithDownsampling
from keras_hub.src.models.sam3.sam3_layers import SAM3Attention
from keras_hub.src.models.stable_diffusion_3.mmdit import MMDiTBlock
from keras_hub.src.models.vae.vae_layers import Conv2DMultiHeadAttention

import extractkit
from extractkit.core.catalog import Catalog, TensorRecord
from extractkit.core.spec import INFERRED
from extractkit.core.values import Array
from extractkit.errors import ModelError
from extractkit.models.in_memory import live_model
from extractkit.models.keras_models.model import KerasModel
from tests.attention.backbones import (
    BUILDERS,
    REAL,
    TOKENS,
    VOCABULARY,
    build,
    fixed,
    inputs_of,
)
from tests.attention.chosen import chosen, probabilities, softmax
from tests.attention.expected import EXPECTED, Attention, Inputs
from tests.models.programs import values_of

ALL = "EXTRACTKIT_ALL_BACKBONES" in os.environ
KINDS = (
    *("BartBackbone", "BloomBackbone", "CLIPBackbone", "DebertaV3Backbone", "ESMBackbone"),
    *("GPT2Backbone", "GemmaBackbone", "GptOssBackbone", "LlamaBackbone", "MiTBackbone"),
    *("MistralBackbone", "MobileNetV5Backbone", "SwinTransformerBackbone", "T5Backbone"),
    *("ViTBackbone", "ViTDetBackbone", "WhisperBackbone", "XLNetBackbone"),
)
WITHOUT = {
    *("BASNetBackbone", "CSPNetBackbone", "DeepLabV3Backbone", "DenseNetBackbone"),
    *("EfficientNetBackbone", "HGNetV2Backbone", "MobileNetBackbone", "ResNetBackbone"),
    *("RetinaNetBackbone", "VGGBackbone", "XceptionBackbone"),
    "FNetBackbone",  # Fourier transforms
    "RWKV7Backbone",  # recurrent
    *("Backbone", "FeaturePyramidBackbone"),  # base classes
}
"""Backbones without attention."""
NOT_BUILT = {
    "SAM3PromptableConceptBackbone": "six parts, each a model of its own",
    "StableDiffusion3Backbone": "its scheduler needs the number of steps as a Python number",
}
UNFREE = ("Qwen3_5Backbone", "Qwen3_5MoeBackbone", "Gemma4Backbone")
"""Test the length of the text in Python, so that they can only be traced for a fixed length."""


def test_every_backbone_is_classified() -> None:
    """A new backbone needs a builder and expectations, or a place among those without."""
    known = vars(keras_hub.models).values()
    found = {one.__name__ for one in known if isinstance(one, type) and "Backbone" in one.__name__}
    assert found == set(BUILDERS) | WITHOUT | set(NOT_BUILT)
    assert set(EXPECTED) == set(BUILDERS)


def product(record: TensorRecord, catalog: Catalog) -> tuple[str, str, str]:
    """The nearest product from which probabilities are computed, of Q and K.

    Returns its formula for NumPy, and the addresses of its operands.
    """
    assert catalog.edges is not None
    positions = {one.address: at for at, one in enumerate(catalog.records)}
    todo = [positions[record.address]]
    for at in todo:
        before = list(catalog.edges.consumed[at])
        kind = catalog.records[at].op_type
        if kind in ("Einsum", "BatchMatMulV2"):
            # An operand may have several addresses, one after the other.
            query, key = catalog.records[before[0]], catalog.records[before[-1]]
            rank = len(query.spec.dims or ())
            einsum = {3: "btd,bsd->bts", 4: "btnh,bsnh->bnts", 5: "btkgh,bskh->bkgts"}[rank]
            formula = einsum if kind == "Einsum" else "...qd,...dk->...qk"
            return formula, query.address, key.address
        todo += [one for one in before if one not in todo]
    raise AssertionError(f"{record.address} is not computed from a product")


def scores(expected: Attention, formula: str, one: Array, other: Array) -> Array:
    """The scores of queries and keys as the layer multiplies them, in float64."""
    products = np.einsum(formula, one.astype(np.float64), other.astype(np.float64))
    products = products.swapaxes(-1, -2) if expected.turned else products
    root = 1 / np.sqrt(one.shape[-1])
    scaled = products * (root if expected.scale == "root" else float(expected.scale or 1))
    cap = expected.cap
    return np.asarray(scaled if cap is None else cap * np.tanh(scaled / cap))


def unmasked(expected: Attention, inputs: Inputs, shape: tuple[int, ...]) -> Array:
    """The mask for probabilities of this shape, whose first axis may be (samples × windows)."""
    mask = expected.mask(inputs)
    mask = mask.reshape(mask.shape[0], *(1,) * (len(shape) - 3), *mask.shape[1:])
    return np.broadcast_to(mask, shape)


@pytest.mark.parametrize("name", BUILDERS if ALL else KINDS)
@pytest.mark.filterwarnings("ignore::UserWarning:keras")
def test_probabilities(name: str) -> None:
    backbone = build(name)
    model = live_model(fixed(backbone) if name in UNFREE else backbone)
    compare(model, EXPECTED[name])


LAYERS: dict[str, tuple[Callable[[], Any], list[tuple[int, ...]], Attention]] = {
    "MultiHeadAttentionWithDownsampling": (
        lambda: MultiHeadAttentionWithDownsampling(2, 3),
        [(5, 6), (7, 6), (7, 6)],
        Attention(),
    ),
    "SAM3Attention": (lambda: SAM3Attention(6, 2), [(5, 6), (7, 6), (7, 6)], Attention()),
    "Conv2DMultiHeadAttention": (
        lambda: Conv2DMultiHeadAttention(4, groups=2),
        [(2, 3, 4)],
        Attention(dims=("sample", "query", "key"), scale=1),
    ),
    "MMDiTBlock": (lambda: MMDiTBlock(2, 8), [(4, 8), (3, 8), (8,)], Attention(empty=0)),
}
"""Layers of backbones that are not built here: SAM's decoder, SAM 3, VAE, Stable Diffusion 3."""


@pytest.mark.parametrize("name", LAYERS)
def test_layers_alone(name: str) -> None:
    make, shapes, expected = LAYERS[name]
    given = [keras.Input(shape) for shape in shapes]
    model = keras.Model(given, make()(*given))
    random = np.random.default_rng(0)
    model.set_weights([random.normal(scale=0.4, size=w.shape) for w in model.weights])
    compare(live_model(model), [expected])


def compare(model: KerasModel, attentions: Sequence[Attention]) -> None:
    """Compare what is chosen in a model with what is expected of each attention."""
    records, inputs = chosen(model), inputs_of(model.signature.specs)
    assert len(records) == len(attentions)
    operands = {
        record.address: product(record, model.catalog)
        for record, expected in zip(records, attentions, strict=True)
        if expected.scale is not None
    }
    wanted = (one.address for one in records), *(pair for _, *pair in operands.values())
    found = values_of(model, dict.fromkeys(itertools.chain(*wanted)), inputs)
    for record, expected in zip(records, attentions, strict=True):
        check_rows(found[record.address], expected, inputs, record.address)
        if expected.scale is not None:
            formula, *pair = operands[record.address]
            scored = scores(expected, formula, *(found[address] for address in pair))
            check_softmax(found[record.address], scored, expected, inputs)
        names = tuple(
            one.name if one.name in INFERRED else None for one in record.stored_dims or ()
        )
        assert names[1:] == expected.dims[1:], record.address


def check_rows(values: Array, expected: Attention, inputs: Inputs, address: str) -> None:
    """Check probabilities, (…, queries, keys): masked keys have none, and rows sum to one."""
    attended = values[..., :-1] if expected.sink else values
    mask = unmasked(expected, inputs, attended.shape)
    assert not attended[~mask & mask.any(-1, keepdims=True)].any(), address
    assert (attended[mask] > 0).all(), address
    sums = np.where(mask.any(-1) | expected.sink, 1, expected.empty)
    np.testing.assert_allclose(values.sum(-1), sums, rtol=1e-5, err_msg=address)


def check_softmax(values: Array, scored: Array, expected: Attention, inputs: Inputs) -> None:
    """Check probabilities against the softmax of the scores, in rows with a key."""
    mask = unmasked(expected, inputs, values.shape)
    kept = mask.any(-1)
    np.testing.assert_allclose(values[kept], softmax(scored, mask)[kept], atol=2e-6)


@pytest.mark.skipif(not ALL, reason="a whole job")
def test_samples_of_a_run_do_not_mask_each_other(tmp_path: Path) -> None:
    """XLNet's masks depend on the batch. That is measured, and samples do not share one."""
    backbone = build("XLNetBackbone")
    model = live_model(backbone)
    inputs = {
        "token_ids": np.random.default_rng(0).integers(1, VOCABULARY, (5, TOKENS), "int32"),
        "segment_ids": np.zeros((5, TOKENS), np.int32),
        "padding_mask": np.tri(5, TOKENS, REAL - 1, dtype=np.int32),
    }
    run = extractkit.extract(
        ["selectors=attention"], model=backbone, inputs=inputs, run_dir=tmp_path / "run"
    )
    (view,) = run.values()
    for index, value in enumerate(view):
        (alone,) = probabilities(
            model, {name: array[index : index + 1] for name, array in inputs.items()}
        ).values()
        np.testing.assert_allclose(value, alone[0], atol=1e-6)


def test_untraceable_lengths() -> None:
    with pytest.raises(ModelError, match=r"symbolic `tf\.Tensor` as a Python `bool`"):
        assert live_model(build("Qwen3_5Backbone")).catalog
