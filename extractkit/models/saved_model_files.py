"""SavedModel files: their graphs, and graphs of TensorFlow 1 restored into a session."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from extractkit.advice import names_override, override
from extractkit.errors import ModelError, UserError, choices
from extractkit.inputs.protocol import SPARSE
from extractkit.models.axes import InputSetting
from extractkit.models.composites import PARTS, Composite
from extractkit.models.imports import load_failure
from extractkit.models.recognition import (
    held,
    refuse_damaged,
    refuse_missing,
    refuse_others,
    refuse_unknown,
    refuse_unreachable,
)
from extractkit.models.sessions.importing import (
    WITHOUT_SHAPES,
    clean,
    drop_stored_shapes,
    make_importable,
    session_config,
)
from extractkit.models.sessions.model import ReloadedSession, SessionModel, session_model
from extractkit.models.weight_files.tensorflow_checkpoint import missing_file, refuse_pattern

_NAMES = ("saved_model.pb", "saved_model.pbtxt")
_MODEL = "saved_model"
_SERVE = "serve"
_VARIABLES = {"Variable", "VariableV2", "AutoReloadVariable", "VarHandleOp"}
# Signatures that TensorFlow itself adds.
_OWN = ("__saved_model_init_op", "__saved_model_train_op")


@dataclass(frozen=True, eq=False)
class SavedModelFile:
    """One graph of a SavedModel.

    Attributes:
        folder: The SavedModel's folder.
        tags: The tags that identify the graph in the SavedModel.
        signatures: The names of its signatures.
        object_based: Whether TensorFlow 2 wrote it from objects. False for a graph to run in a
            session.
        version: The version of TensorFlow that wrote it.
    """

    folder: Path
    tags: tuple[str, ...]
    signatures: tuple[str, ...]
    object_based: bool
    version: str


def open_saved_model(path: str, tags: Sequence[str] | None = None) -> SavedModelFile:
    """Inspect a SavedModel without loading it. TensorFlow has to be imported already.

    Args:
        path: The folder, or the saved_model.pb in it.
        tags: The tags of the graph to use. If None, the serving graph or the only one.

    Raises:
        ModelError: There is no SavedModel, it is damaged, or it has no such graph.
    """
    folder = _folder(path)
    graphs = {
        tuple(sorted(graph.meta_info_def.tags)): graph for graph in parsed(path, folder).meta_graphs
    }
    if not graphs:
        raise ModelError(
            f"model.path={path!r} is a SavedModel without a graph: it was not written or copied "
            f"to its end. Save or copy it again"
        )
    wanted = _wanted(graphs, tags)
    graph = graphs[wanted]
    _check_variables(path, folder, graph)
    return SavedModelFile(
        folder,
        wanted,
        tuple(name for name in sorted(graph.signature_def) if name not in _OWN),
        bool(graph.object_graph_def.nodes),
        graph.meta_info_def.tensorflow_version,
    )


def _folder(path: str) -> Path:
    refuse_unreachable(path)
    folder = Path(path).expanduser()
    if folder.name in _NAMES and folder.is_file():
        folder = folder.parent
    if not folder.exists():
        refuse_missing(path, _MODEL, kind="folders", fits=Path.is_dir)
    if not folder.is_dir():
        refuse_others(path, _MODEL)
        refuse_unknown(path, folder, f"the folder of a SavedModel, with a {_NAMES[0]} in it")
    if not any((folder / name).is_file() for name in _NAMES):
        inside = sorted(str(found.parent.relative_to(folder)) for found in _below(folder))
        if not inside:
            refuse_others(path)
            there = held(folder, _NAMES[0])
        else:
            there = (
                f"SavedModels in it: {choices('', inside)} Choose one: "
                f"{override('model.path', folder / inside[0])}"
            )
        raise ModelError(
            f"model.path={path!r} is not a SavedModel: there is no {_NAMES[0]} in it. {there}"
        )
    return folder


def _check_variables(path: str, folder: Path, graph: Any) -> None:
    """Check that the variables of a SavedModel were copied with it.

    Raises:
        ModelError: A file of variables is missing.
    """
    prefix = folder / "variables" / "variables"
    operations = {node.op for node in graph.graph_def.node}
    if not (graph.object_graph_def.nodes or operations & _VARIABLES):
        return
    refuse_pattern(str(prefix), f"model.path={path!r}")
    missing = missing_file(str(prefix))
    if missing is not None:
        raise ModelError(
            f"model.path={path!r} is a SavedModel without its variables: {str(missing)!r} is "
            f"missing. Copy the whole folder variables of the SavedModel to {str(prefix.parent)!r}"
        )


def _below(folder: Path) -> list[Path]:
    return [found for name in _NAMES for found in folder.glob(f"*/{name}")]


def parsed(path: str, folder: Path) -> Any:
    """Parse the SavedModel message of a folder. TensorFlow has to be imported already.

    Raises:
        ModelError: It cannot be parsed.
    """
    from google.protobuf import text_format
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    message = saved_model_pb2.SavedModel()
    binary, text = (folder / name for name in _NAMES)
    try:
        if binary.is_file():
            message.ParseFromString(binary.read_bytes())
        else:
            text_format.Parse(text.read_text("utf-8"), message)
    except (DecodeError, text_format.ParseError, UnicodeDecodeError, OSError) as error:
        file = binary if binary.is_file() else text
        refuse_damaged(path, file, "a SavedModel", error, _MODEL)
    return message


def _wanted(graphs: Mapping[tuple[str, ...], Any], tags: Sequence[str] | None) -> tuple[str, ...]:
    if tags is not None:
        wanted = tuple(sorted(tags))
        if wanted not in graphs:
            there = ", ".join(names_override("model.tags", found) for found in graphs)
            raise ModelError(
                f"model.tags={list(tags)!r}: no graph has just these tags. Available: {there}"
            )
        return wanted
    if len(graphs) == 1 or (_SERVE,) not in graphs:
        return next(iter(graphs))
    return (_SERVE,)


def load_in_session(
    path: str,
    file: SavedModelFile,
    signature: str,
    settings: Mapping[str, InputSetting] | None,
    constants: Mapping[str, object] | None,
    origin: Mapping[str, object],
) -> SessionModel:
    """Load one signature of a SavedModel of TensorFlow 1, with tables and variables.

    Raises:
        ModelError: It cannot be loaded.
        ConfigError: Inputs or constants do not exist or do not fit.
    """
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

    def reload(checkpoint: int | None) -> ReloadedSession:
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
    session: tf.compat.v1.Session,
    prepare: Callable[[Any], None],
) -> Any:
    """Load the SavedModel into a session and return its meta graph.

    Args:
        prepare: Changes each GraphDef before it is loaded.

    Raises:
        ModelError: It cannot be loaded.
    """
    with session.graph.as_default(), _changed(path, file, prepare) as folder:
        try:
            return tf.compat.v1.saved_model.load(session, list(file.tags), folder)
        except Exception as error:  # damaged files fail in many ways
            # TensorFlow's message names the temporary copy.
            why = load_failure(error).replace(folder, str(file.folder))
            raise ModelError(f"model.path={path!r} {why}") from error


def _prepared(graph_def: Any) -> None:
    """Make a graph ready for a session of this process."""
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


def _tensors(graph: tf.Graph, infos: Mapping[str, Any]) -> dict[str, tf.Tensor]:
    """Return a signature's dense tensors by name."""
    return {
        name: graph.get_tensor_by_name(info.name)
        for name, info in sorted(infos.items())
        if info.name
    }


def _sparse(graph: tf.Graph, infos: Mapping[str, Any]) -> dict[str, Composite]:
    """Return a signature's sparse tensors of two axes by name."""
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
