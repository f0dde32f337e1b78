"""Pipelines: lists of transforms, as written (`Pipeline`) and for one tensor (`BoundPipeline`)."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from extractkit.core.keys import Effect, Key
from extractkit.core.spec import BFLOAT16, Dim, TensorSpec, storable
from extractkit.core.transforms import (
    EVERY_AXIS,
    Array,
    AxisLengths,
    Masked,
    Operand,
    Tensor,
    Transform,
    named_entry,
)
from extractkit.core.transforms.casting import Cast
from extractkit.core.transforms.projection import Components, FromRun, Project, decisive
from extractkit.core.transforms.registry import PLUGINS, REDUCTIONS, transform
from extractkit.core.transforms.slicing import Slice
from extractkit.errors import ConfigError, choices

DO = "do"

TRANSFORMS = (
    Key(
        *("slice", "mapping", None),
        "indices along an axis, by dim or number (0 is the sample): `{token: 0}`, "
        "`{token: '-4:', 2: '0:4'}`; one number drops the axis",
        Effect.RECORDED,
    ),
    Key(
        *("reduce", "text or mapping", None),
        "`mean`, `sum`, `min`, `max`, `norm`, `std` or `var` along an axis: `{token: mean}`, or "
        "`mean` for all axes of a sample; padding is ignored",
        Effect.RECORDED,
    ),
    Key("cast", "text", None, "the dtype to store: `float16`", Effect.RECORDED),
    Key(
        *(DO, "list", None),
        "in place of these, a list of transforms in order: "
        "`[{slice: {token: '-4:'}}, {mean: token}]`",
        Effect.RECORDED,
    ),
)
"""The keys for what is stored of a match, in the order in which they apply."""

TRANSFORM_KEYS = tuple(key.name for key in TRANSFORMS)
SHORT_FORMS = tuple(name for name in TRANSFORM_KEYS if name != DO)


@dataclass(frozen=True)
class Pipeline:
    """A selector's transforms as written, not yet bound to a tensor.

    Attributes:
        steps: the transforms, in order.
        written: the same as plain data, in the full form (`do`). Pipelines with equal text do the
            same.
    """

    steps: tuple[Transform, ...] = ()
    written: tuple[Mapping[str, Any] | str, ...] = ()

    @classmethod
    def parse(cls, entries: Mapping[str, object], at: str) -> "Pipeline":
        """Parse `do: [{slice: {token: '-4:'}}, {mean: token}]`, or slice, reduce and cast.

        Raises:
            ConfigError: a transform does not exist, or its options are wrong.
        """
        given = {key: value for key, value in entries.items() if value is not None}
        short = [key for key in SHORT_FORMS if key in given]
        if DO in given and short:
            raise ConfigError(
                f"{at}.{DO} and {at}.{short[0]} exclude each other: write {short[0]} as a step "
                f"of {at}.{DO}"
            )
        steps = list(_given_steps(given, at))
        parsed = tuple(transform(name, at).parse(options, at) for name, options, at in steps)
        return cls(parsed, _written(steps))

    @property
    def cast(self) -> str | None:
        """The dtype of the last cast; None without a cast."""
        casts = [step.dtype for step in self.steps if isinstance(step, Cast)]
        return casts[-1] if casts else None

    @property
    def plugins(self) -> frozenset[str]:
        """The distributions whose plugins take part."""
        found = (PLUGINS.distribution(step.name) for step in self.steps)
        return frozenset(name for name in found if name is not None)

    def given(self, components: Callable[[str, FromRun], Sequence[Components]]) -> "Pipeline":
        """Return the pipeline with the components of the runs that its projections name.

        Args:
            components: returns what the run of a projection offers, from its key and its run.
        """
        steps = tuple(
            step.given(components(step.at, step.onto), self.written[:number])
            if isinstance(step, Project) and isinstance(step.onto, FromRun)
            else step
            for number, step in enumerate(self.steps)
        )
        return replace(self, steps=steps)

    @property
    def decisive(self) -> tuple[object, ...]:
        """Everything in `written` that decides the values."""
        return decisive(self.written)

    def same_as(self, other: "Pipeline") -> bool:
        """Return True if both do the same, even if they belong to different selectors."""
        return self.written == other.written

    def bind(
        self, address: str, spec: TensorSpec, request: Mapping[str, object] | None = None
    ) -> "Mapping[str, BoundPipeline]":
        """Bind the pipeline to one tensor in stored order, and return its results by name.

        The main result has the empty name.

        Args:
            request: see `Operand`.

        Raises:
            SelectionError: a transform does not fit the tensor.
        """
        operand = Operand.of(spec, address, request)
        bound: list[_Step] = []
        found: dict[str, BoundPipeline] = {}
        for step in self.steps:
            results = dict(step.results(operand))
            bound.append(_Step(step, operand, tuple(results)))
            for name, result in results.items():
                if name:
                    key, count = name, 2
                    while key in found:
                        key, count = f"{name}{count}", count + 1
                    found[key] = BoundPipeline(tuple(bound), name, result)
            operand = results[""]
        return {"": BoundPipeline(tuple(bound), "", operand), **found}


Written = tuple[Mapping[str, Any] | str, ...]
"""Transforms as plain data, in the full form (`do`)."""


def written(entries: Mapping[str, object], at: str) -> Written:
    """Return the transforms in a selector's entries in the full form, without parsing options.

    Plugins need not be installed.

    Raises:
        ConfigError: the entries do not have the form of a selector's.
    """
    given = {key: value for key, value in entries.items() if value is not None}
    return _written(_given_steps(given, at))


def names(recorded: Iterable[object]) -> Iterator[str | None]:
    """Yield the name of each recorded transform; None for an entry that is not a transform."""
    for entry in recorded:
        named = named_entry(entry)
        yield None if named is None else str(named[0])


@dataclass(frozen=True)
class _Step:
    transform: Transform
    operand: Operand
    results: tuple[str, ...]


@dataclass(frozen=True)
class BoundPipeline:
    """The steps that lead to one result, each with the spec of its operand.

    Attributes:
        name: the name of the last step's result; empty for the main one.
        result: the spec of the result.
    """

    steps: tuple[_Step, ...]
    name: str
    result: Operand

    @property
    def spec(self) -> TensorSpec:
        """The spec of the result."""
        return TensorSpec(self.result.dtype, tuple(axis.dim for axis in self.result.axes))

    @property
    def stored_dtype(self) -> str:
        """The dtype in which the result is stored: bfloat16 only after a cast to it."""
        asked = any(
            isinstance(step.transform, Cast) and step.transform.dtype == BFLOAT16
            for step in self.steps
        )
        return self.spec.dtype if asked else storable(self.spec.dtype)

    @property
    def components(self) -> Mapping[str, Components]:
        """The components of other runs onto which its steps project, by the steps' keys."""
        return {
            step.transform.at: found
            for step in self.steps
            if isinstance(step.transform, Project)
            and (found := step.transform.components(step.operand)) is not None
        }

    @property
    def _choices(self) -> list[int]:
        """For each step, the number of the result that the next step or the caller takes."""
        last = len(self.steps) - 1
        return [
            step.results.index(self.name if number == last else "")
            for number, step in enumerate(self.steps)
        ]

    def elements(self, lengths: AxisLengths) -> Iterator[tuple[str, Dim, int, Array]]:
        """Yield every single element that is taken from a free axis: key, axis, index and lengths.

        The lengths are those after the previous steps. Axes of unknown lengths are omitted.

        Args:
            lengths: the lengths of the tensor's ragged axes, as arrays.
        """
        for step, chosen in zip(self.steps, self._choices, strict=True):
            if isinstance(step.transform, Slice):
                for position, index in step.transform.elements(step.operand):
                    if position in lengths:
                        dim = step.operand.axes[position].dim
                        yield step.transform.at, dim, index, lengths[position]
            lengths = step.transform.lengths(np, step.operand, lengths)[chosen]

    def ranges(self, lengths: AxisLengths) -> Iterator[tuple[str, str, slice, Array]]:
        """Yield every range that is taken of a free axis, as `elements` does single elements."""
        for step, chosen in zip(self.steps, self._choices, strict=True):
            if isinstance(step.transform, Slice):
                for position, taken in step.transform.ranges(step.operand):
                    if position in lengths:
                        axis = str(step.operand.axes[position].dim.title)
                        yield step.transform.at, axis, taken, lengths[position]
            lengths = step.transform.lengths(np, step.operand, lengths)[chosen]

    def lengths(self, xp: Any, lengths: AxisLengths) -> AxisLengths:
        """Return the lengths of the result's ragged axes from those of the tensor's.

        Args:
            xp: `numpy` or `tensorflow`: lengths are arrays or tensors.
        """
        for step, chosen in zip(self.steps, self._choices, strict=True):
            lengths = step.transform.lengths(xp, step.operand, lengths)[chosen]
        return lengths

    def in_graph(self, tf: Any, value: Masked) -> Tensor:
        """Apply the steps to a padded batch."""
        for step, chosen in zip(self.steps, self._choices, strict=True):
            tensor = step.transform.in_graph(tf, step.operand, value)[chosen]
            lengths = step.transform.lengths(tf, step.operand, value.lengths)[chosen]
            value = Masked(tensor, lengths)
        return value.tensor

    def in_numpy(self, value: Array) -> Array:
        """Apply the steps to one sample, given without a sample axis, or to a constant.

        NumPy has no bfloat16: operands and results of that dtype are float32.
        """
        whole = value.astype(np.float32) if value.dtype.name == BFLOAT16 else value
        sample = bool(self.steps) and self.steps[0].operand.first == 1
        if sample:
            whole = whole[np.newaxis]
        for step, chosen in zip(self.steps, self._choices, strict=True):
            whole = step.transform.in_numpy(step.operand, whole)[chosen]
        return np.asarray(whole[0]) if sample else whole


