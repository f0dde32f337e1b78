"""`model=tensorflow_js`: a graph model or layers model of TensorFlow.js (`model.json`).

A graph model is converted to a GraphDef, a layers model to a Keras model.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extractkit.advice import override
from extractkit.core.keys import DecidesValues
from extractkit.errors import ConfigError, ModelError
from extractkit.models import Model
from extractkit.models.failures import error_summary
from extractkit.models.keras_models.saved import SavedKeras, serialized_objects
from extractkit.models.process import quiet_start
from extractkit.models.recognition import held, refuse_missing, refuse_others, refuse_unreachable
from extractkit.models.signature import InputAxes, parse_input_axes
from extractkit.models.weight_files import WeightFile
from extractkit.models.weight_files.tensorflow_js_file import FILE, open_tensorflow_js, read_json

if TYPE_CHECKING:
    from extractkit.models.graphs import AnyGraph, AnyTensor

_NAME = "tensorflow_js"


def load(
    path: DecidesValues[str],
    input_axes: DecidesValues[InputAxes] = None,
    outputs: DecidesValues[list[str] | None] = None,
    constants: DecidesValues[Mapping[str, object] | None] = None,
) -> Model:
    """Load a TensorFlow.js model.

    Args:
        path: The folder with a `model.json`, or that file.
        input_axes: The inputs that get samples, and their axes: {x: [sample, time, 80]}. If None,
            all.
        outputs: The names of a graph model's outputs. If None, those of its signature, or the
            tensors that nothing else in the graph consumes.
        constants: A graph model's values that are the same for every sample, by input: {keep_prob:
            1.0}.

    Raises:
        ModelError: The file does not exist or is not a TensorFlow.js model, or a shard is missing
            or cut off.
        ConfigError: Inputs, outputs or constants do not exist or do not fit.
        MissingExtraError: a layers model of Keras 2 needs tf-keras, which is not installed.
    """
    at = f"model.path={path!r}"
    settings = parse_input_axes(input_axes)
    file = _file(path, at)
    content = read_json(file, at)
    topology = content.get("modelTopology")
    if not isinstance(topology, dict):
        raise ModelError(
            f"{at} holds weights alone, no modelTopology. Read those: model=checkpoint "
            f"{override('model.path', file)}"
        )
    weights = open_tensorflow_js(file, at)
    origin = {
        "path": str(file.resolve()),
        "format": str(content.get("format") or ""),
        "written_by": str(content.get("convertedBy") or content.get("generatedBy") or ""),
    }
    if "node" in topology:
        return _graph_model(path, at, content, weights, settings, outputs, constants, origin)
    for key, given in (("model.outputs", outputs), ("model.constants", constants)):
        if given is not None:
            raise ConfigError(f"{key}: {at} is a layers model, which takes none. Leave it out")
    with quiet_start():
        from extractkit.models.in_memory import live_model

    model = _keras_model(file, topology, weights, at)
    return live_model(model, name=_NAME, origin=origin, input_axes=settings, state_setting=None)


def _graph_model(
    path: str,
    at: str,
    content: Mapping[str, Any],
    weights: WeightFile,
    settings: Any,
    outputs: list[str] | None,
    constants: Mapping[str, object] | None,
    origin: Mapping[str, object],
) -> Model:
    with quiet_start():
        from extractkit.models.sessions import session_model
        from extractkit.models.sessions.importing import outputs_named, session_template

    graph_def = _graph_def(content["modelTopology"], weights, at)
    session = session_template(path, graph_def)
    signature = content.get("signature") or _user_defined(content)
    signature = signature if isinstance(signature, dict) else {}
    named = _tensors(session.graph, signature.get("inputs"), at)
    results = _tensors(session.graph, signature.get("outputs"), at)
    if outputs is not None:
        results = outputs_named(session.graph, outputs)
    return session_model(
        _NAME,
        session,
        inputs=named,
        outputs=results,
        settings=settings,
        constants=constants,
        graph_def=graph_def,
        origin=origin,
        frozen=True,
    )


def _user_defined(content: Mapping[str, Any]) -> Any:
    """Return the metadata in which older converters wrote the signature."""
    metadata = content.get("userDefinedMetadata")
    return metadata.get("signature") if isinstance(metadata, dict) else None


def _file(path: str, at: str) -> Path:
    refuse_unreachable(path)
    file = Path(path).expanduser()
    if file.is_dir():
        if (file / FILE).is_file():
            return file / FILE
        refuse_others(path, _NAME)
        raise ModelError(f"{at} is a folder without a {FILE}. {held(file, FILE)}")
    if not file.is_file():
        refuse_missing(
            path,
            _NAME,
            kind="folders and .json files",
            fits=lambda one: one.is_dir() or one.suffix == ".json",
            more=f" Give a folder with a {FILE}, or that file",
        )
    refuse_others(path, _NAME)
    return file


_BASES = {
    "FusedDepthwiseConv2dNative": "DepthwiseConv2dNative",
    "_FusedConv2D": "Conv2D",
    "_FusedMatMul": "MatMul",
}
# Attributes of the fused operation that the plain one does not have.
_OWN = ("fused_ops", "num_args", "epsilon", "leakyrelu_alpha", "TArgs", "num_host_args")
_PRELU = "Prelu"


def decompose_unsupported(graph_def: Any) -> None:
    """Replace, in place, fused operations that TensorFlow cannot run by their parts.

    The last part keeps the name of the fused operation.
    """
    nodes = list(graph_def.node)
    if not any(_is_foreign(node) for node in nodes):
        return
    del graph_def.node[:]
    for node in nodes:
        graph_def.node.extend(_parts(node) if _is_foreign(node) else [node])


def _is_foreign(node: Any) -> bool:
    if node.op in _BASES:
        steps = _steps(node)
        return node.op == "FusedDepthwiseConv2dNative" or _PRELU in steps
    return bool(node.op == _PRELU)


def _steps(node: Any) -> list[str]:
    return [step.decode() for step in node.attr["fused_ops"].list.s]


def _parts(node: Any) -> Iterator[Any]:
    import tensorflow as tf

    dtype = node.attr["T"].type
    if node.op == _PRELU:
        yield from _prelu(node.name, node.name, node.input[0], node.input[1], dtype)
        return
    steps = _steps(node)
    data = [edge for edge in node.input if not edge.startswith("^")]
    control = [edge for edge in node.input if edge.startswith("^")]
    names = [f"{node.name}/fused/{position}" for position in range(len(steps))] + [node.name]
    base = tf.compat.v1.NodeDef(name=names[0], op=_BASES[node.op], input=[*data[:2], *control])
    for key, value in node.attr.items():
        if key not in _OWN and not key.startswith("_"):
            base.attr[key].CopyFrom(value)
    yield base
    arguments = iter(data[2:])
    for step, before, name in zip(steps, names, names[1:], strict=False):
        if step == _PRELU:
            yield from _prelu(node.name, name, before, next(arguments), dtype)
            continue
        inputs = [before, next(arguments)] if step == "BiasAdd" else [before]
        part = _node(name, step, inputs, dtype)
        if step == "BiasAdd" and "data_format" in node.attr:
            part.attr["data_format"].CopyFrom(node.attr["data_format"])
        if step == "LeakyRelu" and "leakyrelu_alpha" in node.attr:
            part.attr["alpha"].f = node.attr["leakyrelu_alpha"].f
        yield part


def _prelu(scope: str, name: str, features: str, alpha: str, dtype: int) -> Iterator[Any]:
    """Yield the nodes of max(x, 0) - alpha * max(-x, 0)."""
    inner = f"{scope}/prelu"
    yield _node(f"{inner}/positive", "Relu", [features], dtype)
    yield _node(f"{inner}/negated", "Neg", [features], dtype)
    yield _node(f"{inner}/negative", "Relu", [f"{inner}/negated"], dtype)
    yield _node(f"{inner}/scaled", "Mul", [alpha, f"{inner}/negative"], dtype)
    yield _node(name, "Sub", [f"{inner}/positive", f"{inner}/scaled"], dtype)


def _node(name: str, op: str, inputs: Sequence[str], dtype: int) -> Any:
    import tensorflow as tf

    node = tf.compat.v1.NodeDef(name=name, op=op, input=inputs)
    node.attr["T"].type = dtype
    return node


_TABLES = ("HashTable", "LookupTable", "MutableHashTable")


def _graph_def(topology: Any, weights: WeightFile, at: str) -> Any:
    """Return the GraphDef with its weights.

    Args:
        topology: The GraphDef as JSON, its constants without values.
        weights: The values by the names of the constants.

    Raises:
        ModelError: The graph is damaged, has tables, or a weight is missing or does not fit.
    """
    import tensorflow as tf
    from google.protobuf import json_format

    graph_def = tf.compat.v1.GraphDef()
    try:
        json_format.ParseDict(topology, graph_def, ignore_unknown_fields=True)
    except (json_format.ParseError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{at}: its modelTopology is not a GraphDef: {error_summary(error)}"
        ) from error
    bodies = [graph_def.node, *(one.node_def for one in graph_def.library.function)]
    for nodes in bodies:
        for node in nodes:
            if node.op.startswith(_TABLES):
                raise ModelError(
                    f"{at} has the table {node.name!r} ({node.op}), which TensorFlow.js fills by a "
                    f"graph of its own. Use the SavedModel that it was converted from"
                )
            if node.op == "Const":
                _fill(node, weights, at)
    decompose_unsupported(graph_def)
    return graph_def


def _tensors(
    graph: "AnyGraph", infos: Mapping[str, Any] | None, at: str
) -> "dict[str, AnyTensor] | None":
    """Return the tensors named by a signature in `model.json`, or None if it names none.

    Raises:
        ModelError: One of them is not in the graph.
    """
    if not infos:
        return None
    tensors = {}
    for key, info in sorted(infos.items()):
        name = str(info.get("name", key)) if isinstance(info, Mapping) else str(key)
        try:
            tensors[str(key)] = graph.get_tensor_by_name(name if ":" in name else f"{name}:0")
        except (KeyError, ValueError) as error:
            raise ModelError(
                f"{at}: its signature names {name!r}, which is not in its graph"
            ) from error
    return tensors


def _fill(node: Any, weights: WeightFile, at: str) -> None:
    """Set the value of a constant."""
    import tensorflow as tf

    tensor = node.attr["value"].tensor
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if node.name not in weights:
        if _has_values(tensor) or 0 in shape:
            return
        raise ModelError(
            f"{at}: the graph needs the weight {node.name!r}, which weightsManifest does not list"
        )
    value = weights.read(node.name)
    if list(value.shape) != shape:
        raise ModelError(
            f"{at}: weight {node.name!r} is {list(value.shape)}, in the graph it is {shape}"
        )
    try:
        dtype = tf.as_dtype(node.attr["dtype"].type)
    except TypeError as error:
        raise ModelError(
            f"{at}: the constant {node.name!r} has a type that TensorFlow does not know"
        ) from error
    if dtype != tf.string:
        # TensorFlow.js stores 64-bit numbers in 32 bits.
        value = value.astype(dtype.as_numpy_dtype)
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value, dtype, shape))


def _has_values(tensor: Any) -> bool:
    values: Iterable[str] = (field.name for field, _ in tensor.ListFields())
    return any(name == "tensor_content" or name.endswith("_val") for name in values)


def _keras_model(file: Path, topology: Any, weights: WeightFile, at: str) -> Any:
    """Build the Keras model of a layers model, in its version of Keras, and load its weights.

    Args:
        topology: The Keras configuration of a `model.json`, directly or under `model_config`.

    Raises:
        ModelError: The configuration is invalid, contains code, or does not fit the weights.
        MissingExtraError: It needs tf-keras, which is not installed.
    """
    from extractkit.models.keras_models.loading import build_architecture
    from extractkit.models.keras_models.weights_by_name import assign_by_name

    config = topology.get("model_config", topology)
    if not isinstance(config, dict) or "class_name" not in config:
        raise ModelError(f"{at}: its modelTopology does not describe a Keras model")
    if any(node["class_name"] == "Lambda" for node in serialized_objects(config)):
        raise ModelError(
            f"{at} holds Python code in a Lambda layer, which TensorFlow.js does not have, and "
            f"which loading it would run"
        )
    version = str(topology.get("keras_version") or "")
    elements = sum(prod(weights.entry(key).shape) for key in weights)
    saved = SavedKeras(file, at, config, version, str(topology.get("backend") or ""), elements)
    model = build_architecture(saved)
    assign_by_name(model, weights, at)
    return model
