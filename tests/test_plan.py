"""What is stored of each tensor, how large it is, and how samples are cut into shards."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractkit.core import shards as cutting
from extractkit.core.catalog import Catalog, Kind, Layout, TensorRecord
from extractkit.core.plan import (
    Constant,
    OverSamples,
    PerSample,
    PlannedTensor,
    SampleLengths,
    divided,
    held_per_sample,
    plan_tensors,
)
from extractkit.core.selectors import parse_selector
from extractkit.core.shards import CONSTANTS_SHARD, Part, Shard, plan_shards
from extractkit.core.spec import TensorSpec, numpy_dtype
from extractkit.core.statistics.registry import Asked
from extractkit.core.values import Assembly
from extractkit.errors import SelectionError

Dims = tuple[str | None, ...] | None
Shape = tuple[int | None, ...] | None


def record(
    dims: Dims, shape: Shape, dtype: str = "float32", address: str = "a:op/X"
) -> TensorRecord:
    return TensorRecord(address, Kind.OP, TensorSpec.of(dtype, dims, shape))


def planned(record: TensorRecord, **selector: object) -> PlannedTensor:
    chosen = parse_selector("mine", {"path": "*", **selector})
    return plan_tensors(Catalog([record]), [chosen])[0]


@pytest.mark.parametrize(
    ("dims", "shape", "expected"),
    [
        # The sample axis first, wherever the model has it.
        (("sample", "token"), (None, None), (0, False, ("sample", "token"), (None, None))),
        (("sample", None), (None, 4), (0, False, ("sample", None), (None, 4))),
        ((None, "sample"), (4, None), (1, False, ("sample", None), (None, 4))),
        (("token", "sample"), (None, None), (1, False, ("sample", "token"), (None, None))),
        # A product of samples and something else, split where it stands.
        (("sample*token", None), (None, 4), (0, True, ("sample", "token", None), (None, None, 4))),
        (("sample*12", None), (None, 4), (0, True, ("sample", None, None), (None, 12, 4))),
        ((None, "sample*token"), (3, None), (1, True, ("sample", None, "token"), (None, 3, None))),
        (("sample*f(token)",), (None,), (0, True, ("sample", "f(token)"), (None, None))),
        # Without a sample axis it is, as a whole, the value of the one sample of a call.
        ((None, "token"), (3, None), (0, False, ("sample", None, "token"), (None, 3, None), True)),
        ((), (), (0, False, ("sample",), (None,), True)),
        # To be measured first.
        (("sample", "?"), (None, None), None),
        (None, None, None),
    ],
)  # fmt: skip
def test_the_stored_layout(dims: Dims, shape: Shape, expected: tuple[object, ...] | None) -> None:
    found = Layout.of(record(dims, shape))
    if expected is None:
        assert found is None
        return
    axis, split, labels, sizes, *whole = expected
    assert found is not None
    stored = TensorSpec("", found.dims)
    assert (found.axis, found.split, stored.labels, stored.shape) == (axis, split, labels, sizes)
    assert found.whole == bool(whole)


@pytest.mark.parametrize(("dims", "shape"), [((None, None), (3, 4)), ((), ())])
def test_what_does_not_depend_on_samples_has_no_axis_of_them(dims: Dims, shape: Shape) -> None:
    constant = replace(record(dims, shape), depends_on_inputs=False)
    assert Layout.of(constant) == Layout(None, False, constant.spec.axes)


def test_two_selectors_that_agree_store_a_tensor_once() -> None:
    catalog = Catalog([record(("sample", None), (None, 4))])
    selectors = [parse_selector(name, {"path": "*", "cast": "float16"}) for name in ("a", "b")]
    (tensor,) = plan_tensors(catalog, selectors)
    assert (tensor.key, tensor.selectors, tensor.spec.dtype) == ("a:op/X", ("a", "b"), "float16")


def test_two_selectors_that_differ_store_it_under_their_names() -> None:
    catalog = Catalog([record(("sample", None), (None, 4))])
    selectors = [
        parse_selector("whole", {"path": "*"}),
        parse_selector("mean", {"path": "*", "reduce": "mean"}),
        parse_selector("also", {"kind": "op"}),
    ]
    first, second = plan_tensors(catalog, selectors)
    assert (first.key, first.selectors) == ("a:op/X@whole", ("whole", "also"))
    assert (second.key, second.selectors) == ("a:op/X@mean", ("mean",))
    assert (first.spec.shape, second.spec.shape) == ((None, 4), (None,))


def test_tensors_are_planned_in_the_models_order() -> None:
    catalog = Catalog([record((), (), address=f"{name}:op/X") for name in "cab"])
    selectors = [parse_selector("one", {"path": "b:*"}), parse_selector("two", {"path": "*"})]
    assert [tensor.address[0] for tensor in plan_tensors(catalog, selectors)] == ["c", "a", "b"]


def test_an_unmeasured_tensor_has_no_shape_yet() -> None:
    tensor = planned(record(("?",), (None,), "bfloat16"))
    assert (tensor.layout, tensor.spec) == (None, TensorSpec("float32", None))
    assert not tensor.predictable
    with pytest.raises(ValueError, match=r"^the number of axes is unknown$"):
        _ = tensor.spec.sample_shape


def test_bfloat16_is_stored_as_float32_and_texts_as_objects() -> None:
    assert planned(record(("sample",), (None,), "bfloat16")).spec.dtype == "float32"
    assert numpy_dtype("bfloat16") == np.float32
    assert numpy_dtype("int8") == np.int8
    assert numpy_dtype("string").kind == "O"


def test_the_size_of_texts_is_not_known_in_advance() -> None:
    varying, constant = (
        planned(record(dims, shape, "string"))
        for dims, shape in ((("sample", None), (None, 3)), ((None,), (2,)))
    )
    lengths = SampleLengths(2, {})
    assert varying.bytes_per_sample(lengths) is None
    assert varying.sample_shapes(lengths) == [(3,), (3,)]
    assert constant.stored_bytes(SampleLengths(0, {}), 1) is None
    assert held_per_sample([varying], lengths).tolist() == [0, 0]
    assembly = Assembly(
        varying.spec.sample_shape, varying.spec.dtype, varying.sample_shapes(lengths), 2
    )
    assembly.put([1, 0], np.array([[b"d", b"", b"f"], [b"a", b"bb", b"c"]], object))
    assert assembly.finish().values.tolist() == [[b"a", b"bb", b"c"], [b"d", b"", b"f"]]


RECORDS = (
    record(("sample", "token", None), (None, None, 3)),
    record(("sample", None, "token", "token"), (None, 2, None, None), "float64"),
    record(("sample*token", None), (None, 3), "int16"),
    record(("sample", "token", "picture"), (None, None, None), "bool"),
    record(("sample", None), (None, 5), "bfloat16"),
    record(("sample",), (None,), "int64"),
)
TRANSFORMS: tuple[Mapping[str, object], ...] = (
    {},
    {"slice": {1: "1:6:2"}},
    {"slice": {1: 0}},
    {"reduce": "sum"},
    {"reduce": {1: "max"}, "cast": "float16"},
    {"slice": {1: "-3:"}},
    {"do": ["flatten", {"cast": "float16"}]},
    {"do": [{"pool": {"axis": 1, "window": 2}}, {"sparsify": 3}]},
)


@given(
    st.sampled_from(RECORDS),
    st.sampled_from(TRANSFORMS),
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 3)), min_size=1, max_size=5),
)
def test_predicted_bytes_and_shapes_are_those_of_the_arrays(
    record: TensorRecord, transform: Mapping[str, object], sizes: list[tuple[int, int]]
) -> None:
    if len(record.spec.axes) == 1:
        transform = {}
    tensor = planned(record, **transform)
    tokens, pictures = np.array(sizes, np.int64).T
    lengths = SampleLengths(len(sizes), {"token": tokens, "picture": pictures})
    assert tensor.layout is not None
    assert tensor.bound is not None
    values = []
    for token, picture in sizes:
        own = {"token": token, "picture": picture}
        whole = np.ones([dim.size or own[str(dim)] for dim in tensor.layout.dims[1:]])
        values.append(tensor.bound.in_numpy(whole).astype(tensor.spec.dtype))
    assert tensor.sample_shapes(lengths) == [value.shape for value in values]
    assert held_per_sample([tensor], lengths).tolist() == [value.nbytes for value in values]


def test_the_bytes_of_a_constant_are_those_of_its_array() -> None:
    weight = replace(record((None, None), (3, 4), "float16"), depends_on_inputs=False)
    kernel = planned(weight, slice={1: "::3"})
    assert kernel.stored == Constant()
    assert kernel.stored_bytes(SampleLengths(2, {}), 3) == np.ones((3, 2), "float16").nbytes
    counter = replace(record((), (), "int64"), depends_on_inputs=False)
    assert planned(counter).stored_bytes(SampleLengths(2, {}), 3) == 8
    assert held_per_sample([kernel], SampleLengths(2, {})).tolist() == [0, 0]


def test_values_of_statistics_count_like_those_that_are_stored() -> None:
    lengths = SampleLengths(2, {"token": np.array([3, 5])})
    stored = planned(record(("sample", "token", None), (None, None, 3), "float16"))
    counted = replace(stored, asked=Asked.parse("moments", "s"))
    assert held_per_sample([stored, counted], lengths).tolist() == [36, 60]


def test_a_length_that_the_model_computes_is_not_predicted() -> None:
    pooled = record(("sample", "f(token)", None), (None, None, 4))
    lengths = SampleLengths(2, {"token": np.array([3, 4])})
    stored = planned(pooled)
    assert stored.computed_lengths
    assert stored.sample_shapes(lengths) is None
    assert stored.bytes_per_sample(lengths) is None
    reduced = planned(pooled, reduce={1: "mean"})
    assert not reduced.computed_lengths
    assert held_per_sample([reduced], lengths).tolist() == [16, 16]
    # Padding could not be distinguished while reducing, so both want batches without it.
    assert not stored.bears_padding
    assert not reduced.bears_padding
    assert planned(RECORDS[0]).bears_padding


@pytest.mark.parametrize(
    ("index", "lacking"),
    [(0, None), (-1, None), (1, (1, 1, 1)), (2, (1, 1, 1)), (3, (2, 0, 3)), (-4, (2, 0, 3))],
)
def test_a_sample_too_short_for_the_element_taken_is_named(
    index: int, lacking: tuple[int, int, int] | None
) -> None:
    lengths = SampleLengths(3, {"token": np.array([3, 1, 4])})
    tensor = planned(RECORDS[0], slice={"token": index})
    if lacking is None:
        tensor.check_lengths(lengths)
        return
    with pytest.raises(SelectionError) as caught:
        tensor.check_lengths(lengths)
    count, first, length = lacking
    assert str(caught.value) == (
        f"selectors.mine.slice takes element {index} of 'token' in 'a:op/X', but {count} of 3 "
        f"samples are shorter, first sample {first} with {length}. Take a range, as in '0:4'"
    )


@pytest.mark.parametrize(
    ("taken", "longest"),
    [("3:", None), ("4:", 4), ("9:12", 4), ("-9:-4", 4), ("-2:", None), (":2", None), ("2:2", 4)],
)
def test_a_range_that_no_sample_has_is_refused(taken: str, longest: int | None) -> None:
    lengths = SampleLengths(3, {"token": np.array([3, 1, 4])})
    tensor = planned(RECORDS[0], slice={"token": taken})
    tensor.check_lengths(lengths)  # a single sample without elements is none too short
    if longest is None:
        tensor.check_ranges(lengths)
        return
    with pytest.raises(SelectionError) as caught:
        tensor.check_ranges(lengths)
    assert str(caught.value) == (
        "selectors.mine.slice takes nothing of 'token' in 'a:op/X': the longest of 3 samples has 4"
    )


def test_a_range_after_other_steps_is_that_of_what_they_leave() -> None:
    lengths = SampleLengths(3, {"token": np.array([9, 5, 2])})
    steps = [{"slice": {"token": "-4:"}}, {"slice": {"token": "4:"}}]
    with pytest.raises(SelectionError) as caught:
        planned(RECORDS[0], do=steps).check_ranges(lengths)
    assert str(caught.value) == (
        "selectors.mine.do.1.slice takes nothing of 'token' in 'a:op/X': the longest of 3 samples "
        "has 4 after the steps before it"
    )
    # Empty samples have nothing to take.
    empty = SampleLengths(2, {"token": np.array([0, 0])})
    planned(RECORDS[0], slice={"token": "2:"}).check_ranges(empty)


@pytest.mark.parametrize(
    ("step", "left"),
    [
        ({"slice": {"token": "-4:"}}, [4, 4, 2]),
        ({"slice": {"token": "::3"}}, [3, 2, 1]),
        ({"pool": {"axis": "token", "window": 2, "stride": 2, "op": "max"}}, None),
    ],
)
@pytest.mark.parametrize("index", [0, 1, 3, 6, -1, -3, -5])
def test_elements_are_those_that_the_steps_before_leave(
    step: Mapping[str, object], left: list[int] | None, index: int
) -> None:
    lengths = SampleLengths(3, {"token": np.array([9, 5, 2])})
    tensor = planned(RECORDS[0], do=[step, {"slice": {"token": index}}])
    if left is None:
        alone = planned(RECORDS[0], do=[step])
        assert alone.bound is not None
        left = [len(alone.bound.in_numpy(np.zeros((n, 3), np.float32))) for n in (9, 5, 2)]
    short = {at for at, n in enumerate(left) if not -n <= index < n}
    assert set(tensor.too_short(lengths)) == short
    if not short:
        tensor.check_lengths(lengths)
        return
    with pytest.raises(SelectionError) as caught:
        tensor.check_lengths(lengths)
    first = min(short)
    assert str(caught.value) == (
        f"selectors.mine.do.1.slice takes element {index} of 'token' in 'a:op/X', but {len(short)} "
        f"of 3 samples are shorter after the steps before it, first sample {first} with "
        f"{left[first]}. Take a range, as in '0:4'"
    )


def test_parts_of_lengths() -> None:
    lengths = SampleLengths(4, {"token": np.array([5, 6, 7, 8])})
    assert lengths.part(1, 3).axes["token"].tolist() == [6, 7]
    assert lengths.take([3, 0]).axes["token"].tolist() == [8, 5]
    assert (lengths.part(1, 3).samples, lengths.take([3, 0]).samples) == (2, 2)


def test_the_keys_of_shards_sort_as_their_samples_do() -> None:
    shards = [Shard(5, 10), Shard(0, 5), Shard(10, 12_000_000)]
    assert [s.start for s in sorted(shards, key=lambda s: s.key)] == [0, 5, 10]
    assert Shard(5, 10).key == "000000005-000000010"
    assert CONSTANTS_SHARD.key == "constants"


@given(st.lists(st.integers(0, 12), max_size=40), st.integers(1, 30), st.none() | st.integers(1, 9))
def test_shards_cover_every_sample_once_within_their_limits(
    per_sample: list[int], limit: int, shard_size: int | None
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "SHARD_BYTES", limit)
        patch.setattr(cutting, "SHARD_SAMPLES", 7)
        shards = plan_shards(np.array(per_sample, np.int64), shard_size)
    covered = [position for shard in shards for position in range(shard.start, shard.stop)]
    assert covered == list(range(len(per_sample)))
    assert all(len(shard) for shard in shards)
    if shard_size is not None:
        assert all(len(shard) == shard_size for shard in shards[:-1])
        assert all(len(shard) <= shard_size for shard in shards)
        return
    for shard in shards:
        size = sum(per_sample[shard.start : shard.stop])
        assert len(shard) == 1 or size <= limit
        assert len(shard) <= 7
        # As large as it may be: one more sample would be too much.
        more = len(shard) + 1 > 7 or shard.stop == len(per_sample)
        assert more or size + per_sample[shard.stop] > limit


@given(st.integers(0, 60), st.integers(1, 20))
def test_parts_hold_every_shard_once_and_in_order(shards: int, count: int) -> None:
    every = [Shard(at, at + 1) for at in range(shards)]
    parts = [part.of(every) for part in Part(1, count).siblings]
    assert [shard for part in parts for shard in part] == every
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert [Part.parse(str(part)) for part in Part(1, count).siblings] == list(
        Part(1, count).siblings
    )


def test_what_is_stored_follows_from_the_axes_and_what_is_asked_for() -> None:
    per_sample = planned(record(("sample", None), (None, 4)))
    over_samples = planned(record(("sample", None), (None, 4)), statistics=["moments"])
    weight = replace(record((None,), (4,)), depends_on_inputs=False)
    constant = planned(weight, statistics=["moments"])
    unmeasured = planned(record(("?", None), (None, 4)))
    assert (per_sample.stored, unmeasured.stored) == (PerSample(), PerSample())
    assert (constant.stored, constant.statistics.names) == (Constant(), ())
    assert isinstance(over_samples.stored, OverSamples)
    assert over_samples.statistics.names == ("moments",)
    every = (over_samples, constant, per_sample, unmeasured)
    assert divided(every) == ((constant,), (over_samples, per_sample, unmeasured))


def test_statistics_are_stored_once_for_each_shard_and_values_once_for_each_sample() -> None:
    lengths = SampleLengths(10, {})
    values = planned(record(("sample", None), (None, 4)))
    moments = planned(record(("sample", None), (None, 4)), statistics=["moments"])
    assert (values.stored_bytes(lengths, 2), values.stored_bytes(lengths, 5)) == (160, 160)
    (once, thrice) = (moments.stored_bytes(lengths, 1), moments.stored_bytes(lengths, 3))
    assert once is not None
    assert thrice == 3 * once > 0
