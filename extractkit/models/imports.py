"""Modules named in `model.imports`, and advice on libraries with unknown operations."""

import importlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from extractkit.core.component import import_from_here
from extractkit.errors import ConfigError
from extractkit.models.foreign import error_summary
from extractkit.models.tensorflow_process import quiet_start


def import_modules(names: Sequence[str]) -> None:
    """Import the modules named in `model.imports`.

    Raises:
        ConfigError: A module is not installed, or its import fails.
    """
    if all(name in sys.modules for name in names):
        return
    import_from_here()
    with quiet_start():
        for name in names:
            _import(name)


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"model.imports={name} cannot be imported: it needs the module {error.name!r}, "
                f"which is not installed. Install the package that has it"
            ) from error
        raise ConfigError(
            f"model.imports={name} is not installed: there is no module {error.name!r}. Install "
            f"the package that has it, or put its folder on PYTHONPATH"
        ) from error
    except Exception as error:  # such as a library built for another TensorFlow
        raise ConfigError(
            f"model.imports={name} cannot be imported: {error_summary(error)}"
        ) from error


@dataclass(frozen=True)
class Library:
    """A library of operations for TensorFlow.

    Attributes:
        package: Its name in a package registry.
        module: The module that registers its operations when it is imported.
        operations: A pattern for the names of its operations.
        last: Its last release and the last TensorFlow that it supports, as of November 2026. None
            if each release is built for the TensorFlow of the same number.
    """

    package: str
    module: str
    operations: re.Pattern[str]
    last: tuple[str, str] | None = None


_LIBRARIES = (
    Library(
        "tensorflow-text",
        "tensorflow_text",
        re.compile(
            "TFText>.*|CaseFoldUTF8|ConstrainedSequence|FastBertNormalize|FindSourceOffsets"
            "|FastWordpieceTokenizeWithOffsets|MaxSpanningTree|NormalizeUTF8(WithOffsetsMap)?"
            "|PhraseTokenize|RegexSplitWithOffsets|RougeL|SentenceFragments(V2)?"
            "|Sentencepiece(Detokenize|IdToString|StringToId|Tokenize|TokenizeWithOffsets"
            "|VocabSize)?Op|SplitMerge.*|TokenizerFromLogits"
            "|(UnicodeScript|Whitespace|Wordpiece)TokenizeWithOffsets(V2)?"
        ),
    ),
    Library(
        "tensorflow-decision-forests",
        "tensorflow_decision_forests",
        re.compile("SimpleML.*"),
        ("1.12.0", "2.19"),
    ),
    Library("tensorflow-addons", "tensorflow_addons", re.compile("Addons>.*"), ("0.23.0", "2.15")),
    Library("tensorflow-io", "tensorflow_io", re.compile("IO>.*"), ("0.37.1", "2.16")),
    Library(
        "tensorflow-recommenders-addons",
        "tensorflow_recommenders_addons",
        re.compile("TFRA>.*"),
        ("0.8.1", "2.16"),
    ),
    Library(
        "struct2tensor",
        "struct2tensor",
        re.compile("DecodeProtoSparseV[234]|EquiJoin(Any)?Indices|RunLengthBefore"),
        ("0.48.1", "2.17"),
    ),
    Library(
        "tensorflow-compression",
        "tensorflow_compression",
        re.compile(
            "CreateRange(En|De)coder|Entropy(En|De)code(Channel|Index|Finalize)|Range(En|De)code"
            "|UnboundedIndexRange(En|De)code|PmfToQuantizedCdf"
        ),
        ("2.14.1", "2.14"),
    ),
    Library("horovod", "horovod.tensorflow", re.compile("Horovod.*"), ("0.28.1", "2.12")),
    Library(
        "tf-sentencepiece",
        "tf_sentencepiece",
        re.compile("Sentencepiece(Encode|Decode|GetPiece|PieceToId|IdToPiece).*"),
        ("0.1.90", "2.2"),
    ),
)

_TENSORRT = re.compile("TRTEngineOp|.*TRTResource.*|GetCalibrationDataOp")

_UNKNOWN = re.compile(r"Op type not registered '([^']+)'")


def unregistered(error: BaseException) -> str | None:
    """Return the operation that TensorFlow reports as not registered, or None."""
    found = _UNKNOWN.search(str(error))
    return found[1] if found else None


def load_failure(error: BaseException) -> str:
    """Return why TensorFlow failed to load something, to follow its name in a message."""
    operation = unregistered(error)
    if operation is None:
        return f"cannot be loaded: {error_summary(error)}"
    return f"needs the operation {operation!r}, {unknown_operation_advice(operation)}"


def unknown_operation_advice(operation: str) -> str:
    """Return where an unknown operation comes from, and what to do.

    The text continues a sentence that ends in the operation's name.
    """
    for library in _LIBRARIES:
        if library.operations.fullmatch(operation):
            return _what_to_do(library)
    if _TENSORRT.fullmatch(operation):
        return (
            "which TensorRT has (TF-TRT), for GPUs and older releases of TensorFlow alone. Extract "
            "from the SavedModel that was converted"
        )
    return (
        "which this TensorFlow does not have. If a library has it, import that: "
        "model.imports=[MODULE]"
    )


def _what_to_do(library: Library) -> str:
    root = library.module.partition(".")[0]
    if root in sys.modules:
        return f"which the installed {library.package} {_version(library.package)} does not have"
    key = f"model.imports=[{library.module}]"
    if _version(library.package) is not None:
        return f"which {library.package} has: {key}"
    release = _release()
    if library.last is None:
        wanted = library.package if release is None else f"'{library.package}=={release}.*'"
        return f"which {library.package} has: python -m pip install {wanted}, then {key}"
    number, tensorflow = library.last
    return (
        f"which {library.package} has, but not for TensorFlow {release}: its last release, "
        f"{number}, is for TensorFlow {tensorflow} and older. Save the model again there without it"
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _release() -> str | None:
    """Return the major and minor version of TensorFlow."""
    found = _version("tensorflow")
    return None if found is None else ".".join(found.split(".")[:2])
