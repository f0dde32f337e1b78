"""How far each converted model is from the Keras model, layer by layer, side by side.

    python -m experiments.quantisation.layers FOLDER

FOLDER holds the runs `keras`, `float32`, `float16` and `int8`. Prints ‖a − b‖ / ‖a‖ of every layer
that all of them have, and for how many faces the likeliest emotion is the same.
"""

import sys
from pathlib import Path

import numpy as np

import extractkit
from extractkit.runs.comparing.pairing import FileMapping

PRECISIONS = ("float32", "float16", "int8")
OUTPUTS = ("predictions:output", ":output.output_0")


def errors(original: extractkit.Run, converted: extractkit.Run, mapping: Path) -> dict[str, float]:
    """‖a − b‖ / ‖a‖ by layer, in the model's order."""
    found = extractkit.diff(original, converted, mapping=FileMapping.read(mapping))
    return {
        original[one.a].record.name: one.errors.relative_l2
        for one in found.tensors
        if one.errors is not None and one.errors.relative_l2 is not None
    }


def same_answers(original: extractkit.Run, converted: extractkit.Run) -> int:
    """For how many samples the likeliest class is the same."""
    one, other = (
        np.asarray(run[address]).argmax(axis=1)
        for run, address in zip((original, converted), OUTPUTS, strict=True)
    )
    return int((one == other).sum())


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    keras = extractkit.open(folder / "keras")
    runs = {name: extractkit.open(folder / name) for name in PRECISIONS}
    here = Path(__file__).parent
    columns = [errors(keras, run, here / f"{name}.yaml") for name, run in runs.items()]
    print("| layer |", " | ".join(PRECISIONS), "|")
    print("|---" * (1 + len(PRECISIONS)), "|", sep="")
    for layer in columns[0]:
        print(f"| {layer.partition(':')[0]} |", *(f"{own[layer]:.1e} |" for own in columns))
    answers = [same_answers(keras, run) for run in runs.values()]
    print("| same answer |", *(f"{count} of {len(keras.samples)} |" for count in answers))
