"""`model=frozen_graph`: a GraphDef that holds its weights as constants, `.pb` or `.pbtxt`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from extractkit.advice import override
from extractkit.core.keys import DecidesValues
from extractkit.errors import ModelError
from extractkit.models.process import quiet_start
from extractkit.models.recognition import held, refuse_missing, refuse_others, refuse_unreachable
from extractkit.models.signature import InputAxes, parse_input_axes

if TYPE_CHECKING:
    from extractkit.models.sessions import SessionModel

_NAME = "frozen_graph"
_ENDINGS = (".pb", ".pbtxt")


def load(
    path: DecidesValues[str],
    input_axes: DecidesValues[InputAxes] = None,
    outputs: DecidesValues[list[str] | None] = None,
    constants: DecidesValues[Mapping[str, object] | None] = None,
) -> "SessionModel":
    """Load a frozen graph of TensorFlow 1 or 2.

    Args:
        path: The file, `.pb` or `.pbtxt`.
        input_axes: The inputs that get samples, and their axes: {x: [time, sample, 80]}. If None,
            every placeholder without a constant.
        outputs: The names of the model's outputs. If None, the tensors that nothing else in the
            graph consumes.
        constants: Values that are the same for every sample, by placeholder: {keep_prob: 1.0}.

    Raises:
        ModelError: The file does not exist, is not a GraphDef, is damaged, or lacks weights.
        ConfigError: Inputs, outputs or constants do not exist or do not fit.
    """
    settings = parse_input_axes(input_axes)
    refuse_unreachable(path)
    file = Path(path).expanduser()
    _check(path, file)
    with quiet_start():
        import tensorflow as tf

        from extractkit.models.sessions import ReloadedSession, session_model
        from extractkit.models.sessions.importing import (
            WITHOUT_SHAPES,
            drop_stored_shapes,
            outputs_named,
            plain_session,
            read_graph_def,
            session_template,
        )
        from extractkit.models.sessions.restore import variable_names

    graph_def = read_graph_def(path, file)
    session = session_template(path, graph_def)
    if variables := variable_names(session.graph):
        raise ModelError(
            f"model.path={path!r} is not frozen: it has no values for {len(variables)} of its "
            f"variables, such as {variables[0]!r}. {_with_weights(file)}"
        )

    def reload(checkpoint: int | None) -> ReloadedSession:
        own = read_graph_def(path, file)
        without = WITHOUT_SHAPES if drop_stored_shapes(own) else ""
        return ReloadedSession(plain_session(own), f"tf.compat.v1.import_graph_def{without}")

    return session_model(
        _NAME,
        session,
        outputs=outputs_named(session.graph, outputs),
        settings=settings,
        constants=constants,
        graph_def=graph_def,
        origin={
            "path": str(file.resolve()),
            "producer": graph_def.versions.producer,
            "read_by": f"tensorflow {tf.__version__}",
        },
        frozen=True,
        reload=reload,
    )


def _with_weights(file: Path) -> str:
    """Return a hint on where the values of a graph's variables may be."""
    metas = sorted(file.parent.glob("*.meta"))
    text = "A .meta file with a checkpoint beside it has graph and values"
    given = override("model.path", metas[0]) if metas else "model.path=FILE.meta"
    return f"{text}: model=meta_graph {given}"


def _check(path: str, file: Path) -> None:
    if not file.exists():
        refuse_missing(path, _NAME, kind="graphs", fits=lambda one: one.suffix in _ENDINGS)
    if file.is_dir():
        refuse_others(path)
        raise ModelError(
            f"model.path={path!r} is a folder; model=frozen_graph takes one file. "
            f"{held(file, _ENDINGS[0])}"
        )
