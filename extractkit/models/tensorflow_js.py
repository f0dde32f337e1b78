"""`model=tensorflow_js`: a graph model or layers model of TensorFlow.js (`model.json`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from extractkit.advice import override
from extractkit.errors import ConfigError, ModelError
from extractkit.models import Model
from extractkit.models.axes import parse_input_axes
from extractkit.models.recognition import held, refuse_missing, refuse_others, refuse_unreachable
from extractkit.models.tensorflow_process import quiet_start
from extractkit.models.weight_files import WeightFile
from extractkit.models.weight_files.tensorflow_js import FILE, open_tensorflow_js, read_json

_NAME = "tensorflow_js"


def load(
    path: str,
    input_axes: object = None,
    outputs: list[str] | None = None,
    constants: Mapping[str, object] | None = None,
) -> Model:
    """Load a TensorFlow.js model.

    Args:
        path: The folder with a `model.json`, or that file.
        input_axes: See `parse_input_axes`.
        outputs: The names of a graph model's outputs. If None, those of its signature, or the
            tensors that nothing else in the graph consumes.
        constants: A graph model's values that are the same for every sample, by input.

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
        from extractkit.models.live import live_model
        from extractkit.models.tfjs import keras_model_of

    model = keras_model_of(file, topology, weights, at)
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
        from extractkit.models.sessions.importing import outputs_named, session_template
        from extractkit.models.sessions.model import session_model
        from extractkit.models.tfjs import graph_def_of, tensors_of

    graph_def = graph_def_of(content["modelTopology"], weights, at)
    session = session_template(path, graph_def)
    signature = content.get("signature") or _user_defined(content)
    signature = signature if isinstance(signature, dict) else {}
    named = tensors_of(session.graph, signature.get("inputs"), at)
    results = tensors_of(session.graph, signature.get("outputs"), at)
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
