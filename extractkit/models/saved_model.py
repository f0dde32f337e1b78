"""`model=saved_model`: any signature or function of a SavedModel of TensorFlow 2 or 1.

One of TensorFlow 2 is loaded as a function, one of TensorFlow 1 is restored into a session.
"""

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extractkit.advice import override
from extractkit.core.keys import DecidesValues
from extractkit.errors import ModelError, UserError, choices
from extractkit.inputs import SPARSE
from extractkit.models import Model, NoOwnCallError
from extractkit.models.failures import attribute, load_failure, unregistered
from extractkit.models.process import quiet_start
from extractkit.models.saved_model_files import SavedModelFile, open_saved_model, parsed
from extractkit.models.signature import InputAxes, InputSetting, parse_input_axes

if TYPE_CHECKING:
    import tensorflow as tf

    from extractkit.models.functions.callables import GraphFunction
    from extractkit.models.graphs.feeding import Argument, Composite
    from extractkit.models.sessions import ReloadedSession, SessionModel


_NAME = "saved_model"
_DEFAULT = "serving_default"
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_WRAPPER = "signature_wrapper"
# The suffix of a function's name that is also a signature's name.
_FIRST = ".0"
# Keras 2 saves a signature separate from the model's `__call__`, with numbered arguments.
_KERAS_CALL = "_wrapped_model"


def load(
    path: DecidesValues[str],
    signature: DecidesValues[str | None] = None,
    tags: DecidesValues[list[str] | None] = None,
    input_axes: DecidesValues[InputAxes] = None,
    constants: DecidesValues[Mapping[str, object] | None] = None,
) -> Model:
    """Load one signature or function of a SavedModel.

    Args:
        path: The folder that holds saved_model.pb.
        signature: The name of a signature or of a function of the saved object ("__call__"). "fn.1"
            is the second concrete function of "fn", and "fn.0" the first if "fn" is a signature. If
            None, serving_default or the only one.
        tags: The tags of the graph to use. If None, the serving graph or the only one.
        input_axes: The inputs that get samples, and their axes: {x: [sample, time, null]}. If None,
            all.
        constants: Values that are the same for every sample, by input: {keep_prob: 1.0}.

    Raises:
        ModelError: The path is not a SavedModel, is damaged, or has no such signature.
        ConfigError: Inputs or constants do not exist.
    """
    settings = parse_input_axes(input_axes)
    with quiet_start():
        import tensorflow as tf  # noqa: F401

    file = open_saved_model(path, tags)
    if file.object_based:
        return _load_function(path, file, signature, settings, constants)

    chosen = _signature(path, file.signatures, signature)
    return _load_in_session(path, file, chosen, settings, constants, _origin(file, chosen))


def _load_function(
    path: str,
    file: SavedModelFile,
    signature: str | None,
    settings: Mapping[str, InputSetting] | None,
    constants: Mapping[str, object] | None,
) -> "GraphFunction":
    from extractkit.models.functions import inputs_of, outputs_of
    from extractkit.models.functions.callables import ReloadedFunction, graph_function

    loaded, _ = _loaded(path, file)
    functions = _functions(loaded)
    chosen = _signature(path, tuple(functions), signature)
    function = functions[chosen]

    def reload() -> ReloadedFunction:
        keep, lacked = _loaded(path, file)
        if lacked is not None:
            raise NoOwnCallError(f"it needs the operation {lacked!r}, which TensorFlow lacks")
        return ReloadedFunction(_functions(keep)[chosen], "tf.saved_model.load", keep)

    return graph_function(
        _NAME,
        function,
        inputs_of(function),
        outputs_of(function),
        settings=settings,
        constants=constants,
        origin=_origin(file, chosen),
        # Variables live only as long as the loaded object.
        keep=loaded,
        reload=reload,
        composites=_composites(function, functions, signature=chosen in loaded.signatures),
        lost_gradients=file.lost_gradients,
    )


def _loaded(path: str, file: SavedModelFile) -> tuple[Any, str | None]:
    """Return the loaded object, and an operation that it needs and TensorFlow lacks, or None.

    Such operations are replaced by placeholders.

    Raises:
        ModelError: It cannot be loaded.
    """
    import tensorflow as tf

    from extractkit.models.graphs.rebuilding import replace_unknown_operations

    tags = list(file.tags)
    try:
        return tf.saved_model.load(str(file.folder), tags=tags), None
    except Exception as error:  # damaged files fail in many ways
        lacked, why = unregistered(error), load_failure(error)
        if lacked is None:
            raise ModelError(f"model.path={path!r} {why}") from error
    with _changed(path, file, replace_unknown_operations) as folder:
        try:
            return tf.saved_model.load(folder, tags=tags), lacked
        except Exception as error:  # a table that the operation fills, for example
            weights = file.folder / "variables" / "variables"
            if weights.with_suffix(".index").is_file():
                why += f". Its weights alone: model=checkpoint {override('model.path', weights)}"
            raise ModelError(f"model.path={path!r} {why}") from error


