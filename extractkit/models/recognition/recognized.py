"""The result of recognition."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recognized:
    """What a path holds.

    Attributes:
        what: a noun phrase: "a GraphDef", "a pickle of PyTorch".
        model: the entry of the `model` group that reads it; None: none does.
        path: what to give that entry as `model.path`: the folder of a SavedModel for a file in it.
        advice: what to do where no entry reads it, as a sentence; empty: nothing is known.
    """

    what: str
    model: str | None = None
    path: str = ""
    advice: str = ""
