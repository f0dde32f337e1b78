"""Targets of gradients: one number of each sample, as written and for the tensors of a model.

`Target` is a target as written, `BoundTarget` the same for the tensors of a model.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from extractkit.advice import hydra_text, hydra_value, nested_override, override
from extractkit.core.catalog import Catalog, Kind, Layout, TensorRecord
from extractkit.core.keys import Effect, Key
from extractkit.core.picks import (
    ARGMAX,
    LABEL,
    AtLabel,
    BoundAtLabel,
    BoundLoss,
    BoundPick,
    Element,
    Index,
    LabelSpec,
    Largest,
    Loss,
    Pick,
    merged,
    parse_index,
    parse_loss,
    written_index,
)
from extractkit.core.spec import Dim, TensorSpec
from extractkit.core.transforms import Array
from extractkit.core.transforms.pipeline import BoundPipeline, Pipeline
from extractkit.core.transforms.slicing import Slice
from extractkit.errors import ConfigError, SelectionError, UnknownTensorError, choices, counted

GRADIENT = "gradient"

GRADIENT_KEY = Key(
    *(GRADIENT, "mapping", None),
    "gradients with respect to what matches, in place of its values: `{of: TARGET}`. A target is "
    "the address of a tensor with one number per sample, `argmax` for the largest element of the "
    "model's only output, `{tensor: ADDRESS, index: 3}`, where `index` is one number for each axis "
    "(`label` for the sample's own, of `inputs.labels`) or `argmax`, and a second one may be "
    "subtracted: `minus: 5`; or `{loss: NAME, tensor: ADDRESS, options: {...}}`, a loss of Keras. "
    "Beside it, a method of attribution: `times: value`, `guided: true`, "
    "`integrate: {steps: 64, baseline: 0}`, `smooth: {draws: 16, noise: 0.1, seed: 0}`, "
    "`cam: true`, or `relevance: true` of attention maps",
    Effect.RECORDED,
)
"""The key of a selector for gradients."""

_EXAMPLE_OF = "{tensor: ADDRESS, index: 3}"
_EXAMPLE = f"{{of: {_EXAMPLE_OF}}}"


@dataclass(frozen=True)
class Target:
    """A target as written: a number in a tensor, the difference of two, or a loss.

    Attributes:
        tensor: address of the tensor; None: the model's only output.
        pick: the number.
        minus: the number to subtract from it, or None.
        at: the configuration key, for messages.
    """

    tensor: str | None
    pick: Pick
    minus: Index | None
    at: str

    @classmethod
    def parse(cls, value: object, at: str) -> "Target":
        """Parse the value of a selector's key `gradient`.

        Raises:
            ConfigError: it is not `{of: TARGET}`, or the target is not of a known form.
        """
        if not isinstance(value, Mapping) or set(value) != {"of"}:
            raise ConfigError(f"{at}={value!r} is not {{of: TARGET}}, as in {at}='{_EXAMPLE}'")
        of, at = value["of"], f"{at}.of"
        if of == ARGMAX:
            return cls(None, Largest(), None, at)
        if isinstance(of, str) and of:
            return cls(of, Element(()), None, at)
        if not isinstance(of, Mapping):
            raise ConfigError(
                f"{at}={of!r} is not a target. Give the address of a tensor with one number per "
                f"sample, {ARGMAX}, or a mapping as in {_EXAMPLE_OF}"
            )
        given = {str(key): one for key, one in of.items() if one is not None}
        keys = _LOSS_KEYS if "loss" in given else _TARGET_KEYS
        for key in given:
            if key not in keys:
                with_loss = " with a loss" if "loss" in given and key in _TARGET_KEYS else ""
                raise ConfigError(f"{at}.{key} does not exist{with_loss}. {choices(key, keys)}")
        tensor = given.get("tensor")
        if tensor is not None and not isinstance(tensor, str):
            raise ConfigError(f"{at}.tensor={tensor!r} is not the address of a tensor")
        if "loss" in given:
            return cls(tensor, parse_loss(given["loss"], given.get("options", {}), at), None, at)
        if "index" not in given and ("minus" in given or tensor is None):
            raise ConfigError(f"{at}.index is missing. Give an index, as in {at}='{_EXAMPLE_OF}'")
        pick = parse_index(given.get("index", []), f"{at}.index")
        minus = parse_index(given["minus"], f"{at}.minus") if "minus" in given else None
        if minus == pick:
            raise ConfigError(
                f"{at}.minus={given['minus']!r} is the index itself: the difference is always 0"
            )
        return cls(tensor, pick, minus, at)

    @property
    def takes_labels(self) -> bool:
        """Whether it takes a label of each sample."""
        return any(isinstance(one, AtLabel | Loss) for one in (self.pick, self.minus))

    def bound(self, catalog: Catalog) -> "BoundTarget":
        """Return the target for the tensors of a model.

        Raises:
            SelectionError: the model has no such tensor, or it does not have such a number for each
                sample.
        """
        record = self._record(catalog)
        if (reason := _unusable(record)) is not None:
            raise SelectionError(
                f"{self.at}: {record.address!r} cannot be a target, because {reason}"
            )
        return self.of(record)

    def of(self, record: TensorRecord) -> "BoundTarget":
        """Return the target for a tensor, whose axes may still have to be measured.

        Raises:
            SelectionError: the tensor does not have such a number for each sample.
        """
        bound = BoundTarget(record.address, self, None, ())
        layout = Layout.of(record)
        if layout is None:
            if not isinstance(self.pick, Loss):
                return bound
            # Labels are read before axes are measured.
            return replace(bound, picks=(self._loss(self.pick, record, _expected(record)),))
        if any(dim.computed for dim in layout.dims):
            raise SelectionError(
                f"{self.at}: the model computes the length of an axis of {record.address!r}, which "
                f"has dims {_titles(layout.dims[1:])}. Choose a target without such an axis"
            )
        picks = [self._bound(self.pick, record, layout, "index")]
        if self.minus is not None:
            picks.append(self._bound(self.minus, record, layout, "minus"))
            if _position(self.pick, layout) == _position(self.minus, layout):
                raise SelectionError(
                    f"{self.at}.minus={written_index(self.minus)} is the index itself in "
                    f"{record.address!r}, which has dims {_titles(layout.dims[1:])} besides the "
                    f"samples: the difference is always 0"
                )
        return replace(bound, layout=layout, picks=tuple(picks))

    def written(self, address: str) -> Mapping[str, object]:
        """Return the target as plain data, in the full form."""
        if isinstance(self.pick, Loss):
            return {"tensor": address, **self.pick.written}
        minus = {} if self.minus is None else {"minus": written_index(self.minus)}
        return {"tensor": address, "index": written_index(self.pick), **minus}

    def _record(self, catalog: Catalog) -> TensorRecord:
        if self.tensor is None:
            return self._only_output(catalog)
        try:
            return catalog[self.tensor]
        except UnknownTensorError as error:
            raise SelectionError(f"{self.at}: {error}") from error

    def _only_output(self, catalog: Catalog) -> TensorRecord:
        outputs = [one for one in catalog.records if one.kind is Kind.MODEL_OUTPUT]
        if len(outputs) != 1:
            example = self._override(outputs[0].address if outputs else "ADDRESS")
            raise SelectionError(
                f"{self.at} does not name a tensor, and model {catalog.model!r} has "
                f"{counted(len(outputs), 'output')}. Name one, as in {example}. "
                f"{choices('', [one.address for one in outputs])}"
            )
        return outputs[0]

    def _override(self, address: str, **picks: Pick) -> str:
        """Return an override for the target with another tensor, or with other numbers of it.

        It is in the full form, since an entry alone cannot be added to a target that is a text.
        """
        if isinstance(self.pick, Loss):
            options = {"options": hydra_value(dict(self.pick.options))} if self.pick.options else {}
            entries = {"loss": self.pick.name, "tensor": hydra_text(address), **options}
            return nested_override(self.at, entries)
        given = {"index": self.pick, "minus": self.minus, **picks}
        entries = {
            key: hydra_value(written_index(pick))
            for key, pick in given.items()
            if pick is not None and not isinstance(pick, Loss)
        }
        return nested_override(self.at, {"tensor": hydra_text(address), **entries})

    def _bound(self, pick: Pick, record: TensorRecord, layout: Layout, key: str) -> "BoundPick":
        dims, at = layout.dims[1:], f"{self.at}.{key}"
        if isinstance(pick, Loss):
            return self._loss(pick, record, dims)
        if isinstance(pick, Largest):
            if not dims:
                raise SelectionError(
                    f"{at}={ARGMAX}: {record.address!r} has no axis besides that of the samples. "
                    f"Give its address alone: {override(self.at, record.address)}"
                )
            return pick
        if len(pick.index) != len(dims):
            has = f"has dims {_titles(dims)} besides the samples" if dims else "has no other axis"
            gives = counted(len(pick.index), "number") if pick.index else "no number"
            advice = (
                f"one for each axis, as in {self._override(record.address, **{key: _first(dims)})}"
                if dims
                else f"its address alone: {override(self.at, record.address)}"
            )
            raise SelectionError(
                f"{self.at} is not one number per sample: {record.address!r} {has}, and {at} gives "
                f"{gives}. Give {advice}"
            )
        taken = tuple((n + 1, index) for n, index in enumerate(pick.index) if index is not None)
        pipeline = Pipeline((Slice(taken, at),) if taken else ())
        spec = TensorSpec(record.spec.dtype, layout.dims)
        bound = pipeline.bind(record.address, spec)[""]
        if isinstance(pick, Element):
            return bound
        axis = pick.index.index(None)
        return BoundAtLabel(bound, dims[axis], axis + 1, self.at)

    def _loss(self, pick: Loss, record: TensorRecord, dims: Sequence[Dim] | None) -> BoundLoss:
        """Return a loss for a tensor.

        Args:
            dims: its axes besides that of the samples; None if they are unknown.
        """
        if dims is None:
            raise SelectionError(
                f"{self.at}: a loss needs a tensor whose axes are known before the model runs, "
                f"and those of {record.address!r} are not. Choose another tensor"
            )
        if any(dim.size is None for dim in dims):
            raise SelectionError(
                f"{self.at}: a loss needs a tensor whose axes have one size in all samples, "
                f"and {record.address!r} has dims {_titles(dims)} besides the samples. Choose "
                f"a tensor without such an axis, or an element: {self.at}.index={LABEL}"
            )
        if pick.takes_classes and not dims:
            raise SelectionError(
                f"{self.at}: {pick.name} takes a tensor with an axis of classes, and "
                f"{record.address!r} has no axis besides that of the samples. Choose another "
                f"tensor, or a loss of one number, such as binary_crossentropy"
            )
        return BoundLoss(pick, tuple(dim.size or 0 for dim in dims), self.at)


def _expected(record: TensorRecord) -> Sequence[Dim] | None:
    """Return the axes of a tensor that is yet to be measured, besides that of the samples.

    A target has that axis. So if only one is unknown, it is this one, or the measurement ends in an
    error. None if more are unknown.
    """
    dims = record.spec.dims or ()
    unknown = [dim for dim in dims if replace(dim, name=None) == Dim()]
    return [dim for dim in dims if dim not in unknown] if len(unknown) == 1 else None


_TARGET_KEYS = ("tensor", "index", "minus", "loss")
_LOSS_KEYS = ("loss", "tensor", "options")

REAL = ("float16", "bfloat16", "float32", "float64")
"""The dtypes of tensors that gradients are defined for."""


@dataclass(frozen=True)
class BoundTarget:
    """A target of one model.

    Attributes:
        tensor: address of the tensor.
        target: the target as written.
        layout: how the tensor is brought into stored order; None until its axes have been measured.
        picks: the number, and the one to subtract from it if there is one. Without a layout, only a
            loss is known.
    """

    tensor: str
    target: Target
    layout: Layout | None
    picks: tuple[BoundPick, ...]

    @property
    def written(self) -> Mapping[str, object]:
        """The target as plain data. Targets of equal text are the same number."""
        return self.target.written(self.tensor)

    def label_sizes(self, lengths: Mapping[str, Array]) -> Iterator[tuple[str, Dim, Array]]:
        """Yield the axes that labels count along, each with its length in every sample.

        Args:
            lengths: (samples,) for each free axis.
        """
        for one in self.picks:
            if isinstance(one, BoundAtLabel) and self.layout is not None:
                own = self.layout.of_free_axes(lengths)
                yield self.at, one.dim, np.asarray(own.get(one.axis, one.dim.size))

    @property
    def label(self) -> LabelSpec | None:
        """The form of the labels that it takes, or None if it takes none."""
        found = [one.label for one in self.picks if isinstance(one, BoundAtLabel | BoundLoss)]
        if not self.picks and self.target.takes_labels:
            # Without the axes of its tensor, only this is known.
            return LabelSpec(self.at, whole=True)
        return merged(found)

    @property
    def at(self) -> str:
        """The configuration key, for messages."""
        return self.target.at

    def __str__(self) -> str:
        """Return address and index; see `target_text`."""
        return target_text(self.written)

    def elements(self, lengths: Mapping[str, Array]) -> Iterator[tuple[str, Dim, int, Array]]:
        """Yield the single elements taken from free axes; see `BoundPipeline.elements`.

        Args:
            lengths: the lengths of the samples by free axis.
        """
        if self.layout is None:
            return
        own = self.layout.of_free_axes(lengths)
        for one in self.picks:
            if isinstance(one, BoundPipeline):
                yield from one.elements(own)
            elif isinstance(one, BoundAtLabel):
                yield from one.others.elements(own)
            elif isinstance(one, Largest):
                # The largest of none does not exist.
                yield from ((self.at, self.layout.dims[axis], 0, own[axis]) for axis in own)


def without_reals(record: TensorRecord) -> str | None:
    """Return why gradients of a tensor, or with respect to it, are not defined, or None."""
    if record.spec.dtype in REAL:
        return None
    return f"it holds {record.spec.dtype}, and gradients need real numbers"


def _unusable(record: TensorRecord) -> str | None:
    """Return why a tensor cannot be a target, or None."""
    if record.reason is not None:
        return record.reason
    if not record.depends_on_inputs:
        return "it does not depend on the inputs"
    return without_reals(record)


def _first(dims: Sequence[Dim]) -> Element:
    return Element((0,) * len(dims))


def _position(pick: Pick, layout: Layout) -> object:
    """Return a pick with indices from the start along axes of one size: equal picks match."""
    if isinstance(pick, Largest | Loss):
        return pick
    sizes = (dim.size for dim in layout.dims[1:])
    return [
        at if size is None or at is None else at % size
        for at, size in zip(pick.index, sizes, strict=True)
    ]


def target_text(written: Mapping[str, object]) -> str:
    """Return a target in plain data as text, as in `:output[3] - :output[argmax]`."""
    if "loss" in written:
        options = written.get("options")
        given = options if isinstance(options, Mapping) else {}
        more = "".join(f", {key}={value}" for key, value in given.items())
        return f"{written['loss']}({written.get('tensor')}{more})"
    picks = [written[key] for key in ("index", "minus") if key in written]
    return " - ".join(f"{written.get('tensor')}{_index_text(one)}" for one in picks)


def _index_text(index: object) -> str:
    if isinstance(index, list):
        return f"[{', '.join(map(str, index))}]" if index else ""
    return f"[{index}]"


def _titles(dims: Iterable[Dim]) -> list[str]:
    return [dim.title or str(dim) for dim in dims]
