"""Peak resident memory of statistics over 1,000 samples and over 100,000, each in its own process.

The model is a small perceptron, and the inputs are random numbers.
"""

import tempfile
from pathlib import Path

import keras

from benchmarks.peak import peak_of

FEW, MANY = 1_000, 100_000
WIDTH = 128
STATISTICS = "[moments, covariance, quantiles, {top: {k: 10}}, {histogram: {range: [0, 4]}}]"


def main() -> None:
    """Print both peaks and their ratio."""
    with tempfile.TemporaryDirectory() as name:
        model = Path(name) / "perceptron.keras"
        _perceptron().save(model)
        few, many = (_peak(model, count) for count in (FEW, MANY))
    print(
        f"  {FEW:,} samples: {few / 1e6:.0f} MB, {MANY:,} samples: {many / 1e6:.0f} MB, "
        f"ratio {many / few:.3f}"
    )


def _perceptron() -> keras.Model:
    hidden = [keras.layers.Dense(WIDTH, "relu", name=f"hidden_{at}") for at in range(3)]
    return keras.Sequential([keras.Input((WIDTH,), name="features"), *hidden])


def _peak(model: Path, count: int) -> int:
    return peak_of(
        [
            *("model=keras", f"model.path={model}", "inputs=random", f"inputs.samples={count}"),
            *("selectors=none", "runtime.batch_size=256"),
            f"+selectors.hidden={{regex: 'hidden_.*:output', statistics: {STATISTICS}}}",
            f"run_dir={model.parent / str(count)}",
        ]
    )
