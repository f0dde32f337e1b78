"""SavedModel files: their folders, graphs and signatures. TensorFlow is imported late."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extractkit.advice import names_override, override
from extractkit.errors import ModelError, choices
from extractkit.models.recognition import (
    held,
    refuse_damaged,
    refuse_missing,
    refuse_others,
    refuse_unknown,
    refuse_unreachable,
)
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
        lost_gradients: Custom gradients that it does not hold; see `graphs.saved_gradients`.
    """

    folder: Path
    tags: tuple[str, ...]
    signatures: tuple[str, ...]
    object_based: bool
    version: str
    lost_gradients: frozenset[str]


def open_saved_model(path: str, tags: Sequence[str] | None = None) -> SavedModelFile:
    """Inspect a SavedModel without loading it. TensorFlow has to be imported already.

    Args:
        path: The folder, or the saved_model.pb in it.
        tags: The tags of the graph to use. If None, the serving graph or the only one.

    Raises:
        ModelError: There is no SavedModel, it is damaged, or it has no such graph.
    """
    from extractkit.models.graphs.saved_gradients import lost_gradients

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
        lost_gradients(graph.graph_def),
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
