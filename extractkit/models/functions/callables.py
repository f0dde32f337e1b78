"""Python callables, modules and plain values as concrete functions and models."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import tensorflow as tf

from extractkit.core.spec import SAMPLE, numpy_dtype
from extractkit.core.values import Array
from extractkit.errors import ConfigError, ModelError, choices
from extractkit.models import OwnCall
from extractkit.models.failures import attribute, error_summary
from extractkit.models.functions import FunctionModel, call, composites_of, inputs_of
from extractkit.models.functions.function_graph import InlinedGraph, inlined, is_inlining_artifact
from extractkit.models.graphs import of_one_step
from extractkit.models.graphs.catalog import facts_of, find_operations, signature_address
from extractkit.models.graphs.feeding import CONSTANTS as CONSTANTS
from extractkit.models.graphs.feeding import (
    PARTS,
    Argument,
    Composite,
    checked_constants,
    given_names,
    inner_tensors,
    with_composites,
)
from extractkit.models.graphs.gradients import Differentiability
from extractkit.models.graphs.records import Found
from extractkit.models.graphs.saved_gradients import SavedGradients
from extractkit.models.naming import VALUES, plain
from extractkit.models.signature import (
    INPUT_AXES,
    InputSetting,
    advised_settings,
    chosen,
    declared,
    signature_of,
)

_METHOD = "__call__"
_VARIABLES_GONE = "variables which have been deleted"
_EXAMPLE = InputSetting((SAMPLE, 4), "float32")
_DTYPES = ("float32", "float16", "float64", "int32", "int64", "bool", "string")


def is_value(built: object) -> bool:
    """Return whether an object is a tensor, variable, array, number, or a structure of them."""
    if callable(built):
        return False
    leaves = tf.nest.flatten(plain(built))
    return bool(leaves) and all(isinstance(leaf, (tf.Tensor, *VALUES)) for leaf in leaves)


def method_of(built: object, signature: str | None) -> Callable[..., Any]:
    """Return the callable of an object: the method named by `model.signature`, or itself.

    Raises:
        ModelError: the object cannot be called, or has no such method.
    """
    methods = [
        name for name in dir(built) if not name.startswith("_") and callable(attribute(built, name))
    ]
    kind = type(built).__name__
    if signature is not None and signature != _METHOD:
        if not callable(attribute(built, signature)):
            raise ModelError(
                f"model.signature={signature!r}: the {kind} that model.factory gives has no such "
                f"method. {choices(signature, methods)}"
            )
        method: Callable[..., Any] = getattr(built, signature)
        return method
    if not callable(built):
        text = f"model.factory gives a {kind}, which is neither callable nor a tensor"
        if not methods:
            raise ModelError(
                f"{text} and has no methods. Name a callable that returns a function, an object "
                f"with methods or tensors: model.factory._target_=package.module.function"
            )
        raise ModelError(
            f"{text}. {choices(_METHOD, methods)} Choose a method: model.signature=NAME"
        )
    return built


def specs_of(
    function: Callable[..., Any], settings: Mapping[str, InputSetting] | None
) -> dict[str, tf.TensorSpec]:
    """Return the specs of the function's arguments by name.

    Its own declarations are returned unchanged. Settings are compared with them later, as for any
    graph (`graphs.signature`).

    Raises:
        ConfigError: settings for an argument that it does not have, or of an unknown type.
        ModelError: Neither it nor the settings declare the arguments, or an argument is not a
            tensor.
    """
    required, accepted, open_ended = _arguments(function)
    if not accepted and not open_ended and _takes_any_number(function):
        raise ModelError(
            "model.factory gives a function whose arguments have no names (*args), so that nothing "
            "can be given to it. Give a function with named arguments"
        )
    if (declaring := declaring_function(function)) is not None:
        return _declared(dict(zip(accepted, declaring.input_signature, strict=False)))
    for name in settings or {}:
        if name not in accepted and not open_ended:
            raise ConfigError(
                f"{INPUT_AXES}: {name!r} is not an argument. {choices(name, accepted)}"
            )
    # A name alone does not even determine the number of axes.
    vague = [name for name, setting in (settings or {}).items() if setting.dims is None]
    lacking = [name for name in required if name not in (settings or {})]
    if lacking := [*lacking, *vague]:
        example = {**(settings or {}), **dict.fromkeys(lacking, _EXAMPLE)}
        raise ModelError(
            f"model.factory gives a function of {', '.join(map(repr, lacking))}, which does not "
            f"declare their shapes. Specify what it takes, for example: {advised_settings(example)}"
        )
    return {name: _spec(name, setting) for name, setting in (settings or {}).items()}


def bound(
    function: Callable[..., Any],
    constants: Mapping[str, object] | None,
    settings: Mapping[str, InputSetting] | None,
) -> tuple[Callable[..., Any], Mapping[str, object]]:
    """Return the function with `model.constants` bound, and the constants left for its graph.

    A function that declares its arguments is traced with all of them. Any other is called with the
    constant itself, since the type of a placeholder would not be known.

    Raises:
        ConfigError: It has no such argument, or the argument takes samples as well.
    """
    if not constants or declaring_function(function) is not None:
        return function, constants or {}
    _, accepted, open_ended = _arguments(function)
    for name in constants:
        if name not in accepted and not open_ended:
            raise ConfigError(
                f"{CONSTANTS}: {name!r} is not an argument. {choices(name, accepted)}"
            )
        if name in (settings or {}):
            raise ConfigError(f"{name!r} is in both {INPUT_AXES} and {CONSTANTS}. Leave one out")
    return with_arguments(function, constants), {}


def with_arguments(
    function: Callable[..., Any], values: Mapping[str, object]
) -> Callable[..., Any]:
    """Return a function of the other arguments. AutoGraph would not convert a `partial`."""

    @functools.wraps(function, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **values, **kwargs)

    left = [one for one in _parameters(function) if one.name not in (*values, "self")]
    call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [one.replace(kind=one.KEYWORD_ONLY) if _is_named(one) else one for one in left]
    )
    return call


def declaring_function(function: Callable[..., Any]) -> Any:
    """Return the `tf.function` with an input signature: the object or its `__call__`, or None."""
    for one in (function, getattr(function, _METHOD, None)):
        if attribute(one, "input_signature") is not None:
            return one
    return None


def traced(function: Callable[..., Any], settings: Mapping[str, InputSetting] | None = None) -> Any:
    """Trace the function with the arguments that it declares, or with those of the settings.

    Raises:
        ConfigError: settings for an argument that it does not have, or of an unknown type.
        ModelError: It does not declare its arguments, or cannot be traced with them.
    """
    whole = declaring_function(function)
    # Without specs it is traced with its own declarations, including structures of tensors.
    specs = {} if whole is not None else specs_of(function, _own(function, settings))
    if whole is None:
        traces = hasattr(function, "get_concrete_function")
        whole = function if traces else tf.function(_with_plain_results(function))
    try:
        return whole.get_concrete_function(**specs)
    except Exception as error:  # user code may raise anything
        given = ", ".join(f"{name} {spec}" for name, spec in specs.items())
        given = given or ", ".join(map(str, getattr(whole, "input_signature", None) or ()))
        given = f"with ({given})" if given else "without arguments"
        if _VARIABLES_GONE in str(error):
            raise ModelError(
                "model.factory gives a function whose variables are gone: the object that they "
                "belong to was not kept. Return that object instead, and name the method: "
                "model.signature=NAME"
            ) from error
        raise ModelError(
            f"the function that model.factory gives cannot be traced {given}: "
            f"{error_summary(error).rstrip('.')}. If it needs values while it runs: "
            "model.eager=true"
        ) from error


def constant_function(value: object) -> Callable[[], Any]:
    """Return a function without arguments that returns the value's tensors."""

    def values() -> Any:
        return tf.nest.map_structure(tf.convert_to_tensor, plain(value))

    return values


