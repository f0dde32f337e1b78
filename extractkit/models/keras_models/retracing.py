"""A trace for each set of weights, where loading weights changes more than variables."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from extractkit.errors import JobError
from extractkit.models.keras_models.layer_state import LayerState
from extractkit.models.keras_models.tracing import Trace
from extractkit.models.protocol import CheckpointAxis

if TYPE_CHECKING:
    from extractkit.models.keras_models.model import KerasModel

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Traced:
    """A trace, and when it was made.

    Attributes:
        trace: the trace.
        loads: how many times weights had been loaded.
        state: of the layers, after tracing, which itself may change some of it.
    """

    trace: Trace
    loads: int
    state: LayerState

    def holds(self, state: LayerState) -> bool:
        """Return whether tracing with the layers in this state would give the same graph."""
        return not self.trace.reads_weights and not self.state.changed(state)


class Retracing:
    """The adapter whose trace fits the weights that are loaded.

    One trace serves as long as the state of the layers is what it was made with, which is looked
    at each time weights have been loaded.

    Args:
        first: the adapter whose catalog counts.
        axis: tells when weights have been loaded.
        untraced: makes an adapter of the same model that has no trace yet.
    """

    def __init__(
        self, first: "KerasModel", axis: CheckpointAxis, untraced: "Callable[[], KerasModel]"
    ) -> None:
        self._first = self._current = first
        self._axis = axis
        self._untraced = untraced
        self._fits = first.traced.loads

    def current(self) -> "KerasModel":
        """Return the adapter whose trace fits, traced anew where none does.

        Raises:
            JobError: with the weights that are loaded the model has other tensors.
        """
        if self._fits != self._axis.loads:
            state = LayerState.of(self._first.keras_model)
            known = (self._first, self._current)
            fitting = (one for one in known if one.traced.holds(state))
            self._current = next(fitting, None) or self._retraced()
            self._fits = self._axis.loads
        return self._current

    def _retraced(self) -> "KerasModel":
        _log.info("layers have derived other state from these weights: the model is traced anew")
        again = self._untraced()
        if again.catalog.records != self._first.catalog.records:
            raise JobError(
                f"model {self._first.name!r} has other tensors with these weights than with the "
                f"first ones, so they are not one axis. Extract from each checkpoint by itself: "
                f"model.checkpoint=FILE"
            )
        return again
