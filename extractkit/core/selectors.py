"""The selector algebra: declarative predicates over catalog records. Pure Python.

All predicates of a selector's mapping must hold. Each takes one value or a list of alternatives.
`any`, `all` and `not` combine further mappings, and `consumes` and `feeds` test a tensor's
neighbours with one.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from functools import lru_cache

from extractkit.core.catalog import Catalog, Kind, TensorRecord
from extractkit.core.keys import Effect, Key
from extractkit.core.spec import Dim
from extractkit.core.statistics.registry import STATISTICS, Asked
from extractkit.core.transforms.pipeline import TRANSFORM_KEYS, TRANSFORMS, Pipeline
from extractkit.core.transforms.slicing import Range, parse_range
from extractkit.errors import ConfigError, SelectionError, choices, counted

FIXED = "#"
"""In the list of `dims`, matches an axis that has one size for all samples."""


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
    """the tensor is one of `model_input`, `model_output`, `layer_input`, `layer_output`, `op`,
    `weight`, `optimizer` (slots and counters in a checkpoint), `moving_average` (averages of
    weights in one)"""
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


def _dims(record: TensorRecord, pattern: object) -> bool:
    """a list of globs matches the axes one by one: `sample,token,*`; `#` matches an axis of one
    size"""
    if record.spec.dims is None:
        return False
    globs = [one.strip() for one in str(pattern).split(",")]
    dims = record.spec.dims
    return len(globs) == len(dims) and all(map(_is_axis, dims, globs))


def _is_axis(dim: Dim, glob: str) -> bool:
    """Return whether a glob matches what an axis is called, or its length."""
    if glob == FIXED:
        return dim.size is not None
    return any(_matches_glob(glob, text) for text in (dim.title, dim.length, str(dim)))


_PREDICATES: Mapping[str, Callable[[TensorRecord, object], bool]] = {
    test.__name__.removeprefix("_"): test
    for test in (
        *(_path, _regex, _layer_type, _inside, _op_type, _kind, _port, _dtype, _dims, _depth),
    )
}
"""The tests by their keys. Their docstrings are the keys' descriptions: a selector matches if …"""

_COMBINATORS = {
    "any": "one of a list of such mappings holds",
    "all": "all of a list of such mappings hold",
    "not": "a mapping does not hold, or none of a list",
}

CONSUMES, FEEDS = "consumes", "feeds"
_NEIGHBOURS = {
    CONSUMES: "what makes the tensor (an operation, or a layer for its outputs) consumes a tensor "
    "for which a mapping of predicates holds",
    FEEDS: "an operation or layer consumes the tensor and makes one for which a mapping holds",
}

PREDICATE_KEYS = (
    *(
        Key(name, "value or list", None, inspect.getdoc(test) or "", Effect.RECORDED)
        for name, test in _PREDICATES.items()
    ),
    *(
        Key(name, "mapping or list", None, description, Effect.RECORDED)
        for name, description in (_NEIGHBOURS | _COMBINATORS).items()
    ),
)
"""The keys for what a selector matches."""

STATISTICS_KEY = Key(
    *(STATISTICS, "list", None),
    "results over all samples in place of a value per sample: `[moments, {top: {k: 10}}]`",
    Effect.RECORDED,
)

TAKE = Key(
    *("take", "text", None),
    "a slice over the extractable matches, in the catalog's order: `'-4:'` is the last four",
    Effect.RECORDED,
)

_OF_LAYERS = ("layer_type", "inside")
_OF_VALUES = (*TRANSFORM_KEYS, STATISTICS)
_OTHER_KEYS = (TAKE.name, *_OF_VALUES)
SELECTOR_KEYS = tuple(key.name for key in (*PREDICATE_KEYS, TAKE, *TRANSFORMS, STATISTICS_KEY))


class Predicate:
    """A test of one record. Predicates are values, combined with `&`, `|` and `~`."""

    def matches(self, record: TensorRecord) -> bool:
        """Return True if the record is selected.

        Raises:
            SelectionError: That depends on its neighbours, see `within`.
        """
        raise NotImplementedError

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

    def matches(self, record: TensorRecord) -> bool:
        test = _PREDICATES[self.key]
        return any(test(record, value) for value in self.values)


@dataclass(frozen=True)
class All(Predicate):
    """True if every part is; true without parts."""

    parts: tuple[Predicate, ...]

    def matches(self, record: TensorRecord) -> bool:
        return all(part.matches(record) for part in self.parts)

    def within(self, catalog: Catalog) -> Predicate:
        return All(tuple(part.within(catalog) for part in self.parts))


@dataclass(frozen=True)
class Any(Predicate):
    """True if at least one part is; false without parts."""

    parts: tuple[Predicate, ...]

    def matches(self, record: TensorRecord) -> bool:
        return any(part.matches(record) for part in self.parts)

    def within(self, catalog: Catalog) -> Predicate:
        return Any(tuple(part.within(catalog) for part in self.parts))


