"""A concrete function of any origin behind the `Model` protocol, by TensorFlow's own names."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import tensorflow as tf

from extractkit.errors import ModelError
from extractkit.models.composites import (
    PARTS,
    Argument,
    Composite,
    given_names,
    with_composites,
)
from extractkit.models.foreign import told
from extractkit.models.functions.concrete import call, composites_of, inputs_of
from extractkit.models.functions.inlining import InlinedGraph, inlined, is_seam
from extractkit.models.functions.model import FunctionModel
from extractkit.models.graphs.catalog import facts_of, find_operations, signature_address
from extractkit.models.graphs.constants import checked_constants
from extractkit.models.graphs.feeding import inner_tensors
from extractkit.models.graphs.records import Found
from extractkit.models.graphs.signature import chosen, declared, signature_of
from extractkit.models.input_settings import InputSetting
from extractkit.models.protocol import OwnCall
from extractkit.values import Array

_WRAPPER = "StatefulPartitionedCall/"


@dataclass(frozen=True, eq=False)
class FunctionAgain:
    """A function that has been loaded a second time, for `OwnCall`.

    Attributes:
        function: the concrete function.
        loaded_by: what has loaded it, for records and messages.
        keep: what has to live as long as the function is called.
    """

    function: Any
    loaded_by: str
    keep: Any


@dataclass(frozen=True, eq=False)
class GraphFunction(FunctionModel):
    """A function whose calls have been inlined.

    Attributes:
        source: its graph.
        function: the concrete function itself.
        fixed: its inputs that are the same for every sample, by name.
        inner: names of inputs that are tensors in the midst of the graph.
        parts: the function's own names of what composite inputs are made of, by those in the graph.
        deeper: why composite arguments are given nothing, by the placeholders of their parts.
        keep: what has to live as long as its variables are read.
        again: Loads the same function a second time; None: it exists in memory alone.
    """

    source: InlinedGraph
    function: Any
    fixed: Mapping[str, Array]
    inner: frozenset[str] = frozenset()
    parts: Mapping[str, str] = field(default_factory=dict)
    deeper: Mapping[str, str] = field(default_factory=dict)
    keep: Any = field(default=None, kw_only=True)
    again: Callable[[], FunctionAgain] | None = field(default=None, kw_only=True)

    @property
    def graph(self) -> InlinedGraph:
        """The graph, calls inlined."""
        return self.source

    @cached_property
    def found(self) -> Sequence[Found]:
        """Operations by TensorFlow's names, inputs and outputs by the signature's, variables."""
        source = self.source
        found = find_operations(
            source.graph,
            source.inputs,
            source.outputs,
            [(variable.name, variable) for variable in source.variables.values()],
            drop_prefix=_WRAPPER,
            facts=facts_of(source.graph, source.inputs.values(), reasons_not_fed=self.deeper),
            inner=self.inner,
        )
        return [one for one in found if not (one.in_graph and is_seam(one.value.op))]

    @property
    def variables(self) -> Iterable[Any]:
        """Those that the graph reads or assigns to."""
        return self.source.variables.values()

    def called(self, arguments: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """What the concrete function returns, by address."""
        return self._called(self.function, arguments)

    def own_call(self, checkpoint: int | None = None) -> OwnCall:
        """The call of a function that has been loaded again, or of the function itself."""
        if self.again is None:
            return super().own_call(checkpoint)
        again = self.again()
        return OwnCall(
            again.loaded_by,
            self.outputs_by(lambda arguments: self._called(again.function, arguments)),
        )

    def _called(self, function: Any, arguments: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        fixed = {name: tf.constant(value) for name, value in self.fixed.items()}
        given = {**fixed, **{self.parts.get(name, name): one for name, one in arguments.items()}}
        if self.inner or not set(given).issuperset(inputs_of(function)):
            return {}
        returned = call(function, given)
        return {signature_address("output", name): one for name, one in returned.items()}


def graph_function(
    name: str,
    function: Any,
    inputs: Mapping[str, tf.Tensor],
    outputs: Mapping[str, tf.Tensor],
    *,
    settings: Mapping[str, InputSetting] | None = None,
    constants: Mapping[str, object] | None = None,
    origin: Mapping[str, object] | None = None,
    keep: object = None,
    again: Callable[[], FunctionAgain] | None = None,
    composites: Mapping[str, Argument] | None = None,
) -> GraphFunction:
    """Inline a concrete function and put it behind the `Model` protocol.

    Args:
        name: for messages.
        function: the concrete function.
        inputs, outputs: tensors of its graph by name.
        settings: what the configuration says of its inputs; any tensor of the graph can be one.
        constants: values of inputs that are the same for every sample, by name.
        origin: what the manifest records of where it comes from.
        keep: what has to live as long as the function's variables are read.
        again: as of `GraphFunction`.
        composites: ragged and sparse inputs, as `concrete.composites_of` gives them; None: the
            function tells.

    Raises:
        ConfigError: settings or constants for inputs that it does not have, or that do not fit.
        ModelError: an input that needs settings and has none; a graph that is damaged.
    """
    known = composites_of(function) if composites is None else composites
    made_of: dict[str, Composite] = {}
    own_names: dict[str, str] = {}
    deeper: dict[str, str] = {}
    for key, one in known.items():
        if one.shape is None:
            if set(one.parts).isdisjoint(settings or ()):
                deeper |= dict.fromkeys(one.parts, one.why_not_read(key, inputs))
            continue
        tensors = dict(zip(PARTS[one.kind], map(inputs.__getitem__, one.parts), strict=True))
        made_of[key] = Composite(one.kind, tensors, one.shape)
        own_names |= dict(zip(made_of[key].named(key), one.parts, strict=True))
    parts = {part: inputs[name] for part, name in own_names.items()}
    gone = set(own_names.values())
    inputs = {**{key: one for key, one in inputs.items() if key not in gone}, **parts}
    constant = checked_constants(constants, inputs, tuple(settings or ()))
    own = {key: tensor for key, tensor in inputs.items() if key not in constant}
    fixed = {inputs[key].op.name: value for key, value in constant.items()}
    try:
        graph = inlined(function, own, outputs, fixed)
    except tf.errors.OpError as error:  # such as what its optimizer meets in a damaged graph
        raise ModelError(
            f"TensorFlow cannot put the functions that model {name!r} calls into its graph: "
            f"{told(error)}"
        ) from error
    inner = inner_tensors(graph.graph, settings or (), graph.inputs, _WRAPPER)
    feedable = {**graph.inputs, **inner}
    left_out = {*parts, *deeper}
    takes = [declared(key, tensor) for key, tensor in feedable.items() if key not in left_out]
    takes += [one.declared(key) for key, one in made_of.items()]
    signature = signature_of(name, chosen(takes, settings), settings)
    signature = replace(with_composites(signature, made_of), selectable=True)
    return GraphFunction(
        name,
        signature,
        replace(graph, inputs={key: feedable[key] for key in given_names(signature.specs)}),
        function,
        constant,
        frozenset(inner),
        own_names,
        {feedable[name].op.name: reason for name, reason in deeper.items() if name in feedable},
        origin={**(origin or {}), **({"constants": dict(constants)} if constants else {})},
        keep=keep,
        again=again,
    ).settled()
