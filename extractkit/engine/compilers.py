"""The choice of the compiler of a job, and the comparison of its values with TensorFlow's.

A program of TensorFlow measures axes and which samples share a batch. Then, if OpenVINO is asked
for, it compiles the same tensors, and both compute the first batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from extractkit.core.job import AUTO, BATCH_SIZE, OPENVINO, Runtime
from extractkit.core.plan import PlannedTensor, SampleLengths
from extractkit.core.spec import BFLOAT16
from extractkit.core.values import Array, Values
from extractkit.engine.batches import Batch, put, read_batch
from extractkit.engine.loading import Opened
from extractkit.engine.sharing import Sharing
from extractkit.engine.stream import fetches
from extractkit.errors import counted
from extractkit.inputs import Source
from extractkit.models import Compilation, EstimatesWork, NotCompiledError, Program
from extractkit.models.process import quiet_start
from extractkit.runs.comparing.measures import TOLERATED, compare_values

COMPILE = "compile"
"""The name of the setting in a manifest that holds the compiler which was taken."""

FEWEST_SAMPLES = 64
"""Below this, `auto` does not load OpenVINO, which takes a second or two."""

WORTH = 2_000_000_000_000
"""Multiplications from which `auto` takes OpenVINO: about half a minute of two cores.

With MiniLM, compiling and comparing the first batch take about five seconds, and OpenVINO saves as
much in this many multiplications.
"""

WORTH_EACH = 500
"""Multiplications for each returned element from which `auto` takes OpenVINO.

With fewer, most operations are returned, and OpenVINO can neither fuse them nor keep its layouts.
"""

WORTH_EACH_CONVOLVED = 20_000
"""The same where more than half of the multiplications are in convolutions.

