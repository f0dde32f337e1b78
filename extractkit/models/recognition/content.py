"""Recognition of a file by its first or last bytes, its text, its fields or its name."""

import json
import re
import shlex
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from extractkit.models.recognition.messages import message_kind
from extractkit.runs.files import TABLE_END


@dataclass(frozen=True)
class Recognized:
    """The recognized content of a path.

    Attributes:
        what: a noun phrase: "a GraphDef", "a pickle of PyTorch".
        model: the entry of the `model` group that reads it, or None.
        path: the `model.path` for that entry, such as the folder of a SavedModel for a file in it.
        advice: what to do if no entry reads it, as a sentence, or "".
    """

    what: str
    model: str | None = None
    path: str = ""
    advice: str = ""


_HDF5 = b"\x89HDF\r\n\x1a\n"
TFLITE = b"TFL3"
"""The identifier at byte 4 of every TensorFlow Lite file."""
_OLD_PYTORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_PICKLES = (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt")
_HEAD = 4096
# Keras's configuration is an attribute of the file's root, stored near either end of the file.
_NEAR = 16 << 20
_LARGEST_JSON = 64 << 20
_JS_SHARD = re.compile(r"group\d+-shard\d+of\d+(\.bin)?")
_SHARD = re.compile(r"(.+)\.data-\d{5}-of-\d{5}", re.DOTALL)

_NEVER = "Reading a pickle runs code that it holds, so none is ever opened here"
_SAVE_AGAIN = (
    "Load it with the library that wrote it, where you trust it, and save the weights as "
    ".safetensors"
)
_PYTORCH = (
    f"{_NEVER}. Save the weights with PyTorch: "
    "safetensors.torch.save_model(model, 'model.safetensors')"
)


_ARRAYS = "Arrays are read as samples: inputs=arrays inputs.path=FILE"


def recognize_file(file: Path) -> Recognized | None:
    """Return what a file holds, or None if it is not recognised.

    Raises:
        OSError: the file cannot be read.
    """
    with file.open("rb") as opened:
        head = opened.read(_HEAD)
        size = opened.seek(0, 2)
        opened.seek(max(0, size - len(TABLE_END)))
        tail = opened.read()
    path = str(file)
    if not head:
        return EMPTY
    if shard := _SHARD.fullmatch(path):
        return _shard(shard[1])
    for known in (_by_magic, _by_text):
        if (found := known(file, head, tail)) is not None:
            return found
    return _by_message(file) or _by_name(file)


def _shard(prefix: str) -> Recognized:
    name = Path(prefix).name
    if Path(f"{prefix}.index").is_file():
        return Recognized("the data of a TensorFlow checkpoint", "checkpoint", prefix)
    return Recognized(
        "the data of a TensorFlow checkpoint without its index",
        advice=f"Copy the file {name}.index beside it, which locates each variable",
    )


def _by_magic(file: Path, head: bytes, tail: bytes) -> Recognized | None:
    path = str(file)
    if head.startswith(_HDF5):
        if file.name.endswith(".weights.h5") or not _mentions(file, b"model_config"):
            return Recognized("an HDF5 file without an architecture", "checkpoint", path)
        return Recognized("a Keras model in HDF5", "keras", path)
    if head[4:8] == TFLITE:
        return Recognized("a TensorFlow Lite model", "tflite", path)
    if head.startswith(b"PK\x03\x04"):
        return _archive(file)
    if head.startswith(_OLD_PYTORCH):
        return Recognized("a pickle of PyTorch", advice=_PYTORCH)
    if _PICKLE.match(head) or (file.suffix in _PICKLES and head[:1] in b"(c]}x"):
        return Recognized("a pickle", advice=f"{_NEVER}. {_SAVE_AGAIN}")
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")) or head[257:262] == b"ustar":
        return _compressed(file)
    if head.startswith(b"\x93NUMPY"):
        return Recognized("an array of NumPy", advice=_ARRAYS)
    if head.startswith(b"GGUF"):
        return Recognized("a GGUF file of llama.cpp", advice="TensorFlow does not read it")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < file.stat().st_size:
        return Recognized("weights in safetensors", "checkpoint", path)
    if tail == TABLE_END:
        if file.suffix == ".index":
            return _index(file)
        return Recognized("a TensorFlow checkpoint of its first format", "checkpoint", path)
    return None


def _compressed(file: Path) -> Recognized:
    if _is_tar(file):
        return _packed("a compressed archive", "tarfile", file)
    if file.suffix == ".gz":
        how = f"Unpack it and give the file: python -m gzip -d {shlex.quote(str(file))}"
        return Recognized("a file packed with gzip", advice=how)
    return Recognized("a packed file", advice="Unpack it and give the file")


def _is_tar(file: Path) -> bool:
    try:
        return tarfile.is_tarfile(file)
    except (OSError, EOFError, zlib.error):  # the archive is damaged
        return False


def _packed(what: str, module: str, file: Path) -> Recognized:
    """Return the content of an archive, unpacked by a module of Python's standard library."""
    command = f"python -m {module} -e {shlex.quote(str(file))} NAME"
    return Recognized(what, advice=f"Unpack it and give the path of what is in it: {command}")


def _index(file: Path) -> Recognized:
    prefix = str(file.with_suffix(""))
    data = sorted(file.parent.glob(f"{_glob_escaped(file.stem)}.data-?????-of-?????"))
    if data:
        return Recognized("the index of a TensorFlow checkpoint", "checkpoint", prefix)
    return Recognized(
        "the index of a TensorFlow checkpoint without its data",
        advice=f"Copy the files {file.stem}.data-…-of-… beside it, which hold the values",
    )


def _glob_escaped(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)


def _mentions(file: Path, text: bytes) -> bool:
    with file.open("rb") as opened:
        start = opened.read(_NEAR)
        end = opened.seek(0, 2)
        opened.seek(max(0, end - _NEAR))
        return text in start or text in opened.read()


def _archive(file: Path) -> Recognized:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except NotImplementedError:
        how = "Unpack it with the program that packed it, and give the path of what is in it"
        return Recognized("a zip archive that Python cannot unpack", advice=how)
    except (zipfile.BadZipFile, OSError):
        return Recognized("a zip archive that is cut off or damaged", advice="Copy it again")
    path = str(file)
    if "config.json" in names and "metadata.json" in names:
        return Recognized("a Keras archive", "keras", path)
    if any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
        if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
            return Recognized("a TorchScript model", advice=_PYTORCH)
        return Recognized("a pickle of PyTorch in a zip archive", advice=_PYTORCH)
    if names and all(name.endswith(".npy") for name in names):
        return Recognized("an archive of NumPy arrays", advice=_ARRAYS)
    if any(name.endswith(".tflite") for name in names):
        return Recognized("a bundle of TensorFlow Lite models", "tflite", path)
    return _packed("a zip archive", "zipfile", file)


def _by_text(file: Path, head: bytes, tail: bytes) -> Recognized | None:
    if head.startswith(b"version https://git-lfs.github.com/spec"):
        return Recognized(
            "a pointer of Git LFS, in place of the file itself",
            advice="Fetch the file itself: git lfs pull",
        )
    start = head.lstrip()
    if start[:15].lower().startswith((b"<!doctype html", b"<html")):
        return Recognized("a web page", advice="Download the file itself")
    if start.startswith(b"{") and file.stat().st_size <= _LARGEST_JSON:
        return _json(file)
    if re.match(rb"(all_)?model_checkpoint_paths?:", start):
        return Recognized("the state file of a TensorFlow checkpoint", "checkpoint", str(file))
    text = re.sub(rb"#[^\n]*", b"", start).lstrip()
    if re.match(rb"node\s*\{", text):
        return Recognized("a GraphDef as text", "frozen_graph", str(file))
    if re.match(rb"saved_model_schema_version:|meta_graphs\s*\{", text):
        return Recognized("a SavedModel as text", "saved_model", str(file.parent))
    if re.match(rb"(meta_info_def|graph_def)\s*\{", text):
        return _meta(file, "a MetaGraphDef as text")
    return None


def _json(file: Path) -> Recognized | None:
    try:
        found = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    if "modelTopology" in found or "weightsManifest" in found:
        return Recognized("a TensorFlow.js model", "tensorflow_js", str(file))
    if isinstance(listed := found.get("weight_map"), dict):
        return _sharded(file, str([*listed.values()][:1]))
    if "class_name" in found and "config" in found:
        return Recognized(
            "the architecture of a Keras model without its weights",
            advice="Build it in Python (keras.models.model_from_json) and give its weights: "
            "model=keras model.factory._target_=package.module.build model.checkpoint=FILE",
        )
    return None


def _sharded(file: Path, shards: str) -> Recognized:
    """Recognize an index of weights in several files by the names of some of them."""
    if ".safetensors" in shards:
        return Recognized("the index of weights in safetensors", "checkpoint", str(file))
    if ".weights.h5" in shards:
        return Recognized(
            "the index of weights that Keras split",
            advice=f"Save them in one file: model.load_weights({str(file)!r}), then "
            f"model.save_weights('NAME.weights.h5')",
        )
    if ".h5" in shards:
        return Recognized(
            "the index of weights in several HDF5 files",
            advice="Save them as safetensors, with transformers: "
            "model.save_pretrained(DIR, safe_serialization=True)",
        )
    return Recognized("the index of weights in several pickles of PyTorch", advice=_PYTORCH)


def _by_message(file: Path) -> Recognized | None:
    path = str(file)
    kind, whole = message_kind(file)
    if not whole and kind is not None:
        return Recognized(f"a {kind} that is damaged or cut off", advice="Copy it again")
    match kind:
        case "GraphDef":
            return Recognized("a GraphDef", "frozen_graph", path)
        case "SavedModel":
            return Recognized("the graph of a SavedModel", "saved_model", str(file.parent))
        case "MetaGraphDef":
            return _meta(file, "a MetaGraphDef")
        case "ONNX":
            advice = "TensorFlow does not read it. Use the TensorFlow model that it was made from"
            return Recognized("an ONNX model", advice=advice)
        case "Core ML":
            advice = "TensorFlow does not read it. Use the TensorFlow model that it was made from"
            return Recognized("a Core ML model", advice=advice)
    return None


def _meta(file: Path, what: str) -> Recognized:
    prefix = str(file.with_suffix(""))
    if Path(f"{prefix}.index").is_file() or Path(prefix).is_file():
        return Recognized(what, "meta_graph", str(file))
    return Recognized(
        f"{what} without its weights",
        "meta_graph",
        str(file),
        advice=f"Copy the files {file.stem}.index and {file.stem}.data-…-of-… beside it, or give "
        f"their location: model.checkpoint=PREFIX",
    )


def _by_name(file: Path) -> Recognized | None:
    if file.name == "fingerprint.pb":
        return Recognized(
            "the fingerprint of a SavedModel, a few hashes", "saved_model", str(file.parent)
        )
    if file.name == "keras_metadata.pb":
        return Recognized("what Keras notes in a SavedModel", "saved_model", str(file.parent))
    if _JS_SHARD.fullmatch(file.name):
        what = "a shard of the weights of a TensorFlow.js model"
        if (file.parent / "model.json").is_file():
            return Recognized(what, "tensorflow_js", str(file.parent))
        return Recognized(what, advice="Copy model.json beside it, which lists its contents")
    if file.name == "saved_model.cpb":
        return Recognized("a SavedModel in TensorFlow's split format", advice=SPLIT)
    return None


EMPTY = Recognized("an empty file", advice="Copy it again")

SPLIT = (
    "Write it again without splitting it: "
    "m = tf.saved_model.load(DIR); tf.saved_model.save(m, NEW, signatures=m.signatures)"
)
"""Return advice for a SavedModel in TensorFlow's split format."""
