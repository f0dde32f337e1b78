"""The page and the picture of what `compare_ways` measured.

    python -m benchmarks.ways_page

reads `benchmarks/ways.json` and writes `docs/explanation/speed.md` and `docs/_static/speed.svg`.
The page keeps what it says under `ATTEMPTS`.
"""

import json
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from matplotlib.figure import Figure

from benchmarks.compare_ways import BASE, ROOT, WAYS, WORKS

FIGURES = ROOT / "benchmarks/ways.json"
PAGE = ROOT / "docs/explanation/speed.md"
ATTEMPTS = "## Where the rest of the time goes"
PICTURE = ROOT / "docs/_static/speed.svg"
COLOURS = {
    "extractkit": "#d55e00",
    "extractkit, OpenVINO": "#e69f00",
    "bare TensorFlow": "#999999",
    BASE: "#cccccc",
}
OTHERS = ("#0072b2", "#56b4e9", "#009e73", "#cc79a7")

Rounds = Mapping[str, Mapping[str, Sequence[float]]]
"""Seconds of each round by work and way."""


def ratios(works: Rounds, work: str, way: str) -> list[float]:
    """Return how many times as fast as the loop by hand a way was, round by round."""
    base, own = works[work][BASE], works[work][way]
    return [by_hand / seconds for by_hand, seconds in zip(base, own, strict=True)]


def ways_of(works: Rounds) -> list[str]:
    """Return the ways that were measured, in the order of `WAYS`."""
    return [way for way in WAYS if any(way in each for each in works.values())]


def table(works: Rounds) -> list[str]:
    """Return a table of median ratios: a row a way, a column a work."""
    names = [name for name in WORKS if name in works]
    lines = [
        f"| | {' | '.join(WORKS[name] for name in names)} |",
        f"|---|{'---|' * len(names)}",
    ]
    for way in ways_of(works):
        cells = [
            f"{median(found):.2f} ({min(found):.2f} to {max(found):.2f})"
            if (found := ratios(works, name, way) if way in works[name] else [])
            else ""
            for name in names
        ]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    seconds = [f"{median(works[name][BASE]):.2f} s" for name in names]
    return [*lines, f"| {BASE}, median | {' | '.join(seconds)} |"]


def behind(works: Rounds) -> tuple[float, float]:
    """Return how many times as long as the fastest other way extractkit takes: least and most."""
    own = ("extractkit", "extractkit, OpenVINO")
    found = []
    for ways in works.values():
        seconds = {way: median(rounds) for way, rounds in ways.items()}
        others = [value for way, value in seconds.items() if way not in (*own, "bare TensorFlow")]
        found.append(min(seconds[way] for way in own if way in seconds) / min(others))
    return min(found), max(found)


def picture(works: Rounds) -> Figure:
    """Draw the median ratios as bars: a group a work, a bar a way."""
    names = [name for name in WORKS if name in works]
    ways = ways_of(works)
    colours = dict(zip([one for one in ways if one not in COLOURS], OTHERS, strict=False))
    figure = Figure(figsize=(9, 0.9 * len(names) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    height = 0.8 / len(ways)
    for index, way in enumerate(ways):
        able = [place for place, name in enumerate(names) if way in works[name]]
        found = [median(ratios(works, names[place], way)) for place in able]
        axes.barh(
            [place + (index - (len(ways) - 1) / 2) * height for place in able],
            found,
            height,
            label=way,
            color=COLOURS.get(way) or colours[way],
        )
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), [WORKS[name] for name in names])
    axes.invert_yaxis()
    axes.set_xlabel(f"times as fast as the {BASE}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return figure


def page(document: Mapping[str, Any]) -> str:
    """Return the text of the page."""
    versions = ", ".join(f"{name} {number}" for name, number in document["versions"].items())
    limits = "; ".join(f"{name}: {value:,.0f}" for name, value in document["limits"].items())
    least, most = behind(document["works"])
    lines = [
        "# Speed beside other ways",
        "",
        "Read this page to know how long extractkit takes beside loops written by hand and other "
        "frameworks.",
        "",
        "Every way does the same work on the same weights and samples, in a process of its own, "
        "one after the other",
        f"in each of {document['rounds']} rounds, and all must store the same values. Loading and "
        "the first, compiling round are not counted. Tokenizing",
        "and storing are; for extractkit, so are hashing, checking and forcing files to disk.",
        "The bare forward pass tokenizes nothing and stores nothing. All texts are docstrings of "
        "Python's standard library,",
        f"{document['texts']} of them, cut at 128 tokens. The {BASE} pads them to 128; all others "
        "sort them by length and store no padding.",
        "",
        "![Ratios of all ways to the loop by hand](../_static/speed.svg)",
        "",
        f"Times as fast as the {BASE}, median of the rounds (lowest to highest):",
        "",
        *table(document["works"]),
        "",
        "With the faster of its two compilers, extractkit takes "
        f"{least:.1f} to {most:.1f} times as long as the fastest other way that stores the same "
        "values.",
        "",
        f"Measured on {document['date']} with two cores and no accelerator, Python "
        f"{document['python']}, {versions}. What",
        f"the machine can do in a second: {limits}.",
        "",
        "To repeat it (`make peers` creates an environment for the other frameworks):",
        "",
        "    make peers",
        "    .venv/bin/python -m benchmarks.compare_ways --json benchmarks/ways.json",
        "    .venv/bin/python -m benchmarks.ways_page",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Write the page and the picture."""
    document = json.loads(FIGURES.read_text("utf-8"))
    _, heading, attempts = PAGE.read_text("utf-8").partition(ATTEMPTS)
    PAGE.write_text(f"{page(document)}\n{heading}{attempts}", "utf-8")
    picture(document["works"]).savefig(PICTURE, metadata={"Date": None})
    print(f"{PAGE} and {PICTURE} written")


if __name__ == "__main__":
    main()
