"""`model.checkpoint` and `model.checkpoints`: weights for a model in place of its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from extractkit.checkpoints import KEY as SEVERAL
from extractkit.models.checkpoint_axis import WeightFiles, checkpoint_axis
from extractkit.models.weight_files import WeightFile, open_weights

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
        """Whether there are any."""
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
        """The one set, or that of a place on the axis; None: there is neither."""
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
    """What a configuration gives; the model need not be there yet.

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
