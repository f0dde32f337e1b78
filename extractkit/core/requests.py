"""Requests: what a job asks of a model for one tensor. Plain values, no TensorFlow.

A plan holds the request of each tensor and hands it to the model's adapter, which alone knows how
to compute it (`Model.program`). A further kind of request, such as a gradient of a target or a
value at every step of a loop, is a further subclass, with what it needs beside the address.
Planning, measuring, streaming and storing treat all requests alike. All that distinguishes requests
of one address has to enter the key of the tensor and the identity of the run.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from extractkit.errors import SelectionError


@dataclass(frozen=True, slots=True)
class Request:
    """A request to a model for one tensor. Each kind is a subclass.

    Attributes:
        what: what the kind asks for, in the plural ("values"), for messages.
        address: the address of the tensor.
    """

    what: ClassVar[str]
    address: str


@dataclass(frozen=True, slots=True)
class Value(Request):
    """The value of a tensor: one for each sample, or a constant."""

    what = "values"


def check_values(requests: Iterable[Request], model: str) -> None:
    """Check that values are all that is asked for, in an adapter that computes nothing else.

    Args:
        model: name of the model.

    Raises:
        SelectionError: a request is of another kind.
    """
    for request in requests:
        if not isinstance(request, Value):
            raise SelectionError(
                f"model {model!r} computes {Value.what} of tensors, not {request.what}: those of "
                f"{request.address!r} are selected. Select {Value.what}, or choose a format of "
                f"models that computes {request.what}"
            )
