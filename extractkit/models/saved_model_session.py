"""The graph of a SavedModel of TensorFlow 1, restored into a session."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tensorflow as tf

from extractkit.errors import ModelError, UserError
from extractkit.inputs import SPARSE
from extractkit.models.axes import InputSetting
from extractkit.models.composites import PARTS, Composite
from extractkit.models.imports import load_failure
from extractkit.models.saved_model_files import SavedModelFile, parsed
from extractkit.models.sessions.importing import (
    WITHOUT_SHAPES,
    clean,
    drop_stored_shapes,
    make_importable,
    session_config,
)
from extractkit.models.sessions.model import ReloadedSession, SessionModel, session_model


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
