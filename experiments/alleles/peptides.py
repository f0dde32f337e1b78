"""Real peptides as the models of mhcnuggets take them.

    python -m experiments.alleles.peptides MODELS FILE

draws peptides whose binding was measured from the package's training data (see
experiments/real_models), as many of either class of MHC, and writes them to FILE (.npy, encoded)
and beside it as a text, one a line.
"""

import csv
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from experiments.real_models.fetch import unpacked

PEPTIDES = 256
"""Of either class."""

CLASSES = ("mhcI", "mhcII")
LENGTHS = range(8, 16)  # what an input of 15 residues holds; shorter ones bind no MHC
RESIDUES = "ACDEFGHIKLMNPQRSTVWYX"

# Source: `AA_SOFTHOT` and `MASK_VALUE` of mhcnuggets/src/aa_embeddings.py.
_SELF, _OTHER, _PADDING = 0.9, 0.1 / (len(RESIDUES) - 1), -4200000.0


def measurements(package: Path, kind: str) -> Iterator[dict[str, str]]:
    """The rows of a class's training data that were measured."""
    file = package / "mhcnuggets" / "data" / "production" / kind / "curated_training_data.csv"
    with file.open(encoding="utf-8", newline="") as lines:
        yield from (row for row in csv.DictReader(lines) if row["measurement_source"] != "random")


def drawn(package: Path, count: int, seed: int = 0) -> list[str]:
    """`count` peptides of each class, no two alike."""
    chosen: list[str] = []
    for kind in CLASSES:
        found = {row["peptide"] for row in measurements(package, kind)}
        usable = sorted(p for p in found - set(chosen) if len(p) in LENGTHS)
        chosen += random.Random(seed).sample(usable, count)
    return chosen


def encoded(peptides: Sequence[str]) -> np.ndarray:
    """float32 (peptides, 15, 21); what is beyond a peptide's end is masked."""
    values = np.full((len(peptides), LENGTHS[-1], len(RESIDUES)), _PADDING, np.float32)
    for row, peptide in zip(values, peptides, strict=True):
        row[: len(peptide)] = _OTHER
        row[range(len(peptide)), [RESIDUES.index(residue) for residue in peptide]] = _SELF
    return values


if __name__ == "__main__":
    models, target = map(Path, sys.argv[1:])
    texts = drawn(unpacked("mhcnuggets", models), PEPTIDES)
    target.parent.mkdir(parents=True, exist_ok=True)
    np.save(target, encoded(texts))
    target.with_suffix(".txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
