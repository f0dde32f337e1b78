"""What the heads of all layers look at.

    python -m experiments.attention_patterns.analyse RUN FOLDER

writes `result.json` and `result.png` into FOLDER, and prints the page's tables.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

import extractkit
from experiments.attention_patterns.figure import draw
from experiments.attention_patterns.patterns import MEASURES, patterns
from experiments.result import FIGURE, write

KINDS = {
    "looks at [SEP]": ("sep", 0.5),
    "looks at [CLS]": ("cls", 0.5),
    "looks at the token before": ("before", 0.5),
    "looks at the token after": ("after", 0.5),
    "looks at the token itself": ("self", 0.5),
    "looks evenly": ("entropy", 0.9),
}
"""A head is of a kind where a measure is at least that large."""


def by_text(run: extractkit.Run) -> dict[str, np.ndarray]:
    """Each measure: (texts, layers, heads); texts of fewer than two words are excluded."""
    layers = []
    for view in run.select(inside="*Attention").values():
        found = [patterns(attention) for attention in view if attention.shape[-1] >= 4]
        layers.append({name: np.stack([one[name] for one in found]) for name in MEASURES})
    return {name: np.stack([layer[name] for layer in layers], axis=1) for name in MEASURES}


def even(run: extractkit.Run) -> dict[str, float]:
    """The measures of a head that looks at all tokens alike."""
    lengths = [int(row["length"]) for row in run.samples if int(row["length"]) >= 4]
    found = [patterns(np.full((1, n, n), 1 / n)) for n in lengths]
    return {name: float(np.mean([one[name] for one in found])) for name in MEASURES}


def halves_agree(measures: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Correlation over heads of a measure in one half of the texts with that in the other half."""
    return {
        name: float(np.corrcoef(*(values[half::2].mean(axis=0).ravel() for half in (0, 1)))[0, 1])
        for name, values in measures.items()
    }


def kinds(heads: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
    """The heads of each kind, as layer.head."""
    return {
        kind: [f"{layer}.{head}" for layer, head in np.argwhere(heads[measure] >= least)]
        for kind, (measure, least) in KINDS.items()
    }


def main(directory: Path, folder: Path) -> None:
    """Write the result, draw it, print its tables."""
    run = extractkit.open(directory)
    measures = by_text(run)
    heads = {name: values.mean(axis=0) for name, values in measures.items()}
    layers = {name: values.mean(axis=1) for name, values in heads.items()}
    numbers = {
        "heads": heads,
        "layers": layers,
        "even": even(run),
        "kinds": kinds(heads),
        "halves_agree": halves_agree(measures),
    }
    write(folder, [run], numbers)
    draw(heads, folder / FIGURE)
    print("| layer |", " | ".join(MEASURES.values()), "|")
    print("|---" * (1 + len(MEASURES)), "|", sep="")
    for layer in range(len(layers["cls"])):
        print(f"| {layer} |", " | ".join(f"{layers[name][layer]:.2f}" for name in MEASURES), "|")
    print("| even |", " | ".join(f"{value:.2f}" for value in even(run).values()), "|")
    print()
    for kind, found in kinds(heads).items():
        print(f"| {kind} | {len(found)} | {', '.join(found)} |")
    print("halves agree at least", f"{min(halves_agree(measures).values()):.4f}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
