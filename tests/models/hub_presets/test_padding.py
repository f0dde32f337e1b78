"""Which backbones of keras-hub leave the values of real tokens alone when padding follows them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
import pytest

import extractkit
from extractkit.core.plan import plan_tensors
from extractkit.core.requests import Value
from extractkit.core.selectors import parse_selector
from extractkit.engine.batches import collate
from extractkit.engine.sharing import Sharing, measure_sharing
from extractkit.engine.stream import fetches
from extractkit.inputs.random import Random
from extractkit.models import Compilation, Fetch
from extractkit.models.hub import load
from extractkit.models.keras_models.model import KerasModel
from tests.models import tiny_presets

LONG, SHORT = 11, 6

MASKING: dict[str, Callable[[], Any]] = {
    "BertBackbone": tiny_presets.bert,
    "DistilBertBackbone": tiny_presets.distil_bert,
    "GPT2Backbone": tiny_presets.gpt2,
    "LlamaBackbone": tiny_presets.llama,
    "MistralBackbone": tiny_presets.mistral,
    "RobertaBackbone": tiny_presets.roberta,
}

# These mask as BERT and Llama do.
ALIKE = ("DistilBertBackbone", "MistralBackbone", "RobertaBackbone")
NAMES = [
    pytest.param(name, marks=pytest.mark.thorough) if name in ALIKE else name for name in MASKING
]


def drawn(model: KerasModel, length: int, samples: int) -> Any:
    source = Random(samples=samples, length=length).bind(model.signature)
    return model.encode(source.read(0, samples))


def difference(model: KerasModel) -> float:
    """The largest between a sample's values alone and beside a longer one, over every tensor."""
    records = [
        record
        for record in model.catalog.records
        if record.extractable and record.depends_on_inputs and "float" in record.spec.dtype
        and record.spec.dims and record.spec.dims[0].samples
        and all(dim.size or dim.follows for dim in record.spec.dims)
    ]  # fmt: skip
    assert len(records) > 50
    program = model.program([Fetch(Value(record.address)) for record in records], Compilation())
    (short,), (long,) = drawn(model, SHORT, 1), drawn(model, LONG, 1)
    alone = collate(model.signature, [short])
    padded = collate(model.signature, [short, long])
    largest = 0.0
    for record, one, two in zip(
        records,
        program(alone.features, alone.lengths),
        program(padded.features, padded.lengths),
        strict=True,
    ):
        real = tuple(slice(SHORT) if dim.free else slice(None) for dim in record.spec.axes[1:])
        apart = np.abs(np.asarray(one[0], np.float64) - two[0][real])
        # A mask is minus infinity, or the least number, on both sides.
        largest = max(largest, float(np.nanmax(np.where(one[0] == two[0][real], 0, apart))))
    return largest


def sharing(model: KerasModel, path: str) -> Sharing:
    """Who may share a batch where these tensors are wanted."""
    source = Random(samples=8, length=LONG).bind(model.signature)
    planned = plan_tensors(model.catalog, [parse_selector("mine", {"path": path})])
    tensors = [tensor for tensor in planned if tensor.layout is not None]
    program = model.program(fetches(tensors), Compilation())
    return measure_sharing(model, source, program, tensors).sharing


@pytest.mark.parametrize("name", NAMES)
def test_real_tokens_do_not_change_with_padding(name: str, tmp_path: Path) -> None:
    model = load(str(tiny_presets.saved(MASKING[name], tmp_path / "preset")))
    assert type(model.keras_model).__name__ == name
    assert sharing(model, ":output*") is Sharing.PADDED
    assert difference(model) < 1e-5


def test_a_causal_task_masks_as_its_backbone_does(tmp_path: Path) -> None:
    directory = tiny_presets.saved(tiny_presets.gpt2, tmp_path / "preset")
    model = load(str(directory), task="CausalLM")
    assert sharing(model, ":output*") is Sharing.PADDED
    assert difference(model) < 1e-5


LENGTHS = (5, 4, 11, 3, 8, 2, 11, 6)


def by_keras_hub(directory: Path) -> Any:
    """Return a model of the outputs of every layer of the backbone, as keras-hub loads it."""
    backbone = keras_hub.models.Backbone.from_preset(str(directory))
    hidden = [layer.output for layer in backbone.transformer_layers]
    inputs = {one.name: one for one in backbone.inputs}
    return keras.Model(inputs, [*hidden, *keras.tree.flatten(backbone.output)])


@pytest.mark.parametrize("name", NAMES)
def test_padded_batches_have_the_values_of_each_sample_alone(name: str, tmp_path: Path) -> None:
    """Measured without extractkit: keras-hub loads the preset and calls it sample by sample."""
    directory = tiny_presets.saved(MASKING[name], tmp_path / "preset")
    draw = np.random.default_rng(0)
    samples = [draw.integers(1, 9, length).astype("int32") for length in LENGTHS]
    own = by_keras_hub(directory)
    names = list(own.input)
    ones = [{"token_ids": ids, "padding_mask": np.ones_like(ids)} for ids in samples]
    rows = [{n: row.get(n, np.zeros_like(row["token_ids"])) for n in names} for row in ones]
    run = extractkit.extract(
        ["model=keras_hub", f"model.path={directory}", "runtime.self_check=false",
         "selectors=outputs",
         "+selectors.hidden={path: 'transformer_layer_*:output', not: {path: '*/*'}}"],
        inputs=rows, run_dir=tmp_path / "run",
    )  # fmt: skip
    assert run.manifest.settings["sharing"] == Sharing.PADDED
    for index, row in enumerate(rows):
        wanted = [np.asarray(one)[0] for one in own({n: row[n][None] for n in names})]
        stored = [view.sample(index) for view in run.values()]
        assert len(stored) == len(wanted) >= 3
        for values in stored:
            same = [np.abs(values - one).max() for one in wanted if one.shape == values.shape]
            assert min(same) < 1e-5
