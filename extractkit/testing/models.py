"""The contract tests of model adapters.

A test module of an adapter subclasses `ModelContract` and provides the model:

    class TestMyModel(ModelContract):
        def model(self) -> Model:
            return load("tiny.file")

pytest then collects the tests below. Samples are drawn from the model's own signature.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from extractkit.core.catalog import VARIABLES, Kind, Layout, TensorRecord
from extractkit.core.requests import Request, Value
from extractkit.core.spec import SAMPLE, STEP, TAKEN, numpy_dtype, storable
from extractkit.core.values import Array
from extractkit.engine.batches import Batch, collate, converted
from extractkit.errors import SelectionError
from extractkit.inputs.random import Random
from extractkit.models import (
    ChecksSizes,
    Compilation,
    Fetch,
    HasOwnCall,
    Model,
    OwnCall,
    checkpoint_axis_of,
    lacking,
)


@dataclass(frozen=True, slots=True)
class _Unknown(Request):
    """A kind of request that no adapter knows."""

    what = "echo"


class WeightsContract:
    """Tests that every model must pass, including one with only weights."""

    def model(self) -> Model:
        """Load and return the model under test."""
        raise NotImplementedError

    def test_it_defines_every_member_of_a_model(self) -> None:
        assert not lacking(self.model())

    def test_two_loads_agree(self) -> None:
        one, two = self.model(), self.model()
        assert _without_generated_names(one) == _without_generated_names(two)
        assert one.weights_digest() == two.weights_digest()
        assert one.definition_digest() == two.definition_digest()
        assert one.signature == two.signature

    def test_an_unextractable_tensor_has_a_reason(self) -> None:
        for record in self.model().catalog.records:
            assert record.extractable or record.reason, record.address

    def test_every_constant_comes_back_as_recorded(self) -> None:
        model = self.model()
        records = _extractable(model, depends=False)
        values = model.constants([Fetch(Value(record.address)) for record in records])
        for record, value in zip(records, values, strict=True):
            assert_fits(record, value, {})

    def test_an_unknown_kind_of_request_for_a_constant_is_refused(self) -> None:
        model = self.model()
        for record in _extractable(model, depends=False)[:1]:
            assert _refused(partial(model.constants, [Fetch(_Unknown(record.address))]))


class ModelContract(WeightsContract):
    """Tests that every model that computes something must pass, with each compiler.

    Attributes:
        length: length of samples along free axes. Raise it for a model that needs longer ones.
        compilation: the compiler, and the device.
    """

    length = 8
    compilation = Compilation()

    def compiles(self, record: TensorRecord) -> bool:
        """Return whether the compiler can compute a tensor."""
        return True

    def test_every_extractable_tensor_comes_back_as_recorded(self) -> None:
        model = self.model()
        records = self._computed(model)
        assert records
        program = model.program(
            [Fetch(Value(record.address)) for record in records], self.compilation
        )
        for samples in (1,) if model.signature.batch == 1 else (2, 3):
            batch = drawn(model, samples, self.length)
            sizes = {SAMPLE: samples} | dict.fromkeys(model.signature.free_axes, self.length)
            for record, value in zip(records, _run(program, batch), strict=True):
                assert_fits(record, value, sizes)

    def test_edges_lead_to_tensors_of_the_catalog(self) -> None:
        catalog = self.model().catalog
        if catalog.edges is None:  # optional: selectors cannot test neighbours then
            return
        consumed = catalog.edges.consumed
        assert len(consumed) == len(catalog)
        for record, taken in zip(catalog.records, consumed, strict=True):
            assert len(set(taken)) == len(taken)
            assert all(0 <= position < len(catalog) for position in taken)
            # An input or a weight of the model is not made in it.
            assert not taken or record.kind not in (Kind.MODEL_INPUT, *VARIABLES)
        assert any(consumed)

    def test_samples_come_first_in_what_is_stored(self) -> None:
        model = self.model()
        layouts = {
            record.address: layout
            for record in self._computed(model)
            if (layout := Layout.of(record)) is not None
        }
        fetches = [Fetch(Value(address), layout) for address, layout in layouts.items()]
        program = model.program(fetches, self.compilation)
        samples = model.signature.batch or 3
        for value in _run(program, drawn(model, samples, self.length)):
            assert value.shape[0] == samples

    def test_a_program_gives_the_outputs_that_the_model_gives_by_itself(self) -> None:
        model = self.model()
        before = model.weights_digest()
        records = [record for record in model.catalog.outputs if self.compiles(record)]
        batch = drawn(model, model.signature.batch or 2, self.length)
        expected = own_call(model).outputs(batch.features, batch.lengths)
        assert set(expected) == {record.address for record in model.catalog.outputs}
        fetches = [Fetch(Value(record.address)) for record in records]
        values = _run(model.program(fetches, self.compilation), batch)
        for record, value in zip(records, values, strict=True):
            assert_close(value, expected[record.address])
        assert model.weights_digest() == before

    def test_a_tensor_does_not_depend_on_other_fetches_or_earlier_calls(self) -> None:
        model = self.model()
        fetches = [Fetch(Value(record.address)) for record in self._computed(model)]
        program = model.program(fetches, self.compilation)
        batch = drawn(model, model.signature.batch or 2, self.length)
        expected = _run(program, batch)
        alone = _run(model.program(fetches[:1], self.compilation), batch)
        assert_close(alone[0], expected[0])
        again = converted(model, batch)
        for _ in range(2):
            for value, other in zip(program(*again.arguments), expected, strict=True):
                np.testing.assert_array_equal(value, other)

    def test_sizes_that_a_program_takes_are_accepted(self) -> None:
        model = self.model()
        if not isinstance(model, ChecksSizes):  # an optional ability
            return
        addresses = [record.address for record in self._computed(model)]
        sizes = dict.fromkeys(model.signature.free_axes, self.length)
        assert model.accepts_sizes(addresses, sizes)

    def test_an_unknown_kind_of_request_is_refused(self) -> None:
        model = self.model()
        for record in self._computed(model)[:1]:
            fetches = [Fetch(_Unknown(record.address))]
            assert _refused(partial(model.program, fetches, self.compilation))

    def test_encoded_samples_have_a_length_along_every_free_axis(self) -> None:
        model = self.model()
        source = Random(samples=2, length=self.length).bind(model.signature)
        for encoded in model.encode(source.read(0, 2)):
            assert set(encoded.sizes) == set(model.signature.free_axes)
            assert set(encoded.features) == {spec.name for spec in model.signature.specs}

    def _computed(self, model: Model) -> list[TensorRecord]:
        return [one for one in _extractable(model, depends=True) if self.compiles(one)]


def own_call(model: Model) -> OwnCall:
    """Return the model's own call, with the first checkpoint if it has several."""
    assert isinstance(model, HasOwnCall)
    return model.own_call(None if checkpoint_axis_of(model) is None else 0)


