"""Adapters of models, and the protocols that they implement. NumPy only.

Also declares `model.state`: the state from which a stateful model starts each call.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import getattr_static
from typing import Any, Protocol, runtime_checkable

from extractkit.core.attribution import Method
from extractkit.core.catalog import Catalog, Layout
from extractkit.core.checkpoints import Checkpoint, ExcludedCheckpoint
from extractkit.core.requests import Request
from extractkit.core.spec import numpy_dtype
from extractkit.core.targets import BoundTarget
from extractkit.core.transforms.pipeline import BoundPipeline
from extractkit.core.values import Array, State, as_array
from extractkit.errors import ConfigError, InputError, JobError, ModelError, SampleError, choices
from extractkit.inputs import Sample, Signature


@dataclass(frozen=True)
class Encoded:
    """One sample as the model takes it, without a sample axis or padding.

    Attributes:
        features: One array per input.
        sizes: The length of each free axis.
        truncated: Whether the sample was cut off to fit the model.
        tokens: The tokens as text, special tokens included. None if there are no tokens.
    """

    features: Mapping[str, Array]
    sizes: Mapping[str, int]
    truncated: bool = False
    tokens: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Fetch:
    """One array that a program returns: the answer to a request, in stored order and transformed.

    Without a `layout` the answer is returned as the model computes it, untransformed. Axes are
    measured on such arrays.
    """

    request: Request
    layout: Layout | None = None
    pipeline: BoundPipeline | None = None

    @property
    def address(self) -> str:
        """The address of the tensor that the request is about."""
        return self.request.address

    @property
    def result(self) -> str:
        """The further result of the request that it is; empty for the main one."""
        name = "" if self.pipeline is None else self.pipeline.name
        return name if name in self.request.further else ""

    @property
    def as_computed(self) -> bool:
        """Whether the answer is returned as the model computes it, in its order, untransformed."""
        transformed = self.pipeline is not None and bool(self.pipeline.steps)
        return not transformed and (self.layout is None or self.layout.in_stored_order)


Arguments = tuple[Mapping[str, Array], Mapping[str, Array]]
"""The arguments of a program: features and lengths, see `Program`."""

Program = Callable[[Mapping[str, Array], Mapping[str, Array]], Sequence[Array]]
"""A function that runs the model on one batch and returns only the fetched tensors, in order.

The first argument holds an array (samples, *padded) for each input, the second the samples' own
lengths, int32 (samples,), for each free axis.
"""


@dataclass(frozen=True)
class Compilation:
    """Settings of a program that may change the last bits of its values."""

    compile: str = "graph"
    device: str | None = None


@dataclass(frozen=True, eq=False)
class CarryingProgram:
    """A program that takes a state with each call and returns the next one.

    Attributes:
        samples: The number of samples that each call takes.
        initial: The state of the first call.
        call: Takes the arguments of a `Program` and a state. Returns the result of a `Program` and
            the state after the call. The model itself is not changed.
    """

    samples: int
    initial: State
    call: Callable[[Mapping[str, Array], Mapping[str, Array], State], tuple[Sequence[Array], State]]

    def from_initial(
        self, features: Mapping[str, Array], lengths: Mapping[str, Array]
    ) -> Sequence[Array]:
        """Run one batch as a `Program`, from the initial state."""
        return self.call(features, lengths, self.initial)[0]


@runtime_checkable
class CarriesState(Protocol):
    """The ability to carry state from sample to sample, optional for a `Model`.

    It is configured by `model.state=carry`. The programs of `Model.program` still start each call
    from the initial state.
    """

    def samples_carried(self) -> int:
        """Return the number of samples that each call of the carrying programs takes.

        Raises:
            ModelError: The layers disagree on it.
        """
        ...

    def carrying_program(
        self, fetches: Sequence[Fetch], compilation: Compilation
    ) -> CarryingProgram:
        """Compile a program for the fetches.

        Raises:
            ConfigError: One of them is not computed while state is carried.
            SelectionError: The model cannot answer a kind of request; see `check_values`.
            ModelError: The model's state cannot be carried.
        """
        ...


class CheckpointAxis(Protocol):
    """Several sets of weights that a model can use one after the other.

    Changing the weights keeps the catalog and the programs.
    """

    @property
    def checkpoints(self) -> Sequence[Checkpoint]:
        """The usable checkpoints, in order. Known after `choose`."""
        ...

    @property
    def excluded(self) -> Sequence[ExcludedCheckpoint]:
        """The checkpoints that cannot be used."""
        ...

    @property
    def loads(self) -> int:
        """The number of times that weights have been loaded, successfully or not."""
        ...

    def choose(self, policy: str) -> None:
        """Check every checkpoint, and load the first usable one.

        Args:
            policy: "fail" or "skip" if a checkpoint cannot be used.

        Raises:
            ModelError: A checkpoint is damaged or of another architecture, and the policy is
                "fail" or none is left.
        """
        ...

    def use(self, position: int) -> None:
        """Load the weights of `checkpoints[position]`.

        Raises:
            JobError: They can no longer be loaded.
        """
        ...


class NoOwnCallError(ModelError):
    """The model's own call cannot be compared, through no fault of the model or a sample."""


