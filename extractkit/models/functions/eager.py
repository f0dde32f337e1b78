"""`model=module model.eager=true`: a function run operation by operation, as Python does.

Functions that cannot be traced (Python reads values, or uses NumPy in between) can be watched
instead. The order of operations must be the same for every batch. If Python takes another path, the
job fails.
"""

import hashlib
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice, takewhile
from typing import Any

import numpy as np
import tensorflow as tf

from extractkit.core.catalog import Catalog, Kind, TensorRecord, address_of, escape
from extractkit.core.requests import check_values
from extractkit.core.spec import SAMPLE, TensorSpec, numpy_dtype
from extractkit.core.values import Array, add_to_digest
from extractkit.errors import ConfigError, JobError, ModelError, SampleError
from extractkit.inputs import InputSpec, Sample, Signature
from extractkit.models import (
    SAME_OBJECT,
    Compilation,
    Encoded,
    Fetch,
    OwnCall,
    Program,
    encode_arrays,
)
from extractkit.models.axes import Sizes, candidate_sizes, infer_dims, stepped_sizes
from extractkit.models.failures import batch_failure, error_summary, own_call_failure
from extractkit.models.functions import as_the_model_takes_it, to_numpy
from extractkit.models.functions.callables import (
    bound,
    constant_function,
    is_value,
    method_of,
    specs_of,
    with_arguments,
)
from extractkit.models.functions.eager_calls import EagerCall, restored, watched
from extractkit.models.graphs.feeding import checked_constants
from extractkit.models.graphs.model import transformed
from extractkit.models.graphs.rebuilding import static_shape
from extractkit.models.graphs.records import (
    Records,
    of_one_sample,
    raw_dtype,
    unextractable_reason,
)
from extractkit.models.naming import Ports, components, plain, ports
from extractkit.models.process import configure
from extractkit.models.signature import (
    INPUT_AXES,
    InputSetting,
    advised_settings,
    declared,
    signature_of,
)
from extractkit.runs.comparing.measures import compare_arrays


def weights_of(built: object) -> dict[str, Any]:
    """Return the variables of a module or layer by address: `dense:kernel`. Functions have none."""
    ports = Ports()
    found = {}
    for variable in getattr(built, "variables", ()):
        name = getattr(variable, "path", variable.name).partition(":")[0]
        path, _, port = name.rpartition("/")
        address = address_of(
            "/".join(escape(part) for part in path.split("/") if part), escape(port)
        )
        found[ports.unique(address)] = variable
    return found


def weight_record(address: str, variable: Any) -> TensorRecord:
    """Return a weight's record."""
    return TensorRecord(
        address=address,
        kind=Kind.WEIGHT,
        spec=TensorSpec.fixed(tf.as_dtype(variable.dtype).name, variable.shape),
        name=address,
        depends_on_inputs=False,
    )


def input_address(name: str) -> str:
    """Return the address of an argument that takes samples."""
    return address_of("", f"input.{escape(name)}")


def input_record(spec: InputSpec) -> TensorRecord:
    """Return the record of an argument that takes samples."""
    address = input_address(spec.name)
    return TensorRecord(
        address=address,
        kind=Kind.MODEL_INPUT,
        spec=TensorSpec.of(spec.dtype, (SAMPLE, *spec.dims), (None, *spec.shape)),
        name=address,
    )


_STEPPED = 8
"""Number of stepped sizes to try: they grow, and the function is run at each."""

_MOST_LISTED = 3
"""Number of tried sizes that a message lists."""

_ANOTHER_PATH = "Python takes another path for other sizes, on which it is not computed"
_IMPURE = (
    "a random or assigning operation is run before it, and no data flow is known in eager mode: "
    "its value may depend on more than the sample"
)
_STATEFUL = (
    "called again with the same values, the function gives another result here or before: it keeps "
    "a state outside of the model's variables, and nothing resets that. Keep the state in a "
    "tf.Variable of the tf.Module"
)


