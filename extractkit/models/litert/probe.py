"""Try a TFLite file in a child process before this one touches it.

LiteRT trusts what it reads: one wrong bit can end the process, or make it ask for any amount of
memory. So a child makes the calls that will be made later (`examination`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from extractkit.errors import ModelError
from extractkit.models.axes import RawShape, Sizes
from extractkit.models.foreign import ask
from extractkit.models.litert.entry import Reading
from extractkit.models.litert.file import TFLiteFile
from extractkit.models.litert.interpreter import Settings

_CHILD = "extractkit.models.litert.examination"


@dataclass(frozen=True)
class Probed:
    """The result of running a file on synthetic samples.

    Attributes:
        tied, leading: the `Reading` of open sizes with which it runs.
        sizes: free axes at which it ran: a base, and one enlarged for each.
        shapes: of every tensor of the called subgraph, at `sizes` in turn; None where the tensor
            has no value.
        other_shapes: at the base again, with other values in the same inputs.
        unwritten: numbers of the tensors that XNNPACK leaves out of its computation.
        change: largest difference that preserving intermediates makes to an output; 0 is bitwise.
        cut: Whether the file as a whole cannot be run, so that a part of it is.
        lacking: Reasons by the numbers of the called subgraph's operations that cannot be run.
    """

    tied: bool
    leading: bool
    sizes: Sizes
    shapes: tuple[tuple[RawShape, ...], ...]
    other_shapes: tuple[RawShape, ...]
    unwritten: frozenset[int]
    change: float
    cut: bool
    lacking: Mapping[int, str]

    @property
    def reading(self) -> Reading:
        """The interpretation of open sizes."""
        return Reading(self.tied, self.leading)


def probe(file: TFLiteFile, signature: str | None, settings: Settings) -> Probed:
    """Examine the file in a child process.

    Raises:
        ModelError: It cannot be read, or the child crashed.
    """
    asked = json.dumps({**file.to_json(), "signature": signature, **asdict(settings)})
    child = ask(_CHILD, asked, file.path, file.at)
    if child.code:
        raise ModelError(
            f"{file.at} cannot be run by LiteRT: {child.last_words or 'it says nothing'}"
        )
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
        cut=answer["cut"],
        lacking={int(number): reason for number, reason in answer["lacking"].items()},
    )


def _shapes(listed: Sequence[Sequence[int] | None]) -> tuple[RawShape, ...]:
    return tuple(None if shape is None else tuple(shape) for shape in listed)