@dataclass(frozen=True)
class Not(Predicate):
    """True if the part is false."""

    part: Predicate

    def matches(self, record: TensorRecord) -> bool:
        return not self.part.matches(record)

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

    def matches(self, record: TensorRecord) -> bool:
        raise SelectionError(
            f"{self.at} needs a model's graph, and only its tensors are known here. Select them in "
            f"a job, or here by path, regex, kind or op_type"
        )

    def within(self, catalog: Catalog) -> Predicate:
        if catalog.edges is None:
            raise SelectionError(
                f"{self.at} needs to know which tensors each operation consumes, and the format of "
                f"model {catalog.model!r} does not record it. Select by path, regex, kind or "
                f"op_type. {_listing(catalog)}"
            )
        part, consumed = self.part.within(catalog), catalog.edges.consumed
        matching = {at for at, record in enumerate(catalog.records) if part.matches(record)}
        if self.key == FEEDS:
            found = {taken for at in matching for taken in consumed[at]}
        else:
            found = {at for at, taken in enumerate(consumed) if not matching.isdisjoint(taken)}
        return _Among(frozenset(catalog.records[at].address for at in found))


@dataclass(frozen=True)
class _Among(Predicate):
    """True for records with one of these addresses."""

    addresses: frozenset[str]

    def matches(self, record: TensorRecord) -> bool:
        return record.address in self.addresses


@dataclass(frozen=True)
class Selector:
    """A named predicate, and the transforms of the tensors that it matches.

    Attributes:
        take: a slice over what matches and can be extracted.
        asked: the statistics that are stored in place of values per sample.
        given: the selector as written, for messages.
    """

    name: str
    predicate: Predicate
    pipeline: Pipeline = field(default_factory=Pipeline)
    given: str = ""
    take: Range | None = None
    asked: Asked = field(default_factory=Asked)

    def matching(self, catalog: Catalog) -> tuple[TensorRecord, ...]:
        """Return the records that match, in the catalog's order, extractable or not.

        With `take`, return those that it takes of the extractable ones. The others follow that a
        slice over all would take, since they may have been meant.

        Raises:
            SelectionError: no record matches, `take` leaves none, or the predicate tests neighbours
                and the catalog has no edges.
        """
        predicate = self.predicate.within(catalog)
        matched = tuple(record for record in catalog.records if predicate.matches(record))
        if not matched:
            raise SelectionError(
                f"selectors.{self.given} matched 0 of {counted(len(catalog), 'tensor')} of model "
                f"{catalog.model!r}. {_why_nothing(self.predicate, catalog)} {_listing(catalog)}"
            )
        if self.take is None:
            return matched
        within = slice(*self.take)
        extractable = tuple(record for record in matched if record.extractable)
        others = (record for record in matched[within] if not record.extractable)
        taken = (*extractable[within], *others)
        if not taken:
            raise SelectionError(
                f"selectors.{self.given} takes none of the {len(matched)} tensors of model "
                f"{catalog.model!r} that match. {_listing(catalog)}"
            )
        return taken

    def select(self, catalog: Catalog) -> tuple[TensorRecord, ...]:
        """Return the records that match and can be extracted, in the catalog's order.

        Raises:
            SelectionError: nothing matches, or nothing that matches can be extracted.
        """
        matched = self.matching(catalog)
        chosen = tuple(record for record in matched if record.extractable)
        if not chosen:
            reasons = [f"{record.address}: {record.reason}" for record in matched[:3]]
            raise SelectionError(
                f"selectors.{self.given} matched {counted(len(matched), 'tensor')} of model "
                f"{catalog.model!r}, none of which can be extracted. {'; '.join(reasons)}. "
                f"{_listing(catalog)}"
            )
        return chosen


def _why_nothing(predicate: Predicate, catalog: Catalog) -> str:
    """List what exists for the first test that matches no tensor; else list addresses."""
    tests = list(_tests(predicate))
    for test in tests:
        inside = test.within(catalog)
        if any(inside.matches(record) for record in catalog.records):
            continue
        if isinstance(test, Neighbour):
            return _why_no_neighbour(test, catalog)
        if test.key in _OF_LAYERS and not any(record.scopes for record in catalog.records):
            return (
                f"{test.key} needs layers, which this model's format does not record. "
                f"Select by path, regex, kind or op_type."
            )
        return choices(str(test.values[0]), _existing(test.key, catalog))
    own = [test for test in tests if isinstance(test, Where)]
    if len(own) < len(tests):
        return "Each of these predicates matches some tensors, but none matches all of them."
    return choices(str(own[0].values[0]) if own else "", catalog)


def _why_no_neighbour(test: Neighbour, catalog: Catalog) -> str:
    part = test.part.within(catalog)
    count = sum(part.matches(record) for record in catalog.records)
    if not count:
        return f"{test.at} matches 0 tensors. {_why_nothing(test.part, catalog)}"
    are = "1 tensor matches" if count == 1 else f"{count} tensors match"
    verb = "is consumed to make" if test.key == FEEDS else "is made from"
    them = "it" if count == 1 else "one of them"
    return f"{are} {test.at}, but no listed tensor {verb} {them}."