def _with_plain_results(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with results as plain structures, which TensorFlow can trace."""

    # It may be an object with a `__call__`, so its attributes are not copied.
    @functools.wraps(function, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        return plain(function(*args, **kwargs))

    return call


def _own(
    function: Callable[..., Any], settings: Mapping[str, InputSetting] | None
) -> Mapping[str, InputSetting] | None:
    """Return the settings of arguments. Others may name tensors of the graph."""
    required, accepted, open_ended = _arguments(function)
    if settings is None or open_ended or not set(required) <= set(settings):
        return settings
    return {name: setting for name, setting in settings.items() if name in accepted}


def _arguments(function: Callable[..., Any]) -> tuple[list[str], list[str], bool]:
    """Return the required names, the optional names, and whether any name is accepted."""
    parameters = _parameters(function)
    named = [p for p in parameters if _is_named(p) and p.name != "self"]
    return (
        [p.name for p in named if p.default is p.empty],
        [p.name for p in named],
        any(p.kind is p.VAR_KEYWORD for p in parameters),
    )


def _takes_any_number(function: Callable[..., Any]) -> bool:
    """Return whether a function takes any number of unnamed arguments."""
    return any(one.kind is one.VAR_POSITIONAL for one in _parameters(function))


def _is_named(parameter: inspect.Parameter) -> bool:
    return parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    target: Any = getattr(function, "python_function", None) or getattr(function, "call", function)
    return list(inspect.signature(target).parameters.values())


def _declared(specs: Mapping[str, Any]) -> dict[str, tf.TensorSpec]:
    for name, spec in specs.items():
        if not isinstance(spec, tf.TensorSpec):
            raise ModelError(
                f"model.eager=true: the function that model.factory gives takes {name!r} as "
                f"{spec}, which is not a single tensor. Trace it instead: model.eager=false"
            )
    return dict(specs)


def _spec(name: str, setting: InputSetting) -> tf.TensorSpec:
    dtype = setting.dtype or "float32"
    try:
        numpy_dtype(dtype)
    except TypeError:
        raise ConfigError(
            f"{INPUT_AXES}.{name}.dtype={dtype!r} is not a type. {choices(dtype, _DTYPES)}"
        ) from None
    shape = [dim if isinstance(dim, int) else None for dim in setting.dims or ()]
    return tf.TensorSpec(shape, dtype, name=name)


_WRAPPER = "StatefulPartitionedCall/"


@dataclass(frozen=True, eq=False)
class ReloadedFunction:
    """A function that was loaded a second time, for `OwnCall`.

    Attributes:
        function: the concrete function.
        loaded_by: the name of its loader, for records and messages.
        keep: an object to keep alive as long as the function is called.
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
        inner: Names of inputs that are tensors inside the graph.
        parts: the function's names for parts of composite inputs, by their names in the graph.
        deeper: why composite arguments are not fed, by the placeholders of their parts.
        keep: an object to keep alive as long as its variables are read.
        reload: Loads the same function a second time; None if it exists only in memory.
        lost_gradients: see `graphs.saved_gradients`. None if it is not part of a SavedModel.
    """

    source: InlinedGraph
    function: Any
    fixed: Mapping[str, Array]
    inner: frozenset[str] = frozenset()
    parts: Mapping[str, str] = field(default_factory=dict)
    deeper: Mapping[str, str] = field(default_factory=dict)
    keep: Any = field(default=None, kw_only=True)
    reload: Callable[[], ReloadedFunction] | None = field(default=None, kw_only=True)
    lost_gradients: frozenset[str] | None = field(default=None, kw_only=True)

    @cached_property
    def differentiability(self) -> Differentiability:
        """See `GraphModel`."""
        lost = self.lost_gradients
        saved = None if lost is None else SavedGradients(self.graph, lost)
        return replace(super().differentiability, saved=saved)

    @property
    def graph(self) -> InlinedGraph:
        """The graph with calls inlined."""
        return self.source

    @cached_property
    def found(self) -> Sequence[Found]:
        """Operations and variables by TensorFlow's names, inputs and outputs by the signature's."""
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
        return [
            one
            for one in found
            if not (one.in_graph and is_inlining_artifact(of_one_step(one.value).op))
        ]

    @property
    def variables(self) -> Iterable[Any]:
        """The variables that the graph reads or assigns to."""
        return self.source.variables.values()

    def called(self, arguments: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Return the results of the concrete function by address."""
        return self._called(self.function, arguments)

    def own_call(self, checkpoint: int | None = None) -> OwnCall:
        """Return the call of the reloaded function, or of the function itself."""
        if self.reload is None:
            return super().own_call(checkpoint)
        reloaded = self.reload()
        return OwnCall(
            reloaded.loaded_by,
            self.outputs_by(lambda arguments: self._called(reloaded.function, arguments)),
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
    reload: Callable[[], ReloadedFunction] | None = None,
    composites: Mapping[str, Argument] | None = None,
    lost_gradients: frozenset[str] | None = None,
) -> GraphFunction:
    """Inline a concrete function and wrap it as a `Model`.

    Args:
        name: the name for messages.
        function: the concrete function.
        inputs, outputs: tensors of its graph by name.
        settings: the parsed `model.input_axes`. Any tensor of the graph can be an input.
        constants: values of inputs that are the same for every sample, by name.
        origin: the manifest's entry on where it comes from.
        keep: an object to keep alive as long as the function's variables are read.
        reload: see `GraphFunction`.
        composites: ragged and sparse inputs, as from `composites_of`; None: those of the function.
        lost_gradients: see `GraphFunction`.

    Raises:
        ConfigError: settings or constants for inputs that do not exist, or that do not fit.
        ModelError: an input needs settings and has none, or the graph is damaged.
    """
    known = composites_of(function) if composites is None else composites
    made_of: dict[str, Composite] = {}
    own_names: dict[str, str] = {}
    deeper: dict[str, str] = {}
    for key, one in known.items():
        if one.shape is None:
            if set(one.parts).isdisjoint(settings or ()):
                deeper |= dict.fromkeys(one.parts, one.unreadable_reason(key, inputs))
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
    except tf.errors.OpError as error:  # such as errors of its optimizer in a damaged graph
        raise ModelError(
            f"TensorFlow cannot put the functions that model {name!r} calls into its graph: "
            f"{error_summary(error)}"
        ) from error
    inner = inner_tensors(graph.graph, settings or (), graph.inputs, _WRAPPER)
    feedable = {**graph.inputs, **inner}
    composite = {*parts, *deeper}
    takes = [declared(key, tensor) for key, tensor in feedable.items() if key not in composite]
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
        reload=reload,
        lost_gradients=lost_gradients,
    ).settled()
