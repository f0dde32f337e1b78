"""Peak resident memory of a whole run with N samples and with 20 N, each in its own process."""

import subprocess
import sys
import tempfile
from pathlib import Path

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
    measured = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.peak", sys.executable, "-m", "extractkit"),
            *("model=bert", "+selectors.hidden.regex='^transformer_layer_[0-9]+:output'"),
            *(f"inputs.path={path}", f"run_dir={folder / str(count)}"),
        ],
        stdout=subprocess.PIPE,
        check=True,
    )
    return int(measured.stdout)