class NotCompiledError(ConfigError):
    """A compiler that cannot compute what is asked of a model, or not as TensorFlow does.

    Args:
        model: The model's name.
        compiler: The value of `runtime.compile`.
        reason: Why, as a clause.
    """

    def __init__(self, model: str, compiler: str, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"runtime.compile={compiler} cannot run model {model!r}: {reason}. Use "
            f"runtime.compile=graph"
        )


class OtherOutputsError(JobError):
    """The model's own call returns a different number of outputs than the traced model."""


class OtherShapeError(SampleError):
    """A selected value inside a loop has another shape at another step.

    Attributes:
        reason: The reason, as a clause about the tensor.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


SAME_OBJECT = "the same object (its weights are not checked)"
"""The value of `OwnCall.loaded_by` for a model that is not loaded a second time."""


OutputsAfter = Callable[[Arguments, Mapping[str, Array], Mapping[str, Array]], Mapping[str, Array]]
"""A function that returns the outputs of a batch, by address, after running the batch before it."""


@dataclass(frozen=True, eq=False)
class OwnCall:
    """A model's own call, as users get it without extractkit.

    A model from a file is loaded a second time, by its format's own loader. It occupies memory
    until this object is released.

    Attributes:
        loaded_by: The function that loaded it ("keras.models.load_model"), or `SAME_OBJECT`.
        outputs: Takes one batch as a program does. Returns, by address, the outputs
            (`MODEL_OUTPUT`) that depend on the inputs and can be extracted, untransformed. Raises
            SampleError if the values of a sample may have caused a failure, OtherOutputsError if
            the number of outputs differs from the model's, NoOwnCallError if the settings of this
            process forbid the call, and JobError for any other failure.
        outputs_after: For a model that carries state, the same for a batch that follows another
            one; the first batch starts from the initial state. None if no state is carried.
    """

    loaded_by: str
    outputs: Callable[[Mapping[str, Array], Mapping[str, Array]], Mapping[str, Array]]
    outputs_after: OutputsAfter | None = None


@runtime_checkable
class HasOwnCall(Protocol):
    """The ability to be compared with the model's own call, optional for a `Model`.

    The self-check of every job (`runtime.self_check`) and `verify --recompute` use it.
    """

    def own_call(self, checkpoint: int | None = None) -> OwnCall:
        """Load the model again, independently of this adapter's trace and weights.

        Does not change this model. A model that exists only in memory is called in a graph of its
        own, or operation by operation if it runs eagerly.

        Args:
            checkpoint: The position of the weights on the model's `CheckpointAxis`. None if the
                model has no such axis. This model already uses the same weights.

        Raises:
            NoOwnCallError: The format has no way to call this model. The model may still be
                right. Any other error fails the self-check, unless memory is short.
        """
        ...


@runtime_checkable
class HasCheckpoints(Protocol):
    """The ability to be given several sets of weights in turn, optional for a `Model`."""

    @property
    def checkpoints(self) -> CheckpointAxis | None:
        """The sets of weights. None if the model was loaded with one."""
        ...


def checkpoint_axis_of(model: "Model") -> CheckpointAxis | None:
    """Return the sets of weights that a model is given in turn. None if it has one."""
    return model.checkpoints if isinstance(model, HasCheckpoints) else None


@runtime_checkable
class ConvertsArguments(Protocol):
    """The ability to convert a program's arguments once for several calls, optional for a `Model`.

    Repeated calls with the same arguments, as with several checkpoints, then cost less.
    """

    def to_tensors(
        self, features: Mapping[str, Array], lengths: Mapping[str, Array]
    ) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Return the arguments as the tensors that a program would convert them to.

        Raises:
            SampleError: A value cannot be converted.
        """
        ...


