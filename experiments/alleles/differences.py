"""How far the models of two alleles are from each other, in weights and in what they compute."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import extractkit
from experiments.alleles.loci import OTHER, classes, loci, measured, parents
from experiments.similarity import cka, distances


@dataclass(frozen=True, eq=False)
class Alleles:
    """All alleles, in the order of class, locus and name.

    Attributes:
        names, kind, locus, measurements: those of each allele.
        tuned: whether its training began with the weights of another one, according to the package.
        moved: the distance of each allele's weights from those of its class's root, the allele with
            most measurements.
        far: the distances of all pairs in several respects: (alleles, alleles).
    """

    names: np.ndarray
    kind: np.ndarray
    locus: np.ndarray
    measurements: np.ndarray
    tuned: np.ndarray
    moved: np.ndarray
    far: dict[str, np.ndarray]

    def members(self, kind: str) -> np.ndarray:
        """Return the positions of a class's alleles with a known locus and moved weights."""
        return np.flatnonzero((self.kind == kind) & (self.locus != OTHER) & (self.moved > 0))


def alleles(run: extractkit.Run, package: Path) -> Alleles:
    """Return the alleles of a run."""
    data = run.to_xarray()
    names = np.array([label.removesuffix("_BA") for label in data["checkpoint"].values])
    kind, locus = classes(package, names), loci(names)
    order = np.lexsort((names, locus, locus == OTHER, kind))
    data, names, kind, locus = data.isel(checkpoint=order), names[order], kind[order], locus[order]
    counts, tuned = measured(package, names), np.isin(names, list(parents(package)))
    weights = np.concatenate(
        [data[key].values.reshape(len(names), -1) for key in run.select(kind="weight")], axis=1
    ).astype(np.float64)
    roots = {one: np.where(kind == one, counts, -1).argmax() for one in np.unique(kind)}
    steps = weights - weights[[roots[one] for one in kind]]
    moved = np.linalg.norm(steps, axis=1)
    ways = steps / np.maximum(moved, np.finfo(np.float64).tiny)[:, None]
    far = {
        "weights": distances(weights) / np.median(np.linalg.norm(weights, axis=1)),
        "weights' direction": 1 - ways @ ways.T,
        "LSTM": 1 - cka(data["lstm:output"].values),
        "hidden layer": 1 - cka(data["hidden:output"].values),
        "affinity": 1 - np.corrcoef(data["affinity:output"].values[..., 0]),
    }
    return Alleles(names, kind, locus, counts, tuned, moved, far)
