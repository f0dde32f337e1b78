"""Alleles of mhcnuggets: which locus each belongs to, what it was trained on."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from experiments.alleles.peptides import CLASSES, measurements

OTHER = "other"

FEWEST = 4
"""A locus of fewer alleles counts as `OTHER`."""

_LOCUS = re.compile(r"HLA-[ABC](?=\d)|HLA-D[PQR]|H-2(-I[AE])?|(Mamu|Patr)-(A|B|DRB)")


def loci(alleles: Iterable[str]) -> np.ndarray:
    """The locus of each: HLA-A, HLA-DR, H-2-IA, Mamu-B, …; H-2 means H-2-D, -K and -L."""
    found = [match[0] if (match := _LOCUS.match(allele)) else OTHER for allele in alleles]
    sizes = Counter(found)
    return np.array([locus if sizes[locus] >= FEWEST else OTHER for locus in found])


def classes(package: Path, alleles: Iterable[str]) -> np.ndarray:
    """The class of MHC as which each was trained: mhcI or mhcII."""
    production = package / "mhcnuggets" / "data" / "production"
    known = {
        allele: kind
        for kind in CLASSES
        for allele in (production / kind / "alleles_with_trained_models.txt").read_text().split()
    }
    return np.array([known[allele] for allele in alleles])


def measured(package: Path, alleles: Iterable[str]) -> np.ndarray:
    """How many measurements of binding there are of each."""
    counts = Counter(
        row["mhc"].replace("*", "") for kind in CLASSES for row in measurements(package, kind)
    )
    return np.array([counts[allele] for allele in alleles])


def parents(package: Path) -> dict[str, str]:
    """The allele whose weights each was tuned from, as far as the package names it."""
    production = package / "mhcnuggets" / "data" / "production"
    lines = [
        line.split(",")
        for kind in CLASSES
        for line in (production / kind / "mhc_tuning.csv").read_text().split()
    ]
    return {allele: parent for allele, parent, *_ in lines}
