"""`model=frozen_graph`: a GraphDef that holds its weights as constants, `.pb` or `.pbtxt`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from extractkit.errors import ModelError
from extractkit.models.input_settings import parse_inputs
from extractkit.models.recognition import refuse_missing, refuse_others, refuse_unreachable
from extractkit.models.tensorflow_process import quiet_start

if TYPE_CHECKING:
    from extractkit.models.sessions.model import SessionModel

_NAME = "frozen_graph"
_ENDINGS = (".pb", ".pbtxt")


def load(
    path: str,
    inputs: object = None,
    outputs: list[str] | None = None,
    constants: Mapping[str, object] | None = None,
) -> "SessionModel":
    """A frozen graph of TensorFlow 1 or 2.

    Args:
        path: the file, binary or text.
        inputs: see `input_settings`; None: every placeholder that has no constant.
        outputs: names of the tensors that are the model's outputs; None: those that nothing else
            in the graph consumes.
        constants: values that are the same for every sample, by placeholder.

    Raises:
        ModelError: no such file, none of a GraphDef, a damaged one, or one without its weights.
        ConfigError: inputs, outputs or constants that do not exist, or do not fit.
    """
    settings = parse_inputs(inputs)
    refuse_unreachable(path)
    file = Path(path).expanduser()
    _check(path, file)
    with quiet_start():
        import tensorflow as tf

        from extractkit.models.sessions.graph import WITHOUT_SHAPES, drop_stored_shapes
        from extractkit.models.sessions.importing import (
            later_session,
            plain_session,
            read_graph_def,
        )
        from extractkit.models.sessions.model import SessionAgain, session_model
        from extractkit.models.sessions.naming import outputs_named
        from extractkit.models.sessions.variables import variable_names

    graph_def = read_graph_def(path, file)
    session = later_session(path, graph_def)
    if variables := variable_names(session.graph):
        raise ModelError(
            f"model.path={path!r} is not frozen: {len(variables)} variables, such as "
            f"{variables[0]!r}, have no values in it. With a checkpoint beside it: "
            f"model=meta_graph model.path=FILE.meta"
        )

    def again(checkpoint: int | None) -> SessionAgain:
        own = read_graph_def(path, file)
        without = WITHOUT_SHAPES if drop_stored_shapes(own) else ""
        return SessionAgain(plain_session(own), f"tf.compat.v1.import_graph_def{without}")

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
        again=again,
    )


def _check(path: str, file: Path) -> None:
    if not file.exists():
        refuse_missing(path, _NAME, kind="graphs", fits=lambda one: one.suffix in _ENDINGS)
    if file.is_dir():
        refuse_others(path)
        raise ModelError(f"model.path={path!r} is a directory; model=frozen_graph takes one file")
