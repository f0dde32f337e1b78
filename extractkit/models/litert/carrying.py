"""TFLite models whose calls start from the state that the call before left."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from extractkit.core.plan import numpy_dtype
from extractkit.core.values import Array, State, stacked
from extractkit.errors import ModelError
from extractkit.inputs import InputSpec
from extractkit.models import CARRY, KEY, Arguments, CarryingProgram, Compilation, Fetch, OwnCall
from extractkit.models.failures import error_summary
from extractkit.models.litert.interpreter import FAILURES, CarryingInterpreter, Runnable
from extractkit.models.litert.model import TFLiteModel
from extractkit.models.litert.state import Access, with_access


@dataclass(frozen=True, eq=False)
class CarryingTFLiteModel(TFLiteModel):
    """A `.tflite` file whose state is carried from sample to sample.

    The programs of `program` start each call from the initial state.
    """

    @property
    def state_policy(self) -> str:
        """The policy: the state is carried."""
        return CARRY

    def samples_carried(self) -> int:
        """Return 1: each call takes one sample.

        Raises:
            ModelError: The size of a state follows the sizes of the inputs.
        """
        for tensor in self.kept.tensors:
            if len({shapes[tensor.index] for shapes in self.probed.shapes}) > 1:
                raise ModelError(
                    f"{KEY}={CARRY}: {self.file.at}: the size of state {tensor.name!r} follows the "
                    f"sizes of the inputs, so samples of other sizes cannot take it over"
                )
        return 1

    def carrying_program(
        self, fetches: Sequence[Fetch], compilation: Compilation
    ) -> CarryingProgram:
        """Return an interpreter of its own, whose state is assigned before each call."""
        self._check(compilation)
        runnable, access = self._reachable
        preserve = self._preserves(fetches)
        interpreter = CarryingInterpreter(runnable, self.settings, preserve, access)
        pairs = [(self._found[fetch.address], fetch) for fetch in fetches]

        def call(
            features: Mapping[str, Array], lengths: Mapping[str, Array], state: State
        ) -> tuple[Sequence[Array], State]:
            with self._of_sample():
                after = interpreter.call_from(self._arrays(features, lengths, 0), state)
            return [stacked([self._value(interpreter, *pair)]) for pair in pairs], after

        return CarryingProgram(1, self._initial(interpreter), call)

    @cached_property
    def _reachable(self) -> tuple[Runnable, Access]:
        """The model and the way to its state."""
        tensors = tuple(one.index for one in self.kept.tensors)
        if not self.kept.variables:
            return self._runnable, Access(tensors, None)
        model = self._runnable.model
        content = model if isinstance(model, bytes) else model.read_bytes()
        try:
            content, subgraphs = with_access(content, self.kept)
        except RuntimeError as error:
            raise ModelError(
                f"{KEY}={CARRY}: {self.file.at} is too large to be given what reads its state: "
                f"{error_summary(error)}"
            ) from error
        return replace(self._runnable, model=content), Access(tensors, subgraphs)

    def _initial(self, interpreter: CarryingInterpreter) -> State:
        base = self.probed.sizes.base
        sizes = {axis: np.array([base[axis]]) for axis in self.signature.free_axes}
        room = {spec.name: _room(spec, base) for spec in self.signature.specs}
        try:
            return interpreter.initial(self._arrays(room, sizes, 0))
        except FAILURES as error:
            raise ModelError(
                f"{KEY}={CARRY}: the state of {self.file.at} cannot be read: {error_summary(error)}"
            ) from error

    def own_call(self, checkpoint: int | None = None) -> OwnCall:
        """See `TFLiteModel`. A second call of the same interpreter starts from its own state.

        LiteRT resets variable tensors where an input changes its size. So there is no such call of
        a file with variable tensors and free axes.
        """
        plain = self._plain()

        def outputs_after(
            before: Arguments, features: Mapping[str, Array], lengths: Mapping[str, Array]
        ) -> Mapping[str, Array]:
            return self._own_outputs(plain, features, lengths, self._arrays(*before, 0))

        keeps = not (self.kept.tensors and self.signature.free_axes)
        return replace(super().own_call(checkpoint), outputs_after=outputs_after if keeps else None)


def _room(spec: InputSpec, sizes: Mapping[str, int]) -> Array:
    """Return an array of one sample, whose values are not used."""
    axes = zip(spec.shape, spec.dims, strict=True)
    own = [sizes[str(dim)] if size is None else size for size, dim in axes]
    return np.empty((1, *own), numpy_dtype(spec.dtype))
