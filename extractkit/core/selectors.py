"""Selectors: predicates with transforms and statistics, parsed from configuration. Pure Python.

All predicates of a selector's mapping must hold. Each takes one value or a list of alternatives.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from extractkit.core.attribution import Method, divided
from extractkit.core.catalog import Catalog, Kind, TensorRecord
from extractkit.core.keys import Effect, Key
from extractkit.core.predicates import (
    COMBINATORS,
    FEEDS,
    FIXED,
    NEIGHBOURS,
    PREDICATE_KEYS,
    PREDICATES,
    VARYING,
    All,
    Any,
    Neighbour,
    Not,
    Predicate,
    Where,
    existing,
    is_axis,
    listing,
)
from extractkit.core.requests import Bound
from extractkit.core.rollout import ROLLOUT, ROLLOUT_KEY, parse_rollout
from extractkit.core.statistics.registry import STATISTICS, Asked
from extractkit.core.targets import GRADIENT, GRADIENT_KEY, Target
from extractkit.core.transforms.pipeline import TRANSFORM_KEYS, TRANSFORMS, Pipeline
from extractkit.core.transforms.slicing import Range, parse_range
from extractkit.errors import ConfigError, SelectionError, choices, counted

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
_SHOWN = 3
_LONGEST = 200
_OF_VALUES = (GRADIENT, ROLLOUT, *TRANSFORM_KEYS, STATISTICS)
_OTHER_KEYS = (TAKE.name, *_OF_VALUES)
SELECTOR_KEYS = tuple(
    key.name
    for key in (*PREDICATE_KEYS, TAKE, GRADIENT_KEY, ROLLOUT_KEY, *TRANSFORMS, STATISTICS_KEY)
)


@dataclass(frozen=True)
class Selector:
    """A named predicate, and the transforms of the tensors that it matches.

    Attributes:
        take: a slice over what matches and can be extracted.
        asked: the statistics that are stored in place of values per sample.
        given: the selector as written, for messages.
        gradient: the target whose gradients are stored in place of values; None: values are stored.
        method: what is made of the gradients; None: they are stored themselves.
        rollout: whether the rollout of the attention maps that match is stored in place of values.
    """

    name: str
    predicate: Predicate
    pipeline: Pipeline = field(default_factory=Pipeline)
    given: str = ""
    take: Range | None = None
    asked: Asked = field(default_factory=Asked)
    gradient: Target | None = None
    method: Method | None = None
    rollout: bool = False

    @property
    def of_values(self) -> bool:
        """Whether it asks for values, and not for gradients or a rollout."""
        return self.gradient is None and not self.rollout

    def matching(self, catalog: Catalog, bound: Bound | None = None) -> tuple[TensorRecord, ...]:
        """Return the records that match, in the catalog's order, extractable or not.

        They include those that may match once their axes are measured. With `take`, return the
        slice of the extractable records, and then the unextractable ones that a slice over all
        records would contain, since these may have been meant.

        Args:
            bound: what the model computes in place of values. Other tensors are unextractable.
                None: the records are those of values.

        Raises:
            SelectionError: no record matches, `take` leaves none, or the predicate tests neighbours
                and the catalog has no edges, or the neighbours' axes are unknown.
        """
        predicate = self.predicate.within(catalog)
        for record in catalog.records:
            if record.extractable and predicate.verdict(record) is None:
                predicate.check_decided(record)
        matched = tuple(record for record in catalog.records if predicate.may_match(record))
        if bound is not None:
            matched = tuple(map(bound.offered, matched))
        if not matched:
            raise SelectionError(
                f"selectors.{self.given} matched 0 of {counted(len(catalog), 'tensor')} of model "
                f"{catalog.model!r}. {_why_nothing(self.predicate, catalog)} {listing(catalog)}"
            )
        if self.take is not None:
            matched = self._taken(matched, catalog)
        return matched if bound is None else bound.combined(matched)

    def _taken(
        self, matched: tuple[TensorRecord, ...], catalog: Catalog
    ) -> tuple[TensorRecord, ...]:
        assert self.take is not None, "nothing is taken"
        within = slice(*self.take)
        extractable = tuple(record for record in matched if record.extractable)
        others = (record for record in matched[within] if not record.extractable)
        taken = (*extractable[within], *others)
        if not taken:
            raise SelectionError(
                f"selectors.{self.given} takes none of the {len(matched)} tensors of model "
                f"{catalog.model!r} that match. {listing(catalog)}"
            )
        return taken

    def within(self, catalog: Catalog) -> "Selector":
        """Return the selector for records of this catalog, with neighbours resolved.

        Raises:
            SelectionError: the predicate tests neighbours and the catalog has no edges.
        """
        return replace(self, predicate=self.predicate.within(catalog))

    def check_measured(self, before: TensorRecord, after: TensorRecord) -> bool:
        """Return whether a record that may match does match, now that its axes are measured.

        Raises:
            SelectionError: it does not, and `take` has counted it.
        """
        if self.predicate.verdict(before) is not None or self.predicate.may_match(after):
            return True
        if self.take is None:
            return False
        (dims,) = existing("dims", [after])
        raise SelectionError(
            f"selectors.{self.name}.{TAKE.name} has counted {before.address!r}, whose axes were "
            f"unknown. They were measured as {dims!r}, so that it does not match. Select by path, "
            f"op_type or kind in place of dims"
        )

    def nothing_measured(
        self, catalog: Catalog, measured: Sequence[TensorRecord]
    ) -> SelectionError:
        """Return the error for a selector that matches nothing once axes have been measured.

        Args:
            catalog: the catalog that the selector is `within`.
            measured: the records that might have matched, with their axes as measured.
        """
        (dims,) = existing("dims", measured[:1])
        found = {one.address: one for one in measured}
        records = (found.get(one.address, one) for one in catalog.records)
        known = [one for one in records if self.predicate.verdict(one) is not None]
        why = _why_nothing(self.predicate, Catalog(known, catalog.model))
        return SelectionError(
            f"selectors.{self.given} matches nothing: the axes of {measured[0].address!r} were "
            f"measured as {dims!r}. {why} {listing(catalog)}"
        )

    def select(self, catalog: Catalog, bound: Bound | None = None) -> tuple[TensorRecord, ...]:
        """Return the records that match and can be extracted, in the catalog's order.

        Args:
            bound: see `matching`.

        Raises:
            SelectionError: nothing matches, or nothing that matches can be extracted.
        """
        matched = self.matching(catalog, bound)
        chosen = tuple(record for record in matched if record.extractable)
        if not chosen:
            reasons = [f"{record.address}: {record.reason}" for record in matched[:3]]
            raise SelectionError(
                f"selectors.{self.given} matched {counted(len(matched), 'tensor')} of model "
                f"{catalog.model!r}, none of which can be extracted. {'; '.join(reasons)}. "
                f"{listing(catalog)}"
            )
        return chosen


def _why_nothing(predicate: Predicate, catalog: Catalog) -> str:
    """List what exists for the first test that matches no tensor; else list addresses."""
    test = _failing(predicate, catalog)
    if isinstance(test, Neighbour):
        return _why_no_neighbour(test, catalog)
    if test is not None:
        return _why_no_value(test, catalog)
    if isinstance(predicate, All):
        return _why_not_all(predicate, catalog)
    return choices("", catalog)


def _failing(predicate: Predicate, catalog: Catalog) -> Where | Neighbour | None:
    """Return the first test that matches nothing, except for tests that are only alternatives."""
    if _matched(predicate, catalog):
        return None
    if isinstance(predicate, Where | Neighbour):
        return predicate
    parts = predicate.parts if isinstance(predicate, All | Any) else ()
    return next((test for part in parts if (test := _failing(part, catalog)) is not None), None)


def _matched(predicate: Predicate, catalog: Catalog) -> list[TensorRecord]:
    inside = predicate.within(catalog)
    return [record for record in catalog.records if inside.may_match(record)]


def _why_no_value(test: Where, catalog: Catalog) -> str:
    if test.key in _OF_LAYERS and not any(record.scopes for record in catalog.records):
        return (
            f"{test.key} needs layers, which this model's format does not record. "
            f"Select by path, regex, kind or op_type."
        )
    if hint := _no_varying_axis(test, catalog.records):
        return hint
    return choices(str(test.values[0]), existing(test.key, catalog.records))


def _no_varying_axis(test: Where, records: Iterable[TensorRecord]) -> str | None:
    """Return what to do if a test needs axes of varying length and none of these records has one.

    None otherwise.
    """
    if test.key != "dims" or not all(VARYING in str(value) for value in test.values):
        return None
    if any(is_axis(dim, VARYING) for record in records for dim in record.stored_dims or ()):
        return None
    return (
        f"No axis of these tensors varies in length from sample to sample ({VARYING!r}). For one "
        f"element of an axis of one size ({FIXED!r}): {{dims: 'sample,{FIXED},{FIXED}', "
        f"slice: {{1: -1}}}}."
    )


def _why_not_all(predicate: All, catalog: Catalog) -> str:
    """Return, for each predicate that alone excludes all records, what would match without it."""
    found = ["Each of these predicates matches some tensors, but none matches all of them."]
    for part in predicate.parts:
        rest = All(tuple(one for one in predicate.parts if one is not part))
        if not (matched := _matched(rest, catalog)):
            continue
        key = part.key if isinstance(part, Where | Neighbour) else type(part).__name__.lower()
        listed = key if key == "dims" else "path"
        shown = list(dict.fromkeys(existing(listed, matched)))
        names = ", ".join(map(repr, shown[:_SHOWN])) + ", …" * (len(shown) > _SHOWN)
        verb = "matches" if len(matched) == 1 else "match"
        found.append(f"Without {key}, {counted(len(matched), 'tensor')} {verb}: {names}.")
        if isinstance(part, Where) and (hint := _no_varying_axis(part, matched)):
            found.append(hint)
    return " ".join(found)


def _why_no_neighbour(test: Neighbour, catalog: Catalog) -> str:
    part = test.part.within(catalog)
    count = sum(part.matches(record) for record in catalog.records)
    if not count:
        return f"{test.at} matches 0 tensors. {_why_nothing(test.part, catalog)}"
    are = "1 tensor matches" if count == 1 else f"{count} tensors match"
    verb = "is consumed to make" if test.key == FEEDS else "is made from"
    them = "it" if count == 1 else "one of them"
    return f"{are} {test.at}, but no listed tensor {verb} {them}."


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
    shown = ", ".join(f"{k}={_shown(v)}" for k, v in entries.items() if k not in _OF_VALUES)
    asked = Asked.parse(entries.get(STATISTICS), f"{at}.{STATISTICS}")
    of, method = divided(entries.get(GRADIENT), f"{at}.{GRADIENT}")
    target = None if of is None else Target.parse(of, f"{at}.{GRADIENT}")
    rollout = parse_rollout(entries.get(ROLLOUT), f"{at}.{ROLLOUT}")
    if rollout and target is not None:
        raise ConfigError(
            f"{at}.{GRADIENT} and {at}.{ROLLOUT} exclude each other. Give one, and a selector for "
            f"each"
        )
    written = f"{name}.{shown}"
    return Selector(name, predicate, pipeline, written, take, asked, target, method, rollout)


def _shown(value: object) -> str:
    """Format a value for messages. Ready selectors may be long."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _mapping(value: object, at: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{at}={value!r} is not a mapping of predicates. Write for example {at}.path='*:output'"
        )
    return {str(key): entry for key, entry in value.items() if entry is not None}


def _parse_all(entries: Mapping[str, object], at: str, extra: Sequence[str] = ()) -> Predicate:
    allowed = (*PREDICATES, *NEIGHBOURS, *COMBINATORS, *extra)
    parts: list[Predicate] = []
    for key, value in entries.items():
        if key not in allowed:
            raise ConfigError(f"{at}.{key} does not exist. {choices(key, allowed)}")
        if key in PREDICATES:
            parts.append(Where(key, _values(key, value, f"{at}.{key}")))
        elif key in COMBINATORS or key in NEIGHBOURS:
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
        keys = ", ".join((*PREDICATES, *NEIGHBOURS, *COMBINATORS))
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
