"""`model=keras`: a model saved by Keras, `.keras` or `.h5`."""

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py

from extractkit.errors import ModelError, choices
from extractkit.models.foreign import told
from extractkit.models.tensorflow_process import quiet_start

if TYPE_CHECKING:
    from extractkit.models.keras_model import KerasModel

_HDF5_ENDINGS = (".h5", ".hdf5")
_ENDINGS = (".keras", *_HDF5_ENDINGS)

_UNKNOWN = re.compile(r"(?:Could not locate (?:class|function)|Unknown [\w ]+:) '([^']+)'")
_REFUSED = "arbitrary code execution"
_HAND_OVER = "Load the model in Python and hand it over: extractkit.extract(…, model=…)"


def load(path: str) -> "KerasModel":
    """A saved Keras model, loaded without compiling it.

    Args:
        path: a `.keras`, `.h5` or `.hdf5` file that holds architecture and weights.

    Raises:
        ModelError: no such file, not a Keras model, damaged, or with code that would have to run.
    """
    file = Path(path).expanduser()
    _check(path, file)
    # Imported only now: TensorFlow takes seconds, checking the file none.
    with quiet_start():
        import keras

        from extractkit.models.live import live_model

    try:
        model = keras.saving.load_model(file, compile=False, safe_mode=True)
    except Exception as error:  # whatever the readers of three formats and user classes raise
        raise ModelError(f"model.path={path!r} {_why_not(file, error)}") from error
    return live_model(model, name="keras", origin={"path": str(file.resolve())})


def _check(path: str, file: Path) -> None:
    if not file.exists():
        siblings = [e.name for e in file.parent.glob("*") if e.suffix in _ENDINGS]
        raise ModelError(
            f"model.path={path!r} does not exist. Models in {str(file.parent)!r}: "
            f"{choices(file.name, siblings)}"
        )
    if file.is_dir():
        raise ModelError(f"model.path={path!r} is a directory; model=keras takes one file")
    if file.suffix not in _ENDINGS:
        raise ModelError(
            f"model.path={path!r} ends in {file.suffix!r}; model=keras reads {', '.join(_ENDINGS)}"
        )
    if file.suffix in _HDF5_ENDINGS:
        _check_hdf5(path, file)
    elif not zipfile.is_zipfile(file):
        raise ModelError(f"model.path={path!r} is no .keras file: damaged, or something else")


def _check_hdf5(path: str, file: Path) -> None:
    try:
        with h5py.File(file, "r") as opened:
            whole = "model_config" in opened.attrs
    except OSError as error:
        raise ModelError(
            f"model.path={path!r} is no HDF5 file: damaged, or something else"
        ) from error
    if not whole:
        raise ModelError(
            f"model.path={path!r} holds weights alone, without the architecture; model=keras takes "
            f"a whole model, as model.save(…) writes it"
        )


def _why_not(file: Path, error: Exception) -> str:
    """Why Keras did not load a file: its own words, where they cannot be bettered."""
    if _REFUSED in str(error):
        stored = [
            f"layer {node.get('config', {}).get('name')!r}"
            for node in _objects(_architecture(file))
            if node["class_name"] == "Lambda"
        ]
        return (
            f"is refused: {', '.join(stored) or 'something in it'} holds Python code, which "
            f"loading the file would run (Keras's safe mode). {_HAND_OVER}"
        )
    if unknown := _UNKNOWN.search(str(error)):
        return f"needs {unknown[1]!r}, which Keras does not know by itself. {_HAND_OVER}"
    return f"cannot be loaded by Keras: {told(error)}"


def _architecture(file: Path) -> Any:
    if file.suffix in _HDF5_ENDINGS:
        with h5py.File(file, "r") as opened:
            return json.loads(opened.attrs["model_config"])
    with zipfile.ZipFile(file) as archive:
        return json.loads(archive.read("config.json"))


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    """Every serialized object in a configuration, however deep."""
    if isinstance(config, dict) and "class_name" in config:
        yield config
    for part in config.values() if isinstance(config, dict) else config:
        if isinstance(part, dict | list):
            yield from _objects(part)
