"""Pictures for TFLite files whose input is quantised, against the model before it was quantised."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import extractkit
from extractkit.errors import InputError
from extractkit.inputs import InputSpec, Quantized, Signature
from extractkit.inputs.pictures import Pixels

SIDE = 6
_DRAW = np.random.default_rng(0)
_KERNEL = _DRAW.normal(size=(SIDE * SIDE * 3, 4)).astype(np.float32) / 10
# Dark, so that a file that was calibrated with them has no usual scale.
DARK = _DRAW.integers(0, 129, (4, SIDE, SIDE, 3)).astype(np.uint8)
BRIGHT = _DRAW.integers(0, 256, (4, SIDE, SIDE, 3)).astype(np.uint8)
DARK[0, 0, 0, 0], DARK[0, 0, 0, 1] = 0, 128
BRIGHT[0, 0, 0, 0], BRIGHT[0, 0, 0, 1] = 0, 255

IN_RANGE = {
    None: lambda pixels: pixels,
    "unit": lambda pixels: pixels / 255,
    "signed": lambda pixels: pixels / 127.5 - 1,
}


@cache
def quantised(trained_on: str | None, dtype: str, dark: bool) -> bytes:
    """A model that takes pictures in a range, quantised by pictures of that range."""
    largest = 255.0 if trained_on is None else 1.0
    pictures = DARK if dark else BRIGHT
    real = IN_RANGE[trained_on](pictures.astype(np.float32)).astype(np.float32)

    def call(x: tf.Tensor) -> tf.Tensor:
        return tf.tanh(tf.reshape(x, [1, -1]) @ tf.constant(_KERNEL / largest))

    takes = [tf.TensorSpec([1, SIDE, SIDE, 3], name="x")]
    function = tf.function(call, input_signature=takes, autograph=False)
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], tf.Module()
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([one[None]] for one in real)
    converter.inference_input_type = converter.inference_output_type = getattr(tf, dtype)
    converted: bytes = converter.convert()
    return converted


@pytest.mark.parametrize(
    ("trained_on", "dtype", "dark", "scale", "noted"),
    [
        (None, "uint8", False, None, False),
        ("unit", "uint8", False, None, False),
        ("unit", "int8", False, None, False),
        ("signed", "uint8", False, None, False),
        ("unit", "int8", False, "unit", False),
        ("unit", "uint8", True, None, True),
        ("unit", "uint8", True, "unit", False),
        ("signed", "int8", True, "signed", False),
    ],
)
def test_values_are_those_of_the_float_model(
    tmp_path: Path, trained_on: str | None, dtype: str, dark: bool, scale: str | None, noted: bool
) -> None:
    (tmp_path / "net.tflite").write_bytes(quantised(trained_on, dtype, dark))
    pictures = DARK if dark else BRIGHT
    for number, picture in enumerate(pictures):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "in" / f"{number}.png")
    given = ["model=tflite", f"model.path={tmp_path / 'net.tflite'}", "selectors=ops"]
    given += ["inputs=images", f"inputs.path={tmp_path / 'in'}"]
    run: Any = extractkit.extract(
        given + ([] if scale is None else [f"inputs.scale={scale}"]), run_dir=tmp_path / "run"
    )
    # The output made real, in the file's last tensor but one or last.
    (address,) = [
        record.address
        for record in (tensor.record for tensor in run.manifest.tensors)
        if record.spec.shape == (None, 4) and record.address.endswith(":dequantized")
    ][-1:]
    real = IN_RANGE[trained_on](pictures.astype(np.float32))
    largest = 255.0 if trained_on is None else 1.0
    expected = np.tanh(real.reshape(len(real), -1) @ (_KERNEL / largest))
    error = np.abs(np.asarray(run[address]) - expected).max()
    assert (error > 0.1) if noted else (error < 0.03)
    notes = [note for note in run.manifest.inputs.notes if "quantised with scale" in note]
    assert len(notes) == noted
    assert not noted or "inputs.scale=unit" in notes[0]


def signature(dtype: str, scale: float, zero_point: int) -> Signature:
    quantized = Quantized(scale, zero_point)
    spec = InputSpec("x", dtype, (6, 6, 3), (None, None, None), quantized=quantized)
    return Signature("m", (spec,))


@pytest.mark.parametrize(
    ("dtype", "scale", "zero_point"),
    [
        ("uint8", 1.0, 0),
        ("uint8", float(np.float32(1 / 255)), 0),
        ("int8", float(np.float32(1 / 255)), -128),
        ("uint8", 0.0078125, 128),  # as MobileNet's files have it
        ("uint8", float(np.float32(1 / 127.5)), 127),
        ("int8", float(np.float32(1 / 127.5)), -1),
        ("int16", 1.0, 0),
    ],
)
def test_usual_forms_of_pixels_need_no_note(dtype: str, scale: float, zero_point: int) -> None:
    takes = signature(dtype, scale, zero_point)
    assert Pixels.of(takes.specs[0], takes).note is None


def test_what_is_noted_of_other_forms() -> None:
    takes = signature("uint8", 0.01865, 114)
    assert Pixels.of(takes.specs[0], takes).note == (
        "input 'x' of model 'm' takes uint8, quantised with scale 0.01865 and zero point 114. "
        "Pixels are given as they are, so that 0 to 255 mean -2.126 to 2.63. If the model was "
        "trained on pixels from 0 to 1: inputs.scale=unit; from -1 to 1: inputs.scale=signed; "
        "otherwise, give arrays, inputs=arrays, quantised, in NumPy: np.clip(np.round(pixels / "
        "0.01865) + 114, 0, 255).astype('uint8')"
    )
    # Pictures in TFRecords have no such setting.
    note = Pixels.of(takes.specs[0], takes, scalable=False).note
    assert "If the model was trained on other pixels, give arrays" in (note or "")
    wide = signature("int16", 1 / 32767, 0)
    with pytest.raises(InputError, match="for which pixels from 0 to 255 have no usual form"):
        Pixels.of(wide.specs[0], wide)
