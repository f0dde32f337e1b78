"""The result of a verification, as plain data. Its fields are those of the `--json` document."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from extractkit.core.notebook import Shown
from extractkit.errors import counted
from extractkit.runs.manifest import Status
from extractkit.runs.schema import plain

SCHEMA = 1
"""Version of the document's fields. Raise it with every change of them."""


class Outcome(StrEnum):
    """The outcome of one check."""

    OK = "ok"
    FAILED = "failed"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True)
class Finding:
    """One difference from the record.

    Attributes:
        file: path within the run directory, absolute for files elsewhere; None if no file is
            affected.
        message: what is wrong, including the name of the file.
        shard, tensor: whose values are affected; None for the file as a whole.
    """

    file: str | None
    message: str
    shard: str | None = None
    tensor: str | None = None


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: its subject, such as "shards".
        outcome: whether it passed.
        detail: how much was checked, or why nothing was.
        findings: everything that is wrong.
        notes: anything else the user should know.
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
        """Return a check that was made. It failed if there are findings."""
        found = tuple(findings)
        return cls(name, Outcome.FAILED if found else Outcome.OK, detail, found, tuple(notes))

    @classmethod
    def not_made(cls, name: str, why: str) -> "Check":
        """Return a check that could not be made."""
        return cls(name, Outcome.NOT_CHECKED, why)


@dataclass(frozen=True)
class Verification(Shown):
    """The result of a verification.

    Attributes:
        run: the run directory.
        status: the recorded status; None if the manifest cannot be read.
        checks: the checks in the order in which they were made.
    """

    run: str
    status: Status | None
    checks: tuple[Check, ...]

    @property
    def failed(self) -> bool:
        """Whether anything is wrong (exit code 1). A check that was not made does not count."""
        return any(check.outcome is Outcome.FAILED for check in self.checks)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Everything that is wrong."""
        return tuple(finding for check in self.checks for finding in check.findings)

    def __repr__(self) -> str:
        result = f"{counted(len(self.findings), 'finding')}" if self.failed else "nothing wrong"
        return f"<Verification of {self.run}: {counted(len(self.checks), 'check')}, {result}>"

    def to_json(self) -> dict[str, object]:
        """Return the document that `extractkit verify --json` prints."""
        document: dict[str, object] = plain(self)
        return {"schema": SCHEMA, "failed": self.failed, **document}
