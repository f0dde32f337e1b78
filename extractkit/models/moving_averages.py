"""`model.moving_averages`: averages of weights that a checkpoint holds beside the weights.

TensorFlow 1 stores the average of a variable as `VARIABLE/ExponentialMovingAverage`, where the last
part is the name given to `tf.train.ExponentialMovingAverage`. Optimizers store it in a slot.
"""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence

from extractkit.errors import ConfigError, ModelError, choices

KEY = "model.moving_averages"
DEFAULT = "ExponentialMovingAverage"
"""TensorFlow's default name of averages."""

READ_BY = "extractkit's own reading of averages"
"""The manifest's name for this loader. TensorFlow and Keras have no function for averages."""

SLOTS = (DEFAULT, "average")
"""Names under which TensorFlow and the optimizers store averages."""

_MOST = 3
_log = logging.getLogger(__name__)


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
                f"{KEY}={setting!r} is neither true, false nor the name of averages. Give true "
                f"for {DEFAULT!r}, or the name that the checkpoint has"
            )
        self.setting = setting
        self.name = setting if isinstance(setting, str) else DEFAULT
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
                f"{KEY}={self._given}: {at} holds no averages named {self.name!r}. "
                f"{choices(self.name, sorted(set(others)))} Leave {KEY} out to use the weights "
                f"themselves"
            )
        without = [one for one in variables if one not in averages]
        self.record |= {"found": len(averages), "without_average": without}
        _log.info("%s: %d of %d variables are averages", at, len(averages), len(variables))
        if without:
            more = f" and {len(without) - _MOST} more" if len(without) > _MOST else ""
            _log.info("%s: no average of %s%s", at, ", ".join(map(repr, without[:_MOST])), more)
        return averages

    def warn(self, at: str, count: int | None = None, how: str = f"{KEY}=true") -> None:
        """Warn once that there are averages, and explain how to use them."""
        if not self._warned:
            _log.warning(
                "%s holds moving averages%s beside its weights. The weights themselves are used. "
                "To use the averages: %s; to hide this warning: %s=false",
                at,
                "" if count is None else f" of {count} variable{'s' * (count != 1)}",
                how,
                KEY,
            )
        self._warned = True

    @property
    def _given(self) -> str:
        return str(self.setting).lower() if isinstance(self.setting, bool) else repr(self.setting)


def named_averages(
    keys: Iterable[str], variables: Collection[str], name: str = DEFAULT
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
