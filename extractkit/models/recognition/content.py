"""Recognition of a file by its first or last bytes, its text, its fields or its name."""

import json
import re
import shlex
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

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
    kind, whole = _message_kind(file)
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


# ---- messages of protocol buffers, recognized by their fields without a schema

_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
# Enough to distinguish one message from another.
_MOST_FIELDS = 64
_LONGEST_TAG = 20  # bytes of a field's tag and size


class _Field(NamedTuple):
    """One field of a message: its number, its type, and the start of its content."""

    number: int
    kind: int
    content: bytes


# Recognised by their first fields, so that a truncated file is recognised, too.
_CERTAIN = ("GraphDef", "SavedModel", "MetaGraphDef")


def _message_kind(file: Path) -> tuple[str | None, bool]:
    """Return the kind of message in a file and whether it is complete, or None if unknown."""
    try:
        with file.open("rb") as opened:
            fields, whole = _fields(opened, file.stat().st_size)
    except OSError:
        return None, False
    kind = _kind(fields)
    return (kind if whole or kind in _CERTAIN else None), whole


def _kind(fields: list[_Field]) -> str | None:
    numbers = {(field.number, field.kind) for field in fields}
    first = next((field for field in fields if field.number == 1), None)
    if first is None:
        return "GraphDef" if numbers == {(4, _BYTES)} else None
    if first.kind == _VARINT:
        if numbers <= {(1, _VARINT), (2, _BYTES)} and _graph_after(fields, 2):
            return "SavedModel"
        if any(number >= 200 and kind == _BYTES for number, kind in numbers):
            return "Core ML"
        if (7, _BYTES) in numbers or (8, _BYTES) in numbers:
            return "ONNX"
        return None
    if first.kind != _BYTES:
        return None
    if _is_node(first.content):
        return "GraphDef"
    return "MetaGraphDef" if _graph_after(fields, 2, meta=True) else None


def embedded(content: bytes, number: int) -> list[bytes]:
    """Return the contents of all texts and messages in the field with this number, in order."""
    fields = _begin(content, len(content))
    return [field.content for field in fields if (field.number, field.kind) == (number, _BYTES)]


def _graph_after(fields: list[_Field], number: int, *, meta: bool = False) -> bool:
    """Return whether the field with this number begins like a MetaGraphDef or a GraphDef."""
    content = next((f.content for f in fields if f.number == number and f.kind == _BYTES), None)
    if content is None:
        return False
    inner = _begin(content)
    if meta:
        return any(field.number == 1 and _is_node(field.content) for field in inner)
    return any(field.number in (1, 2) and field.kind == _BYTES for field in inner)


def _is_node(content: bytes) -> bool:
    """Return whether a message begins with texts in its first two fields, like a NodeDef."""
    begin = _begin(content)
    return (
        len(begin) >= 2
        and [field.number for field in begin[:2]] == [1, 2]
        and all(field.kind == _BYTES and _is_name(field.content) for field in begin[:2])
    )


def _is_name(content: bytes) -> bool:
    return bool(content) and all(32 < byte < 127 for byte in content)


def _begin(content: bytes, most: int = _MOST_FIELDS) -> list[_Field]:
    """Return the fields of a message that may be truncated."""
    return _fields(BytesIO(content), len(content), most, len(content))[0]


def _fields(
    opened: BinaryIO, size: int, most: int = _MOST_FIELDS, longest: int = _HEAD
) -> tuple[list[_Field], bool]:
    """Return the first fields of a message, and whether they are complete.

    In other data, the fields end at the first invalid byte. In a truncated message, the last field
    is incomplete.
    """
    found: list[_Field] = []
    position = 0
    while position < size and len(found) < most:
        opened.seek(position)
        try:
            (number, kind), offset, length = _tag(opened.read(_LONGEST_TAG))
        except ValueError:
            return found, False
        opened.seek(position + offset)
        found.append(_Field(number, kind, opened.read(min(length, longest))))
        position += offset + length
    return found, position <= size


def _tag(head: bytes) -> tuple[tuple[int, int], int, int]:
    """Return a field's number and type, and the start and size of its content.

    Raises:
        ValueError: It is not a field.
    """
    tag, offset = _varint(head, 0)
    number, kind = tag >> 3, tag & 7
    if not 0 < number < 1 << 29:
        raise ValueError(number)
    size = 0
    if kind == _VARINT:
        _, offset = _varint(head, offset)
    elif kind == _BYTES:
        size, offset = _varint(head, offset)
    elif kind in (_FIXED_32, _FIXED_64):
        size = 4 if kind == _FIXED_32 else 8
    else:
        raise ValueError(kind)
    return (number, kind), offset, size


def _varint(content: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(content) and shift < 64:
        byte = content[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError(position)
