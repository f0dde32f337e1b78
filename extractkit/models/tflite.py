"""`model=tflite`: a `.tflite` file, run by LiteRT. TensorFlow is not needed."""

import importlib.util
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from extractkit.core.extras import install
from extractkit.core.keys import DecidesValues
from extractkit.errors import ConfigError, MissingExtraError, ModelError
from extractkit.models import CARRY, check_state, choice
from extractkit.models import KEY as STATE
from extractkit.models.process import intra_op_threads
from extractkit.models.recognition import (
    held,
    refuse_missing,
    refuse_others,
    refuse_unknown,
    refuse_unreachable,
)
from extractkit.models.recognition.content import TFLITE

if TYPE_CHECKING:
    from extractkit.models.litert import TFLiteFile
    from extractkit.models.litert.model import TFLiteModel

_log = logging.getLogger(__name__)

_BUNDLE = ".task"
_ENDINGS = (".tflite", ".lite", _BUNDLE)


def load(
    path: DecidesValues[str],
    signature: DecidesValues[str | None] = None,
    threads: DecidesValues[int | None] = None,
    xnnpack: DecidesValues[bool] = True,
    state: DecidesValues[Annotated[object, "reset, carry or null"]] = None,
) -> "TFLiteModel":
    """Load a TFLite model.

    Args:
        path: The file. `FILE.task/INNER.tflite` is a model in an archive. The inner name may be
            omitted if the archive holds one model.
        signature: The signature to call. If None, `serving_default`, otherwise the first, or the
            first subgraph if there are no signatures.
        threads: The interpreter's threads. If None, as many as one TensorFlow operation would use.
        xnnpack: Whether to use XNNPACK, as LiteRT does by default. Without it the reference
            kernels are slower and differ in the last bits.
        state: "reset" starts each call from the initial state, "carry" from the state that the
            previous call left. None is "reset" with a warning if the file keeps a state.

    Raises:
        ModelError: The file or signature does not exist, the file is not a TFLite model or is
            damaged, or it needs operations that LiteRT does not have.
        ConfigError: A setting has an invalid value.
        MissingExtraError: LiteRT is not installed.
    """
    refuse_unreachable(path)
    chosen = _found(path)
    _check_settings(threads, xnnpack)
    policy = check_state(state)
    if importlib.util.find_spec("ai_edge_litert") is None:
        raise MissingExtraError(f"model=tflite needs LiteRT: {install('model=tflite')}")
    from extractkit.models.litert.entry import Flow, entry_of
    from extractkit.models.litert.examination import probe
    from extractkit.models.litert.graph import read_graph
    from extractkit.models.litert.interpreter import Settings
    from extractkit.models.litert.model import CarryingTFLiteModel, TFLiteModel
    from extractkit.models.litert.state import check_carried, kept_state

    settings = Settings(intra_op_threads() if threads is None else threads, xnnpack)
    probed = probe(chosen, signature, settings)
    if probed.change:
        _log.warning(
            "model.path=%r: reading intermediates changes its outputs by up to %g; "
            "model.xnnpack=false may avoid that",
            path,
            probed.change,
        )
    with chosen.opened() as content:
        graph = read_graph(content)
    entry = entry_of(graph, signature)
    kept = kept_state(graph, entry.subgraph)
    kind = TFLiteModel
    if policy == CARRY:
        check_carried(kept, Flow(entry, probed.lacking), chosen.at)
        kind = CarryingTFLiteModel
    elif kept.names and policy is None:
        _log.warning(
            "model.path=%r keeps a state (%s): each call starts from the initial state. LiteRT's "
            "invoke() carries it from call to call. %s",
            path,
            ", ".join(map(repr, kept.names)),
            choice(f"{STATE}={{}}"),
        )
    return kind("tflite", chosen, graph, entry, probed, settings, kept)


def _check_settings(threads: object, xnnpack: object) -> None:
    if threads is not None and (type(threads) is not int or threads < 1):
        raise ConfigError(f"model.threads={threads!r} is not a whole number of 1 or more")
    if not isinstance(xnnpack, bool):
        raise ConfigError(f"model.xnnpack={xnnpack!r} is not true or false")


def _found(path: str) -> "TFLiteFile":
    """Return the file, or the model in an archive, that a path names."""
    from extractkit.models.litert import TFLiteFile, holds_models, is_archive, member_of

    file = Path(path).expanduser()
    at = f"model.path={path!r}"
    if not file.exists():
        archive = next((one for one in file.parents if one.is_file()), None)
        if archive is not None and is_archive(archive):
            inside = file.relative_to(archive).as_posix()
            return _checked(path, TFLiteFile(archive, member_of(archive, inside, at)))
        refuse_missing(path, "tflite", kind="models", fits=lambda one: one.suffix in _ENDINGS)
    if file.is_dir():
        refuse_others(path)
        raise ModelError(
            f"{at} is a folder; model=tflite takes one file. {held(file, _ENDINGS[0])}"
        )
    try:
        with file.open("rb") as opened:
            begin = opened.read(8)
    except OSError as error:
        raise ModelError(f"{at} cannot be read: {error.strerror}") from error
    if begin[4:] == TFLITE:
        return TFLiteFile(file)  # which may have an archive of labels appended
    if is_archive(file) and (file.suffix == _BUNDLE or holds_models(file, at)):
        return _checked(path, TFLiteFile(file, member_of(file, None, at)))
    refuse_others(path, "tflite")
    refuse_unknown(path, file, "a TFLite file")


def _checked(path: str, file: "TFLiteFile") -> "TFLiteFile":
    with file.opened() as content:
        if content[4:8] != TFLITE:
            raise ModelError(
                f"model.path={path!r}: {file.member!r} in it is not a TFLite file: it begins with "
                f"{bytes(content[:12])!r}"
            )
    return file
