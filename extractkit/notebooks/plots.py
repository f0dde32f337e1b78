"""Charts of a run and of its tensors, which a person can change: those of reports, as Altair's."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from inspect import signature
from numbers import Integral
from typing import Any

from extractkit.core.component import require
from extractkit.core.requests import request_text
from extractkit.errors import ConfigError, RunDirectoryError, UnknownTensorError, choices
from extractkit.reports import Chart, Figure, Note, Section, images, samples, statistics, steps
from extractkit.reports import attention as attentions
from extractkit.reports.charts import with_values
from extractkit.reports.material import Material, short_names
from extractkit.runs.reader import Run, open_run
from extractkit.runs.samples import position_of
from extractkit.runs.views import Committed, TensorView

_ROOM = 10**12
"""Bytes that a section may take where nothing has to be small."""

_EVERY = 10**6
"""A number of channels that no tensor has."""

_HEADED = 4
"""The number of axes of maps with heads: sample, head, query and key."""

Kinds = Callable[[TensorView], bool]


def run_of(view: TensorView) -> Run:
    """Return the run that a view belongs to, at the view's checkpoint.

    Raises:
        RunDirectoryError: the run was damaged after the view was opened.
    """
    return _run_at(view._committed)


@lru_cache(maxsize=4)
def _run_at(committed: Committed) -> Run:
    """Return the run at committed shards, which all views of one run share."""
    run = open_run(committed.directory, committed.sink, check=committed.check)
    for position in committed.outer:
        run = Run(run.path, run.manifest, run._committed.at(position))
    return run


def plots(value: Any) -> "Plots | TensorPlots":
    """Return the charts of a run or of a view.

    Raises:
        MissingExtraError: Altair is not installed.
    """
    require("altair", "run.plot")
    return TensorPlots(value) if isinstance(value, TensorView) else Plots(value)


class Plots:
    """Charts of a run: `run.plot.attention(sample=3)`.

    Each method returns an Altair chart that holds its values, to show, change or save. Of a run
    with checkpoints, the charts show the last one: `run.at(checkpoint).plot`.

    Each raises UnknownTensorError if the run has no tensors for the chart, or no such tensor, layer
    or head; IndexError if there is no such sample; ConfigError if a number of tokens or samples is
    not 1 or more; and RunDirectoryError if values are damaged.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._material = Material.of(run)

    def attention(
        self,
        sample: int = 0,
        layer: int | str = 0,
        head: int | None = None,
        *,
        tokens: int = 48,
    ) -> Chart:
        """Return the map of a head over the tokens of a sample.

        Args:
            sample: the index of the sample.
            layer: the number of the map among those of the run, or its key.
            head: the number of the head; None: the mean of all.
            tokens: the most tokens, the first of the sample.
        """
        _check_most(tokens=tokens)
        key = self._at(layer, self._keys(attentions.is_map, "attention maps"), "layer")
        section = self._section(attentions.attention, [key], sample, tokens)
        several = any(one.name == "head" for one in section.pickers)
        chosen = {"head": f"head {head}"} if head is not None and (several or head) else {}
        which = f"head {head or 0}" if chosen or not several else "mean of all heads"
        names = short_names(self._keys(attentions.is_map, ""))
        return _chart(section, "attention-map", chosen, f"{names[key]}, {which}")

    def heads(self, sample: int = 0, by: str = "entropy, in bits", *, tokens: int = 48) -> Chart:
        """Return a cell for each layer and head, with the mean of a measure over a sample's tokens.

        Args:
            sample: the index of the sample.
            by: the measure, such as "share on the token before"; an unknown one lists all.
            tokens: the most tokens, the first of the sample.
        """
        return _chart(
            attention_section(self, sample, tokens), "attention-heads", {"heads by": by}, by
        )

    def saliency(self, sample: int = 0, key: int | str = 0, *, tokens: int = 128) -> Chart:
        """Return a bar for each token of a sample: what a target is due to.

        Args:
            sample: the index of the sample.
            key: the tensor with attributions over tokens, or its number among those.
            tokens: the most tokens, the first of the sample.
        """
        _check_most(tokens=tokens)
        key = self._at(key, self._keys(steps.is_saliency, "attributions over tokens"), "key")
        section = self._section(steps.saliency, [key], sample, tokens)
        return _chart(section, "saliency", {}, request_text(self._material.views[key].request))

    def image(self, sample: int = 0, key: int | str = 0, channel: int | None = None) -> Chart:
        """Return the map of a channel over the pixels of a sample.

        Args:
            sample: the index of the sample.
            key: the tensor with a height and a width, or its number among those.
            channel: the number of the channel; None: the mean of all.
        """
        key = self._at(key, self._keys(images.is_map, "maps with a height and a width"), "key")
        section = self._section(images.images, [key], sample, _EVERY)
        chosen = {} if channel is None else {f"channel of {key}": f"channel {channel}"}
        return _chart(section, "image-0", chosen, key)

    def steps(self, sample: int = 0, key: int | str = 0) -> Chart:
        """Return a cell for each unit and each step of a loop.

        Args:
            sample: the index of the sample.
            key: the tensor with a vector for each step, or its number among those.
        """
        key = self._at(key, self._keys(steps.has_steps, "values over the steps of a loop"), "key")
        section = self._section(steps.steps, [key], sample)
        return _chart(section, "steps", remark=_caption(section))

    def map(self, key: int | str = 0, *, umap: bool = False, most: int = 5000) -> Chart:
        """Return a point for each sample, at the first two principal components of a tensor.

        Args:
            key: the tensor with one vector per sample, or its number among those.
            umap: place samples by UMAP, which keeps neighbours close.
            most: the most samples, which are far apart in the run.

        Raises:
            MissingExtraError: umap-learn is not installed.
        """
        _check_most(most=most)
        if umap:
            require("umap", "run.plot.map(umap=True)")
        key = self._at(
            key, self._keys(samples.is_vector, "tensors with one vector per sample"), "key"
        )
        section = self._section(samples.sample_map, [key], limit=most, umap=umap)
        return _chart(section, "samples-umap" if umap else "samples")

    def histogram(self, key: int | str = 0) -> Chart:
        """Return a histogram of a tensor's values.

        It counts all samples if the run has this statistic, else at most 4,096 values of a few.

        Args:
            key: the tensor, or its number among the numeric ones.
        """
        counted = [one.key for one in self._material.manifest.statistics]
        every = dict.fromkeys([*self._keys(_is_numeric, ""), *counted])
        key = self._at(key, [*every] or self._keys(_is_numeric, "tensors with numbers"), "key")
        some = "" if key in counted else "Of at most 4,096 values of a few samples."
        return _chart(self._section(statistics.distributions, [key]), "distribution", remark=some)

    def drift(self, key: int | str = 0) -> Chart:
        """Return how far a tensor moves over the checkpoints.

        Args:
            key: the tensor, or its number among those of the run.
        """
        found = self._material.overview.drift
        if found is None:
            raise UnknownTensorError(
                f"{self._material.overview.path} has no drift, which finished runs of several "
                f"checkpoints have"
            )
        key = self._at(key, [*found.tensors], "key")
        return _chart(self._section(statistics.drift, [key]), "drift")

    def _at(self, given: int | str, keys: Sequence[str], argument: str) -> str:
        """Return the key that is given, in full or as the run finds it, or the one at a position.

        Raises:
            UnknownTensorError: there is none.
        """
        if isinstance(given, str):
            if given in keys:
                return given
            if (key := self._run[given].key) in keys:
                return key
        elif is_whole(given) and -len(keys) <= given < len(keys):
            return keys[int(given)]
        raise UnknownTensorError(
            f"{argument}={given!r} is not among the tensors that this chart shows. "
            f"{choices(str(given) if isinstance(given, str) else '', keys)}"
        )

    def _keys(self, kind: Kinds, what: str) -> Sequence[str]:
        found = [key for key, view in self._material.views.items() if kind(view)]
        if not found and what:
            raise UnknownTensorError(
                f"{self._material.overview.path} has no {what}. {choices('', self._material.views)}"
            )
        return found

    def _section(
        self,
        family: Callable[[Material, int], Iterator[Section]],
        keys: Sequence[str],
        sample: int | None = None,
        limit: int | None = None,
        umap: bool = False,
    ) -> Section:
        """Return the section of a report on some tensors and a sample.

        Raises:
            RunDirectoryError: values are damaged.
            UnknownTensorError: the sample has no values.
        """
        damage: dict[str, None] = {}
        some = None if sample is None else [_present(self._run, sample)]
        shown = replace(
            self._material, tensors=keys, samples=some, limit=limit, damage=damage, umap=umap
        )
        found = next(family(shown, _ROOM), None)
        for text in damage:
            raise RunDirectoryError(text)
        if found is None:
            of = "the samples" if sample is None else f"sample {sample}"
            raise UnknownTensorError(f"there is nothing to draw of {keys[0]!r} for {of}")
        return found

    def __repr__(self) -> str:
        return f"<Charts of {self._material.overview.path}: {', '.join(_public(self))}>"


