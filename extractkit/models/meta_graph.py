"""`model=meta_graph`: a graph and checkpoint written by a TensorFlow 1 Saver."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from extractkit.advice import override
from extractkit.core.checkpoints import KEY as CHECKPOINTS
from extractkit.core.checkpoints import CheckpointFiles, StepPattern
from extractkit.core.keys import DecidesValues
from extractkit.errors import ConfigError, ModelError, choices
from extractkit.models.failures import error_summary
from extractkit.models.given_weights import READ_BY, MovingAverages, checkpoint_axis
from extractkit.models.process import quiet_start
from extractkit.models.recognition import (
    held,
    refuse_missing,
    refuse_others,
    refuse_unknown,
    refuse_unreachable,
)
from extractkit.models.signature import InputAxes, parse_input_axes
from extractkit.models.weight_files.tensorflow_checkpoint import is_old_checkpoint
from extractkit.runs.files import prefix_of

if TYPE_CHECKING:
    from extractkit.models.sessions import ReloadedSession, SessionModel

_NAME = "meta_graph"
_META = ".meta"
_INDEX = ".index"
# Collections of operations that have to run once before the graph is used.
_INITIALIZERS = ("table_initializer",)
_SWITCH_OFF = "The graph has dropout, made for training. Switch it off: model.dropout=false"


def load(
    path: DecidesValues[str],
    checkpoint: DecidesValues[str | None] = None,
    checkpoints: DecidesValues[CheckpointFiles] = None,
    checkpoint_step: DecidesValues[StepPattern] = None,
    input_axes: DecidesValues[InputAxes] = None,
    outputs: DecidesValues[list[str] | None] = None,
    constants: DecidesValues[Mapping[str, object] | None] = None,
    moving_averages: DecidesValues[Annotated[object, "true, false, text or null"]] = None,
    dropout: DecidesValues[bool | None] = None,
) -> "SessionModel":
    """Load a TensorFlow 1 graph with the weights of a checkpoint.

    Args:
        path: The .meta file, the prefix that it shares with the checkpoint, or their folder.
        checkpoint: The prefix or folder of other weights. If None, those beside the .meta file.
        checkpoints: Many of them as an axis: a pattern ('train/model.ckpt-*'), or a list.
        checkpoint_step: A regular expression for their steps: 'ckpt-([0-9]+)'.
        input_axes: The inputs that get samples, and their axes: {x: [sample, time, 96]}. If None,
            every placeholder without a constant.
        outputs: The names of the model's outputs. If None, the tensors that nothing else in the
            graph consumes.
        constants: Values that are the same for every sample, by placeholder: {is_training: false}.
        moving_averages: Whether to load averages in place of variables, or the averages' name.
            False: do not warn that there are averages.
        dropout: False removes dropout from a training graph. None and True keep it, and tensors
            after it are random.

    Raises:
        ModelError: Files are missing or damaged, the weights are of another architecture, or the
            wanted averages are missing.
        ConfigError: Inputs, outputs or constants do not exist or do not fit.
    """
    settings = parse_input_axes(input_axes)
    if not isinstance(dropout, bool | None):
        raise ConfigError(f"model.dropout={dropout!r} is not true, false or null")
    averages = MovingAverages(moving_averages)
    prefix = _meta_prefix(path)
    axis = checkpoint_axis(
        checkpoints,
        checkpoint_step,
        lambda found: restored(f"{CHECKPOINTS}={found.path!r}", found.path),
        instead_of={"model.checkpoint": checkpoint},
    )
    weights = None if axis is not None else _checkpoint_prefix(prefix, checkpoint, path)

    def restored(at: str, prefix: str) -> None:
        restore(at, session, meta.saver_def, prefix)
        restore_averages(at, session, meta.saver_def, prefix, averages)

    with quiet_start():
        import tensorflow as tf

        from extractkit.models.sessions import session_model
        from extractkit.models.sessions.importing import (
            dropouts,
            new_session,
            outputs_named,
            parsed,
            without_dropout,
        )
        from extractkit.models.sessions.restore import restore, restore_averages

    try:
        meta = parsed(path, Path(prefix + _META), tf.compat.v1.MetaGraphDef(), "MetaGraphDef")
    except ModelError:
        refuse_others(prefix + _META, _NAME)
        raise
    if not meta.graph_def.node:
        raise ModelError(f"model.path={path!r} holds no graph: it has no operations")
    session = new_session(path, meta.graph_def)
    dropping = dropouts(session.graph)
    if dropout is False:
        if not dropping:
            raise ConfigError(
                f"model.dropout=false: the graph of model.path={path!r} has no dropout that could "
                f"be recognized. Leave it out"
            )
        session.close()
        without_dropout(meta.graph_def, dropping)
        session = new_session(path, meta.graph_def)
    at = f"model.path={path!r}" if checkpoint is None else f"model.checkpoint={checkpoint!r}"
    if weights is not None:
        restored(at, weights)
    _initialize(path, session, meta)

    def reload(checkpoint: int | None) -> "ReloadedSession":
        own = parsed(path, Path(prefix + _META), tf.compat.v1.MetaGraphDef(), "MetaGraphDef")
        if dropout is False:  # TensorFlow's own functions cannot remove dropout
            without_dropout(own.graph_def, dropping)
        file = weights if axis is None or checkpoint is None else axis.file(checkpoint).path
        plain = _load_with_tensorflow(own, str(file))
        if averages.setting is not None:  # a Saver cannot load averages
            restore_averages(at, plain.session, own.saver_def, str(file), averages)
        if averages.used:
            plain = replace(plain, loaded_by=f"{plain.loaded_by} and {READ_BY}")
        return plain

    return session_model(
        _NAME,
        session,
        outputs=outputs_named(session.graph, outputs),
        settings=settings,
        constants=constants,
        graph_def=meta.graph_def,
        origin={
            "path": str(Path(prefix + _META).resolve()),
            "checkpoint": weights,
            "written_by": f"tensorflow {meta.meta_info_def.tensorflow_version}",
            "read_by": f"tensorflow {tf.__version__}",
            **({"dropout_switched_off": sorted(dropping)} if dropout is False else {}),
            **({"moving_averages": averages.record} if averages.record else {}),
        },
        checkpoints=axis,
        averages=averages.name,
        reload=reload,
        impure_advice=_SWITCH_OFF if dropping and dropout is not False else "",
    )


def _load_with_tensorflow(meta: Any, checkpoint: str) -> "ReloadedSession":
    """Load the graph and its weights with TensorFlow's own functions.

    They refuse a graph whose stored shapes differ from the inferred ones, so the stored shapes are
    removed.

    Raises:
        ModelError: They fail.
    """
    import tensorflow as tf

    from extractkit.models.sessions import ReloadedSession
    from extractkit.models.sessions.importing import (
        WITHOUT_SHAPES,
        drop_stored_shapes,
        make_importable,
        session_config,
    )

    without = WITHOUT_SHAPES if drop_stored_shapes(meta.graph_def) else ""
    make_importable(meta.graph_def)
    session = tf.compat.v1.Session(graph=tf.Graph(), config=session_config())
    try:
        with session.graph.as_default():
            saver = tf.compat.v1.train.import_meta_graph(meta, clear_devices=True)
            saver = saver or tf.compat.v1.train.Saver()
            saver.restore(session, checkpoint)
            for key in _INITIALIZERS:
                session.run(tf.compat.v1.get_collection(key))
    except Exception as error:  # graphs of other versions fail in many ways
        raise ModelError(f"tf.compat.v1.train.import_meta_graph: {error_summary(error)}") from error
    used = "tf.compat.v1.train.import_meta_graph and Saver.restore"
    return ReloadedSession(session, f"{used}{without}")


def _meta_prefix(path: str) -> str:
    """Return the path without `.meta`, which may be only the folder."""
    refuse_unreachable(path)
    expanded = str(Path(path).expanduser())
    if Path(expanded).is_dir():
        return _prefix_in(path, Path(expanded), _META)
    # The path may be any file of the checkpoint.
    prefix = prefix_of(expanded) or expanded
    for one in (prefix, expanded):
        if Path(one + _META).is_file():
            return one
    if Path(prefix + _INDEX).is_file() or _is_old(Path(prefix)):
        raise ModelError(
            f"model.path={path!r} has no graph beside it: there is no {prefix + _META!r}. The "
            f"weights alone: model=checkpoint {override('model.path', path)}"
        )
    if Path(expanded).is_file():
        refuse_others(path, _NAME)
        refuse_unknown(path, Path(expanded), f"a graph of TensorFlow 1 ({_META})")
    refuse_missing(
        path,
        *(_NAME, "checkpoint"),
        kind="graphs",
        fits=lambda one: one.suffix == _META,
    )


def _checkpoint_prefix(prefix: str, checkpoint: str | None, path: str) -> str:
    if checkpoint is None:
        if _is_checkpoint(prefix):
            return prefix
        raise ModelError(
            f"model.path={path!r} has no weights beside it: there is no {prefix + _INDEX!r}. Copy "
            f"it and its {Path(prefix).name}.data-… there, or give their location: "
            f"model.checkpoint=PREFIX"
        )
    refuse_unreachable(checkpoint, "model.checkpoint")
    expanded = str(Path(checkpoint).expanduser())
    if Path(expanded).is_dir():
        return _prefix_in(checkpoint, Path(expanded), _INDEX, key="model.checkpoint")
    for found in (prefix_of(expanded) or expanded, expanded):
        if _is_checkpoint(found):
            return found
    refuse_missing(
        checkpoint,
        "checkpoint",
        kind="checkpoints",
        fits=lambda one: one.suffix == _INDEX,
        key="model.checkpoint",
        ending=_INDEX,
    )


def _is_checkpoint(prefix: str) -> bool:
    # Checkpoints of the first format are one file of that name, without an index.
    return Path(prefix + _INDEX).is_file() or (not prefix.endswith("/") and Path(prefix).is_file())


def _is_old(file: Path) -> bool:
    return file.is_file() and is_old_checkpoint(file)


def _names(folder: Path, ending: str) -> list[str]:
    return [found.name for found in folder.glob(f"*{ending}")]


def _prefix_in(given: str, folder: Path, ending: str, key: str = "model.path") -> str:
    """Return the prefix named in a folder's `checkpoint` file, or the only one."""
    names = sorted(name.removesuffix(ending) for name in _names(folder, ending))
    latest = _latest(folder)
    if latest in names:
        return f"{folder}/{latest}"
    if len(names) == 1:
        return f"{folder}/{names[0]}"
    if not names:
        refuse_others(given, _NAME, "checkpoint", key=key)
        if ending == _META and _names(folder, _INDEX):
            raise ModelError(
                f"{key}={given!r} is a folder with a checkpoint and no {_META} file, which holds "
                f"the graph. The weights alone: model=checkpoint {override(key, given)}"
            )
        raise ModelError(f"{key}={given!r} is a folder without a {ending} file. {held(folder)}")
    raise ModelError(
        f"{key}={given!r} holds several. {choices(latest or '', names)} "
        f"Choose one: {override(key, folder / names[-1])}"
    )


def _latest(folder: Path) -> str | None:
    """Return the name, without its folder, of the latest checkpoint in the `checkpoint` file.

    The recorded folder may be of another machine.
    """
    file = folder / "checkpoint"
    if not file.is_file():
        return None
    for line in file.read_text("utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model_checkpoint_path":
            return value.strip().strip('"').replace("\\", "/").rpartition("/")[2]
    return None


def _initialize(path: str, session: Any, meta: Any) -> None:
    """Run the initializers of tables and similar collections once."""
    import tensorflow as tf

    names = [name for key in _INITIALIZERS for name in meta.collection_def[key].node_list.value]
    try:
        session.run([session.graph.as_graph_element(name) for name in names])
    except (tf.errors.OpError, KeyError, ValueError) as error:
        hint = ""
        if isinstance(error, tf.errors.NotFoundError):
            hint = ". The graph reads that file when it starts: put it there"
        raise ModelError(
            f"model.path={path!r}: its tables cannot be filled: {error_summary(error)}{hint}"
        ) from error
