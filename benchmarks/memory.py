"""Peak resident memory of a whole run with few samples and with many, each in its own process."""

import tempfile
from pathlib import Path

from benchmarks.peak import peak_of
from tests.corpus import stdlib_docstrings

SAMPLES = 400
TIMES = 20

FEW, MANY = 1_000, 50_000
"""Numbers of samples for a small network, whose values are 2 kB for each."""


def main() -> None:
    """Print both peaks and their ratio."""
    with tempfile.TemporaryDirectory() as name:
        few = _peak(Path(name), SAMPLES)
        many = _peak(Path(name), SAMPLES * TIMES)
    print(
        f"  {SAMPLES} samples: {few / 1e6:.0f} MB, {SAMPLES * TIMES} samples: {many / 1e6:.0f} MB, "
        f"ratio {many / few:.3f}"
    )
    with tempfile.TemporaryDirectory() as name:
        few, many = (_peak_of_network(Path(name), count) for count in (FEW, MANY))
    print(
        f"  {FEW:,} small samples: {few / 1e6:.0f} MB, {MANY:,}: {many / 1e6:.0f} MB, "
        f"ratio {many / few:.3f}"
    )


def _peak_of_network(folder: Path, count: int) -> int:
    """Peak resident bytes of one run of two dense layers."""
    import keras

    path = folder / "network.keras"
    layers = [keras.layers.Dense(256, name=name) for name in ("first", "second")]
    keras.Sequential([keras.Input((64,)), *layers]).save(path)
    return peak_of(
        [
            *("model=keras", f"model.path={path}", "selectors=layers", "inputs=random"),
            *(f"inputs.samples={count}", f"run_dir={folder / str(count)}"),
        ]
    )


def _peak(folder: Path, count: int) -> int:
    """Peak resident bytes of one run; the texts' lengths are alike in both."""
    texts = stdlib_docstrings(SAMPLES) * (count // SAMPLES)
    path = folder / f"{count}.txt"
    path.write_text("\n".join(texts), encoding="utf-8")
    return peak_of(
        [
            *("model=bert", "+selectors.hidden.regex='^transformer_layer_[0-9]+:output'"),
            *(f"inputs.path={path}", f"run_dir={folder / str(count)}"),
        ]
    )
