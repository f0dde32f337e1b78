"""What loading weights leaves of the state of layers: refusals, warnings, and what is recorded."""

import logging
from typing import Any

from extractkit.errors import ModelError
from extractkit.models.keras_models.deriving import layers_without_vocabulary, stale_layers
from extractkit.models.keras_models.dialects import KERAS_3, dialect_of
from extractkit.models.keras_models.layer_state import LayerState

_log = logging.getLogger(__name__)


class LoadedState:
    """The state of one model's layers, looked at whenever weights have been loaded.

    Attributes:
        record: what the manifest says of it; empty where there is nothing to say.
    """

    def __init__(self, model: Any) -> None:
        self.record: dict[str, object] = {}
        self._model = model
        self._initial: LayerState | None = None

    def before(self) -> None:
        """Remember the state before the first of several sets of weights."""
        if self._initial is None:
            self._initial = LayerState.of(self._model)

    def check(self, at: str) -> None:
        """Refuse layers that cannot be called, and warn of state that Keras has not derived.

        Args:
            at: how messages name what has been loaded.

        Raises:
            ModelError: a layer has no vocabulary; or its state is that of other weights than
                loading these afresh would leave.
        """
        if empty := layers_without_vocabulary(self._model):
            raise ModelError(
                f"{at}: layer {empty[0]!r} has no vocabulary, so that it cannot be called: neither "
                f"HDF5 files nor weights of their own hold one. Save the whole model in Keras's "
                f"own format, model.save('model.keras'), and give model.path=model.keras"
            )
        stale = stale_layers(self._model)
        if not stale:
            return
        changed = self._initial.changed(LayerState.of(self._model)) if self._initial else []
        if kept := [path for path in stale if path in changed]:
            raise ModelError(
                f"{at}: {self._keras} leaves layer {kept[0]!r} in the state of the weights before, "
                f"which it does not derive from files of this format. Give checkpoints of one "
                f"format alone"
            )
        self._warn(at, stale)

    def _warn(self, at: str, stale: list[str]) -> None:
        if self.record.get("stale_layers") == stale:
            return
        self.record["stale_layers"] = stale
        _log.warning(
            "%s: %s does not derive the state of layer %s from these weights. The values are those "
            "of Keras's own predict, not of the model that was saved. Call finalize_state() of the "
            "layer once the weights are loaded, and give the model itself: "
            "extractkit.extract(model=model, ...)",
            at,
            self._keras,
            ", ".join(map(repr, stale)),
        )

    @property
    def _keras(self) -> str:
        return (dialect_of(self._model) or KERAS_3).name
