"""Arrays of texts, for models that take some."""

from pathlib import Path

import numpy as np
import pytest

from extractkit.core.values import Array
from extractkit.errors import InputError
from extractkit.inputs import InputSpec, Signature
from extractkit.inputs.arrays import Arrays
from extractkit.inputs.in_memory import LiveArrays
from extractkit.inputs.random import Random
from extractkit.testing.inputs import read_all

TEXT = Signature("m", (InputSpec("x", "string", (), ()),), takes_text=True)
WORDS = ["one", "bé", ""]


def items(given: Array) -> list[object]:
    source = LiveArrays(given).bind(TEXT)
    values = [sample.data["x"] for sample in source.read(0, len(source))]  # type: ignore[index]
    assert {(value.dtype, value.shape) for value in values} == {(np.dtype(object), ())}
    return [value.item() for value in values]


def test_texts_become_objects() -> None:
    encoded = [word.encode() for word in WORDS]
    assert items(np.array(WORDS)) == WORDS
    assert items(np.array(WORDS, object)) == WORDS
    assert items(np.array(encoded)) == encoded
    assert items(np.array(encoded, object)) == encoded


def test_the_digest_is_of_the_texts_not_of_the_width_they_are_stored_in(
    tmp_path: Path,
) -> None:
    np.save(tmp_path / "x.npy", np.array(WORDS, "U40"))
    forms = [
        Arrays(tmp_path / "x.npy"),
        LiveArrays(np.array(WORDS)),
        LiveArrays(np.array([word.encode() for word in WORDS], object)),
    ]
    assert len({form.bind(TEXT).digest for form in forms}) == 1
    joined = np.array(["on", "ebé", ""])
    assert LiveArrays(joined).bind(TEXT).digest != forms[1].bind(TEXT).digest


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.array(["a", 7], object), "inputs: 'x' is int, not a text: 7"),
        (np.array(["a\ud800"], object), "inputs: 'x' holds '\\ud800', half a surrogate pair, "
         "which is not a character"),
        (np.array([1.5]), "inputs: 'x' is float64, model 'm' takes string. This is not converted "
         "automatically. If you mean it, in NumPy: array.astype('str')"),
    ],
)  # fmt: skip
def test_what_is_no_text_is_refused(given: Array, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_all(LiveArrays(given), TEXT)
    assert str(caught.value) == message


def test_texts_are_not_drawn_at_random() -> None:
    with pytest.raises(InputError) as caught:
        Random().bind(TEXT)
    assert str(caught.value) == (
        "inputs=random makes numbers, and input 'x' of model 'm' is string (it takes "
        "x: string (samples)). Try inputs=texts or inputs=arrays"
    )