TensorFlow computes these with the same kernels, in the layout that results have. OpenVINO is slower
with 2,600 (four stages of ResNet50) and 6,900 (basic-pitch), and faster with 39,000 (the last one).
"""


@dataclass(frozen=True, eq=False)
class Compiled:
    """The program of a job, by the compiler that was taken.

    Attributes:
        opened: the job, with this compiler.
        program: computes the tensors that depend on the samples.
        declined: why `runtime.compile=auto` took TensorFlow's graph, as a clause. None if it did
            not, or was not asked for.
    """

    opened: Opened
    program: Program
    declined: str | None = None


def check_installed(runtime: Runtime, settings: Mapping[str, object] | None = None) -> None:
    """Check that the compiler is installed, before anything is loaded.

    Args:
        settings: see `compiled`.

    Raises:
        MissingExtraError: OpenVINO is asked for, or was recorded, and is not installed.
    """
    if _wanted(runtime, settings) == OPENVINO:
        with quiet_start():
            from extractkit.models import openvino  # late, since it imports TensorFlow

        openvino.require()


def _wanted(runtime: Runtime, settings: Mapping[str, object] | None) -> object:
    return (settings or {}).get(COMPILE, runtime.compile)


def compiled(
    opened: Opened,
    runtime: Runtime,
    program: Program,
    sharing: Sharing,
    settings: Mapping[str, object] | None = None,
) -> Compiled:
    """Return the program with the compiler that a job asks for, or that a run recorded.

    Args:
        opened: the job, with all axes known.
        program: computes the tensors that depend on the samples, with TensorFlow.
        settings: the settings of the run that the job belongs to, if any.

    Raises:
        NotCompiledError: OpenVINO is asked for and cannot run the model, or computes other values.
    """
    wanted = _wanted(runtime, settings)
    if wanted not in (AUTO, OPENVINO):
        return Compiled(opened, program)
    choice = Choice(opened, runtime, program, sharing)
    try:
        if wanted == AUTO:
            choice.check_worthwhile()
        found = choice.by_openvino()
        if wanted == AUTO:
            choice.check_work(found)
        choice.compare(found)
    except NotCompiledError as error:
        if wanted != AUTO:
            raise
        return Compiled(opened, program, error.reason)
    taken = replace(opened, compilation=choice.compilation)
    return Compiled(taken, found)


@dataclass(frozen=True, eq=False)
class Choice:
    """The checks of OpenVINO for a job. Each raises a `NotCompiledError` with the reason."""

    opened: Opened
    runtime: Runtime
    program: Program
    sharing: Sharing

    @property
    def compilation(self) -> Compilation:
        """The compilation by OpenVINO."""
        return Compilation(OPENVINO, self.runtime.device)

    def check_worthwhile(self) -> None:
        """Refuse what cannot pay, before OpenVINO is loaded."""
        with quiet_start():
            from extractkit.models import openvino  # late, since it imports TensorFlow

        if not openvino.installed():
            raise self._refusal("OpenVINO is not installed (extra openvino)")
        samples = len(self.opened.source)
        if samples < FEWEST_SAMPLES:
            raise self._refusal(f"{counted(samples, 'sample')} are too few for it to pay")
        if "GPU" in str(self.opened.settings.get("devices", "")):
            raise self._refusal("TensorFlow uses a GPU, and OpenVINO is for CPUs")

    def by_openvino(self) -> Program:
        """Return the program of OpenVINO."""
        if self.opened.samples_carried is not None:
            raise self._refusal("the model's state is carried from call to call")
        if self.runtime.device is not None and "CPU" not in self.runtime.device.upper():
            raise self._refusal(f"runtime.device={self.runtime.device} is not a CPU")
        return self.opened.model.program(fetches(self._tensors), self.compilation)

    def check_work(self, found: object) -> None:
        """Refuse a job for which compiling takes longer than it saves."""
        if not isinstance(found, EstimatesWork):
            return

        def count(samples: Source) -> tuple[float, float, bool]:
            batch = self._first_batch(samples)
            work = found.work(batch.features)
            # Other batches hold samples of similar lengths, and so less padding.
            filled = prod(float(own.mean() / max(1, own.max())) for own in batch.lengths.values())
            of_sample = work.multiplications * filled / len(batch)
            of_element = work.multiplications / max(1, work.returned)
            return of_sample, of_element, 2 * work.convolved > work.multiplications

        of_sample, of_element, convolutional = self.opened.tried(count, self._tensors)
        work = of_sample * len(self.opened.source)
        if work < WORTH:
            raise self._refusal(
                f"{work:.1g} multiplications are too few for it to pay, which it does from "
                f"{WORTH:.1g}"
            )
        least = WORTH_EACH_CONVOLVED if convolutional else WORTH_EACH
        if of_element < least:
            mostly = ", mostly in convolutions," if convolutional else ""
            raise self._refusal(
                f"{of_element:.0f} multiplications for each value that is returned{mostly} are too "
                f"few for it to pay, which it does from {least:,}"
            )

    def compare(self, found: Program) -> None:
        """Compare the values of the first batch with TensorFlow's.

        Raises:
            NotCompiledError: one differs beyond the tolerance.
        """

        def attempt(samples: Source) -> None:
            batch = self._first_batch(samples)
            own, others = (self._stored(one, batch) for one in (self.program, found))
            for tensor, value, other in zip(self._tensors, own, others, strict=True):
                coarse = self.opened.coarse or tensor.spec.dtype == BFLOAT16
                apart = compare_values(other, value, coarse=coarse)
                if apart.beyond:
                    raise self._refusal(
                        f"on the first batch {tensor.key!r} is not as TensorFlow computes it: "
                        f"{apart}, beyond {TOLERATED}"
                    )

        self.opened.tried(attempt, self._tensors)

    def _first_batch(self, samples: Source) -> Batch:
        """Return the first samples as a batch of the job, if they may share one."""
        shared = self.sharing is Sharing.PADDED
        count = min(self.runtime.batch_size or BATCH_SIZE, len(samples)) if shared else 1
        return read_batch(self.opened.model, samples, range(count))

    def _stored(self, program: Program, batch: Batch) -> list[Values]:
        """Return what a program computes for a batch, without padding."""
        lengths = SampleLengths(
            len(batch), {axis: own.astype(np.int64) for axis, own in batch.lengths.items()}
        )
        rooms = [tensor.assembly(lengths) for tensor in self._tensors]
        values: Sequence[Array] = program(*batch.arguments)
        padded = bool(batch.padded(self.opened.model.signature).any())
        put(self._tensors, rooms, range(len(batch)), values, padded)
        return [room.finish([]) for room in rooms]

    @property
    def _tensors(self) -> tuple[PlannedTensor, ...]:
        return self.opened.varying

    def _refusal(self, reason: str) -> NotCompiledError:
        return NotCompiledError(self.opened.model.name, OPENVINO, reason)
