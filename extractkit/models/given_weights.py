"""Weights in place of a model's own: `model.checkpoint`, `.checkpoints` and `.moving_averages`.

TensorFlow 1 stores the average of a variable as `VARIABLE/ExponentialMovingAverage`, where the last
part is the name given to `tf.train.ExponentialMovingAverage`. Optimizers store it in a slot.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from extractkit.core.checkpoints import KEY, Checkpoint, ExcludedCheckpoint, Named, find_checkpoints
from extractkit.core.checkpoints import KEY as SEVERAL
from extractkit.errors import ConfigError, JobError, ModelError, choices
from extractkit.models.weight_files import WeightFile, open_each, open_weights
from extractkit.models.weight_files.weight_file import AVERAGE, Entry
from extractkit.runs.files import origin

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
    """Return the configured axis of checkpoints, or None if there is none.

    Args:
        checkpoints, step: `model.checkpoints` and `model.checkpoint_step`; see `find_checkpoints`.
        load: Loads weights into the model. Raises ModelError if they do not fit.
        alike: Whether the files have to have the same structure, because only they define the
            architecture.
        check: Raises ModelError if something in a file other than weights does not fit.
        instead_of: Keys and values that give a single set of weights, which cannot be combined
            with several.

    Raises:
        ConfigError, ModelError: As `find_checkpoints`, or weights are given in two ways.
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
    """A `CheckpointAxis` of files of weights.

    Attributes:
        checkpoints, excluded: The usable checkpoints and the others.
        loads: The number of times that weights have been loaded, successfully or not.
    """

    def __init__(
        self,
        named: Sequence[Named],
        load: Callable[[WeightFile], None],
        alike: bool,
        check: Callable[[WeightFile], None] | None = None,
    ) -> None:
        self.checkpoints: tuple[Checkpoint, ...] = ()
        self.excluded: tuple[ExcludedCheckpoint, ...] = ()
        self._named = named
        self._load = load
        self._alike = alike
        self._check = check
        self._weights: list[WeightFile] = []
        self._loaded: WeightFile | None = None
        self.loads = 0

    @property
    def paths(self) -> tuple[str, ...]:
        """The absolute paths of all given files."""
        return tuple(one.path for one in self._named)

    def choose(self, policy: str) -> None:
        """Check all files, and load the first usable one.

        Every file is listed. Of files with the same structure, only one is loaded as a test.

        Raises:
            ModelError: No file is usable, or one is not and the policy is "fail".
        """
        opened = list(open_each([one.path for one in self._named], KEY))
        wrong = {at: str(one) for at, one in enumerate(opened) if isinstance(one, ModelError)}
        usable = {at: one for at, one in enumerate(opened) if isinstance(one, WeightFile)}
        wrong |= self._misfits(usable)
        left = [at for at in usable if at not in wrong]
        if wrong and (policy == "fail" or not left):
            raise ModelError(self._failure(dict(sorted(wrong.items())), bool(left)))
        self.excluded = tuple(
            ExcludedCheckpoint(self._named[at].label, self._named[at].path, wrong[at])
            for at in sorted(wrong)
        )
        self.checkpoints = tuple(_with_content(self._named[at]) for at in left)
        self._weights = [usable[at] for at in left]
        for weights in self._weights:
            weights.check_unchanged()  # so that the record describes the bytes that are loaded
        self.use(0)

    def file(self, position: int) -> WeightFile:
        """Return the file of `checkpoints[position]`."""
        return self._weights[position]

    def use(self, position: int) -> None:
        """Load the weights of `checkpoints[position]`, unless they are loaded already.

        Raises:
            JobError: They can no longer be loaded.
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
        self._loaded = None  # a load that fails midway leaves a mixture of weights
        weights.check_unchanged()
        self.loads += 1
        self._load(weights)
        self._loaded = weights

    def _misfits(self, usable: Mapping[int, WeightFile]) -> dict[int, str]:
        """Return the files of another architecture, and why they do not fit."""
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
        """Return the files in which something other than the weights does not fit, and why."""
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
        """Return the files whose structure differs from that of most of them."""
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

    def _failure(self, wrong: Mapping[int, str], others: bool) -> str:
        first, reason = next(iter(wrong.items()))
        count = f"{len(wrong)} of {len(self._named)} checkpoints cannot be used"
        # A resumed run keeps its settings, so this advice needs a new run.
        remedy = " Correct them, or start a new run without them: runtime.bad_checkpoints=skip"
        hint = remedy if others else ""
        return f"{KEY}: {count}, first {self._named[first].label!r}: {reason.rstrip('.')}.{hint}"


def _with_content(named: Named) -> Checkpoint:
    found = origin(KEY, named.path)
    if found is None:
        raise ModelError(f"{KEY}={named.path!r} no longer exists")
    return Checkpoint(named.label, named.step, found.path, found.sha256, found.bytes)


def _structure(weights: WeightFile) -> _Structure:
    return weights.format, frozenset(weights.entries.items())


def _difference(one: WeightFile, other: WeightFile) -> str:
    """Describe the first array in which two files differ."""
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
"""The key of a single set of weights."""


@dataclass(frozen=True, eq=False)
class GivenWeights:
    """The configured weights: one set, several sets, or none.

    Attributes:
        axis: The axis of several sets, or None.
    """

    axis: WeightFiles | None
    _one: WeightFile | None
    _load: Callable[[WeightFile, str], object]
    _loaded_by: Mapping[str, str]

    @property
    def given(self) -> bool:
        """Whether any weights are configured."""
        return self._one is not None or self.axis is not None

    @property
    def origin(self) -> Mapping[str, object]:
        """The manifest's entry for a single set."""
        if self._one is None:
            return {}
        return {"checkpoint": [str(file.resolve()) for file in self._one.files]}

    def load(self) -> None:
        """Load the single set into the model, if there is one.

        Raises:
            ModelError: It does not fit.
        """
        if self._one is not None:
            self._load(self._one, ONE)

    def loaded_by(self, checkpoint: int | None) -> str:
        """Return the name of the loader of the single set, or of that at a position on the axis."""
        file = self.file(checkpoint)
        assert file is not None
        return self._loaded_by[file.path]

    def file(self, checkpoint: int | None) -> WeightFile | None:
        """Return the single set, or that at a position on the axis, or None."""
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
    """Open the configured weights. The model need not exist yet.

    Args:
        checkpoint: A single set, as for `open_weights`.
        checkpoints, step: Several sets; see `checkpoint_axis`.
        load: Loads weights, given by a key, into the model, and returns the loader's name. Raises
            ModelError if they do not fit.
        check: Raises ModelError if something in a file other than weights does not fit. Takes the
            file, its key, and all paths of that key.

    Raises:
        ConfigError, ModelError, MissingExtraError: As `open_weights` and `checkpoint_axis`.
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


MOVING_AVERAGES = "model.moving_averages"

READ_BY = "extractkit's own reading of averages"
"""The manifest's name for this loader. TensorFlow and Keras have no function for averages."""

