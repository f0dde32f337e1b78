"""Peak resident memory of a whole run with few samples and with many, each in its own process."""

import tempfile
from pathlib import Path

from benchmarks.peak import peak_of
from tests.corpus import stdlib_docstrings

SAMPLES = 400
TIMES = 20


def main() -> None:
    """Print both peaks and their ratio."""
    with tempfile.TemporaryDirectory() as name:
        few = _peak(Path(name), SAMPLES)
        many = _peak(Path(name), SAMPLES * TIMES)
    print(
        f"  {SAMPLES} samples: {few / 1e6:.0f} MB, {SAMPLES * TIMES} samples: {many / 1e6:.0f} MB, "
        f"ratio {many / few:.3f}"
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