@dataclass(frozen=True, eq=False)
class EagerModel:
    """A Python function of tensors as a `Model`, never traced.

    Attributes:
        name: the name for messages.
        signature: the inputs that it takes.
        function: the function, called with the inputs by name.
        variables: its weights by address.
        origin: the manifest's entry on where it comes from.
        keep: an object to keep alive as long as the function is called.
    """

    name: str
    signature: Signature
    function: Callable[..., Any]
    variables: Mapping[str, Any]
    origin: Mapping[str, object]
    keep: object = None

    @property
    def lacks_gradients(self) -> str:
        """Why no gradients are computed."""
        return "it runs operation by operation (model.eager=true), and a gradient needs a graph"

    @cached_property
    def catalog(self) -> Catalog:
        """Inputs, operations, outputs and weights, from calls with generated values."""
        weights = [weight_record(address, variable) for address, variable in self.variables.items()]
        return Catalog([*self._watched.records, *weights], self.name)

    def configure(self, seed: int, deterministic: bool, device: str | None) -> Mapping[str, object]:
        """Seed Python, NumPy and TensorFlow; see `process.configure`."""
        return configure(seed, deterministic, device)

    def encode(self, samples: Sequence[Sample]) -> list[Encoded]:
        """Return the samples as the function takes them, without padding."""
        return [encode_arrays(self.signature, sample) for sample in samples]

    def program(self, fetches: Sequence[Fetch], compilation: Compilation) -> Program:
        """Return the function, watched for the fetches. It always runs as a whole.

        Raises:
            ConfigError: `runtime.compile` asks for a compilation.
        """
        if compilation.compile != "graph":
            raise ConfigError(
                f"runtime.compile={compilation.compile}: model.eager=true runs operation by "
                f"operation and compiles nothing. Leave one of them out"
            )
        check_values((fetch.request for fetch in fetches), self.name)
        keep = {record.port for fetch in fetches for record in [self.catalog[fetch.address]]}

        def run(features: Mapping[str, Array], lengths: Mapping[str, Array]) -> list[Array]:
            batch = {s.name: tf.constant(features[s.name], s.dtype) for s in self.signature.specs}
            with tf.device(compilation.device):
                call = self._called(batch, keep)
                self._check_path(call)
                found = self._values(call)
                found |= {input_address(name): feature for name, feature in batch.items()}
                samples = tf.constant(len(next(iter(features.values()))))
                own = {axis: tf.constant(length) for axis, length in lengths.items()}
                return [
                    to_numpy(transformed(self._wanted(found, fetch.address), fetch, samples, own))
                    for fetch in fetches
                ]

        return run

    def constants(self, fetches: Sequence[Fetch]) -> list[Array]:
        """Return the values of weights, and of a function without inputs."""
        check_values((fetch.request for fetch in fetches), self.name)
        computed = {f.address for f in fetches} - set(self.variables)
        found = self._values(self._called({}, None)) if computed else {}
        found |= {a: tf.convert_to_tensor(variable) for a, variable in self.variables.items()}
        return [to_numpy(transformed(self._wanted(found, f.address), f, None, {})) for f in fetches]

    def own_call(self, checkpoint: int | None = None) -> OwnCall:
        """Return the function itself, without watching it."""
        return OwnCall(SAME_OBJECT, self._outputs)

    def _outputs(
        self, features: Mapping[str, Array], lengths: Mapping[str, Array]
    ) -> dict[str, Array]:
        batch = {s.name: tf.constant(features[s.name], s.dtype) for s in self.signature.specs}
        addresses = [record.address for record in self.catalog.outputs]
        if not addresses:
            return {}
        try:
            with restored(self.variables.values()):
                found = self._returned(self.function(**self._arguments(batch)))
        except Exception as error:  # user code may raise anything
            raise own_call_failure(self.name, error) from error
        return {a: to_numpy(self._wanted(found, a)) for a in addresses}

    def weights_digest(self) -> str:
        """Return the SHA-256 over every weight's address, dtype, shape and content."""
        sha = hashlib.sha256()
        for address, variable in self.variables.items():
            array = to_numpy(tf.convert_to_tensor(variable))
            add_to_digest(sha, address, tf.as_dtype(variable.dtype).name, array)
        return sha.hexdigest()

    def definition_digest(self) -> None:
        """Return None: Python code has no digest of its computation."""
        return None

    def describe(self) -> Mapping[str, object]:
        """Return the manifest's entry on where it comes from."""
        return {"name": self.name, **self.origin}

    def _check_path(self, call: EagerCall) -> None:
        """Check that a call drew and changed only what the catalog's calls did.

        Raises:
            SampleError: the call did.
        """
        if call.carried is not None and call.carried not in self._examined[1]:
            raise SampleError(
                f"model {self.name!r} took another path on this batch: it ran {call.carried!r}, "
                f"which draws random numbers or changes what the next batch would find. What "
                f"depends on the values of a batch cannot be extracted"
            )

    def _called(self, batch: Mapping[str, tf.Tensor], keep: Container[str] | None) -> EagerCall:
        try:
            with restored(self.variables.values()):
                return watched(self.function, self._arguments(batch), keep, self.variables.values())
        except Exception as error:  # user code may raise anything
            raise batch_failure(self.name, error) from error

    def _arguments(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {
            spec.name: as_the_model_takes_it(spec, batch[spec.name])
            for spec in self.signature.specs
        }

    def _values(self, call: EagerCall) -> dict[str, tf.Tensor]:
        """Return the results of a call's operations by address."""
        operations = {address_of("", port): tensor for port, tensor in call.operations.items()}
        return {**operations, **self._returned(call.result)}

    def _returned(self, result: Any) -> dict[str, tf.Tensor]:
        """Return the outputs of a call by address."""
        named = components(ports("output", tf.nest.map_structure(_as_tensor, plain(result))))
        return {address_of("", port): tensor for port, tensor in named.items()}

    def _wanted(self, found: Mapping[str, tf.Tensor], address: str) -> tf.Tensor:
        if address not in found:
            raise SampleError(
                f"model {self.name!r} took another path on this batch: it did not run "
                f"{address!r}. What depends on the values of a batch cannot be extracted"
            )
        tensor = found[address]
        return tf.expand_dims(tensor, 0) if address in self._watched.whole else tensor

    @property
    def _watched(self) -> Records:
        return self._examined[0]

    @cached_property
    def _examined(self) -> tuple[Records, frozenset[str | None]]:
        """Return the records, and the operations that draw or permanently change something."""
        sizes, calls = self._trials()
        found = [self._values(call) for call in calls]
        pure = calls[0].pure
        unaffected = {a for a, one in found[0].items() if pure is None or id(one) in pure}
        repeated = self._repeated(calls[0], unaffected, sizes.trials[0])
        records, whole = [input_record(spec) for spec in self.signature.specs], set()
        for address, tensor in found[0].items():
            same = [values[address] for values in found if address in values]
            record, added = self._record(address, tensor, calls[0], sizes, same)
            if address not in unaffected:
                record = replace(record, reason=_IMPURE)
            elif address not in repeated:
                record = replace(record, reason=_STATEFUL)
            records.append(record)
            whole |= {address} if added else set()
        carried = frozenset(call.carried for call in calls)
        return Records(tuple(records), frozenset(whole), frozenset()), carried

    def _repeated(
        self, call: EagerCall, addresses: Container[str], at: Mapping[str, int]
    ) -> set[str]:
        """Return the addresses that have the same value when a call is repeated.

        Python's own attributes, and random numbers of NumPy, leave no trace among operations. So
        everything computed after the first result that differs may depend on the same state, and is
        excluded even if its value is the same.
        """
        before = {a: tensor for a, tensor in self._values(call).items() if a in addresses}
        # A state may just hold the values of the last call, so it shows only after a call with
        # different values. If the function fails on these, no state can be found.
        with suppress(JobError):
            self._called(self._made_up(at, seed=1), frozenset())
        after = self._values(self._called(self._made_up(at), None))
        same = {a for a, one in before.items() if a in after and _equal(one, after[a])}
        if len(same) == len(before):
            return same
        in_order = (address_of("", port) for port in call.operations)
        first = {id(before[address]) for address in takewhile(same.__contains__, in_order)}
        # An output that is not an operation's result is computed after all of them.
        return {address for address in same if id(before[address]) in first}

    def _record(
        self,
        address: str,
        tensor: tf.Tensor,
        call: EagerCall,
        sizes: Sizes,
        at_each: Sequence[tf.Tensor],
    ) -> tuple[TensorRecord, bool]:
        # Computations in Python leave no trace, so every value may depend on the inputs.
        depends = bool(self.signature.specs)
        everywhere = len(at_each) == len(sizes.trials)
        shapes = [static_shape(one) for one in at_each]
        dims = infer_dims(sizes, shapes) if everywhere else None
        added = False
        if depends and self.signature.batch == 1:
            dims, added = of_one_sample(dims)
        reason = unextractable_reason(dims, depends) if everywhere else _ANOTHER_PATH
        op_type = call.types.get(address.removeprefix(":"))
        record = TensorRecord(
            address=address,
            kind=Kind.MODEL_OUTPUT if op_type is None else Kind.OP,
            spec=TensorSpec(raw_dtype(tensor.dtype).name, dims),
            name=address,
            op_type=op_type,
            depends_on_inputs=depends,
            reason=reason,
        )
        return record, added

    def _trials(self) -> tuple[Sizes, list[EagerCall]]:
        """Return sizes and calls with generated values at these sizes, to infer axes."""
        errors: list[JobError] = []
        tried: dict[str, None] = {}
        open_ended = self.signature.batch is None and bool(self.signature.specs)
        axes = self.signature.free_axes
        # The later sizes are large, and each call runs the function.
        stepped = islice(stepped_sizes(axes, SAMPLE, vary=open_ended), _STEPPED)
        for sizes in chain(candidate_sizes(axes, SAMPLE, vary=open_ended), stepped):
            try:
                # The first call may create variables, so it differs from later ones.
                self._called(self._made_up(sizes.base), frozenset())
                return sizes, [self._called(self._made_up(at), None) for at in sizes.trials]
            except JobError as failed:  # too small or too large for the function
                errors.append(failed)
                tried[_describe_sizes(sizes.base)] = None
        first = errors[0]
        reason = error_summary(first.__cause__ or first).rstrip(":. ")
        text = f"what model.factory={self.origin.get('factory')} gives cannot be called"
        if not self.signature.specs:
            raise ModelError(f"{text} without arguments: {reason}") from first
        more = [f"and {len(tried) - _MOST_LISTED} more"] if len(tried) > _MOST_LISTED else []
        fixed = {
            spec.name: InputSetting((SAMPLE, *(size or 4 for size in spec.shape)), spec.dtype)
            for spec in self.signature.specs
        }
        how = (
            f", with a size for each free axis: {advised_settings(fixed)}"
            if axes
            else f" in {INPUT_AXES}"
        )
        raise ModelError(
            f"{text} with made-up values: {reason}. Sizes tried: "
            f"{'; '.join([*list(tried)[:_MOST_LISTED], *more])}. Specify what it takes{how}"
        ) from first

    def _made_up(self, at: Mapping[str, int], seed: int = 0) -> dict[str, tf.Tensor]:
        draw = np.random.default_rng(seed)
        batch = {}
        for spec in self.signature.specs:
            sizes = zip(spec.dims, spec.shape, strict=True)
            shape = [at.get(SAMPLE, 1), *(size or 0 if d is None else at[d] for d, size in sizes)]
            dtype = numpy_dtype(spec.dtype)
            real = dtype.kind in "fc"
            values = draw.standard_normal(shape) if real else draw.integers(0, 2, shape)
            batch[spec.name] = tf.constant(values.astype(dtype if dtype.kind != "O" else str))
        return batch


def eager_model(
    name: str,
    built: object,
    signature: str | None,
    settings: Mapping[str, InputSetting] | None,
    constants: Mapping[str, object] | None,
    origin: Mapping[str, object],
) -> EagerModel:
    """Wrap the result of a factory as a `Model` that runs eagerly.

    Raises:
        ConfigError: settings or constants for arguments that do not exist, or that do not fit.
        ModelError: it cannot be called.
    """
    if is_value(built):
        return EagerModel(name, Signature(name, ()), constant_function(built), {}, origin)
    method, constants = bound(method_of(built, signature), constants, settings)
    specs = specs_of(method, settings)
    values = checked_constants(constants, specs, tuple(settings or ()))
    if values:
        fixed = {name: tf.constant(one, specs[name].dtype) for name, one in values.items()}
        method = with_arguments(method, fixed)
    takes = [declared(name, spec) for name, spec in specs.items() if name not in values]
    takes_samples = signature_of(name, takes, settings)
    # A method of a `tf.function` holds only a weak reference to its object.
    return EagerModel(name, takes_samples, method, weights_of(built), origin, keep=built)


def _equal(one: tf.Tensor, other: tf.Tensor) -> bool:
    """Return whether two results are equal up to the order of summation in threads."""
    return not compare_arrays(to_numpy(one), to_numpy(other)).beyond


def _as_tensor(value: Any) -> Any:
    if value is None or isinstance(value, tf.RaggedTensor | tf.SparseTensor):
        return value
    try:
        return tf.convert_to_tensor(value)
    except (ValueError, TypeError) as error:
        raise ModelError(
            f"the function that model.factory gives returns a {type(value).__name__} among its "
            f"results, which TensorFlow cannot convert to a tensor: {error_summary(error)}. "
            f"Return only tensors, arrays and numbers"
        ) from error


def _describe_sizes(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{axis}={size}" for axis, size in sizes.items()) or "those declared"
