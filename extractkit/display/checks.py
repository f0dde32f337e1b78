"""Output of `extractkit verify`, `diff` and `similarity`: checks, and comparisons of two runs."""

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from extractkit.display import safe
from extractkit.display.address_table import AddressTable
from extractkit.errors import counted
from extractkit.runs.checking import Check, Finding, Outcome, Verification
from extractkit.runs.comparing import overview
from extractkit.runs.comparing.result import (
    Comparison,
    Counts,
    SamplePair,
    TensorComparison,
    Verdict,
)
from extractkit.runs.comparing.similarity import SimilarityMatrix

_STYLES = {Outcome.OK: "green", Outcome.FAILED: "red", Outcome.NOT_CHECKED: "yellow"}
_MOST_LINES = 100
_MOST_NOTES = 20
_NUMBER = re.compile(r"[0-9]+")


def verify_overview(found: Verification) -> RenderableType:
    """Return all checks, a line for each kind of finding, the notes, and the verdict."""
    table = Table("check", "outcome", "of what", box=None, pad_edge=False)
    for check in found.checks:
        outcome = Text(check.outcome, style=_STYLES[check.outcome])
        table.add_row(Text(safe(check.name)), outcome, Text(safe(check.detail), overflow="fold"))
    parts: list[RenderableType] = [Text(safe(found.run)), "", table, ""]
    if lines := [*_findings(found), *_notes(found)]:
        parts += [*lines, ""]
    return Group(*parts, verdict(found))


def verdict(found: Verification) -> Text:
    """Return the line that sums up a verification."""
    failed = [check for check in found.checks if check.outcome is Outcome.FAILED]
    left = [check for check in found.checks if check.outcome is Outcome.NOT_CHECKED]
    made = len(found.checks) - len(left)
    if failed:
        names = ", ".join(safe(check.name) for check in failed)
        wrong = counted(sum(len(check.findings) for check in failed), "finding")
        line = f"not verified: {wrong} in {names}"
    else:
        line = f"verified: {counted(made, 'check')}, nothing wrong"
    if left:
        line += f"; not checked: {', '.join(safe(check.name) for check in left)}"
    return Text(line, style="red" if failed else "green")


def _findings(found: Verification) -> list[Text]:
    kinds: dict[str, list[Finding]] = {}
    for check in found.checks:
        for one in check.findings:
            kinds.setdefault(f"{check.name} {_kind(one)}", []).append(one)
    lines = [Text(safe(_line(alike)), style="red") for alike in kinds.values()][:_MOST_LINES]
    if (more := len(kinds) - len(lines)) > 0:
        lines.append(Text(f"… and {more:,} more kinds; --json lists them all", style="red"))
    return lines


def _kind(finding: Finding) -> str:
    """Return the part of a finding that is the same for other shards, samples and tensors."""
    message = finding.message
    if finding.tensor is not None:
        message = message.replace(repr(finding.tensor), "")
    return _NUMBER.sub("", message)


def _line(alike: Sequence[Finding]) -> str:
    first = alike[0].message
    return first if len(alike) == 1 else f"{first} (first of {len(alike):,}; --json lists them all)"


def _notes(found: Verification) -> list[Text]:
    return [line for check in found.checks for line in _notes_of(check)]


def _notes_of(check: Check) -> list[Text]:
    lines = [Text(safe(f"{check.name}: {note}")) for note in check.notes[:_MOST_NOTES]]
    if (more := len(check.notes) - len(lines)) > 0:
        lines.append(Text(safe(f"{check.name}: … and {more:,} more; --json lists them all")))
    return lines


MOST_ROWS = 60
"""Most rows of a table of tensors; beyond them, equal ones are not shown."""

_MOST_CIRCUMSTANCES = 12
_LONGEST, _DIGEST = 40, 12
_SMALLEST = 1e-4
_VERDICT_STYLES = {
    Verdict.EQUAL: "green",
    Verdict.WITHIN: "green",
    Verdict.BEYOND: "red",
    Verdict.INCOMPARABLE: "yellow",
}


def diff_overview(found: Comparison) -> RenderableType:
    """Return the circumstances that differ, every tensor in the first run's order, and the verdict.

    If there are very many tensors, bitwise equal ones are only counted.
    """
    parts: list[RenderableType] = [_facts(found), ""]
    if found.tensors:
        parts += [*_tensors(found.tensors), *_lone(found.tensors), ""]
    for fact in overview.one_sided(found):
        parts.append(Text(safe(fact.text), style="yellow" if fact.warns else ""))
    last = overview.verdict(found)
    parts.append(Text(safe(last.text), style="red" if last.warns else "green"))
    return Group(*parts)


