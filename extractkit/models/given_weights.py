"""Weights in place of a model's own: `model.checkpoint` and `model.checkpoints`."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from extractkit.core.checkpoints import KEY, Checkpoint, Named, SkippedCheckpoint, find_checkpoints
from extractkit.core.checkpoints import KEY as SEVERAL
from extractkit.core.values import Array
from extractkit.errors import ConfigError, JobError, ModelError
from extractkit.models.protocol import Fetch
from extractkit.models.weight_files import WeightFile, open_each, open_weights
from extractkit.models.weight_files.weight_file import Entry
from extractkit.runs.files import origin

Call = Callable[[], Sequence[Array]]


@dataclass(eq=False)
class CompiledOnce:
    """The last call that was compiled, for as long as the same fetches are asked for."""

    _fetches: list[Fetch] = field(default_factory=list)
    _call: Call | None = None

    def of(self, fetches: Sequence[Fetch], compile_call: Callable[[], Call]) -> Call:
        """Return the call for these fetches."""
        if self._call is None or self._fetches != list(fetches):
            self._call = compile_call()
            self._fetches = list(fetches)
        return self._call


_log = logging.getLogger(__name__)

_Structure = tuple[str, frozenset[tuple[str, Entry]]]


def checkpoint_axis(
    checkpoints: object,
    step: object,
    load: Callable[[WeightFile], None],
    *,
    alike: bool = False,
    check: Callable[[WeightFile], None] | None = None,
    instead_of: Mapping[str, object] | None = None,
) -> "WeightFiles | None":
    """Return the axis that a configuration asks for; None where it asks for none.

    Args:
        checkpoints, step: `model.checkpoints` and `model.checkpoint_step`; see `find_checkpoints`.
        load: gives the model these weights; raises ModelError where they do not fit it.
        alike: whether nothing tells an architecture but the files, which have to be like each
            other.
        check: raises ModelError where a file does not fit for what it holds besides weights.
        instead_of: keys whose values stand for a single set of weights, and are not to be given as
            well.

    Raises:
        ConfigError, ModelError: as `find_checkpoints`; or two ways to give weights.
    """
    if checkpoints is None:
        if step is not None:
            raise ConfigError(
                f"model.checkpoint_step={step!r} is for the files of {KEY}, which is not given"
            )
        return None
    for key, value in (instead_of or {}).items():
        if value is not None:
            raise ConfigError(f"{key} and {KEY} are both given. Give one of them")
    return WeightFiles(find_checkpoints(checkpoints, step), load, alike, check)


class WeightFiles:
    """An axis of checkpoints that are files of weights; see `models.protocol.CheckpointAxis`.

    Attributes:
        checkpoints, skipped: those that can be used, and the others.
        loads: how many times weights have been loaded, successfully or not.
    """

    def __init__(
        self,
        named: Sequence[Named],
        load: Callable[[WeightFile], None],
        alike: bool,
        check: Callable[[WeightFile], None] | None = None,
    ) -> None:
        self.checkpoints: tuple[Checkpoint, ...] = ()
        self.skipped: tuple[SkippedCheckpoint, ...] = ()
        self._named = named
        self._load = load
        self._alike = alike
        self._check = check
        self._weights: list[WeightFile] = []
        self._loaded: WeightFile | None = None
        self.loads = 0

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of all that were named, absolute."""
        return tuple(one.path for one in self._named)

    def choose(self, policy: str) -> None:
        """Look at all of them, and load the first that can be used.

        Every file is listed, and of all that are built alike one is loaded.

        Raises:
            ModelError: none can be used, or one cannot and the policy is "fail".
        """
        opened = list(open_each([one.path for one in self._named], KEY))
        wrong = {at: str(one) for at, one in enumerate(opened) if isinstance(one, ModelError)}
        usable = {at: one for at, one in enumerate(opened) if isinstance(one, WeightFile)}
        wrong |= self._misfits(usable)
        left = [at for at in usable if at not in wrong]
        if wrong and (policy == "fail" or not left):
            raise ModelError(self._told(dict(sorted(wrong.items())), bool(left)))
        self.skipped = tuple(
            SkippedCheckpoint(self._named[at].label, self._named[at].path, wrong[at])
            for at in sorted(wrong)
        )
        self.checkpoints = tuple(_with_content(self._named[at]) for at in left)
        self._weights = [usable[at] for at in left]
        for weights in self._weights:
            weights.check_unchanged()  # what is recorded of them is what is, or has been, loaded
        self.use(0)

    def file(self, position: int) -> WeightFile:
        """Return the file of `checkpoints[position]`."""
        return self._weights[position]

    def use(self, position: int) -> None:
        """Load the weights of `checkpoints[position]`, unless they are the model's already.

        Raises:
            JobError: they can no longer be loaded.
        """
        weights = self._weights[position]
        try:
            self._give(weights)
        except ModelError as error:
            label = self.checkpoints[position].label
            raise JobError(f"checkpoint {label!r} can no longer be loaded: {error}") from error

    def _give(self, weights: WeightFile) -> None:
        if weights is self._loaded:
            return
        self._loaded = None  # where loading fails midway, the weights are nobody's
        weights.check_unchanged()
        self.loads += 1
        self._load(weights)
        self._loaded = weights

    def _misfits(self, usable: Mapping[int, WeightFile]) -> dict[int, str]:
        """Return those that are of another architecture, and how that shows."""
        wrong = self._refused(usable)
        groups: dict[_Structure, list[int]] = {}
        for at, weights in usable.items():
            if at not in wrong:
                groups.setdefault(_structure(weights), []).append(at)
        if self._alike:
            return wrong | self._outliers(groups, usable)
        for members in groups.values():
            try:
                self._give(usable[members[0]])
            except ModelError as error:
                wrong |= {at: self._of(at, members[0], str(error)) for at in members}
        return wrong

    def _refused(self, usable: Mapping[int, WeightFile]) -> dict[int, str]:
        """Return those that do not fit for what they hold besides weights, and why."""
        wrong: dict[int, str] = {}
        if self._check is not None:
            for at, weights in usable.items():
                try:
                    self._check(weights)
                except ModelError as error:
                    wrong[at] = str(error)
        return wrong

    def _outliers(
        self, groups: Mapping[_Structure, Sequence[int]], usable: Mapping[int, WeightFile]
    ) -> dict[int, str]:
        """Return those that are not like most of them."""
        if not groups:
            return {}
        most = max(groups.values(), key=len)
        return {
            at: f"{KEY}={usable[at].path!r} is not built like {usable[most[0]].path!r}: "
            f"{_difference(usable[at], usable[most[0]])}"
            for members in groups.values()
            if members is not most
            for at in members
        }

    def _of(self, at: int, tried: int, reason: str) -> str:
        if at == tried:
            return reason
        return f"{KEY}={self._named[at].path!r} is built like another that does not fit: {reason}"

    def _told(self, wrong: Mapping[int, str], others: bool) -> str:
        first, reason = next(iter(wrong.items()))
        count = f"{len(wrong)} of {len(self._named)} checkpoints cannot be used"
        # A run that is gone on with keeps its settings, so that is no help to it.
        remedy = " Put them right, or begin anew without: runtime.bad_checkpoints=skip"
        hint = remedy if others else ""
        return f"{KEY}: {count}, first {self._named[first].label!r}: {reason.rstrip('.')}.{hint}"


