"""Failures of third-party code: summarized, blamed on a sample or the machine, and explained."""

import re
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from extractkit.errors import ExtractkitError, JobError, SampleError
from extractkit.models import NoOwnCallError, OtherShapeError

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LONGEST = 300
# Lines on where a graph or layer failed. TensorFlow and Keras put them before the reason.
_PLACE = re.compile(
    r"^Graph execution error|^Detected at node|^File |^Node: |^\d+ root error|^<stack traces"
    r"|^Exception encountered when calling"
)

# The arguments of a layer's call, which Keras puts after the reason.
_CALLED_WITH = re.compile(r"^\s*(?:Call a|A)rguments received by", re.MULTILINE)


def attribute(value: object, name: str) -> Any:
    """Return an attribute, or None if it does not exist or computing it raises.

    Properties of a TensorFlow function raise an AssertionError if its variables are gone.
    """
    try:
        return getattr(value, name, None)
    except Exception:  # noqa: BLE001 - properties may raise anything
        return None


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error, or one of its causes, reports a lack of memory.

    TensorFlow's error is recognized by its name, so that TensorFlow need not be imported.
    """
    chain: BaseException | None = error
    seen: set[int] = set()
    while chain is not None and id(chain) not in seen:
        if isinstance(chain, MemoryError) or type(chain).__name__ == "ResourceExhaustedError":
            return True
        seen.add(id(chain))
        # Keras replaces errors by its own without naming a cause.
        chain = chain.__cause__ or chain.__context__
    return False


def error_summary(error: BaseException) -> str:
    """Return the exception's type and the first line of its message that gives the reason.

    After a line that ends in a colon, the next one is included.
    """
    lines = _lines(str(error))
    # AutoGraph puts the whole traceback first.
    if lines and lines[0] == "in user code:":
        lines = lines[-1:]
    name = type(error).__name__
    if not lines:
        return name
    text = " ".join(lines[: 2 if lines[0].endswith(":") else 1])
    return f"{name}: {text[:_LONGEST]}"


def graph_error_summary(error: Any) -> str:
    """Return the first line of a TensorFlow error that gives the reason, not the location."""
    return (_lines(str(error.message)) or [type(error).__name__])[0][:_LONGEST]


def _lines(text: str) -> list[str]:
    """Return the lines without locations, or all lines if there is nothing else."""
    reason = _CALLED_WITH.split(_COLOUR.sub("", text))[0]
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    return [line for line in lines if not _PLACE.search(line)] or lines


_OF_PYTHON = (ValueError, TypeError, ArithmeticError, LookupError, AssertionError)
"""Errors of Python code that values and shapes can cause, unlike a lack of memory."""

_ONEDNN_REFUSES = "received an exception:Status: 2,"
"""What oneDNN's kernels report of invalid arguments, such as a window larger than the input."""


_NO_STEP = re.compile(r"extractkit_steps(?s:.*)Tried to stack elements of an empty list")
"""What TensorFlow reports of an empty list of an inner loop's values; see `graphs.loops`."""
_OTHER_SHAPE = re.compile(r"extractkit_steps(?s:.*)Incompatible shapes during merge: (.+)")
"""What TensorFlow reports of a list of a loop's values that differ in shape."""


_NO_LIMIT = re.compile(r"XLA compilation requires a fixed tensor list size(?s:.*)extractkit_steps")
"""What XLA reports of a list of a loop's values whose length it does not know."""
_NO_KERNEL = re.compile(r"No registered '([^']+)' OpKernel for XLA_")
"""What XLA reports of an operation that it cannot compile, or not for these types."""
_NO_CONSTANT = re.compile(r"with op (\w+) must be a compile-time constant")
"""What XLA reports of an operation with an argument that decides a shape or an axis."""


