"""Try a TFLite file in a child process before this one touches it.

LiteRT trusts what it reads: one wrong bit can end the process, or make it ask for any amount of
memory. So a child makes the calls that will be made later (`examination`).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from extractkit.errors import ModelError
from extractkit.models.axes import RawShape, Sizes
from extractkit.models.child import ask
from extractkit.models.litert.entry import Reading
from extractkit.models.litert.interpreter import Settings

_CHILD = "extractkit.models.litert.examination"


@dataclass(frozen=True)
class Probed:
    """What running a file on synthetic samples tells.

    Attributes:
        tied, leading: the `Reading` of open sizes with which it runs.
        sizes: free axes at which it ran: a base, and one enlarged for each.
        shapes: of every tensor of the called subgraph, at `sizes` in turn; None where the tensor
            has no value.
        other_shapes: at the base again, with other values in the same inputs.
        unwritten: numbers of the tensors that XNNPACK leaves out of its computation.
        change: largest difference that preserving intermediates makes to an output; 0 is bitwise.
    """

    tied: bool
    leading: bool
    sizes: Sizes
    shapes: tuple[tuple[RawShape, ...], ...]
    other_shapes: tuple[RawShape, ...]
    unwritten: frozenset[int]
    change: float

    @property
    def reading(self) -> Reading:
        """How open sizes are understood."""
        return Reading(self.tied, self.leading)


def probe(path: Path, signature: str | None, settings: Settings) -> Probed:
    """Examine the file in a child process.

    Raises:
        ModelError: it cannot be read or run, whatever happened to the child.
    """
    at = f"model.path={str(path)!r}"
    asked = json.dumps({"path": str(path), "signature": signature, **asdict(settings)})
    child = ask(_CHILD, asked, path, at)
    if child.code:
        raise ModelError(f"{at} cannot be run by LiteRT: {child.last_words or 'it says nothing'}")
    answer = json.loads(child.output.splitlines()[-1])
    if "refused" in answer:
        raise ModelError(answer["refused"])
    return Probed(
        tied=answer["tied"],
        leading=answer["leading"],
        sizes=Sizes(**answer["sizes"]),
        shapes=tuple(_shapes(trial) for trial in answer["shapes"]),
        other_shapes=_shapes(answer["other_shapes"]),
        unwritten=frozenset(answer["unwritten"]),
        change=answer["change"],
    )


def _shapes(listed: Sequence[Sequence[int] | None]) -> tuple[RawShape, ...]:
    return tuple(None if shape is None else tuple(shape) for shape in listed)