def attention_section(plots: Plots, sample: int, tokens: int) -> Section:
    """Return the section of a report about the attention of a sample, with all layers.

    If some maps have an axis of heads, it is about these.

    Args:
        sample: the index of the sample.
        tokens: the most tokens, the first of the sample.
    """
    _check_most(tokens=tokens)
    keys = plots._keys(attentions.is_map, "attention maps")
    views = plots._material.views
    with_heads = [key for key in keys if len(views[key].dims) == _HEADED]
    return plots._section(attentions.attention, with_heads or keys, sample, tokens)


class TensorPlots:
    """Charts of a tensor: `view.plot()`, with the arguments of the chart that suits the tensor."""

    def __init__(self, view: TensorView) -> None:
        self._view = view
        self._plots = Plots(run_of(view))

    def __call__(self, sample: int = 0, **more: Any) -> Chart:
        """Return the chart that suits the tensor: of a sample, of all, or else a histogram.

        Args:
            sample: the index of the sample, for charts of one.
            more: further arguments of that chart: `head`, `channel`, `tokens`.

        Raises:
            TypeError: the chart has no such argument.
        """
        key, plots = self._view.key, self._plots
        view = plots._material.views.get(key, self._view)
        charts: Sequence[tuple[Kinds, Callable[..., Chart]]] = (
            (attentions.is_map, plots.attention),
            (images.is_map, plots.image),
            (steps.has_steps, plots.steps),
            (steps.is_saliency, plots.saliency),
        )
        for kind, chart in charts:
            if kind(view):
                _check_takes(chart, more, key)
                return chart(sample, key, **more)
        several = samples.is_vector(view) and len(plots._material.at_hand) > _FEW
        chart = plots.map if several else plots.histogram
        _check_takes(chart, more, key)
        return chart(key, **more)

    def histogram(self) -> Chart:
        """Return a histogram of the tensor's values; see `Plots.histogram`."""
        return self._plots.histogram(self._view.key)

    def __repr__(self) -> str:
        return f"<Charts of {self._view.key!r}: call it, or {', '.join(_public(self))}>"