def why_not_by_xla(error: Exception) -> str | None:
    """Return why XLA cannot compile a program, as a clause, or None if it is not to blame."""
    text = str(error)
    if _NO_LIMIT.search(text):
        return (
            "XLA needs the number of steps of a loop with a selected value inside it, and it does "
            "not follow from the shapes of the inputs"
        )
    if missing := list(dict.fromkeys(_NO_KERNEL.findall(text))):
        named = ", ".join(map(repr, missing[:_MOST_OPERATIONS]))
        more = ", …" if len(missing) > _MOST_OPERATIONS else ""
        several = "s" if len(missing) > 1 else ""
        return f"XLA does not compile its operation{several} {named}{more}"
    if found := _NO_CONSTANT.search(text):
        return f"an argument of its operation {found[1]!r} is computed, and XLA needs a constant"
    return None


_MOST_OPERATIONS = 3


def batch_failure(model: str, error: Exception) -> JobError:
    """Return the error to raise for an exception of TensorFlow or a model's Python code.

    Args:
        model: The model's name.

    Returns:
        A `SampleError` if the values of a sample can cause such an error, otherwise a `JobError`.

    Raises:
        MemoryError: A MemoryError is re-raised unchanged.
    """
    import tensorflow as tf

    if isinstance(error, MemoryError):
        raise error
    of_graphs = (
        *(tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError),
        *(tf.errors.FailedPreconditionError, tf.errors.UnimplementedError),
    )
    by_graph = isinstance(error, tf.errors.OpError)
    blamed = isinstance(error, of_graphs if by_graph else _OF_PYTHON) or (
        isinstance(error, tf.errors.AbortedError) and _ONEDNN_REFUSES in str(error)
    )
    text = graph_error_summary(error) if by_graph else error_summary(error)
    if _NO_STEP.search(str(error)):
        reason = "inside a loop in a loop, which runs no step at some steps of the outer one"
        text = f"a selected value is {reason}. Select other values"
        return OtherShapeError(f"model {model!r} failed on a batch: {text}", reason)
    if found := _OTHER_SHAPE.search(str(error)):
        reason = f"inside a loop, and has another shape at another step: {found[1]}"
        text = f"a selected value is {reason}. Select values that have one shape at all steps"
        return OtherShapeError(f"model {model!r} failed on a batch: {text}", reason)
    return (SampleError if blamed else JobError)(f"model {model!r} failed on a batch: {text}")


def own_call_failure(model: str, error: Exception) -> ExtractkitError:
    """Return the error to raise for an exception of the model's own call.

    The own call computes all outputs. If one that is not extracted draws random numbers, the call
    fails only because `runtime.deterministic` makes TensorFlow refuse unseeded draws. Neither the
    model nor a sample is at fault then.

    Raises:
        MemoryError: A MemoryError is re-raised unchanged.
    """
    import tensorflow as tf

    if isinstance(error, tf.errors.InvalidArgumentError) and _UNSEEDED in str(error):
        return NoOwnCallError(
            "its own call draws random numbers without a seed, which TensorFlow refuses with "
            "runtime.deterministic=true. To have the other outputs compared: "
            "runtime.deterministic=false"
        )
    return batch_failure(model, error)


# TensorFlow has no error class of its own for this.
_UNSEEDED = "When determinism is enabled, random ops must have a seed"

_ENCRYPTED = "encrypted"


def why_not_unpacked(error: BaseException) -> str | None:
    """Return why Python cannot unpack an intact archive, or None if it is damaged.

    The text follows the archive's name in a message.

    Args:
        error: The error that `zipfile` raised.
    """
    if isinstance(error, NotImplementedError):  # a RuntimeError, too
        return (
            f"is packed in a way that Python cannot unpack ({error}). Unpack it with the program "
            f"that packed it, and pack it again: python -m zipfile -c NAME FILES"
        )
    if isinstance(error, RuntimeError) and _ENCRYPTED in str(error):
        return (
            "is encrypted. Unpack it with its password, and pack it again: "
            "python -m zipfile -c NAME FILES"
        )
    return None


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


LIBRARIES = (
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
    for library in LIBRARIES:
        if library.operations.fullmatch(operation):
            return _what_to_do(library)
    if _TENSORRT.fullmatch(operation):
        return (
            "which TensorRT has (TF-TRT), only for GPUs and older releases of TensorFlow. Extract "
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
