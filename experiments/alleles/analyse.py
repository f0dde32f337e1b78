"""How the LSTM's weights and activations differ between alleles.

    python -m experiments.alleles.analyse MODELS RUN FOLDER

writes `result.json` and `result.png` into FOLDER, and prints the page's tables.
"""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import extractkit
from experiments.alleles.figure import draw
from experiments.alleles.groups import Grouping, grouping, mantel
from experiments.alleles.loci import OTHER, classes, loci, measured, parents
from experiments.alleles.peptides import CLASSES
from experiments.real_models.fetch import unpacked
from experiments.result import FIGURE, write
from experiments.similarity import cka, distances, rank_correlation


@dataclass(frozen=True, eq=False)
class Alleles:
    """All of them, in the order of class, locus and name.

    Attributes:
        names, kind, locus, measurements: of each allele.
        tuned: whether the package says that its training began with another one's weights.
        moved: of each the distance of its weights from those of its class's root: the allele of
            which most was measured.
        far: how far any two are from each other, in several respects: (alleles, alleles).
    """

    names: np.ndarray
    kind: np.ndarray
    locus: np.ndarray
    measurements: np.ndarray
    tuned: np.ndarray
    moved: np.ndarray
    far: dict[str, np.ndarray]

    def members(self, kind: str) -> np.ndarray:
        """The places of a class's alleles whose locus is known, and whose weights moved."""
        return np.flatnonzero((self.kind == kind) & (self.locus != OTHER) & (self.moved > 0))


def alleles(run: extractkit.Run, package: Path) -> Alleles:
    """What a run says of them."""
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


def by_locus(found: Alleles) -> dict[str, dict[str, Grouping]]:
    """How loci show in each respect: among all alleles, and within either class."""
    known = np.flatnonzero((found.locus != OTHER) & (found.moved > 0))
    places = {"all": known, **{kind: found.members(kind) for kind in CLASSES}}
    return {
        name: {who: grouping(far[np.ix_(at, at)], found.locus[at]) for who, at in places.items()}
        for name, far in found.far.items()
    }


def weights_tell(found: Alleles) -> dict[str, dict[str, tuple[float, float]]]:
    """Rank correlation of the weights' distances with all others, and its p-value."""
    blocks = {kind: np.ix_(at, at) for kind in CLASSES for at in [found.members(kind)]}
    return {
        name: {
            kind: mantel(found.far["weights"][block], far[block]) for kind, block in blocks.items()
        }
        for name, far in found.far.items()
        if name != "weights"
    }


def lineage(found: Alleles, package: Path) -> dict[str, int]:
    """For how many alleles the nearest weights are those that they were tuned from."""
    places = {name: place for place, name in enumerate(found.names)}
    known = {a: b for a, b in parents(package).items() if a in places and b in places}
    apart = found.far["weights"] + np.diag(np.full(len(places), np.inf))
    nearest = [apart[places[a]].argmin() == places[b] for a, b in known.items()]
    return {"alleles": len(known), "nearest_is_parent": int(sum(nearest))}


def main(models: Path, directory: Path, folder: Path) -> None:
    """Write the result, draw it, print its tables."""
    run, package = extractkit.open(directory), unpacked("mhcnuggets", models)
    found = alleles(run, package)
    groups, tell = by_locus(found), weights_tell(found)
    same = found.kind[:, None] == found.kind
    apart, others = found.far["weights"], ~np.eye(len(same), dtype=bool)
    numbers = {
        "alleles": dict(zip(*np.unique(found.locus, return_counts=True), strict=True)),
        "weights_within_class": float(apart[same & others].max()),
        "weights_between_classes": float(apart[~same].min()),
        "roots": list(found.names[found.moved == 0]),
        "moved_with_measurements": {
            kind: rank_correlation(found.moved[own], found.measurements[own])
            for kind in CLASSES for own in [(found.kind == kind) & ~found.tuned & (found.moved > 0)]
        },
        "lineage": lineage(found, package),
        "loci": {name: {who: asdict(one) for who, one in own.items()}
                 for name, own in groups.items()},
        "rank_correlation_with_weights": tell,
    }  # fmt: skip
    write(folder, [run], numbers)
    draw(found, groups, folder / FIGURE)
    for name, own in groups.items():
        cells = [f"{one.ratio:.2f} ({one.ratio_p:.3f})" for one in own.values()]
        cells += [f"{own[k].nearest:.2f} (≤ {own[k].nearest_chance[1]:.2f})" for k in CLASSES]
        cells += [f"{tell[name][k][0]:.2f}" if name in tell else "" for k in CLASSES]
        print(f"| {name} |", " | ".join(cells), "|")
    print({key: numbers[key] for key in ("roots", "moved_with_measurements", "lineage")})
    print({key: value for key, value in numbers.items() if key.startswith("weights")})


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
