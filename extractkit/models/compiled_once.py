"""What is called for every checkpoint is compiled for the first one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from extractkit.models.protocol import Fetch
from extractkit.values import Array

Call = Callable[[], Sequence[Array]]


@dataclass(eq=False)
class CompiledOnce:
    """The last call that was compiled, for as long as the same fetches are asked for."""

    _fetches: list[Fetch] = field(default_factory=list)
    _call: Call | None = None

    def of(self, fetches: Sequence[Fetch], compile_call: Callable[[], Call]) -> Call:
        """The call for these fetches."""
        if self._call is None or self._fetches != list(fetches):
            self._call = compile_call()
            self._fetches = list(fetches)
        return self._call
