"""Objects and exceptions of other people's libraries: attributes that may raise, messages."""

import re
from typing import Any

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LONGEST = 300
# Where a graph or a layer failed, which TensorFlow and Keras tell before what went wrong.
_PLACE = re.compile(
    r"^Graph execution error|^Detected at node|^File |^Node: |^\d+ root error|^<stack traces"
    r"|^Exception encountered when calling"
)

# What a layer was called with, which Keras tells after what went wrong.
_CALLED_WITH = re.compile(r"^\s*(?:Call a|A)rguments received by", re.MULTILINE)


def attribute(value: object, name: str) -> Any:
    """Return an attribute; None where there is none, or where computing it raises.

    Properties of a TensorFlow function raise an AssertionError where its variables are gone.
    """
    try:
        return getattr(value, name, None)
    except Exception:  # noqa: BLE001 - whatever a property of somebody else's class raises
        return None


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error, or one that led to it, says that memory is short.

    TensorFlow's own is told by its name: who asks need not have TensorFlow.
    """
    chain: BaseException | None = error
    seen: set[int] = set()
    while chain is not None and id(chain) not in seen:
        if isinstance(chain, MemoryError) or type(chain).__name__ == "ResourceExhaustedError":
            return True
        seen.add(id(chain))
        # Keras raises its own in place of another, of which it names no cause.
        chain = chain.__cause__ or chain.__context__
    return False


def told(error: BaseException) -> str:
    """The type of the exception and the first line of it that says something.

    A line that ends in a colon announces the next one.
    """
    lines = _lines(str(error))
    # AutoGraph puts the whole way there first.
    if lines and lines[0] == "in user code:":
        lines = lines[-1:]
    name = type(error).__name__
    if not lines:
        return name
    said = " ".join(lines[: 2 if lines[0].endswith(":") else 1])
    return f"{name}: {said[:_LONGEST]}"


def told_by_graph(error: Any) -> str:
    """What TensorFlow says went wrong in a graph: the first line that does not tell where."""
    return (_lines(str(error.message)) or [type(error).__name__])[0][:_LONGEST]


def _lines(text: str) -> list[str]:
    """Those that say something; all of them where each tells a place."""
    reason = _CALLED_WITH.split(_COLOUR.sub("", text))[0]
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    return [line for line in lines if not _PLACE.search(line)] or lines