def drawn(model: Model, samples: int, length: int = ModelContract.length) -> Batch:
    """Return a batch of random samples, all of one length."""
    source = Random(samples=samples, length=length).bind(model.signature)
    return collate(model.signature, model.encode(source.read(0, samples)))


def assert_close(value: Array, expected: Array) -> None:
    """Check that numbers agree except for their last bits, and texts exactly."""
    if value.dtype.hasobject:
        np.testing.assert_array_equal(value, expected)
    else:
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


def assert_fits(record: TensorRecord, value: Array, sizes: Mapping[str, int]) -> None:
    """Check fixed axes against the recorded size, and others against their free axis."""
    assert value.dtype == numpy_dtype(storable(record.spec.dtype)), record.address
    if record.spec.dims is None:  # even the rank has to be measured
        return
    if value.shape == (0,) and record.spec.dims[0].name in (STEP, TAKEN):
        return  # no step or branch has run, so nothing shows the shape of its value
    assert len(record.spec.dims) == value.ndim, record.address
    for dim, got in zip(record.spec.dims, value.shape, strict=True):
        if not dim.unknown and not dim.computed:
            factors = dim.factors or (dim,)
            lengths = [sizes[one.follows] if one.follows else one.size or 0 for one in factors]
            assert math.prod(lengths) == got, record.address


def _without_generated_names(model: Model) -> list[TensorRecord]:
    """Return the records without the layers' own names, which may count earlier builds."""
    return [
        replace(record, name="", scopes=tuple(replace(scope, name="") for scope in record.scopes))
        for record in model.catalog.records
    ]


def _extractable(model: Model, *, depends: bool) -> list[TensorRecord]:
    return [
        record
        for record in model.catalog.records
        if record.extractable and record.depends_on_inputs is depends
    ]


def _refused(call: Callable[[], object]) -> bool:
    try:
        call()
    except SelectionError:
        return True
    return False


def _run(program: object, batch: Batch) -> Sequence[Array]:
    assert callable(program)
    values: Sequence[Array] = program(batch.features, batch.lengths)
    return values
