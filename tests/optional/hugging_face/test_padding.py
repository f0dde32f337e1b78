"""Samples of any lengths share a batch where the model ignores padding, and only there.

The oracle is the model's own call with `output_hidden_states`, on one sample at a time.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers", "4")

from extractkit import extract
from extractkit.engine.sharing import Sharing
from tests.optional.hugging_face.zoo import VOCABULARY, saved

pytestmark = pytest.mark.hugging_face

LENGTHS = (7, 3, 20, 1, 12, 5, 2, 9, 20, 4)


def rows(*names: str) -> list[dict[str, Any]]:
    """Rows of ids, with ones as the mask and zeros for anything else."""
    draw = np.random.default_rng(3)
    found = []
    for length in LENGTHS:
        ids = draw.integers(3, VOCABULARY, length).astype("int32")
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        found.append({name: inputs.get(name, np.zeros_like(ids)) for name in names})
    return found


def largest_difference(run: Any, model: Any, samples: list[dict[str, Any]]) -> float:
    """Compare hidden states of each sample alone with the nearest stored tensor."""
    alone = [
        model({name: array[None] for name, array in sample.items()}, output_hidden_states=True)
        for sample in samples
    ]
    states = range(len(alone[0].hidden_states))
    found = []
    for state in states:
        wanted = [np.asarray(one.hidden_states[state][0]) for one in alone]
        apart = []
        for view in run.values():
            values = [view.sample(at) for at in range(len(samples))]
            if all(a.shape == b.shape for a, b in zip(values, wanted, strict=True)):
                pairs = zip(values, wanted, strict=True)
                apart.append(max(float(np.abs(a - b).max()) for a, b in pairs))
        found.append(min(apart))
    assert len(found) == 3  # embeddings and two layers
    return max(found)


def extracted(directory: Path, run_dir: Path, samples: Any, *overrides: str) -> Any:
    chosen = ("model=hugging_face", f"model.path={directory}", "selectors=[layers,outputs]")
    return extract([*chosen, *overrides], inputs=samples, run_dir=run_dir)


INPUTS = {
    "bert": ("input_ids", "attention_mask", "token_type_ids"),
    "distilbert": ("input_ids", "attention_mask"),
    "electra": ("input_ids", "attention_mask", "token_type_ids"),
    "gpt2": ("input_ids", "attention_mask"),
    "roberta": ("input_ids", "attention_mask", "token_type_ids"),
}


@pytest.mark.parametrize("name", INPUTS)
def test_padded_batches_have_the_values_of_each_sample_alone(name: str, tmp_path: Path) -> None:
    model = saved(name, tmp_path / "dir")
    samples = rows(*INPUTS[name])
    run = extracted(tmp_path / "dir", tmp_path / "run", samples)
    assert run.manifest.settings["sharing"] == Sharing.PADDED
    measured = run.manifest.volatile.sharing
    assert largest_difference(run, model, samples) < 1e-5
    assert measured.difference <= measured.tolerance < 1e-4


def test_without_its_mask_a_model_shares_no_padded_batch(tmp_path: Path) -> None:
    model = saved("bert", tmp_path / "dir")
    samples = rows("input_ids")
    run = extracted(
        tmp_path / "dir", tmp_path / "run", samples, "model.input_axes={input_ids: null}"
    )
    assert run.manifest.settings["sharing"] == Sharing.EQUAL
    measured = run.manifest.volatile.sharing
    assert measured.reason.startswith("padding changes values of ")
    assert measured.difference > 1e-2
    assert largest_difference(run, model, samples) < 1e-5
