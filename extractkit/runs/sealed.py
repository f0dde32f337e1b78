"""Records as JSON files whose last field is a checksum over the others, behind a schema version."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from extractkit.errors import RunDirectoryError
from extractkit.runs.files import content_of
from extractkit.runs.schema import decode, digest, document, plain
from extractkit.runs.write import write_durably

T = TypeVar("T")

Upgrade = Callable[[Mapping[str, Any]], dict[str, Any]]
"""Makes of the fields of one version of a schema those of the next."""

_CHECKSUM = "checksum"


@dataclass(frozen=True)
class SealedRecord(Generic[T]):
    """How one kind of record lies on the disk.

    Attributes:
        kind: the frozen dataclass; it has a field `schema`, the version of its fields.
        noun: what messages call it ("manifest").
        schema: the version that is written.
        again: what is left to do where the file is lost ("run the job again").
        upgrades: for each older version that is read, what makes the next of it.
    """

    kind: type[T]
    noun: str
    schema: int
    again: str
    upgrades: Mapping[int, Upgrade] = field(default_factory=dict)

    def write(self, path: Path, record: T) -> None:
        """Write, or replace, the file.

        Raises:
            JobError: it could not be written.
        """
        write_durably(path, sealed(plain(record)))

    def read(self, path: Path) -> T:
        """The record in a file.

        Raises:
            FileNotFoundError: there is none.
            RunDirectoryError: it is damaged, or of a version of the schema that is not read.
        """
        try:
            content = content_of(path)
            data = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise self._damaged(path, error) from error
        # The version decides what the other fields mean, so it is looked at before any of them.
        version = data.get("schema") if isinstance(data, dict) else None
        if type(version) is not int or version < 1:
            raise RunDirectoryError(f"{path} is no {self.noun}: it has no schema version")
        self._check_version(path, version)
        data.pop(_CHECKSUM, None)
        try:
            whole = content == sealed(data)
        except RecursionError:
            whole = False
        if not whole:
            raise self._damaged(path, "its checksum does not hold")
        # Only now: the checksum is over the fields as they were written.
        for older in range(version, self.schema):
            try:
                data = {**self.upgrades[older](data), "schema": older + 1}
            except RunDirectoryError as error:
                raise self._damaged(path, error) from error
        return decode(self.kind, data, str(path))

    def _check_version(self, path: Path, version: int) -> None:
        if version > self.schema:
            raise RunDirectoryError(
                f"{path} has schema version {version}; this extractkit reads up to {self.schema}. "
                f"Update it: pip install -U extractkit"
            )
        if not all(older in self.upgrades for older in range(version, self.schema)):
            raise RunDirectoryError(
                f"{path} has schema version {version}, from before extractkit's first release; "
                f"this one reads version {self.schema}. {_sentence(self.again)}"
            )

    def _damaged(self, path: Path, reason: object) -> RunDirectoryError:
        return RunDirectoryError(f"{path} is damaged: {reason}. Restore it, or {self.again}")


def sealed(data: Mapping[str, object]) -> bytes:
    """The file that holds these fields: its last one is a checksum over the others."""
    return document({**data, _CHECKSUM: digest(data)})


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