def _check_takes(chart: Callable[..., Chart], given: Iterable[str], key: str) -> None:
    """Check that a chart has some arguments, besides the sample and the tensor.

    Raises:
        TypeError: it has no such argument.
    """
    known = [name for name in signature(chart).parameters if name not in _CHOSEN]
    for name in given:
        if name not in known:
            takes = f"takes {', '.join(known)}" if known else "takes no more"
            raise TypeError(
                f"{name} is not an argument of {chart.__name__}, the chart that suits {key!r}: "
                f"besides the sample, it {takes}"
            )


_CHOSEN = ("sample", "layer", "key")

_FEW = 2
"""Samples of which principal components show nothing."""


def _public(value: object) -> list[str]:
    return [name for name in dir(value) if not name.startswith("_")]


def _is_numeric(view: TensorView) -> bool:
    return view.dtype.kind in "fiub"


def is_whole(value: object) -> bool:
    """Return whether an argument is a whole number, of Python or of NumPy."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _check_most(**given: int) -> None:
    """Check the most tokens or samples that a chart shows, by the name of the argument.

    Raises:
        ConfigError: it is not a whole number of 1 or more.
    """
    for name, value in given.items():
        if not is_whole(value) or value < 1:
            raise ConfigError(f"{name}={value!r} is not a whole number of 1 or more")


def _present(run: Run, sample: int) -> int:
    """Return the index of a sample that has values.

    Raises:
        IndexError: there is no such sample.
        TypeError: it is not a whole number.
        UnknownTensorError: it has no values.
    """
    index = position_of(sample, run.manifest.samples, run.path)
    if (reason := run.missing.get(index)) is not None:
        raise UnknownTensorError(f"sample {sample} of {run.path} has no values: {reason}")
    return index


def _chart(
    section: Section,
    named: str,
    chosen: Mapping[str, str] | None = None,
    title: str = "",
    remark: str = "",
) -> Chart:
    """Return a figure of a section as a chart with the values of some choices.

    Args:
        named: the figure's name.
        chosen: the label of the option of some pickers, by the picker's name.
        title: what is written above the chart and the sample; empty: the tensor.
        remark: what it does not show. The notes of the section are such, too.

    Raises:
        UnknownTensorError: a picker has no such option.
    """
    figures = {one.name: one for one in section.blocks if isinstance(one, Figure)}
    figure = figures.get(named)
    if figure is None:
        raise UnknownTensorError("there is nothing to compare: the run has one map of one head")
    pickers = {one.name: one.options for one in section.pickers}
    options = []
    chosen = chosen or {}
    for name, wanted in chosen.items():
        if wanted not in pickers.get(name, ()):
            raise UnknownTensorError(
                f"{wanted!r} is not a choice of {name!r}. "
                f"{choices(str(wanted), pickers.get(name, ()))}"
            )
    for name in figure.pickers:
        known = pickers[name]
        options.append(known.index(chosen[name]) if name in chosen else 0)
    of = dict(zip(figure.pickers, options, strict=True))
    above = [title or pickers["tensor"][of["tensor"]]]
    if "sample" in of:
        above.append(pickers["sample"][of["sample"]])
    return with_values(figure, options, [*above, *filter(None, [remark, *notes_of(section)])])


def notes_of(section: Section) -> list[str]:
    """Return the notes of a section: what its figures do not show."""
    return [block.text for block in section.blocks if isinstance(block, Note)]


def _caption(section: Section) -> str:
    return next(one.caption for one in section.blocks if isinstance(one, Figure))
