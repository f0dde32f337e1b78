"""Keras models whose recurrent layers carry state from one call to the next."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf

from extractkit.advice import choice_override
from extractkit.core.catalog import Catalog, Kind, TensorRecord
from extractkit.core.checkpoints import KEY as SEVERAL
from extractkit.core.checkpoints import STEP_KEY
from extractkit.core.requests import check_values
from extractkit.core.values import Array, State
from extractkit.errors import ConfigError, ModelError
from extractkit.models import (
    CARRY,
    KEY,
    RESET,
    Arguments,
    CarriesState,
    CarryingProgram,
    Compilation,
    Fetch,
    OutputsAfter,
    choice,
)
from extractkit.models.functions.eager_calls import restored
from extractkit.models.given_weights import ONE, WeightFiles
from extractkit.models.graphs.records import Found
from extractkit.models.keras_models.catalog import find_tensors
from extractkit.models.keras_models.dialects import KERAS_3, Dialect
from extractkit.models.keras_models.layer_state import stateful_layers
from extractkit.models.keras_models.model import KerasModel
from extractkit.models.keras_models.tracing import Trace

_log = logging.getLogger(__name__)

_CALL_NUMBER = re.compile(r"@[0-9]+")

_IN_ONE_TRACE = "computed by other operations when the state is carried (model.state=carry)"


@dataclass(frozen=True, eq=False)
class CarryingModel(KerasModel, CarriesState):
    """A Keras model whose calls may start from the state that the previous call left.

    Catalog, axes and the programs of `program` are those of `KerasModel` and start from the initial
    state, so measuring the model does not change its state. `carrying_program` has its own trace,
    in which layers read their states from variables and assign to them.
    """

    @property
    def state_policy(self) -> str:
        """The policy: the state is carried."""
        return CARRY

    def samples_carried(self) -> int:
        """Return the batch size of the layers' states."""
        self.build()
        sizes = {int(one.shape[0]) for one in self._states()}
        if len(sizes) > 1:
            raise ModelError(
                f"{KEY}={CARRY}: the stateful layers of {self.name!r} keep states of batches of "
                f"several sizes ({', '.join(map(str, sorted(sizes)))}), so its rows are not "
                f"samples. Use {KEY}={RESET}"
            )
        return sizes.pop()

    @cached_property
    def catalog(self) -> Catalog:
        """See `GraphModel`. Tensors of only one of the two traces cannot be extracted."""
        records = (
            record
            if record.address in self._carried or not record.depends_on_inputs
            else replace(record, reason=record.reason or _IN_ONE_TRACE)
            for record in self._records.records
        )
        return Catalog(list(records), self.name, self._edges)

    def carrying_program(
        self, fetches: Sequence[Fetch], compilation: Compilation
    ) -> CarryingProgram:
        """Compile the graph of the second trace. The state is assigned before each call."""
        check_values((fetch.request for fetch in fetches), self.name)
        trace = self._carrying_trace
        variables = self._states()
        names = [self._carried[fetch.address].name for fetch in fetches]
        names += [_assigned(trace, variable).name for variable in variables]
        samples = self.samples_carried()
        compiled = self.compiled(trace, names, fetches, compilation, samples)

        def call(
            features: Mapping[str, Array], lengths: Mapping[str, Array], state: State
        ) -> tuple[Sequence[Array], State]:
            # The variables hold the state only during the call. Between calls the caller keeps it.
            with _holding(variables, state):
                returned = compiled(features, lengths)
            return returned[: len(fetches)], tuple(returned[len(fetches) :])

        return CarryingProgram(samples, initial_states(self.stateful, samples, self.dialect), call)

    @cached_property
    def _carried(self) -> Mapping[str, Any]:
        return matching_values(self.found, find_tensors(self._carrying_trace))

    @cached_property
    def _carrying_trace(self) -> Trace:
        # The trace is kept alive, because its programs need its functions of loops.
        return self._trace(self.samples_carried())

    def outputs_after(self, model: Any, dialect: Dialect) -> OutputsAfter:
        """See `KerasModel`. The layers keep the state themselves, as in `predict`."""

        def outputs(
            before: Arguments, features: Mapping[str, Array], lengths: Mapping[str, Array]
        ) -> Mapping[str, Array]:
            layers, samples = stateful_layers(model, dialect), self.samples_carried()
            variables = state_variables(layers, dialect)

            def called(arguments: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
                with _holding(variables, initial_states(layers, samples, dialect)):
                    first = self._taken(self.to_tensors(*before)[0])
                    self._called_in_graph(model, dialect, first, samples)
                    return self._called_in_graph(model, dialect, arguments, samples)

            return self.outputs_by(called)(features, lengths)

        return outputs

    def _states(self) -> list[Any]:
        return state_variables(self.stateful, self.dialect)


def state_variables(layers: Sequence[Any], dialect: Dialect) -> list[tf.Variable]:
    """Return the variables of all states of recurrent layers, in order.

    Raises:
        ModelError: They do not exist yet, because the batch size is not known.
    """
    states = [one for layer in _recurrent(layers, dialect) for one in tf.nest.flatten(layer.states)]
    if any(state is None for state in states):
        names = ", ".join(repr(layer.name) for layer in layers)
        raise ModelError(
            f"{KEY}={CARRY}: the stateful layers ({names}) do not know the size of a batch yet. "
            f"Call the model on one batch where it is built, for example in model.factory"
        )
    # A variable of Keras 3 wraps one of TensorFlow.
    return [one.value for one in states] if dialect is KERAS_3 else states


def initial_states(layers: Sequence[Any], samples: int, dialect: Dialect) -> State:
    """Return the values of these states in a newly built model."""

    def of(layer: Any) -> Any:
        if dialect is KERAS_3:
            return layer.get_initial_state(samples)
        own = getattr(layer.cell, "get_initial_state", None)
        if own is None:
            return [np.zeros(one.shape, one.dtype.as_numpy_dtype) for one in layer.states]
        return own(inputs=None, batch_size=samples, dtype=layer.variable_dtype)

    made = [one for layer in _recurrent(layers, dialect) for one in tf.nest.flatten(of(layer))]
    return tuple(
        np.broadcast_to(np.asarray(value), tuple(variable.shape)).astype(
            variable.dtype.as_numpy_dtype
        )
        for value, variable in zip(made, state_variables(layers, dialect), strict=True)
    )


def _recurrent(layers: Sequence[Any], dialect: Dialect) -> list[Any]:
    """Return the recurrent layers without their wrappers."""
    return [layer for layer in layers if isinstance(layer, dialect.package.layers.RNN)]


@contextmanager
def _holding(variables: Sequence[tf.Variable], state: State) -> Iterator[None]:
    """Assign a state to the variables within the block, and restore their values afterwards."""
    with restored(variables):
        for variable, value in zip(variables, state, strict=True):
            variable.assign(value)
        yield


def matching_values(ours: Sequence[Found], others: Sequence[Found]) -> dict[str, Any]:
    """Return the values of another trace of the model, by addresses with the same meaning in both.

    Addresses count the calls of a layer, and the operations of each type in a call. So an address
    has the same meaning in both traces if the calls, and the operations of its call, are the same.
    """
    own_calls, own_operations = _structure(ours)
    calls, operations = _structure(others)

    def same(record: TensorRecord) -> bool:
        call, _, _ = record.address.partition(":")
        layer = _CALL_NUMBER.sub("", call)
        return own_calls.get(layer) == calls[layer] and (
            record.kind is not Kind.OP or own_operations.get(call) == operations[call]
        )

    known = {one.record.address for one in ours}
    return {
        one.record.address: one.value
        for one in others
        if one.record.address in known and same(one.record)
    }


def _structure(
    found: Sequence[Found],
) -> tuple[dict[str, list[str]], dict[str, list[str | None]]]:
    """Return the calls of each layer, and the types of operations in each call, in order."""
    calls: dict[str, list[str]] = {}
    operations: dict[str, list[str | None]] = {}
    for one in found:
        call, _, _ = one.record.address.partition(":")
        known = calls.setdefault(_CALL_NUMBER.sub("", call), [])
        if call not in known:
            known.append(call)
        if one.record.kind is Kind.OP:
            operations.setdefault(call, []).append(one.record.op_type)
    return calls, operations


def _assigned(trace: Trace, variable: Any) -> tf.Tensor:
    """Return the tensor that the traced call assigns to a variable."""
    captured = {id(outside): inside.name for outside, inside in trace.graph.captures}
    handle = captured.get(id(variable.handle))
    found = [
        operation.inputs[1]
        for operation in trace.graph.get_operations()
        if operation.type == "AssignVariableOp" and operation.inputs[0].name == handle
    ]
    if len(found) != 1:
        raise ModelError(
            f"{KEY}={CARRY}: one call of the model assigns {len(found)} times to the state "
            f"{variable.name!r}, not once. Use {KEY}={RESET}"
        )
    return found[0]


def check_carried(layers: Sequence[Any], checkpoints: WeightFiles | None, name: str) -> None:
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