_GivenStep = tuple[str, object, str]


def _given_steps(given: Mapping[str, object], at: str) -> Iterator[_GivenStep]:
    """Yield name, options and key of each step."""
    return _steps(given[DO], f"{at}.{DO}") if DO in given else _short_steps(given, at)


def _written(steps: Iterable[_GivenStep]) -> Written:
    return tuple(name if options is None else {name: options} for name, options, _ in steps)


def _steps(value: object, at: str) -> Iterator[_GivenStep]:
    """Yield name, options and key of each step of the full form."""
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{at}={value!r} is not a list of transforms, as in [{{mean: token}}]")
    for number, entry in enumerate(value):
        here = f"{at}.{number}"
        named = named_entry(entry)
        if named is None:
            raise ConfigError(
                f"{here}={entry!r} is not one transform. Write its name, or a mapping of its name "
                f"to its options, as in {{mean: token}}"
            )
        name, options = named
        yield str(name), options, f"{here}.{name}"


def _short_steps(given: Mapping[str, object], at: str) -> Iterator[_GivenStep]:
    """Yield the steps of the short forms: slice, then reduce, then cast."""
    if given.get("slice") not in (None, {}):
        yield "slice", given["slice"], f"{at}.slice"
    if (reduce := given.get("reduce")) is not None:
        entries = reduce if isinstance(reduce, Mapping) else {EVERY_AXIS: reduce}
        for axis, op in entries.items():
            if not isinstance(op, str) or op not in REDUCTIONS:
                raise ConfigError(
                    f"{at}.reduce={op!r} is not a reduction. {choices(str(op), REDUCTIONS)}"
                )
            yield op, axis, f"{at}.reduce"
    if given.get("cast") is not None:
        yield "cast", given["cast"], f"{at}.cast"
