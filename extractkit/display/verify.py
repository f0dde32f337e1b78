"""`extractkit verify`: what was looked at, and everything that is wrong."""

import re
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from extractkit.display.text import plural, safe
from extractkit.runs.verification.result import Check, Finding, Outcome, Verification

_STYLES = {Outcome.OK: "green", Outcome.FAILED: "red", Outcome.NOT_CHECKED: "yellow"}
_MOST_LINES = 100
_MOST_NOTES = 20
_NUMBER = re.compile(r"[0-9]+")


def overview(found: Verification) -> RenderableType:
    """Return every check, a line for each kind of finding, the notes, and the verdict."""
    table = Table("check", "outcome", "of what", box=None, pad_edge=False)
    for check in found.checks:
        outcome = Text(check.outcome, style=_STYLES[check.outcome])
        table.add_row(Text(safe(check.name)), outcome, Text(safe(check.detail), overflow="fold"))
    parts: list[RenderableType] = [Text(safe(found.run)), "", table, ""]
    if lines := [*_findings(found), *_notes(found)]:
        parts += [*lines, ""]
    return Group(*parts, verdict(found))


def verdict(found: Verification) -> Text:
    """The one line that sums it up."""
    failed = [check for check in found.checks if check.outcome is Outcome.FAILED]
    left = [check for check in found.checks if check.outcome is Outcome.NOT_CHECKED]
    made = len(found.checks) - len(left)
    if failed:
        names = ", ".join(safe(check.name) for check in failed)
        wrong = plural(sum(len(check.findings) for check in failed), "finding")
        line = f"not verified: {wrong} in {names}"
    else:
        line = f"verified: {plural(made, 'check')}, nothing wrong"
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
    """Return what a finding has in common with those of other shards, samples and tensors."""
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