_MOST = 3


class MovingAverages:
    """The setting for averages, and a record of its use.

    Attributes:
        setting: True loads averages in place of the weights, and a text loads those of that name.
            False loads the weights. None loads the weights and warns if there are averages.
        name: The name of the averages to look for.
        record: The manifest's entry, filled as weights are loaded. `used`: whether or which
            averages are used; `found`: how many there are; `without_average`: variables that keep
            their own values.
    """

    def __init__(self, setting: object) -> None:
        if (setting is not None and not isinstance(setting, bool | str)) or setting == "":
            raise ConfigError(
                f"{MOVING_AVERAGES}={setting!r} is neither true, false nor the name of averages. "
                f"Give true for {AVERAGE!r}, or the name that the checkpoint has"
            )
        self.setting = setting
        self.name = setting if isinstance(setting, str) else AVERAGE
        self.record: dict[str, object] = {"used": setting} if self.used else {}
        self._warned = False

    @property
    def used(self) -> bool:
        """Whether averages are loaded in place of weights."""
        return self.setting is not None and self.setting is not False

    def chosen(
        self,
        at: str,
        averages: Mapping[str, str],
        variables: Sequence[str],
        others: Iterable[str] = (),
    ) -> Mapping[str, str]:
        """Return the averages to load, by the variable that they replace. Empty if none are used.

        Args:
            at: The key and value that name the checkpoint, for messages.
            averages: The keys of its averages, by variable.
            variables: All variables.
            others: The names of other slots in the checkpoint, for the message.

        Raises:
            ModelError: Averages are wanted, and the checkpoint has none.
        """
        if not self.used:
            if self.setting is None and averages:
                self.warn(at, len(averages))
                self.record |= {"used": False, "found": len(averages)}
            return {}
        if not averages:
            raise ModelError(
                f"{MOVING_AVERAGES}={self._given}: {at} holds no averages named {self.name!r}. "
                f"{choices(self.name, sorted(set(others)))} Leave {MOVING_AVERAGES} out "
                f"to use the weights themselves"
            )
        without = [one for one in variables if one not in averages]
        self.record |= {"found": len(averages), "without_average": without}
        _log.info("%s: %d of %d variables are averages", at, len(averages), len(variables))
        if without:
            more = f" and {len(without) - _MOST} more" if len(without) > _MOST else ""
            _log.info("%s: no average of %s%s", at, ", ".join(map(repr, without[:_MOST])), more)
        return averages

    def warn(self, at: str, count: int | None = None, how: str = f"{MOVING_AVERAGES}=true") -> None:
        """Warn once that there are averages, and explain how to use them."""
        if not self._warned:
            _log.warning(
                "%s holds moving averages%s beside its weights. The weights themselves are used. "
                "To use the averages: %s; to hide this warning: %s=false",
                at,
                "" if count is None else f" of {count} variable{'s' * (count != 1)}",
                how,
                MOVING_AVERAGES,
            )
        self._warned = True

    @property
    def _given(self) -> str:
        return str(self.setting).lower() if isinstance(self.setting, bool) else repr(self.setting)


def named_averages(
    keys: Iterable[str], variables: Collection[str], name: str = AVERAGE
) -> dict[str, str]:
    """Return the keys `VARIABLE/NAME` by variable.

    For averages made inside a variable scope, the scope's name comes before the variable's.
    """
    found: dict[str, str] = {}
    for key in sorted(keys, key=len):
        variable, _, last = key.rpartition("/")
        if last != name:
            continue
        while variable and variable not in variables:
            variable = variable.partition("/")[2]
        if variable:
            found.setdefault(variable, key)
    return found
