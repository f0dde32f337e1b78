"""Predicates over the records of a catalog: tests of one record, combined or of its neighbours.

`any`, `all` and `not` combine predicates, and `consumes` and `feeds` test a tensor's neighbours
with one. Pure Python.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache

from extractkit.core.catalog import Catalog, TensorRecord
from extractkit.core.keys import Effect, Key
from extractkit.core.spec import Dim
from extractkit.errors import SelectionError, counted

FIXED = "#"
"""In the list of `dims`, matches an axis that has one size for all samples."""

VARYING = "~"
"""In the list of `dims`, matches an axis whose length varies, or is unknown before measuring."""

Verdict = bool | None
"""Whether a tensor is selected. None: only measuring its axes can show it."""


def _any_of(verdicts: Iterable[Verdict]) -> Verdict:
    found: Verdict = False
    for verdict in verdicts:
        if verdict:
            return True
        found = None if verdict is None else found
    return found


def _all_of(verdicts: Iterable[Verdict]) -> Verdict:
    return _negated(_any_of(map(_negated, verdicts)))


def _negated(verdict: Verdict) -> Verdict:
    return None if verdict is None else not verdict


@lru_cache(maxsize=4096)
def _glob(pattern: str) -> re.Pattern[str]:
    return re.compile(translate(pattern))


def _matches_glob(pattern: object, *candidates: str | None) -> bool:
    compiled = _glob(str(pattern))
    return any(text is not None and compiled.match(text) is not None for text in candidates)


def _path(record: TensorRecord, pattern: object) -> bool:
    """a glob matches the whole address; `*` crosses `/`"""
    return _matches_glob(pattern, record.address, record.name)


def _regex(record: TensorRecord, pattern: object) -> bool:
    """a regular expression is found in the address"""
    compiled = re.compile(str(pattern))
    return any(compiled.search(text) for text in (record.address, record.name))


def _layer_type(record: TensorRecord, pattern: object) -> bool:
    """a glob matches the class name of the tensor's own layer, or of one that it derives from"""
    return bool(record.scopes) and _matches_glob(pattern, *record.scopes[-1].types)


def _inside(record: TensorRecord, pattern: object) -> bool:
    """a glob matches the type or path of any enclosing layer"""
    return any(
        _matches_glob(pattern, scope.path, scope.name, *scope.types) for scope in record.scopes
    )


def _op_type(record: TensorRecord, pattern: object) -> bool:
    """a glob matches the type of the operation: `Softmax`"""
    return _matches_glob(pattern, record.op_type)


def _kind(record: TensorRecord, kind: object) -> bool:
    """the tensor is one of `model_input`, `model_output`, `layer_input`, `layer_output`, `state`
    (a state or gate of a recurrent cell), `op`, `weight`, `optimizer` (slots and counters in a
    checkpoint), `moving_average` (averages of weights in one)"""
    return record.kind == kind


def _port(record: TensorRecord, pattern: object) -> bool:
    """a glob matches the part after the colon: `kernel`"""
    return _matches_glob(pattern, record.port)


def _dtype(record: TensorRecord, pattern: object) -> bool:
    """a glob matches the type: `float*`"""
    return _matches_glob(pattern, record.spec.dtype)


def _depth(record: TensorRecord, depth: object) -> bool:
    """the path has this many layers; 0 is the model itself"""
    return record.depth == depth


def _dims(record: TensorRecord, pattern: object) -> Verdict:
    """a list of globs matches the axes one by one, in the model's order or with the samples first:
    `sample,token,*`; `#` matches an axis of one size, `~` one of varying length"""
    globs = [one.strip() for one in str(pattern).split(",")]
    own, stored = record.spec.dims, record.stored_dims
    if own is None or stored is None:
        return None
    if record.sample_axis is None and not record.spec.known:
        # Measuring may find the samples along any axis, or in a product with another.
        return None if len(globs) - len(own) in (0, 1) else False
    return _any_of(_are_axes(dims, globs) for dims in (own, stored))


def _are_axes(dims: Sequence[Dim], globs: Sequence[str]) -> Verdict:
    if len(globs) != len(dims):
        return False
    return _all_of(is_axis(dim, glob) for dim, glob in zip(dims, globs, strict=True))


