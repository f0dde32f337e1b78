"""Attention and outputs of models of transformers equal what their own call returns."""

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers", "4")

from extractkit import extract
from extractkit.errors import InputError
from tests.optional.hugging_face.zoo import MODELS, arrays, saved

pytestmark = pytest.mark.hugging_face


def stored(directory: Path, tmp_path: Path, name: str, *overrides: str) -> Any:
    np.savez(tmp_path / "inputs.npz", **arrays(name))
    return extract(
        [
            "model=hugging_face", f"model.path={directory}", "inputs=arrays",
            f"inputs.path={tmp_path / 'inputs.npz'}", "selectors=[attention,outputs]", *overrides,
        ],
        run_dir=tmp_path / "run",
    )  # fmt: skip


def tensors(value: Any, path: str = "") -> dict[str, np.ndarray[Any, Any]]:
    """Every tensor of what the model returns, by its path."""
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    else:
        return {path: np.asarray(value)}
    found = {}
    for key, part in parts:
        found |= tensors(part, f"{path}.{key}")
    return found


def attentions(output: Any) -> list[np.ndarray[Any, Any]]:
    """All attention probabilities that a model returns if it is asked to."""
    names = ("attentions", "encoder_attentions", "decoder_attentions", "cross_attentions")
    parts = [output, *(output.get(k) for k in ("text_model_output", "vision_model_output"))]
    found = []
    for part in parts:
        for name in names if part is not None else ():
            found += [np.asarray(one) for one in part.get(name) or ()]
    return found


@pytest.mark.parametrize("name", sorted(MODELS))
def test_attention_and_outputs_equal_the_models_own_call(name: str, tmp_path: Path) -> None:
    model = saved(name, tmp_path / "dir")
    run = stored(tmp_path / "dir", tmp_path, name)
    given = arrays(name)
    plain = tensors(dict(model(given, training=False)))
    outputs = {key: run[key] for key in run if key.startswith(":output")}
    assert {f":output{path}" for path in plain} >= set(outputs)
    assert len(outputs) >= 1
    for address, view in outputs.items():
        wanted = plain[address.removeprefix(":output")]
        if name == "gpt2" and "past_key_values" in address:
            wanted = np.moveaxis(wanted, 1, 0)  # keys and values stand before the samples
        np.testing.assert_allclose(np.asarray(view), wanted, rtol=1e-5, atol=1e-5)
    # Only what belongs to a batch as a whole (CLIP's logits over pairs) is left out.
    missing = {path for path in plain if f":output{path}" not in outputs}
    assert missing == ({".logits_per_image", ".logits_per_text"} if name == "clip" else set())

    own = attentions(
        model(given, training=False, output_attentions=True, output_hidden_states=False)
    )
    ours = [np.asarray(run[key]) for key in run if "Softmax" in key]
    assert len(ours) == len(own)
    for wanted in own:
        apart = [np.abs(one - wanted).max() for one in ours if one.shape == wanted.shape]
        assert min(apart) < 1e-6


@pytest.mark.parametrize(
    ("name", "given"), [("bert", ("input_ids",)), ("t5", ("input_ids", "decoder_input_ids"))]
)
def test_inputs_that_are_not_given_are_left_to_the_model_as_advised(
    name: str, given: tuple[str, ...], tmp_path: Path
) -> None:
    model = saved(name, tmp_path / "dir")
    some = {key: array for key, array in arrays(name).items() if key in given}
    np.savez(tmp_path / "some.npz", **some)
    job = [
        "model=hugging_face", f"model.path={tmp_path / 'dir'}", "selectors=outputs",
        "inputs=arrays", f"inputs.path={tmp_path / 'some.npz'}",
    ]  # fmt: skip
    with pytest.raises(InputError) as refused:
        extract(job, run_dir=tmp_path / "run")
    (advised,) = shlex.split(str(refused.value).rpartition("for the others: ")[2])
    run = extract([*job, advised], run_dir=tmp_path / "run")
    address = ":output.last_hidden_state"
    wanted = model(some, training=False).last_hidden_state
    np.testing.assert_allclose(np.asarray(run[address]), wanted, rtol=1e-5, atol=1e-5)
