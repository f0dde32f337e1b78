"""How the LSTM's weights and activations differ between alleles.

    python -m experiments.alleles.analyse MODELS RUN FOLDER

writes `result.json` and `result.png` into FOLDER, and prints the page's tables.
"""

import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

import extractkit
from experiments.alleles.differences import Alleles, alleles
from experiments.alleles.figure import draw
from experiments.alleles.groups import Grouping, grouping, mantel
from experiments.alleles.loci import OTHER, parents
from experiments.alleles.peptides import CLASSES
from experiments.real_models.fetch import unpacked
from experiments.result import FIGURE, write
from experiments.similarity import rank_correlation

ACTIVATIONS = ("LSTM", "hidden layer", "affinity")


def by_locus(found: Alleles) -> dict[str, dict[str, Grouping]]:
    """How loci show in each respect: among all alleles, and within either class."""
    known = np.flatnonzero((found.locus != OTHER) & (found.moved > 0))
    places = {"all": known, **{kind: found.members(kind) for kind in CLASSES}}
    return {
        name: {who: grouping(far[np.ix_(at, at)], found.locus[at]) for who, at in places.items()}
        for name, far in found.far.items()
    }


def predicted_by(found: Alleles, by: np.ndarray) -> dict[str, dict[str, tuple[float, float]]]:
    """Rank correlation of some distances with those of activations, within a class; its p-value."""
    blocks = {kind: np.ix_(at, at) for kind in CLASSES for at in [found.members(kind)]}
    return {
        name: {kind: mantel(by[block], found.far[name][block]) for kind, block in blocks.items()}
        for name in ACTIVATIONS
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
    groups = by_locus(found)
    predicted = {
        "weights": predicted_by(found, found.far["weights"]),
        # Had all weights gone perpendicular ways, these would be their distances.
        "lengths": predicted_by(found, np.hypot(found.moved[:, None], found.moved)),
        "direction": predicted_by(found, found.far["weights' direction"]),
    }
    same = found.kind[:, None] == found.kind
    apart, others = found.far["weights"], ~np.eye(len(same), dtype=bool)
    numbers = {
        "alleles": dict(zip(*np.unique(found.locus, return_counts=True), strict=True)),
        "weights_within_class": float(apart[same & others].max()),
        "weights_between_classes": float(apart[~same].min()),
        "roots": list(found.names[found.moved == 0]),
        "moved_with_measurements": {
            who: {
                kind: rank_correlation(found.moved[own], found.measurements[own])
                for kind in CLASSES for own in [(found.kind == kind) & chosen & (found.moved > 0)]
            }
            for who, chosen in (("all", np.full(len(same), True)), ("untuned", ~found.tuned))
        },
        "lineage": lineage(found, package),
        "loci": {name: {who: asdict(one) for who, one in own.items()}
                 for name, own in groups.items()},
        "foretold_by": predicted,
    }  # fmt: skip
    write(folder, [run], numbers)
    draw(found, groups, folder / FIGURE)
    for name, own in groups.items():
        cells = [f"{one.ratio:.2f} ({one.ratio_p:.3f})" for one in own.values()]
        cells += [f"{own[k].nearest:.2f} (≤ {own[k].nearest_chance[1]:.2f})" for k in CLASSES]
        cells += [
            f"{predicted['weights'][name][k][0]:.2f}" if name in ACTIVATIONS else ""
            for k in CLASSES
        ]
        print(f"| {name} |", " | ".join(cells), "|")
    print(
        {
            key: numbers[key]
            for key in ("roots", "moved_with_measurements", "lineage", "foretold_by")
        }
    )
    print({key: value for key, value in numbers.items() if key.startswith("weights")})


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
