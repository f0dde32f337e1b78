"""What the rest of extractkit asks of a model: one small protocol, an adapter per format."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from extractkit.core.catalog import Catalog
from extractkit.core.checkpoints import Checkpoint, SkippedCheckpoint
from extractkit.core.plan import Layout
from extractkit.core.transforms import AxisTransform
from extractkit.core.values import Array, State
from extractkit.errors import JobError, ModelError
from extractkit.inputs.protocol import Sample, Signature


@dataclass(frozen=True)
class Encoded:
    """One sample as the model takes it, without sample axis or padding.

    Attributes:
        features: an array for each input.
        sizes: length of each free axis.
        truncated: whether something was cut off to fit the model.
        tokens: the tokens as text where there are any, special tokens included.
    """

    features: Mapping[str, Array]
    sizes: Mapping[str, int]
    truncated: bool = False
    tokens: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Fetch:
    """One tensor to be returned by a program.

    With no `layout` the tensor comes back as the model makes it, untransformed: that is how axes
    are measured.
    """

    address: str
    layout: Layout | None = None
    axes: AxisTransform | None = None


Arguments = tuple[Mapping[str, Array], Mapping[str, Array]]
"""What a program is called with."""

Program = Callable[[Mapping[str, Array], Mapping[str, Array]], Sequence[Array]]
"""Runs the model on one batch and returns the fetched tensors alone, in order.

The first argument holds an array (samples, *padded) for each input, the second the samples' own
lengths, int32 (samples,), for each free axis.
"""


@dataclass(frozen=True)
class Compilation:
    """Settings of the program that may change the last bits of its values."""

    compile: str = "graph"
    device: str | None = None


@dataclass(frozen=True, eq=False)
class CarryingProgram:
    """A program whose calls start from a state and leave the next one.

    Attributes:
        samples: How many each call takes.
        initial: The state that the first call starts from.
        call: Takes what a `Program` takes, and a state. Returns what a `Program` returns, and the
            state after the call. The model stays as it was.
    """

    samples: int
    initial: State
    call: Callable[[Mapping[str, Array], Mapping[str, Array], State], tuple[Sequence[Array], State]]

    def from_initial(
        self, features: Mapping[str, Array], lengths: Mapping[str, Array]
    ) -> Sequence[Array]:
        """Call it as a `Program`, each time from the initial state."""
        return self.call(features, lengths, self.initial)[0]


@runtime_checkable
class CarriesState(Protocol):
    """The ability to carry state in the order of the samples; a `Model` may have it.

    Such a model was configured so (`model.state=carry`). The programs of `Model.program` start each
    call from the initial state all the same.
    """

    def samples_carried(self) -> int:
        """Return how many samples each call of its carrying programs takes.

        Raises:
            ModelError: its layers do not agree on it.
        """
        ...

    def carrying_program(
        self, fetches: Sequence[Fetch], compilation: Compilation
    ) -> CarryingProgram:
        """Compile a program of the fetches.

        Raises:
            ConfigError: one of them is not computed where state is carried.
            ModelError: the model's state is not one that can be carried.
        """
        ...


class CheckpointAxis(Protocol):
    """The weights that a model can be given one after the other, in place.

    Catalog and programs stay; what is computed next uses the new weights.
    """

    @property
    def checkpoints(self) -> Sequence[Checkpoint]:
        """Those that can be used, in order; known once `choose` has been called."""
        ...

    @property
    def skipped(self) -> Sequence[SkippedCheckpoint]:
        """Those that cannot, and are left out."""
        ...

    @property
    def loads(self) -> int:
        """How many times weights have been loaded, successfully or not."""
        ...

    def choose(self, policy: str) -> None:
        """Look at all of them, and compute with the first that can be used.

        Args:
            policy: "fail" where one cannot be used, or "skip" it.

        Raises:
            ModelError: one, or none, can be used: damaged, or of another architecture.
        """
        ...

    def use(self, position: int) -> None:
        """Compute with the weights of `checkpoints[position]` from now on.

        Raises:
            JobError: they can no longer be loaded.
        """
        ...


class NoOwnCallError(ModelError):
    """This model has no own call that can be compared, and neither it nor a sample is at fault."""


class OtherOutputsError(JobError):
    """The model's own call returns another number of outputs than the model that was traced."""


SAME_OBJECT = "the same object (its weights are not checked)"
"""What `OwnCall.loaded_by` is for a model that is not loaded a second time."""


