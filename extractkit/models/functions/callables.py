"""Python callables, `tf.function`s, `tf.Module`s and plain values as one concrete function each."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from extractkit.errors import ConfigError, ModelError, choices
from extractkit.models.foreign import attribute, told
from extractkit.models.graphs.constants import AT as CONSTANTS
from extractkit.models.input_settings import AT, InputSetting, advised_settings
from extractkit.models.structure import VALUES, plain
from extractkit.plan import numpy_dtype
from extractkit.tensors import SAMPLE

_METHOD = "__call__"
_VARIABLES_GONE = "variables which have been deleted"
_EXAMPLE = InputSetting((SAMPLE, 4), "float32")
_DTYPES = ("float32", "float16", "float64", "int32", "int64", "bool", "string")


def is_value(built: object) -> bool:
    """Whether it is tensors, variables, arrays or numbers, alone or in any structure of them."""
    if callable(built):
        return False
    leaves = tf.nest.flatten(plain(built))
    return bool(leaves) and all(isinstance(leaf, (tf.Tensor, *VALUES)) for leaf in leaves)


def method_of(built: object, signature: str | None) -> Callable[..., Any]:
    """What to call of an object: the method named by `model.signature`, or itself.

    Raises:
        ModelError: it cannot be called, or has no such method.
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
        said = f"model.factory gives a {kind}, which is neither callable nor a tensor"
        if not methods:
            raise ModelError(
                f"{said} and has no methods. Name a callable that returns a function, an object "
                f"with methods or tensors: model.factory._target_=package.module.function"
            )
        raise ModelError(
            f"{said}. {choices(_METHOD, methods)} Choose a method: model.signature=NAME"
        )
    return built


def specs_of(
    function: Callable[..., Any], settings: Mapping[str, InputSetting] | None
) -> dict[str, tf.TensorSpec]:
    """What the function is to be called with, by the names of its arguments.

    What it declares itself is taken as it is; settings are held against that later, as against
    what any graph declares (`graphs.signature`).

    Raises:
        ConfigError: settings for an argument that it does not have, or of an unknown type.
        ModelError: it tells nothing of its arguments, and settings neither; or it declares one
            that is no tensor.
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
            raise ConfigError(f"{AT}: {name!r} is not an argument. {choices(name, accepted)}")
    # A name alone would leave open even how many axes there are.
    vague = [name for name, setting in (settings or {}).items() if setting.dims is None]
    lacking = [name for name in required if name not in (settings or {})]
    if lacking := [*lacking, *vague]:
        example = {**(settings or {}), **dict.fromkeys(lacking, _EXAMPLE)}
        raise ModelError(
            f"model.factory gives a function of {', '.join(map(repr, lacking))}, which does not "
            f"declare their shapes. Say what it takes, for example: {advised_settings(example)}"
        )
    return {name: _spec(name, setting) for name, setting in (settings or {}).items()}


def bound(
    function: Callable[..., Any],
    constants: Mapping[str, object] | None,
    settings: Mapping[str, InputSetting] | None,
) -> tuple[Callable[..., Any], Mapping[str, object]]:
    """Return the function with `model.constants` in place, and those that are left to its graph.

    A function that declares its arguments is traced with all of them. Any other has no place for
    a value whose type nobody declares, so that it is called with the value itself.

    Raises:
        ConfigError: It has no such argument, or samples are given for that as well.
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
            raise ConfigError(f"{name!r} is in both {AT} and {CONSTANTS}. Leave one out")
    return with_arguments(function, constants), {}


def with_arguments(
    function: Callable[..., Any], values: Mapping[str, object]
) -> Callable[..., Any]:
    """Return a function of the other arguments; of a `partial`, AutoGraph converts nothing."""

    @functools.wraps(function, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **values, **kwargs)

    left = [one for one in _parameters(function) if one.name not in (*values, "self")]
    call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [one.replace(kind=one.KEYWORD_ONLY) if _is_named(one) else one for one in left]
    )
    return call


def declaring_function(function: Callable[..., Any]) -> Any:
    """The `tf.function` that declares an input signature: it, or its `__call__`; None: neither."""
    for one in (function, getattr(function, _METHOD, None)):
        if attribute(one, "input_signature") is not None:
            return one
    return None


def traced(function: Callable[..., Any], settings: Mapping[str, InputSetting] | None = None) -> Any:
    """The function as one concrete function, of what it declares itself, else of the settings.

    Raises:
        ConfigError: settings for an argument that it does not have, or of an unknown type.
        ModelError: it tells nothing of its arguments, or cannot be traced with such.
    """
    whole = declaring_function(function)
    # Given nothing it is traced with what it declares, structures of tensors among it.
    specs = {} if whole is not None else specs_of(function, _own(function, settings))
    if whole is None:
        traces = hasattr(function, "get_concrete_function")
        whole = function if traces else tf.function(_taken_apart(function))
    try:
        return whole.get_concrete_function(**specs)
    except Exception as error:  # whatever somebody else's code raises
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
            f"{told(error).rstrip('.')}. If it needs values while it runs: model.eager=true"
        ) from error


def constant_function(value: object) -> Callable[[], Any]:
    """A function of nothing that returns the value's tensors."""

    def values() -> Any:
        return tf.nest.map_structure(tf.convert_to_tensor, plain(value))

    return values


def _taken_apart(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its results as TensorFlow takes them from a traced function."""

    # Its attributes stay its own: it may be an object with a `__call__`.
    @functools.wraps(function, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        return plain(function(*args, **kwargs))

    return call


def _own(
    function: Callable[..., Any], settings: Mapping[str, InputSetting] | None
) -> Mapping[str, InputSetting] | None:
    """The settings of arguments; others may name tensors of the graph that is yet to be traced."""
    required, accepted, open_ended = _arguments(function)
    if settings is None or open_ended or not set(required) <= set(settings):
        return settings
    return {name: setting for name, setting in settings.items() if name in accepted}


def _arguments(function: Callable[..., Any]) -> tuple[list[str], list[str], bool]:
    """Names that have to be given, names that may be given, whether any may."""
    parameters = _parameters(function)
    named = [p for p in parameters if _is_named(p) and p.name != "self"]
    return (
        [p.name for p in named if p.default is p.empty],
        [p.name for p in named],
        any(p.kind is p.VAR_KEYWORD for p in parameters),
    )


def _takes_any_number(function: Callable[..., Any]) -> bool:
    """Return whether a function takes arguments that have no names."""
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
            f"{AT}.{name}.dtype={dtype!r} is not a type. {choices(dtype, _DTYPES)}"
        ) from None
    shape = [dim if isinstance(dim, int) else None for dim in setting.dims or ()]
    return tf.TensorSpec(shape, dtype, name=name)
