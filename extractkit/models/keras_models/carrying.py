"""Keras models whose recurrent layers carry their state from one call to the next."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf

from extractkit.errors import ConfigError, ModelError
from extractkit.models.functions.eager_calls import restored
from extractkit.models.keras_models.catalog import find_tensors
from extractkit.models.keras_models.model import KerasModel
from extractkit.models.keras_models.stateful import CARRY, KEY, RESET
from extractkit.models.keras_models.tracing import Trace
from extractkit.models.protocol import CarryingProgram, Compilation, Fetch
from extractkit.values import Array, State


@dataclass(frozen=True, eq=False)
class CarryingModel(KerasModel):
    """A Keras model of which each call may start from the state that the call before it left.

    Catalog, axes and the programs of `program` are those of `KerasModel`: they start from the
    initial state, so that measuring the model moves no state. `carrying_program` has a trace of its
    own, in which the layers read their states from variables and assign to them.
    """

    @property
    def state_policy(self) -> str:
        """Its state is carried."""
        return CARRY

    def samples_carried(self) -> int:
        """The size of the batches that the layers keep the state of."""
        self.build()
        sizes = {int(one.shape[0]) for one in self._states()}
        if len(sizes) > 1:
            raise ModelError(
                f"{KEY}={CARRY}: the stateful layers of {self.name!r} keep states of batches of "
                f"several sizes ({', '.join(map(str, sorted(sizes)))}), so its rows are not "
                f"samples. Use {KEY}={RESET}"
            )
        return sizes.pop()

    def carrying_program(
        self, fetches: Sequence[Fetch], compilation: Compilation
    ) -> CarryingProgram:
        """See `CarriesState`."""
        samples = self.samples_carried()
        trace = self._carrying_trace
        values = {one.record.address: one.value for one in find_tensors(trace)}
        lacking = [fetch.address for fetch in fetches if fetch.address not in values]
        if lacking:
            raise ConfigError(
                f"{KEY}={CARRY}: {lacking[0]!r} is not computed where the state is carried, only "
                f"where each call starts from the initial state. Leave it out of the selectors, or "
                f"use {KEY}={RESET}"
            )
        variables = self._states()
        names = [values[fetch.address].name for fetch in fetches]
        names += [_assigned(trace, variable).name for variable in variables]
        compiled = self.compiled(trace, names, fetches, compilation, samples)

        def call(
            features: Mapping[str, Array], lengths: Mapping[str, Array], state: State
        ) -> tuple[Sequence[Array], State]:
            # The variables hold the state during the call alone: it belongs to whoever calls.
            with restored(variables):
                for variable, value in zip(variables, state, strict=True):
                    variable.assign(value)
                returned = compiled(features, lengths)
            return returned[: len(fetches)], tuple(returned[len(fetches) :])

        initial = tuple(np.zeros(tuple(one.shape), one.dtype.as_numpy_dtype) for one in variables)
        return CarryingProgram(samples, initial, call)

    @cached_property
    def _carrying_trace(self) -> Trace:
        # It is kept: the functions of loops in its programs go away with it.
        return self.traced_for(self.samples_carried())

    def _states(self) -> list[tf.Variable]:
        """The variables of all states, in the order of the layers."""
        states = [
            state
            for layer in self.stateful
            if isinstance(layer, self.dialect.package.layers.RNN)
            for state in tf.nest.flatten(layer.states)
        ]
        return [one if isinstance(one, tf.Variable) else one.value for one in states]


def _assigned(trace: Trace, variable: Any) -> tf.Tensor:
    """The tensor that the traced call assigns to a variable."""
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