def similarity_overview(found: SimilarityMatrix) -> RenderableType:
    """Return a line for each tensor of the first run: its counterpart, and the one most like it.

    Within one run, a tensor is its own counterpart, and the one most like it is another.
    """
    counterpart = [] if found.within else ["CKA with it"]
    table = AddressTable("tensor", *counterpart, "most similar", "CKA")
    for at, key in enumerate(found.a[:MOST_ROWS]):
        row = found.cka[at].copy()
        cells = []
        if found.within:
            row[at] = np.nan
        else:
            same = row[found.b.index(key)] if key in found.b else np.nan
            cells.append("" if np.isnan(same) else f"{same:.4f}")
        table.add_row(safe(key), *cells, *_most_similar(found, key, row))
    parts: list[RenderableType] = [table, ""]
    if (hidden := len(found.a) - MOST_ROWS) > 0:
        parts.insert(1, Text(f"… and {hidden:,} more; --json lists all pairs"))
    compared = f"{len(found.a):,} × {counted(len(found.b), 'tensor')}"
    rows = f"{counted(found.count, 'row')} of {counted(found.samples.compared, 'sample')}"
    parts.append(Text(f"{compared} compared in {rows}, paired by {found.samples.aligned_by}"))
    if found.samples.one_sided:
        lone = counted(found.samples.one_sided, "sample")
        parts.append(Text(f"{lone} of one run alone: not compared", style="yellow"))
    return Group(*parts)


def _most_similar(found: SimilarityMatrix, key: str, row: npt.NDArray[np.float64]) -> list[Text]:
    """Return the tensor most similar to one, and the similarity, or why there is none."""
    if (why := found.undefined_a.get(key)) is not None:
        return [Text(f"none: {why}"), Text("")]
    if np.isnan(row).all():
        others = "the other tensors have" if found.within else "the tensors of B have"
        return [Text(f"none: {others} no similarity to any"), Text("")]
    nearest = int(np.nanargmax(row))
    return [Text(safe(found.b[nearest])), Text(f"{row[nearest]:.4f}")]


def _facts(found: Comparison) -> Table:
    facts = Table.grid(padding=(0, 2))
    for fact in overview.facts(found):
        facts.add_row(fact.label, Text(safe(fact.text)))
    for one in found.circumstances[:_MOST_CIRCUMSTANCES]:
        facts.add_row(Text(safe(one.key)), Text(f"{_short(one.a)} against {_short(one.b)}"))
    more = len(found.circumstances) - _MOST_CIRCUMSTANCES
    if more > 0:
        facts.add_row("…", f"and {more:,} more that differ; --json lists them all")
    return facts


def _short(value: object) -> str:
    """Return a value as text: the beginning of a digest, the end of a path or list."""
    text = safe("nothing" if value is None else str(value))
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_DIGEST]}…" if text.isalnum() else f"…{text[-_LONGEST:]}"


def _tensors(tensors: tuple[TensorComparison, ...]) -> list[RenderableType]:
    table = AddressTable(
        *("tensor", "verdict", "max abs", "mean abs", "max rel", "mean rel", "rel L2", "cosine"),
        *("correlation", "beyond", "first beyond", "worst"),
        dispensable=("mean rel", "mean abs", "correlation", "first beyond", "max rel"),
    )
    shown = tensors
    if len(tensors) > MOST_ROWS:
        shown = tuple(one for one in tensors if one.verdict is not Verdict.EQUAL)
    for one in shown[:MOST_ROWS]:
        table.add_row(
            _name(one), Text(one.verdict, style=_VERDICT_STYLES[one.verdict]), *_measured(one)
        )
    hidden = len(tensors) - len(shown[:MOST_ROWS])
    if not hidden:
        return [table]
    if not shown:
        return [
            Text(f"all {overview.counted_tensors(tensors)} are bitwise equal; --json lists them")
        ]
    equal = len(tensors) - len(shown)
    more = f"… and {hidden:,} more, {equal:,} of them equal; --json lists them all"
    return [table, Text(more)]


def _name(one: TensorComparison) -> Text:
    return Text(safe(overview.name_of(one)))


def _measured(one: TensorComparison) -> list[str | Text]:
    if one.counts is None:
        return [Text(safe(one.reason or ""), style="yellow")]
    errors = one.errors
    cells: list[str | Text] = ["–"] * 7
    if errors is not None:
        sizes = (errors.max_abs, errors.mean_abs, errors.max_rel, errors.mean_rel)
        cells = [f"{size:.2g}" for size in sizes]
        cells.append("–" if errors.relative_l2 is None else f"{errors.relative_l2:.2g}")
        for likeness in (errors.cosine, errors.correlation):
            cells.append("–" if likeness is None else f"{likeness:.6f}")
    cells.append(_share(one.counts))
    return [*cells, _id(one.first_beyond), _id(one.worst)]


def _share(counts: Counts) -> str:
    """Return the share of elements beyond the tolerance; never 0 if there is one."""
    if not counts.beyond:
        return "0"
    share = counts.beyond / counts.elements
    return f"{share:.2%}" if share >= _SMALLEST else f"<{_SMALLEST:.2%}"


def _lone(tensors: tuple[TensorComparison, ...]) -> list[RenderableType]:
    """Return the differences besides errors of finite numbers."""
    found = [(one, one.counts.lone) for one in tensors if one.counts and one.counts.lone]
    lines: list[RenderableType] = []
    for one, lone in found[:MOST_ROWS]:
        are = "value is" if lone == 1 else "values are"
        text = f"{lone:,} {are} NaN or infinite in one run alone, or infinite with opposite signs"
        lines.append(Text.assemble(_name(one), f": {text}"))
    if len(found) > MOST_ROWS:
        lines.append(Text(f"… and so in {counted(len(found) - MOST_ROWS, 'more tensor')}"))
    return lines


def _id(pair: SamplePair | None) -> Text:
    return Text("–" if pair is None else safe(pair.id))