OutputsAfter = Callable[[Arguments, Mapping[str, Array], Mapping[str, Array]], Mapping[str, Array]]
"""The outputs of a batch, by address, that follows another one, whose arguments come first."""


@dataclass(frozen=True, eq=False)
class OwnCall:
    """A model's own call: what people get who use the model without extractkit.

    A model that comes from a file is loaded a second time, by its format's own means. It takes
    memory until this object is released.

    Attributes:
        loaded_by: what has loaded it ("keras.models.load_model"), or `SAME_OBJECT`.
        outputs: Takes one batch as a program does and returns, by address, what a program returns
            for a `Fetch` of nothing but the address: the outputs (`MODEL_OUTPUT`) that depend on
            the inputs and can be extracted. Empty where there are none. It raises SampleError
            where the model fails on the batch, as the values of a sample can cause it, and
            OtherOutputsError where their number is not the model's, NoOwnCallError where the
            settings of this process forbid the call, and JobError where it fails in another way.
        outputs_after: Of a model that carries its state; the batch in front starts from the initial
            state. None: each call starts from it.
    """

    loaded_by: str
    outputs: Callable[[Mapping[str, Array], Mapping[str, Array]], Mapping[str, Array]]
    outputs_after: OutputsAfter | None = None


@runtime_checkable
class HasOwnCall(Protocol):
    """The ability to be held against the model's own call; a `Model` may have it.

    Every job uses it to check itself (`runtime.self_check`), `verify --recompute` as well.
    """

    def own_call(self, checkpoint: int | None = None) -> OwnCall:
        """Load the model again, independently of this adapter's trace and weights.

        Leaves this model as it is. Where the object itself is all there is, it is called in a graph
        that computes nothing else, or operation by operation where it is run so.

        Args:
            checkpoint: place of the weights to load on the model's `CheckpointAxis`; None: the
                model has no axis. This model computes with the same weights already.

        Raises:
            NoOwnCallError: the format has no means to call this model, which may be right all the
                same. Any other error ends a job that checks itself, unless memory is short.
        """
        ...


class Model(Protocol):
    """A loaded model.

    It may have besides:

    - `own_call`, see `HasOwnCall`.
    - `checkpoints`, a `CheckpointAxis`; None, or no such attribute: it has one set of weights.
    - `place(features, lengths)`, which makes of a program's arguments what its programs take as
      well, at less cost where they take the same again and again.
    - `takes(addresses, sizes)`, which returns False where these tensors cannot be computed at these
      sizes of the free axes, as far as that is known without running the model.
    """

    @property
    def name(self) -> str:
        """Name for messages: the chosen entry of the `model` group."""
        ...

    @property
    def catalog(self) -> Catalog:
        """Every tensor that the model offers."""
        ...

    @property
    def signature(self) -> Signature:
        """What it takes."""
        ...

    def configure(self, seed: int, deterministic: bool, device: str | None) -> Mapping[str, object]:
        """Seed every generator and refuse operations that are not deterministic, if asked to.

        Returns what else may change the last bits of values: threads, instruction-set flags.

        Raises:
            ConfigError: there is no such device, or the process cannot compute as is wanted.
        """
        ...

    def encode(self, samples: Sequence[Sample]) -> Sequence[Encoded]:
        """Return the samples as the model takes them.

        Raises:
            InputError: a sample that does not fit, named by its id.
        """
        ...

    def program(self, fetches: Sequence[Fetch], compilation: Compilation) -> Program:
        """Return one program that computes the fetches and what they need, nothing else."""
        ...

    def constants(self, fetches: Sequence[Fetch]) -> Sequence[Array]:
        """Return the values of fetches that do not depend on the inputs.

        They stay what they are when the model is given other weights.
        """
        ...

    def weights_digest(self) -> str:
        """Return the SHA-256 over every weight's name, dtype, shape and content."""
        ...

    def definition_digest(self) -> str | None:
        """Return the SHA-256 over what is computed, the weights' values apart.

        That is the graph with its constants, the addresses in it, what is taken, and what prepares
        samples. It is the same in every process and for every rebuild of the same model.

        Returns:
            The digest in hexadecimal; None where nobody can tell, as of Python code.
        """
        ...

    def describe(self) -> Mapping[str, object]:
        """What the manifest records of the model: class, parameters, preprocessing, files."""
        ...
