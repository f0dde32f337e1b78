"""Samples in memory, for `extractkit.extract(inputs=…)`."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from extractkit.core.spec import TEXT
from extractkit.core.values import Array, as_array
from extractkit.errors import InputError
from extractkit.inputs import (
    Identity,
    Inputs,
    InputSpec,
    Sample,
    Scanning,
    Signature,
    Source,
    Unreadable,
    Visit,
    identity,
)
from extractkit.inputs.checks import (
    FAULT,
    Faults,
    check_names,
    check_range,
    check_takes_text,
    check_text,
    describe,
)
from extractkit.inputs.columns import TEXT_COLUMN, LabelColumn, bind_columns
from extractkit.inputs.conversion import check_unmasked, is_matrix, positions_of, rows_of
from extractkit.inputs.dataset import Elements, Rows, Sequential
from extractkit.inputs.labels import in_row
from extractkit.inputs.records import RecordSource, bind_records

ORIGIN = "memory"


@dataclass(frozen=True, eq=False)
class LiveArrays(Scanning):
    """Arrays in memory with samples along their first axis, copied only when read.

    Attributes:
        arrays: The array (or nested lists of numbers) of a model with one input. For several
            inputs, a mapping by name, or a sequence in the model's order, as in Keras. A sequence
            of tuples with a value for each of several inputs is a sequence of samples.
    """

    arrays: npt.ArrayLike | Mapping[str, npt.ArrayLike] | Sequence[npt.ArrayLike]

    def scan(self, signature: Signature, visit: Visit | None) -> Source:
        """Check the arrays against the model's inputs.

        Raises:
            InputError: They do not fit.
        """
        _check_given(self.arrays)
        specs = {spec.name: spec for spec in signature.specs}
        if (tuples := _samples_as_tuples(self.arrays, signature)) is not None:
            # By name: otherwise a model with a tokenizer would read texts.
            rows = [dict(zip(specs, values, strict=True)) for values in tuples]
            return LiveRows(rows).scan(signature, visit)
        named = {
            name: _by_sample(given, specs[name]) if name in specs else given
            for name, given in self._named(signature).items()
        }
        if any(name in specs and _uneven(named[name], specs[name]) for name in named):
            return LiveRows(list(Rows(named, "inputs"))).scan(signature, visit)
        check_names(list(named), signature, "inputs")
        columns = {
            name: _array(name, given, name in specs and specs[name].dtype == TEXT)
            for name, given in named.items()
        }
        return bind_columns(columns, signature, at="inputs", origin=ORIGIN, visit=visit)

    def _named(self, signature: Signature) -> Mapping[str, object]:
        names = [spec.name for spec in signature.specs]
        if isinstance(self.arrays, Mapping):
            return self.arrays
        if len(names) == 1:
            return {names[0]: _unwrapped(self.arrays, rank=len(signature.specs[0].shape))}
        if isinstance(self.arrays, list | tuple) and len(self.arrays) == len(names):
            return dict(zip(names, self.arrays, strict=True))
        count = len(self.arrays) if isinstance(self.arrays, list | tuple) else 1
        raise InputError(
            f"inputs: {count} given without names, "
            f"model {signature.model!r} takes {describe(signature)}. "
            f"Give a mapping from their names to arrays"
        )


@dataclass(frozen=True, eq=False)
class LiveRows(Scanning):
    """Samples in memory, one by one, which may differ in length.

    Attributes:
        rows: A mapping per sample with a value for each of the model's inputs, or only the array
            for a model with one input.
    """

    rows: Sequence[object]

    def scan(self, signature: Signature, visit: Visit | None) -> RecordSource:
        """Check each sample against the model's inputs.

        Raises:
            InputError: None of them fits.
        """
        names = [spec.name for spec in signature.specs]
        first = self.rows[0]
        # Otherwise a model with a tokenizer would take only texts.
        named = isinstance(first, Mapping) and all(name in first for name in names)
        columns = {name: name for name in names} if named else None
        elements = Elements(signature, columns, TEXT_COLUMN, ORIGIN)
        records = Sequential(self.rows, elements, "inputs")
        return bind_records(records, signature, at="inputs", visit=visit)


@dataclass(frozen=True, eq=False)
class LiveTexts(Scanning):
    """Texts in memory. Empty texts are samples too.

    Attributes:
        texts: one for each sample.
    """

    texts: Sequence[str]

    def scan(self, signature: Signature, visit: Visit | None) -> "LiveTextSource":
        """Check every text.

        Raises:
            InputError: The model takes no text, or there is no text.
        """
        check_takes_text(signature, "inputs", "Give arrays: inputs={NAME: array, …}")
        if isinstance(self.texts, str):
            raise InputError(f"inputs: one text, {self.texts[:40]!r}. Give a list: inputs=[text]")
        texts = tuple(self.texts)
        if not texts:
            raise InputError("inputs holds no sample. Give at least one text")
        digest = hashlib.sha256()
        faults = Faults()
        for index, text in enumerate(texts):
            own = Identity(str(index), ORIGIN)
            shown: Sample | Unreadable = Sample(index, own.id, own.source, text)
            try:
                encoded = check_text(text, f"inputs[{index}]")
            except InputError as error:
                faults.add(error)
                encoded = FAULT
                shown = Unreadable(index, own, error)
            if visit is not None:
                visit(shown)
            digest.update(f"{len(encoded)}\0".encode())
            digest.update(encoded)
        faults.check(len(texts))
        return LiveTextSource(texts, digest.hexdigest())


@dataclass(frozen=True)
class LiveTextSource:
    """Texts in memory.

    Attributes:
        texts: one for each sample.
        digest: SHA-256 over the texts.
        notes: none.
    """

    texts: tuple[str, ...]
    digest: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.texts)

    def read(self, start: int, stop: int) -> list[Sample]:
        """Return the samples start … stop-1. Their ids are their numbers.

        Raises:
            InputError: One is not a text.
            IndexError: The range is outside the source.
        """
        check_range(start, stop, len(self))
        for index in range(start, stop):
            check_text(self.texts[index], f"inputs[{index}]")
        return [
            Sample(index, str(index), ORIGIN, self.texts[index]) for index in range(start, stop)
        ]

    def identify(self, index: int) -> Identity:
        """Return the identity of the sample of this number."""
        return Identity(str(index), ORIGIN)


@dataclass(frozen=True, eq=False)
class Labelled(Inputs):
    """Samples in memory with labels, as targets of gradients take them.

    Attributes:
        inputs: The samples, as `extract` takes them.
        labels: The label of each sample, along the first axis.
    """

    inputs: object
    labels: npt.ArrayLike

    def bind(self, signature: Signature) -> "Source":
        """Check the samples against the model's inputs, and the labels against the targets.

        Raises:
            InputError: They do not fit, or their numbers differ.
        """
        inputs = self.inputs
        if not isinstance(inputs, Inputs):
            kind: Callable[[Any], Inputs] = kind_of(inputs)
            inputs = kind(inputs)
        source = inputs.bind(replace(signature, label=None))
        if signature.label is None:
            return source
        check_unmasked(self.labels, "inputs: labels")
        labels = LabelColumn("label", as_array(self.labels), signature.label, "inputs")
        labels.check(len(source))
        digest = hashlib.sha256(source.digest.encode())
        for part in labels.digest(len(source)):
            digest.update(part)
        return LabelledSource(source, labels, digest.hexdigest(), source.notes)


@dataclass(frozen=True, eq=False)
class LabelledSource:
    """A source, with labels.

    Attributes:
        source: The source.
        labels: The labels of its samples.
        digest: The SHA-256 over the digest of the source, and the labels.
        notes: Those of the source.
    """

    source: Source
    labels: LabelColumn
    digest: str
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.source)

    def read(self, start: int, stop: int) -> list[Sample]:
        """Return the samples start … stop-1 with their labels.

        Raises:
            InputError: A sample cannot be read, or its label has another form.
            IndexError: The range is outside the source.
        """
        samples = self.source.read(start, stop)
        labels = self.labels.read(start, stop)
        return [
            replace(one, label=label, extra={**one.extra, **in_row(self.labels.name, label)})
            for row, one in enumerate(samples)
            for label in [labels[row, ...]]
        ]

    def identify(self, index: int) -> Identity:
        """Return the identity of the sample of this number."""
        return identity(self.source, index)


def kind_of(inputs: object) -> type[LiveTexts] | type[LiveRows] | type[LiveArrays]:
    """Return the source for live samples: texts, mappings for each sample, or arrays."""
    if isinstance(inputs, Sequence) and len(inputs):
        if all(isinstance(text, str) for text in inputs):
            return LiveTexts
        if all(isinstance(row, Mapping) for row in inputs):
            return LiveRows
    return LiveArrays


def _check_given(arrays: object) -> None:
    """Refuse no samples, and what can only be read in turn.

    Raises:
        InputError: It holds no sample, or is a dataset, a generator or a set.
    """
    if isinstance(arrays, list | tuple) and not arrays:
        raise InputError("inputs holds no sample. Give at least one")
    named = arrays if isinstance(arrays, Mapping) else {"": arrays}
    for name, given in named.items():
        if isinstance(given, Iterable) and not hasattr(given, "__getitem__"):
            if hasattr(given, "__array__") or is_matrix(given):
                continue
            at = f"inputs: {name!r}" if name else "inputs"
            raise InputError(
                f"{at} is {type(given).__name__}, whose samples can only be read in turn. Give a "
                f"list of them: list(…); or a function that returns it, with inputs=dataset "
                f"inputs.dataset._target_=package.module.function"
            )


def _by_sample(given: object, spec: InputSpec) -> object:
    """Return ragged and sparse tensors, and sparse matrices of SciPy, as lists of samples."""
    if is_matrix(given):
        return list(rows_of(given))
    rows = getattr(given, "to_list", None)
    return rows() if rows is not None and hasattr(given, "row_splits") else given


def _samples_as_tuples(given: object, signature: Signature) -> Sequence[tuple[object, ...]] | None:
    """Return samples given as tuples with a value for each of several inputs, or None.

    Raises:
        InputError: There are as many tuples as inputs, so each could also be an input.
    """
    count = len(signature.specs)
    if count < 2 or not isinstance(given, list | tuple) or not given:
        return None
    if not all(isinstance(one, tuple) and len(one) == count for one in given):
        return None
    if len(given) != count:
        return given
    names = [spec.name for spec in signature.specs]
    arrays = ", ".join(f"{name!r}: array" for name in names)
    values = ", ".join(f"{name!r}: value" for name in names)
    raise InputError(
        f"inputs: {count} tuples of {count} may be the inputs or the samples of model "
        f"{signature.model!r}, which takes {describe(signature)}. Give the inputs by name: "
        f"inputs={{{arrays}}}; or the samples: inputs=[{{{values}}}, …]"
    )


def _uneven(given: object, spec: InputSpec) -> bool:
    """Return whether samples are given one by one and differ in length along a free axis."""
    if not isinstance(given, list | tuple) or not given:
        return False
    if any(positions_of(sample) is not None for sample in given):
        return True
    if None not in spec.shape:
        return False
    try:
        shapes = {tuple(np.shape(row)) for row in given}
    except ValueError:  # nested lists of different lengths
        return True
    (shape, *others) = shapes
    return bool(others) or None in shape or len(shape) < len(spec.shape)


def _unwrapped(given: object, rank: int) -> object:
    """Return the only input of a list, as Keras allows, unless its rank makes it one sample."""
    if isinstance(given, list | tuple) and len(given) == 1 and _axes(given[0]) == rank + 1:
        return given[0]
    return given


def _axes(given: object) -> int | None:
    return getattr(given, "ndim", None)


def _array(name: str, given: object, strings: bool) -> Array:
    check_unmasked(given, f"inputs: {name!r}")
    try:
        return as_array(given) if strings else np.asarray(given)
    except ValueError as error:
        raise InputError(
            f"inputs: {name!r} cannot be converted to an array: {error}. Give samples of one shape"
        ) from error


@dataclass(frozen=True)
class NoSamples:
    """An empty source."""

    digest: str = ""
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return 0

    def read(self, start: int, stop: int) -> Sequence[Sample]:
        """Return nothing."""
        return ()