def _composites(
    function: Any, functions: Mapping[str, Any], signature: bool
) -> "dict[str, Argument]":
    """Return the ragged and sparse inputs of a function.

    A signature declares only their parts, sorted by name. The function that it calls takes the same
    parts in another order, and declares the composite types.
    """
    from extractkit.models.functions import composites_of, inputs_of

    own = composites_of(function)
    if own or not signature or (called := _called(function)) is None:
        return own
    inputs = inputs_of(function)
    by_operation = {one.op.name: name for name, one in inputs.items()}
    given = [by_operation.get(argument) for argument in called.arguments]
    candidates = []
    for other in _wrapped(called.name, functions):
        takes = inputs_of(other)
        names = {part: name for part, name in zip(takes, given, strict=False) if name is not None}
        alike = {part for part, name in names.items() if _alike(takes[part], inputs[name])}
        if alike == set(takes) and len(set(names.values())) == len(inputs):
            candidates.append(
                {names[key]: one.renamed(names) for key, one in composites_of(other).items()}
            )
    # If functions of the same name disagree, the signature's own declaration is used.
    agreed = candidates and all(one == candidates[0] for one in candidates)
    return candidates[0] if agreed else {}


def _alike(one: Any, other: Any) -> bool:
    return bool(one.dtype == other.dtype and str(one.shape) == str(other.shape))


def _wrapped(called: str, functions: Mapping[str, Any]) -> list[Any]:
    """Return the functions that a signature may call by this name."""
    exact = [one for one in functions.values() if _name_of(one) == called]
    if exact:
        return exact
    # A concrete function's saved name differs from the name in a signature's call.
    plain = _plain_name(called)
    if plain == _KERAS_CALL:
        return [one for name, one in functions.items() if name.partition(".")[0] == "__call__"]
    return [one for one in functions.values() if _plain_name(_name_of(one)) == plain]


@dataclass(frozen=True)
class _Call:
    """The function call that a signature wraps.

    Attributes:
        name: The function's name.
        arguments: The signature's placeholders in the order of the function's arguments. None for
            an argument that is not a placeholder.
    """

    name: str
    arguments: tuple[str | None, ...]


def _called(signature: Any) -> _Call | None:
    """Return the function call that a signature wraps.

    A signature that was loaded and saved again calls another signature, which is followed.
    """
    graph = signature.graph.as_graph_def()
    bodies = {body.signature.name: body for body in graph.library.function}
    nodes = graph.node
    # The signature's placeholders by their names in the followed body.
    known: dict[str, str | None] = {node.name: node.name for node in nodes}
    while len(calls := [node for node in nodes if node.op in _CALLS]) == 1:
        given = [one.partition(":")[0] for one in calls[0].input if not one.startswith("^")]
        arguments = tuple(known.get(one) for one in given)
        name: str = calls[0].attr["f"].func.name
        if not _plain_name(name).startswith(_WRAPPER):
            return _Call(name, arguments)
        body = bodies[name]
        nodes = body.node_def
        takes = [argument.name for argument in body.signature.input_arg]
        known = dict(zip(takes, arguments, strict=True))
    return None


def _name_of(function: Any) -> str:
    name: str | bytes = function.name
    return name.decode() if isinstance(name, bytes) else name


def _plain_name(name: str) -> str:
    """Return a function's name without the suffix that TensorFlow adds to make it unique."""
    return re.sub(r"(_\d+)+$", "", re.sub(r"^(__inference_)+", "", name))


def _origin(file: SavedModelFile, signature: str) -> dict[str, object]:
    return {
        "path": str(file.folder.resolve()),
        "signature": signature,
        "tags": list(file.tags),
        "written_by": f"tensorflow {file.version}",
    }


def _functions(loaded: Any) -> dict[str, Any]:
    """Return concrete functions by name: the signatures, then those of the object itself.

    The first function of an attribute has the attribute's name, or `NAME.0` if a signature has it.
    """
    functions = dict(loaded.signatures)
    for name in sorted({"__call__", *dir(loaded)}):
        concrete = attribute(attribute(loaded, name), "concrete_functions")
        for index, function in enumerate(concrete or ()):
            plain = not index and name not in loaded.signatures
            functions.setdefault(name if plain else f"{name}.{index}", function)
    return functions


def _signature(path: str, names: tuple[str, ...], given: str | None) -> str:
    if given is not None:
        if given not in names:
            raise ModelError(
                f"model.signature={given!r} does not exist in {path!r}. "
                f"{choices(str(given), names)}"
            )
        return given
    if _DEFAULT in names:
        return _DEFAULT
    apart = [name for name in names if name.removesuffix(_FIRST) not in {*names} - {name}]
    if len(apart) == 1:
        return apart[0]
    if not names:
        raise ModelError(
            f"model.path={path!r} has neither a signature nor a function: weights alone. "
            f"Read those: model=checkpoint {override('model.path', path)}"
        )
    raise ModelError(
        f"model.path={path!r} has no signature {_DEFAULT!r}. {choices(_DEFAULT, names)} "
        f"Choose one: {override('model.signature', names[0])}"
    )