def is_axis(dim: Dim, glob: str) -> Verdict:
    """Return whether a glob matches what an axis is called, or its length."""
    if _matches_glob(glob, dim.title, dim.length, str(dim)):
        return True
    if dim.unknown:
        return None
    if glob == FIXED:
        return dim.size is not None
    return glob == VARYING and dim.size is None and not dim.counts_samples


PREDICATES: Mapping[str, Callable[[TensorRecord, object], Verdict]] = {
    test.__name__.removeprefix("_"): test
    for test in (
        *(_path, _regex, _layer_type, _inside, _op_type, _kind, _port, _dtype, _dims, _depth),
    )
}
"""The tests by their keys. Their docstrings are the keys' descriptions: a selector matches if …"""

COMBINATORS = {
    "any": "one of a list of such mappings holds",
    "all": "all of a list of such mappings hold",
    "not": "a mapping does not hold, or none of a list",
}

CONSUMES, FEEDS = "consumes", "feeds"
NEIGHBOURS = {
    CONSUMES: "the operation that makes the tensor (for a layer's output, the layer) consumes a "
    "tensor that matches a mapping of predicates",
    FEEDS: "an operation or layer consumes the tensor and makes one that matches a mapping",
}

PREDICATE_KEYS = (
    *(
        Key(name, "value or list", None, inspect.getdoc(test) or "", Effect.RECORDED)
        for name, test in PREDICATES.items()
    ),
    *(
        Key(name, "mapping or list", None, description, Effect.RECORDED)
        for name, description in (NEIGHBOURS | COMBINATORS).items()
    ),
)
"""The keys for what a selector matches."""


class Predicate:
    """A test of one record. Predicates are values, combined with `&`, `|` and `~`."""

    def verdict(self, record: TensorRecord) -> Verdict:
        """Return whether the record is selected, None if that depends on axes yet to be measured.

        Raises:
            SelectionError: It depends on its neighbours, see `within`.
        """
        raise NotImplementedError

    def matches(self, record: TensorRecord) -> bool:
        """Return True if the record is selected for certain. Raises as `verdict` does."""
        return self.verdict(record) is True

    def may_match(self, record: TensorRecord) -> bool:
        """Return True if the record is selected, or may be once its axes are measured.

        Only axes of extractable tensors are measured. Raises as `verdict` does.
        """
        verdict = self.verdict(record)
        return record.extractable if verdict is None else verdict

    def check_decided(self, record: TensorRecord) -> None:
        """Check that a record is undecided only because of its own axes.

        Raises:
            SelectionError: it depends on the axes of a neighbour, which may never be measured.
        """

    def within(self, catalog: Catalog) -> "Predicate":
        """Return the predicate for records of this catalog, with neighbours resolved.

        Raises:
            SelectionError: The catalog has no edges.
        """
        return self

    def __and__(self, other: "Predicate") -> "Predicate":
        return All((self, other))

    def __or__(self, other: "Predicate") -> "Predicate":
        return Any((self, other))

    def __invert__(self) -> "Predicate":
        return Not(self)


@dataclass(frozen=True)
class Where(Predicate):
    """True if one of `values` matches the field `key`."""

    key: str
    values: tuple[object, ...]

    def verdict(self, record: TensorRecord) -> Verdict:
        test = PREDICATES[self.key]
        return _any_of(test(record, value) for value in self.values)


@dataclass(frozen=True)
class All(Predicate):
    """True if all parts are true, or there are none."""

    parts: tuple[Predicate, ...]

    def verdict(self, record: TensorRecord) -> Verdict:
        return _all_of(part.verdict(record) for part in self.parts)

    def check_decided(self, record: TensorRecord) -> None:
        for part in self.parts:
            part.check_decided(record)

    def within(self, catalog: Catalog) -> Predicate:
        return All(tuple(part.within(catalog) for part in self.parts))