@runtime_checkable
class Differentiates(Protocol):
    """The ability to compute gradients, optional for a `Model`."""

    def without_gradient(
        self, of: BoundTarget, addresses: Sequence[str], method: Method | None = None
    ) -> Mapping[str, str]:
        """Return why tensors have no gradient of a target, by address. Others have one.

        Args:
            method: What is to be made of the gradients, which may not be defined for all tensors.

        Raises:
            SelectionError: a loss of the target is not one number of each sample.
        """
        ...


@runtime_checkable
class LacksGradients(Protocol):
    """The property of a model that no gradients exist for its format."""

    @property
    def lacks_gradients(self) -> str:
        """The reason, as a clause."""
        ...


@runtime_checkable
class ChecksSizes(Protocol):
    """The ability to judge sizes of samples without running, optional for a `Model`."""

    def accepts_sizes(self, addresses: Sequence[str], sizes: Mapping[str, int]) -> bool:
        """Return False if these tensors cannot be computed at these sizes of the free axes.

        True is not a guarantee: some sizes fail only when the model runs.
        """
        ...

    def takes_sizes_between(self, addresses: Sequence[str]) -> bool:
        """Return whether tensors that can be computed at two sizes can be at all between them.

        False if that is not known. A job then runs the model at more sizes.
        """
        ...


@runtime_checkable
class DecidesTogether(Protocol):
    """The ability to name what samples decide together by their values, optional for a `Model`.

    A conditional takes one branch for a whole batch. Samples that share one may take another branch
    than each of them alone.
    """

    def decision(self, addresses: Sequence[str]) -> str | None:
        """Return what is decided so before one of these tensors, as a clause. None if nothing is.

        For example: which branch 'cond' takes.
        """
        ...


@dataclass(frozen=True)
class Work:
    """The work of a program for one batch, from the sizes of its tensors.

    Attributes:
        multiplications: The number of multiplications in products and convolutions.
        returned: The number of elements that the model's tensors have before transforms.
        convolved: The number of multiplications in convolutions alone.
    """

    multiplications: int
    returned: int
    convolved: int = 0


@runtime_checkable
class EstimatesWork(Protocol):
    """The ability to estimate the work for a batch, optional for a `Program`."""

    def work(self, features: Mapping[str, Array]) -> Work:
        """Return the work for one batch.

        Raises:
            NotCompiledError: The program cannot compute the batch, or leaves it to TensorFlow.
        """
        ...


class HasCatalog(Protocol):
    """The catalog of a model."""

    @property
    def catalog(self) -> Catalog:
        """Every tensor that the model offers."""
        ...


class Encoder(Protocol):
    """The preparation of samples for a model."""

    @property
    def signature(self) -> Signature:
        """The inputs that the model takes."""
        ...

    def encode(self, samples: Sequence[Sample]) -> Sequence[Encoded]:
        """Return the samples as the model takes them.

        Raises:
            InputError: A sample does not fit. The message names its id.
        """
        ...


@runtime_checkable
class Executor(Protocol):
    """The computation of a model's tensors."""

    def configure(self, seed: int, deterministic: bool, device: str | None) -> Mapping[str, object]:
        """Seed every generator and refuse operations that are not deterministic, if asked to.

        Returns the other settings that may change the last bits of values, such as threads and
        instruction-set flags.

        Raises:
            ConfigError: The device does not exist, or this process cannot apply the settings.
        """
        ...

    def program(self, fetches: Sequence[Fetch], compilation: Compilation) -> Program:
        """Return one program that computes the fetches and their dependencies, nothing else.

        Raises:
            SelectionError: The model cannot answer a kind of request; see `check_values`.
            ConfigError: The compiler cannot run the model; a `NotCompiledError` has the reason.
        """
        ...

    def constants(self, fetches: Sequence[Fetch]) -> Sequence[Array]:
        """Return the values of fetches that do not depend on the inputs.

        They keep their values when the model is given other weights.

        Raises:
            SelectionError: The model cannot answer a kind of request; see `check_values`.
        """
        ...


