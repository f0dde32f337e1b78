"""Records as JSON files whose last field is a checksum over the others, behind a schema version."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from extractkit.errors import RunDirectoryError
from extractkit.runs.files import content_of
from extractkit.runs.schema import decode, digest, document, plain
from extractkit.runs.upgrades import Upgrade, check_version, upgraded
from extractkit.runs.write import write_durably

T = TypeVar("T")

_CHECKSUM = "checksum"


@dataclass(frozen=True)
class SealedRecord(Generic[T]):
    """How one kind of record lies on the disk.

    Attributes:
        kind: the frozen dataclass; it has a field `schema`, the version of its fields.
        noun: what messages call it ("manifest").
        schema: the version that is written.
        again: what is left to do where the file is lost ("run the job again").
        upgrades: by every older version, what makes the next of it.
        sealed_since: the first version whose files have a checksum.
    """

    kind: type[T]
    noun: str
    schema: int
    again: str
    upgrades: Mapping[int, Upgrade] = field(default_factory=dict)
    sealed_since: int = 1

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
            RunDirectoryError: it is damaged, or a newer extractkit wrote it.
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
        check_version(str(path), self.noun, version, self.schema)
        # The checksum is over the fields as they were written, so it comes before any upgrade.
        self._check_content(path, version, data, content)
        try:
            data = upgraded(data, version, self.upgrades)
        except RunDirectoryError as error:
            raise self._damaged(path, error) from error
        return decode(self.kind, {**data, "schema": self.schema}, str(path))

    def _check_content(
        self, path: Path, version: int, data: dict[str, object], content: bytes
    ) -> None:
        """Take the checksum out of the fields, and make sure that the file is as it was written.

        Raises:
            RunDirectoryError: it is damaged.
        """
        has_checksum = version >= self.sealed_since
        if has_checksum:
            data.pop(_CHECKSUM, None)
        try:
            whole = content == (sealed(data) if has_checksum else document(data))
        except RecursionError:
            whole = False
        if not whole:
            checked = (
                "its checksum does not hold" if has_checksum else "it is not as it was written"
            )
            raise self._damaged(path, checked)

    def _damaged(self, path: Path, reason: object) -> RunDirectoryError:
        return RunDirectoryError(f"{path} is damaged: {reason}. Restore it, or {self.again}")


def sealed(data: Mapping[str, object]) -> bytes:
    """The file that holds these fields: its last one is a checksum over the others."""
    return document({**data, _CHECKSUM: digest(data)})