@dataclass(frozen=True)
class Any(Predicate):
    """True if at least one part is true."""

    parts: tuple[Predicate, ...]

    def verdict(self, record: TensorRecord) -> Verdict:
        return _any_of(part.verdict(record) for part in self.parts)

    def check_decided(self, record: TensorRecord) -> None:
        for part in self.parts:
            part.check_decided(record)

    def within(self, catalog: Catalog) -> Predicate:
        return Any(tuple(part.within(catalog) for part in self.parts))


@dataclass(frozen=True)
class Not(Predicate):
    """True if the part is false."""

    part: Predicate

    def verdict(self, record: TensorRecord) -> Verdict:
        return _negated(self.part.verdict(record))

    def check_decided(self, record: TensorRecord) -> None:
        self.part.check_decided(record)

    def within(self, catalog: Catalog) -> Predicate:
        return Not(self.part.within(catalog))


@dataclass(frozen=True)
class Neighbour(Predicate):
    """True if a neighbour matches.

    Attributes:
        key: `CONSUMES` for the tensors that a record is made from, `FEEDS` for those made from it.
        part: the predicate of the neighbours.
        at: the configuration key, for messages.
    """

    key: str
    part: Predicate
    at: str

    def verdict(self, record: TensorRecord) -> Verdict:
        raise SelectionError(
            f"{self.at} needs a model's graph, and only its tensors are known here. Select them in "
            f"a job, or here by path, regex, kind or op_type"
        )

    def within(self, catalog: Catalog) -> Predicate:
        if catalog.edges is None:
            raise SelectionError(
                f"{self.at} needs to know which tensors each operation consumes, and the format of "
                f"model {catalog.model!r} does not record it. Select by path, regex, kind or "
                f"op_type. {listing(catalog)}"
            )
        part, consumed = self.part.within(catalog), catalog.edges.consumed
        verdicts = [part.verdict(record) for record in catalog.records]
        certain = {at for at, verdict in enumerate(verdicts) if verdict}
        unknown = {
            at
            for at, verdict in enumerate(verdicts)
            if verdict is None and catalog.records[at].extractable
        }

        def beside(matching: set[int]) -> frozenset[str]:
            if self.key == FEEDS:
                found = {taken for at in matching for taken in consumed[at]}
            else:
                found = {at for at, taken in enumerate(consumed) if not matching.isdisjoint(taken)}
            return frozenset(catalog.records[at].address for at in found)

        among = beside(certain)
        unmeasured = tuple(catalog.records[at].address for at in sorted(unknown))
        return _Among(self.at, among, beside(unknown) - among, unmeasured)


@dataclass(frozen=True)
class _Among(Predicate):
    """True for records with one of these addresses.

    Attributes:
        at: the configuration key, for messages.
        addresses: records with a neighbour that matches.
        undecided: other records, with a neighbour that matches if its axes are as asked.
        unknown: the neighbours whose axes are unknown.
    """

    at: str
    addresses: frozenset[str]
    undecided: frozenset[str]
    unknown: tuple[str, ...]

    def verdict(self, record: TensorRecord) -> Verdict:
        if record.address in self.undecided:
            return None
        return record.address in self.addresses

    def check_decided(self, record: TensorRecord) -> None:
        if record.address in self.undecided:
            raise SelectionError(
                f"{self.at} cannot be decided for {record.address!r}, because the axes of "
                f"{counted(len(self.unknown), 'tensor')} are unknown before they are measured "
                f"({self.unknown[0]!r} is one). Test neighbours by path, regex, op_type or kind "
                f"in place of dims"
            )


def existing(key: str, records: Iterable[TensorRecord]) -> Iterator[str]:
    """Yield the values that records have of the field that `key` tests."""
    for record in records:
        match key:
            case "path" | "regex":
                yield record.address
            case "layer_type":
                yield from record.scopes[-1].types if record.scopes else ()
            case "inside":
                for scope in record.scopes:
                    yield from (scope.path, *scope.types)
            case "dims":
                if record.stored_dims is not None:
                    yield ",".join(dim.title or dim.length for dim in record.stored_dims)
            case "dtype":
                yield record.spec.dtype
            case _:
                value = getattr(record, key)
                yield from () if value is None else (str(value),)


def listing(catalog: Catalog) -> str:
    """Return how to list the tensors of a catalog, for messages."""
    return f"List them: {catalog.listing}"