class Provenance(Protocol):
    """The identity and description of a model, for the manifest."""

    @property
    def name(self) -> str:
        """The name for messages: the chosen entry of the `model` group."""
        ...

    def weights_digest(self) -> str:
        """Return the SHA-256 over every weight's name, dtype, shape and content."""
        ...

    def definition_digest(self) -> str | None:
        """Return the SHA-256 of the computation, without the values of the weights.

        It covers the graph with its constants, the addresses in it, the inputs, and the
        preprocessing. It is the same in every process and for every rebuild of the same model.

        Returns:
            The digest in hexadecimal. None if the computation cannot be identified, as with Python
            code.
        """
        ...

    def describe(self) -> Mapping[str, object]:
        """Return the manifest's entry for the model: class, parameters, preprocessing, files."""
        ...


class Model(HasCatalog, Encoder, Executor, Provenance, Protocol):
    """A loaded model.

    Its optional abilities are `HasOwnCall`, `HasCheckpoints`, `CarriesState`, `ConvertsArguments`,
    `ChecksSizes`, `DecidesTogether`, and `Differentiates` or `LacksGradients`. A model has an
    ability if it defines its members.
    """


def lacking(model: object) -> tuple[str, ...]:
    """Return the members of `Model` that an object does not define, without evaluating properties.

    A catalog may need weights that are chosen later.
    """
    declared = [name for part in Model.__mro__ for name in vars(part) if not name.startswith("_")]
    return tuple(name for name in declared if getattr_static(model, name, None) is None)


def encode_arrays(signature: Signature, sample: Sample) -> Encoded:
    """Encode one sample that has an array per input.

    Raises:
        InputError: The sample is a text, or an array does not fit its input.
    """
    if isinstance(sample.data, str) and signature.takes_text:
        text = as_array(sample.data)
        return Encoded(
            {spec.name: text.reshape((1,) * len(spec.shape)) for spec in signature.specs}, {}
        )
    if not isinstance(sample.data, Mapping):
        raise InputError(
            f"sample {sample.id!r} is a text, but model {signature.model!r} takes numbers: "
            f"{', '.join(f'{s.name} {s.dtype} {list(s.shape)}' for s in signature.specs)}. "
            f"Try inputs=random, or inputs=arrays inputs.path=FILE.npz"
        )
    if missing := [spec.name for spec in signature.specs if spec.name not in sample.data]:
        raise InputError(
            f"sample {sample.id!r} lacks {', '.join(map(repr, missing))}; model "
            f"{signature.model!r} takes {', '.join(repr(spec.name) for spec in signature.specs)}"
        )
    sizes: dict[str, int] = {}
    features = {}
    for spec in signature.specs:
        array = as_array(sample.data[spec.name])
        fits = array.ndim == len(spec.shape) and all(
            wanted in (None, size) for wanted, size in zip(spec.shape, array.shape, strict=True)
        )
        for dim, size in zip(spec.dims, array.shape, strict=False):
            fits = fits and (dim is None or sizes.setdefault(dim, size) == size)
        if not fits:
            raise InputError(
                f"sample {sample.id!r}: input {spec.name!r} of model {signature.model!r} takes "
                f"shape {list(spec.shape)}, given {list(array.shape)}"
            )
        features[spec.name] = array.astype(numpy_dtype(spec.dtype), copy=False)
    for axis, longest in (signature.longest or {}).items():
        if sizes.get(axis, 0) > longest:
            raise InputError(
                f"sample {sample.id!r} has {sizes[axis]} elements along {axis!r}; "
                f"model {signature.model!r} takes at most {longest}"
            )
    return Encoded(features, sizes)


KEY = "model.state"
RESET, CARRY = "reset", "carry"


def check_state(state: object) -> str | None:
    """Check and return the setting `model.state`.

    Raises:
        ConfigError: It is not null, "reset" or "carry".
    """
    if state is None or state in (RESET, CARRY):
        return None if state is None else str(state)
    raise ConfigError(f"{KEY}={state!r} is not a policy. {choices(str(state), [RESET, CARRY])}")


def choice(setting: str) -> str:
    """Return the end of a warning that calls start from the initial state.

    Args:
        setting: The setting of a policy, with `{}` for the policy.
    """
    return f"To carry it: {setting.format(CARRY)}; to hide this warning: {setting.format(RESET)}"