def _load_in_session(
    path: str,
    file: SavedModelFile,
    signature: str,
    settings: Mapping[str, InputSetting] | None,
    constants: Mapping[str, object] | None,
    origin: Mapping[str, object],
) -> "SessionModel":
    """Load one signature of a SavedModel of TensorFlow 1, with tables and variables.

    Raises:
        ModelError: It cannot be loaded.
        ConfigError: Inputs or constants do not exist or do not fit.
    """
    import tensorflow as tf

    from extractkit.models.sessions import ReloadedSession, session_model
    from extractkit.models.sessions.importing import (
        WITHOUT_SHAPES,
        drop_stored_shapes,
        make_importable,
        session_config,
    )

    session = tf.compat.v1.Session(graph=tf.Graph(), config=session_config())
    try:
        meta_graph = _restored(path, file, session, _prepared)
        chosen = meta_graph.signature_def[signature]
        inputs = _tensors(session.graph, chosen.inputs)
        outputs = _tensors(session.graph, chosen.outputs)
        composites = _sparse(session.graph, chosen.inputs)
        for name, composite in _sparse(session.graph, chosen.outputs).items():
            outputs |= composite.named(name)
    except UserError:
        session.close()
        raise
    except (KeyError, ValueError) as error:  # the signature's tensors do not exist
        session.close()
        raise ModelError(f"model.path={path!r} {load_failure(error)}") from error

    def reload(checkpoint: int | None) -> "ReloadedSession":
        plain = tf.compat.v1.Session(graph=tf.Graph(), config=session_config())
        stored: list[bool] = []

        def prepare(graph_def: Any) -> None:
            stored.append(drop_stored_shapes(graph_def))
            make_importable(graph_def)

        _restored(path, file, plain, prepare)
        without = WITHOUT_SHAPES if any(stored) else ""
        return ReloadedSession(plain, f"tf.compat.v1.saved_model.load{without}")

    return session_model(
        "saved_model",
        session,
        inputs=inputs,
        outputs=outputs,
        settings=settings,
        constants=constants,
        origin=origin,
        reload=reload,
        composites=composites,
    )


def _restored(
    path: str,
    file: SavedModelFile,
    session: "tf.compat.v1.Session",
    prepare: Callable[[Any], None],
) -> Any:
    """Load the SavedModel into a session and return its meta graph.

    Args:
        prepare: Changes each GraphDef before it is loaded.

    Raises:
        ModelError: It cannot be loaded.
    """
    import tensorflow as tf

    with session.graph.as_default(), _changed(path, file, prepare) as folder:
        try:
            return tf.compat.v1.saved_model.load(session, list(file.tags), folder)
        except Exception as error:  # damaged files fail in many ways
            # TensorFlow's message names the temporary copy.
            why = load_failure(error).replace(folder, str(file.folder))
            raise ModelError(f"model.path={path!r} {why}") from error


def _prepared(graph_def: Any) -> None:
    """Make a graph ready for a session of this process."""
    from extractkit.models.sessions.importing import clean, make_importable

    clean(graph_def)
    make_importable(graph_def)


@contextmanager
def _changed(path: str, file: SavedModelFile, change: Callable[[Any], None]) -> Iterator[str]:
    """Yield a temporary folder with the same SavedModel and changed GraphDefs.

    The loader takes only folders. Variables and assets are linked, not copied.
    """
    message = parsed(path, file.folder)
    for meta_graph in message.meta_graphs:
        change(meta_graph.graph_def)
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "saved_model.pb").write_bytes(message.SerializeToString())
        for beside in file.folder.iterdir():
            if beside.is_dir():
                (Path(scratch) / beside.name).symlink_to(beside.absolute())
        yield scratch


def _tensors(graph: "tf.Graph", infos: Mapping[str, Any]) -> "dict[str, tf.Tensor]":
    """Return a signature's dense tensors by name."""
    return {
        name: graph.get_tensor_by_name(info.name)
        for name, info in sorted(infos.items())
        if info.name
    }


def _sparse(graph: "tf.Graph", infos: Mapping[str, Any]) -> "dict[str, Composite]":
    """Return a signature's sparse tensors of two axes by name."""
    from extractkit.models.graphs.feeding import PARTS, Composite

    found = {}
    for name, info in sorted(infos.items()):
        sizes = [None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim]
        if info.WhichOneof("encoding") == "coo_sparse" and len(sizes) in (0, 2):
            parts = info.coo_sparse
            names = (parts.indices_tensor_name, parts.values_tensor_name)
            tensors = [
                graph.get_tensor_by_name(one) for one in (*names, parts.dense_shape_tensor_name)
            ]
            made_of = dict(zip(PARTS[SPARSE], tensors, strict=True))
            found[name] = Composite(SPARSE, made_of, tuple(sizes[1:]) or (None,))
    return found