def _tests(predicate: Predicate) -> Iterator[Where | Neighbour]:
    """Yield the single tests of a predicate, except negated ones."""
    if isinstance(predicate, Where | Neighbour):
        yield predicate
    elif isinstance(predicate, All | Any):
        for part in predicate.parts:
            yield from _tests(part)


def _existing(key: str, catalog: Catalog) -> Iterator[str]:
    """Yield the catalog's values of the field that `key` tests."""
    for record in catalog.records:
        match key:
            case "path" | "regex":
                yield record.address
            case "layer_type":
                yield from record.scopes[-1].types if record.scopes else ()
            case "inside":
                for scope in record.scopes:
                    yield from (scope.path, *scope.types)
            case "dims":
                if record.spec.dims is not None:
                    yield ",".join(dim.title or dim.length for dim in record.spec.dims)
            case "dtype":
                yield record.spec.dtype
            case _:
                value = getattr(record, key)
                yield from () if value is None else (str(value),)


def _listing(catalog: Catalog) -> str:
    return f"List them: {catalog.listing}"


def parse_selector(name: str, mapping: object) -> Selector:
    """Parse a selector's configuration. `name` is its key under `selectors`.

    Raises:
        ConfigError: an unknown key, a value of the wrong type, or no predicate at all.
    """
    if not name.isidentifier():
        raise ConfigError(
            f"selectors.{name}: a selector's name is letters, digits and underscores, "
            f"for example selectors.mine"
        )
    at = f"selectors.{name}"
    entries = _mapping(mapping, at)
    predicate = _parse_all(entries, at, extra=_OTHER_KEYS)
    given = TAKE.name in entries
    take = parse_range(entries[TAKE.name], f"{at}.{TAKE.name}") if given else None
    pipeline = Pipeline.parse({k: v for k, v in entries.items() if k in TRANSFORM_KEYS}, at)
    shown = ", ".join(f"{k}={v!r}" for k, v in entries.items() if k not in _OF_VALUES)
    asked = Asked.parse(entries.get(STATISTICS), f"{at}.{STATISTICS}")
    return Selector(name, predicate, pipeline, f"{name}.{shown}", take, asked)


def _mapping(value: object, at: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{at}={value!r} is not a mapping of predicates. Write for example {at}.path='*:output'"
        )
    return {str(key): entry for key, entry in value.items() if entry is not None}


def _parse_all(entries: Mapping[str, object], at: str, extra: Sequence[str] = ()) -> Predicate:
    allowed = (*_PREDICATES, *_NEIGHBOURS, *_COMBINATORS, *extra)
    parts: list[Predicate] = []
    for key, value in entries.items():
        if key not in allowed:
            raise ConfigError(f"{at}.{key} does not exist. {choices(key, allowed)}")
        if key in _PREDICATES:
            parts.append(Where(key, _values(key, value, f"{at}.{key}")))
        elif key in _COMBINATORS or key in _NEIGHBOURS:
            nested = tuple(
                _parse_all(_mapping(item, f"{at}.{key}"), f"{at}.{key}")
                for item in _combined(key, value, f"{at}.{key}")
            )
            match key:
                case "all":
                    parts.append(All(nested))
                case "any":
                    parts.append(Any(nested))
                case "not":
                    parts.append(Not(Any(nested)))
                case _:
                    part = nested[0] if len(nested) == 1 else Any(nested)
                    parts.append(Neighbour(key, part, f"{at}.{key}"))
    if not parts:
        keys = ", ".join((*_PREDICATES, *_NEIGHBOURS, *_COMBINATORS))
        raise ConfigError(
            f"{at} has no predicate. Give one of {keys}; {at}.path='*' matches every tensor"
        )
    return parts[0] if len(parts) == 1 else All(tuple(parts))


def _combined(key: str, value: object, at: str) -> Iterable[object]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        if not value:
            raise ConfigError(f"{at} is empty. Give a list of mappings of predicates")
        return value
    if key not in ("any", "all"):
        return [value]
    raise ConfigError(f"{at}={value!r} is not a list of mappings of predicates")


def _values(key: str, value: object, at: str) -> tuple[object, ...]:
    listed = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not listed:
        raise ConfigError(f"{at} is an empty list, which matches nothing")
    for item in listed:
        _check_value(key, item, at)
    return tuple(listed)


def _check_value(key: str, item: object, at: str) -> None:
    if key == "depth":
        if not isinstance(item, int) or isinstance(item, bool) or item < 0:
            raise ConfigError(f"{at}={item!r} is not a number of layers (0, 1, 2, …)")
        return
    if not isinstance(item, str):
        raise ConfigError(f"{at}={item!r} is not a text; quote it: {at}='{item}'")
    if key == "kind" and item not in list(Kind):
        raise ConfigError(f"{at}={item!r} is not a kind of tensor. {choices(item, map(str, Kind))}")
    if key == "regex":
        try:
            re.compile(item)
        except (re.error, OverflowError) as error:
            raise ConfigError(f"{at}={item!r} is not a regular expression: {error}") from error
