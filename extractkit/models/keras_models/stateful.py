"""Layers that keep a state (`stateful=True`), and where each call starts from.

The setting is checked before a model is loaded, so Keras is imported late.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from extractkit.advice import choice_override
from extractkit.core.checkpoints import KEY as SEVERAL
from extractkit.core.checkpoints import STEP_KEY
from extractkit.errors import ConfigError, ModelError
from extractkit.models import CARRY, KEY, choice
from extractkit.models.given_weights import ONE

if TYPE_CHECKING:
    from extractkit.models.given_weights import WeightFiles
    from extractkit.models.keras_models.dialects import Dialect
    from extractkit.models.keras_models.tracing import Trace

_log = logging.getLogger(__name__)


def check_carried(layers: Sequence[Any], checkpoints: "WeightFiles | None", name: str) -> None:
    """Check that a model has a state to carry, and only one set of weights.

    Args:
        checkpoints: The several sets of weights, or None.
        name: The model's name.

    Raises:
        ConfigError: It has no state, or several sets of weights.
    """
    if not layers:
        raise ConfigError(
            f"{KEY}={CARRY}: no layer of {name!r} keeps a state (stateful=True), so there is "
            f"nothing to carry. Leave {KEY} out"
        )
    if checkpoints is not None:
        raise ConfigError(
            f"{KEY}={CARRY} and {SEVERAL}: state is carried with one set of weights. Make a run of "
            f"each: in the same command, replace {SEVERAL} (and {STEP_KEY}) by "
            f"-m {choice_override(ONE, checkpoints.paths)}"
        )


def stateful_layers(model: Any, dialect: "Dialect") -> list[Any]:
    """Return the stateful recurrent layers of a model, and wrappers marked stateful."""
    from extractkit.models.keras_internals import layers_in

    kinds = (dialect.package.layers.RNN, dialect.package.layers.Bidirectional)
    return [layer for layer in layers_in(model) if isinstance(layer, kinds) and layer.stateful]


@contextmanager
def from_initial_state(layers: Sequence[Any]) -> Iterator[None]:
    """Start each call of these layers within the block from the initial state, and keep none."""
    for layer in layers:
        layer.stateful = False
    try:
        yield
    finally:
        for layer in layers:
            layer.stateful = True


def check_calls(model: Any, layers: Sequence[Any], trace: "Trace") -> None:
    """Check that one call of a model calls no stateful layer twice.

    The second call would continue from the state of the first.

    Raises:
        ModelError: A layer is called twice.
    """
    from extractkit.models.keras_internals import layers_in

    package = trace.dialect.package
    within = {
        id(inside)
        for layer in layers_in(model)
        if isinstance(layer, package.layers.TimeDistributed)
        for inside in layers_in(layer)
    }
    for layer in layers:
        calls = [call for call in trace.calls if call.layer is layer]
        looped = any(call.graph is not trace.graph for call in calls)
        if len(calls) > 1 or looped or id(layer) in within:
            raise ModelError(
                f"stateful layer {layer.name!r} is called more than once in one call of the model, "
                f"each time from the state that the call before it left. Such values are not "
                f"offered: set stateful=False, or call it once"
            )


def warn(layers: Sequence[Any], setting: str | None) -> None:
    """Warn that each call of a model starts from the initial state.

    Args:
        layers: Its stateful layers.
        setting: The setting of another policy, with `{}` for the policy. None if there is none.
    """
    names = ", ".join(repr(layer.name) for layer in layers)
    _log.warning(
        "Stateful layers (%s): each call starts from the initial state, and each row of a batch is "
        "a sample of its own. Keras's predict() carries the state from batch to batch%s",
        names,
        "" if setting is None else f". {choice(setting)}",
    )