def _with_content(named: Named) -> Checkpoint:
    found = origin(KEY, named.path)
    if found is None:
        raise ModelError(f"{KEY}={named.path!r} does not exist any more")
    return Checkpoint(named.label, named.step, found.path, found.sha256, found.bytes)


def _structure(weights: WeightFile) -> _Structure:
    return weights.format, frozenset(weights.entries.items())


def _difference(one: WeightFile, other: WeightFile) -> str:
    """Return the first array in which two files differ."""
    if one.format != other.format:
        return f"it is {one.format}, not {other.format}"
    for key in dict.fromkeys((*other, *one)):
        if key not in one:
            return f"it lacks {key!r} {list(other.entry(key).shape)}"
        if key not in other:
            return f"it has {key!r} {list(one.entry(key).shape)} besides"
        if one.entry(key) != other.entry(key):
            (dtype, shape), (own, sizes) = other.entry(key), one.entry(key)
            return f"{key!r} is {own} {list(sizes)}, not {dtype} {list(shape)}"
    raise AssertionError("the files do not differ")


ONE = "model.checkpoint"
"""The key of one set of weights."""


@dataclass(frozen=True, eq=False)
class GivenWeights:
    """One set of weights, or several, or none.

    Attributes:
        axis: the several.
    """

    axis: WeightFiles | None
    _one: WeightFile | None
    _load: Callable[[WeightFile, str], object]
    _loaded_by: Mapping[str, str]

    @property
    def given(self) -> bool:
        """Return whether there are any."""
        return self._one is not None or self.axis is not None

    @property
    def origin(self) -> Mapping[str, object]:
        """What is to be recorded of the one set."""
        if self._one is None:
            return {}
        return {"checkpoint": [str(file.resolve()) for file in self._one.files]}

    def load(self) -> None:
        """Give the model the one set, if there is one.

        Raises:
            ModelError: it does not fit.
        """
        if self._one is not None:
            self._load(self._one, ONE)

    def loaded_by(self, checkpoint: int | None) -> str:
        """Return what loaded the one set, or that of a place on the axis."""
        file = self.file(checkpoint)
        assert file is not None
        return self._loaded_by[file.path]

    def file(self, checkpoint: int | None) -> WeightFile | None:
        """Return the one set, or that of a place on the axis; None: there is neither."""
        if self.axis is None or checkpoint is None:
            return self._one
        return self.axis.file(checkpoint)


def given_weights(
    checkpoint: str | None,
    checkpoints: object,
    step: object,
    load: Callable[[WeightFile, str], str],
    check: Callable[[WeightFile, str, Sequence[str]], None] | None = None,
) -> GivenWeights:
    """Return what a configuration gives; the model need not be there yet.

    Args:
        checkpoint: one set, what `open_weights` takes.
        checkpoints, step: many of them, one after the other; see `checkpoint_axis`.
        load: gives the model these weights, which the key names, and returns what loaded them;
            raises ModelError where they do not fit it.
        check: raises ModelError where a file, which the key names, does not fit for what it holds
            besides weights; the last argument is all files of that key.

    Raises:
        ConfigError, ModelError, MissingExtraError: as these two.
    """
    one = None if checkpoint is None else open_weights(checkpoint, ONE)
    loaded_by: dict[str, str] = {}

    def check_one_of_several(found: WeightFile) -> None:
        if check is not None and axis is not None:
            check(found, SEVERAL, axis.paths)

    def loaded(found: WeightFile, key: str) -> None:
        if check is not None and key == ONE:
            check(found, ONE, (found.path,))
        loaded_by[found.path] = load(found, key)

    axis = checkpoint_axis(
        checkpoints,
        step,
        lambda found: loaded(found, SEVERAL),
        check=check_one_of_several,
        instead_of={ONE: checkpoint},
    )
    return GivenWeights(axis, one, loaded, loaded_by)
