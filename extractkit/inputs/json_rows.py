"""Rows of JSON lines as samples: a value for each of a model's inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from extractkit.inputs.elements import Elements
from extractkit.inputs.fields import TEXT_COLUMN
from extractkit.inputs.files import short_names
from extractkit.inputs.jsonl import object_of
from extractkit.inputs.lines import Lines, find_lines
from extractkit.inputs.protocol import Identity, Sample, Signature
from extractkit.inputs.records import Chain, RecordSource, bind_records


@dataclass(frozen=True, eq=False)
class JsonRows:
    """The rows of one file.

    Attributes:
        name: what its samples' ids begin with.
        lines: where they are.
        elements: how a row becomes a sample.
    """

    name: str
    lines: Lines
    elements: Elements

    def __len__(self) -> int:
        return len(self.lines)

    def record(self, index: int) -> Sample:
        """The row of this number, from 0; the id is FILE:LINE.

        Raises:
            InputError: it is not UTF-8, no JSON object, or lacks a value.
            JobError: the file has changed since its lines were found.
        """
        ((number, line),) = self.lines.read(index, index + 1)
        path, own = self.lines.path, self.identify(index)
        at = f"inputs.path={str(path)!r}, line {number}"
        sample = self.elements.sample(index, object_of(line, path, number), at)
        return replace(sample, id=own.id, source=own.source)

    def identify(self, index: int) -> Identity:
        """Who the sample of this row is."""
        return Identity(f"{self.name}:{self.lines.number(index)}", self.lines.path.name)


def bind_json_rows(
    paths: Sequence[Path],
    columns: Mapping[str, str] | None,
    signature: Signature,
    limit: int | None,
) -> RecordSource:
    """Find the rows of files and hold each against what a model takes; blank lines are skipped.

    Args:
        columns: for each of the model's inputs the name of its value; None: the inputs' names.
        limit: the first so many rows; None: all.

    Raises:
        InputError: there is none, or none can be read and fits the model.
    """
    elements = Elements(signature, columns or _own_names(signature), TEXT_COLUMN, "")
    files = [
        JsonRows(name, find_lines(path, limit, lambda number, line: None), elements)
        for path, name in zip(paths, short_names(paths), strict=True)
    ]
    at = f"inputs.path={str(paths[0])!r}" if len(paths) == 1 else "inputs.path"
    return bind_records(Chain(files), signature, at=at, limit=limit)


def _own_names(signature: Signature) -> dict[str, str]:
    return {spec.name: spec.name for spec in signature.specs}
