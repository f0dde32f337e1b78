"""What a verification found, as plain data: its fields are the `--json` document."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from extractkit.runs.manifest import Status
from extractkit.runs.schema import plain

SCHEMA = 1
"""Version of the document's fields; to be raised with every change of them."""


class Outcome(StrEnum):
    """What came of one check."""

    OK = "ok"
    FAILED = "failed"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it was recorded.

    Attributes:
        file: within the run directory; absolute for files elsewhere; None where no file is at
            fault.
        message: what is wrong, the file named in it.
        shard, tensor: whose values are meant; None where it is the file as a whole.
    """

    file: str | None
    message: str
    shard: str | None = None
    tensor: str | None = None


@dataclass(frozen=True)
class Check:
    """One subject that was looked at.

    Attributes:
        name: of the subject, such as "shards".
        outcome: whether all is well.
        detail: how much was looked at; or why nothing was.
        findings: everything that is wrong.
        notes: what is not wrong but should be known.
    """

    name: str
    outcome: Outcome
    detail: str
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, name: str, detail: str, findings: Iterable[Finding] = (), notes: Iterable[str] = ()
    ) -> "Check":
        """A check that was made: it failed if it found anything."""
        found = tuple(findings)
        return cls(name, Outcome.FAILED if found else Outcome.OK, detail, found, tuple(notes))

    @classmethod
    def left_out(cls, name: str, why: str) -> "Check":
        """A check that could not be made."""
        return cls(name, Outcome.NOT_CHECKED, why)


@dataclass(frozen=True)
class Verification:
    """What was found.

    Attributes:
        run: the run directory.
        status: how far the run says to have come; None where its manifest cannot be read.
        checks: in the order in which they were made.
    """

    run: str
    status: Status | None
    checks: tuple[Check, ...]

    @property
    def failed(self) -> bool:
        """Whether anything is wrong: exit code 1. What was not checked is not wrong."""
        return any(check.outcome is Outcome.FAILED for check in self.checks)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Everything that is wrong."""
        return tuple(finding for check in self.checks for finding in check.findings)

    def to_json(self) -> dict[str, object]:
        """The document that `extractkit verify --json` prints."""
        document: dict[str, object] = plain(self)
        return {"schema": SCHEMA, "failed": self.failed, **document}


def counted(number: int, noun: str) -> str:
    """`1 file`, `2 files`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
