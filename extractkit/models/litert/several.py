"""Calls of LiteRT on several samples at once, where that gives the bits of single calls.

Most files are converted for one sample, but their inputs can be resized. Some then fail, as where a
shape is a constant, and some compute other values. A trial shows it.
"""

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from extractkit.core.values import Array
from extractkit.models.litert.interpreter import FAILURES, Interpreter

_log = logging.getLogger(__name__)

TRIED_TOGETHER = 5
"""Number of made-up samples of the trial: more than the rows that kernels compute at once."""


class Several:
    """Calls of a subgraph on several samples at once, if a trial gives the bits of single calls.

    The trial has the same made-up samples in each process, so that all decide in the same way.

    Args:
        build: makes an interpreter.
        needed: numbers of the tensors to read after a call; None: calls take single samples.
    """

    def __init__(self, build: Callable[[], Interpreter], needed: Sequence[int] | None) -> None:
        self._build = build
        self._needed = needed
        self._possible: bool | None = False if needed is None else None
        self.interpreter = build()

    def call(self, each: Sequence[Mapping[int, Array]]) -> dict[int, Array] | None:
        """Return the needed tensors of several samples, by number, with the samples as first axis.

        Args:
            each: arrays of one sample each, which have a first axis of size 1.

        Returns:
            None if each sample needs a call of its own.

        Raises:
            ValueError, RuntimeError, MemoryError: LiteRT fails, with its own message.
        """
        shapes = [[array.shape for array in arrays.values()] for arrays in each]
        if len(each) < 2 or any(one != shapes[0] for one in shapes) or not each[0]:
            return None
        if self._possible is None:
            self._possible = self._tried(each[0])
            _log.info(
                "the interpreter of TensorFlow Lite is called on %s",
                "several samples" if self._possible else "one sample at a time",
            )
        return self._together(each) if self._possible else None

    def _together(self, each: Sequence[Mapping[int, Array]]) -> dict[int, Array] | None:
        self.interpreter.call({at: np.concatenate([one[at] for one in each]) for at in each[0]})
        assert self._needed is not None
        values = {index: self.interpreter.value(index) for index in self._needed}
        as_many = all(value.shape[:1] == (len(each),) for value in values.values())
        return values if as_many else None

    def _tried(self, like: Mapping[int, Array]) -> bool:
        """Return whether samples together have the bits that each has alone."""
        if self.interpreter.keeps_state or any(a.dtype.kind not in "iuf" for a in like.values()):
            return False
        draw = np.random.default_rng(0)
        each = [
            {
                at: (draw.normal(size=a.shape) if a.dtype.kind == "f" else _whole(draw, a)).astype(
                    a.dtype
                )
                for at, a in like.items()
            }
            for _ in range(TRIED_TOGETHER)
        ]
        assert self._needed is not None
        try:
            alone: list[dict[int, Array]] = []
            for one in each:
                self.interpreter.call(one)
                alone.append({index: self.interpreter.value(index) for index in self._needed})
            together = self._together(each)
        except FAILURES:
            together = None
        possible = together is not None and all(
            value[at : at + 1].tobytes() == alone[at][index].tobytes()
            for index, value in together.items()
            for at in range(len(each))
        )
        if not possible:
            self.interpreter = self._build()  # the sizes that failed may have left it unusable
        return possible


def _whole(draw: np.random.Generator, like: Array) -> Array:
    """Return whole numbers: any bytes, but of wider types, which may be positions, small ones."""
    if like.dtype.itemsize > 1:
        return draw.integers(0, 2, like.shape)
    limits = np.iinfo(like.dtype)
    return draw.integers(limits.min, limits.max, like.shape, endpoint=True)
