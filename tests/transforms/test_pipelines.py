"""Pipelines: what may be written, and what it does to dims, shape and dtype."""

import numpy as np
import pytest
import tensorflow as tf

from extractkit.core.spec import TensorSpec
from extractkit.core.transforms import Masked
from extractkit.core.transforms.casting import CASTS
from extractkit.core.transforms.pipeline import BoundPipeline, Pipeline
from extractkit.core.transforms.slicing import Slice
from extractkit.errors import ConfigError, SelectionError

TOKENS = ("sample", "token", None)
ATTENTION = ("sample", None, "token", "token")


def parse(**entries: object) -> Pipeline:
    return Pipeline.parse(entries, "selectors.mine")


def bind(
    pipeline: Pipeline,
    address: str,
    labels: tuple[str | None, ...],
    shape: tuple[int | None, ...],
    dtype: str,
) -> BoundPipeline:
    """The main result of a pipeline for a tensor."""
    return pipeline.bind(address, TensorSpec.of(dtype, labels, shape))[""]


def slices(written: object) -> tuple[tuple[str | int, object], ...]:
    (step,) = parse(slice=written).steps
    assert isinstance(step, Slice)
    return step.indices


@pytest.mark.parametrize(
    ("written", "index"),
    [
        (0, 0),
        (-1, -1),
        ("3", 3),
        ("0:4", (0, 4, None)),
        (" 1 : 2 ", (1, 2, None)),
        (":", (None, None, None)),
        ("::2", (None, None, 2)),
        ("-3:", (-3, None, None)),
    ],
)
def test_a_slice_is_written_as_in_python(written: object, index: object) -> None:
    assert slices({"token": written}) == (("token", index),)


def test_axes_have_names_or_numbers() -> None:
    axes = [name for name, _ in slices({"token": 0, 2: 0, "3": 0})]
    assert axes == ["token", 2, 3]


def test_what_is_not_said_changes_nothing() -> None:
    shape = (None, None, 4)
    bound = bind(parse(), "a:output", TOKENS, shape, "float32")
    assert bound.spec == TensorSpec.of("float32", TOKENS, shape)


def test_two_selectors_may_ask_for_the_same() -> None:
    here, there = (Pipeline.parse({"cast": "int8"}, at) for at in ("selectors.a", "selectors.b"))
    assert here.same_as(there)
    assert not here.same_as(parse(cast="int16"))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {"cast": "float31"},
            "cast='float31' is not a dtype. Nearest: 'float16', 'float32', 'bfloat16'.",
        ),
        ({"cast": ["int8"]}, "cast=['int8'] is not a dtype. Nearest: 'int8', 'uint8', 'int16'."),
        (
            {"reduce": "median"},
            "reduce='median' is not a reduction. Nearest: 'mean', 'min', 'max'.",
        ),
        (
            {"reduce": {"token": None}},
            "reduce=None is not a reduction. Nearest: 'min', 'mean', 'norm'.",
        ),
        (
            {"reduce": ["mean"]},
            "reduce=['mean'] is not a reduction. Nearest: 'mean', 'max', 'min'.",
        ),
        (
            {"reduce": {"token": {"op": "mean"}}},
            "reduce={'op': 'mean'} is not a reduction. Nearest: 'mean', 'max', 'min'.",
        ),
        (
            {"reduce": {"": "mean"}},
            "reduce: '' does not name an axis. Use a dim such as token, or a number",
        ),
        (
            {"slice": {"*": 0}},
            "slice: '*' does not name an axis. Use a dim such as token, or a number",
        ),
        ({"slice": "0:4"}, "slice='0:4' is not a mapping of axis to slice, as in {token: '0:4'}"),
        *(
            (
                {"slice": {"token": wrong}},
                f"slice.token={wrong!r} is not a slice. Write a number, or '0:4', '::2'",
            )
            for wrong in ("", "a:b", "0:4:0", "1:2:3:4", 1.5, True, None, [0, 4])
        ),
    ],
)  # fmt: skip
def test_it_refuses(entries: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(**entries)
    assert str(caught.value) == f"selectors.mine.{message}"


@pytest.mark.parametrize(
    ("do", "message"),
    [
        ("mean", "do='mean' is not a list of transforms, as in [{mean: token}]"),
        (
            [{"mean": 1, "abs": None}],
            "do.0={'mean': 1, 'abs': None} is not one transform. Write its name, or a mapping of "
            "its name to its options, as in {mean: token}",
        ),
        (
            ["abs", {"maen": 1}],
            "do.1.maen: 'maen' is not a transform. Nearest: 'mean', 'max', 'min'.",
        ),
        ([{"abs": 3}], "do.0.abs takes no options, given 3"),
        ([{"threshold": "much"}], "do.0.threshold='much' is not a number"),
        ([{"threshold": 10**400}], f"do.0.threshold={10**400} is not a number"),
        (
            [{"threshold": -1}],
            "do.0.threshold=-1.0 is negative, but absolute values are compared with it",
        ),
        ([{"mean": []}], "do.0.mean is an empty list of axes"),
        (
            [{"argmax": "*"}],
            "do.0.argmax: '*' does not name an axis. Use a dim such as token, or a number",
        ),
        (["argmax"], "do.0.argmax needs an axis. Give a dim such as token, or a number"),
        (
            [{"topk": {"k": 1}}],
            "do.0.topk.axis needs an axis. Give a dim such as token, or a number",
        ),
        (
            [{"quantile": 0.5}],
            "do.0.quantile=0.5 is not a mapping of options, as in {q: 0.5, axis: token}",
        ),
        ([{"quantile": {"q": [0.5, 2]}}], "do.0.quantile.q=2.0 is not between 0 and 1"),
        (
            [{"quantile": {"p": 1}}],
            "do.0.quantile.p does not exist. Available: q, axis. For example {q: 0.5, axis: token}",
        ),
        (
            [{"histogram": {}}],
            "do.0.histogram takes edges, or bins and range. Write for example "
            "{bins: 20, range: [-1, 1]}",
        ),
        (
            [{"histogram": {"edges": [0, 1, 1]}}],
            "do.0.histogram: the edges must ascend, and 1.0 follows 1.0",
        ),
        (
            [{"histogram": {"bins": 4, "range": [0]}}],
            "do.0.histogram.range=[0] is not two numbers, as in [-1, 1]",
        ),
        (
            [{"topk": {"axis": 1, "k": 0}}],
            "do.0.topk.k=0 is not a whole number from 1 to 2,147,483,647",
        ),
        (
            [{"topk": {"axis": 1, "k": 1, "smallest": 1}}],
            "do.0.topk.smallest=1 is neither true nor false",
        ),
        (
            [{"pool": {"axis": 1, "window": 2, "op": "median"}}],
            "do.0.pool.op='median' is not known. Available: 'max', 'mean', 'min', 'sum'.",
        ),
        (
            [{"quantize": "int4"}],
            "do.0.quantize='int4' is not a type to quantize to. Available: int8",
        ),
    ],
)
def test_the_full_form_refuses(do: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(do=do)
    assert str(caught.value) == f"selectors.mine.{message}"


def test_full_and_short_forms_exclude_each_other() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(do=["abs"], cast="float16")
    assert str(caught.value) == (
        "selectors.mine.do and selectors.mine.cast exclude each other: write cast as a step of "
        "selectors.mine.do"
    )


def test_short_forms_are_steps_in_their_order() -> None:
    short = parse(cast="float16", reduce={"token": "mean"}, slice={"token": "1:"})
    full = parse(do=[{"slice": {"token": "1:"}}, {"mean": "token"}, {"cast": "float16"}])
    assert short.same_as(full)


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (
            [{"topk": {"axis": 2, "k": 5}}],
            "do.0.topk.k=5 is larger than the axis of 'a:output', which has 4 elements",
        ),
        (
            [{"project": {"axis": 2, "to": 5}}],
            "do.0.project.to=5 is larger than the axis of 'a:output', which has 4 elements",
        ),
        (
            [{"project": {"axis": "token", "to": 2}}],
            "do.0.project needs an axis of one size, and token of 'a:output' differs from sample "
            "to sample",
        ),
        (
            [{"mean": "*"}, {"sparsify": 3}],
            "do.1.sparsify needs an axis, and 'a:output' has none",
        ),
        (
            [{"mean": "*"}, "softmax"],
            "do.1.softmax needs an axis, and 'a:output' has none",
        ),
    ],
)
def test_a_step_does_not_fit_what_the_steps_before_make(do: object, message: str) -> None:
    with pytest.raises(SelectionError) as caught:
        bind(parse(do=do), "a:output", TOKENS, (None, None, 4), "float32")
    assert str(caught.value) == f"selectors.mine.{message}"


def test_one_axis_is_asked_for_and_the_name_means_two() -> None:
    with pytest.raises(SelectionError) as caught:
        bind(parse(do=[{"argmax": "token"}]), "a:b", ATTENTION, (None, 2, None, None), "float32")
    assert str(caught.value) == (
        "selectors.mine.do.0.argmax takes one axis, and 'token' names 2 of 'a:b' with dims "
        "['sample', None, 'token', 'token']. Give one by its number: 2, 3"
    )


def test_a_flattened_axis_has_a_name() -> None:
    for shape in [(None, 3, 4), (None, None, 4)]:
        spec = TensorSpec.of("float32", ("sample", None if shape[1] else "token", None), shape)
        bound = parse(do=["flatten", {"topk": {"axis": "flat", "k": 2}}]).bind("a:b", spec)[""]
        found = bound.in_numpy(np.arange(12, dtype=np.float32).reshape(3, 4))
        assert found.tolist() == [11, 10]


def test_a_range_beyond_a_fixed_axis_is_refused() -> None:
    with pytest.raises(SelectionError) as caught:
        bind(parse(slice={2: "9:"}), "a:output", TOKENS, (None, None, 4), "float32")
    assert str(caught.value) == (
        "selectors.mine.slice takes nothing of an axis of 'a:output' that has 4 elements"
    )


def test_further_results_have_names() -> None:
    spec = TensorSpec.of("float32", TOKENS, (None, None, 4))
    steps = [{"topk": {"axis": 2, "k": 3}}, {"topk": {"axis": 2, "k": 2}}, {"cast": "float16"}]
    results = parse(do=steps).bind("a:b", spec)
    assert {name: bound.spec.dtype for name, bound in results.items()} == {
        "": "float16",
        "indices": "int32",
        "indices2": "int32",
    }
    assert [bound.spec.shape[2] for bound in results.values()] == [2, 3, 2]


def test_a_superscript_is_no_number_of_an_axis() -> None:
    assert slices({"²": 0}) == (("²", 0),)


SAMPLE_STAYS = "The sample axis cannot be sliced or reduced; inputs.limit takes the first samples"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {"slice": {"tokn": 0}},
            "selectors.mine.slice names axis 'tokn', which 'a:output' with dims "
            f"['sample', 'token', None] does not have. Available: token, 1, 2. {SAMPLE_STAYS}",
        ),
        (
            {"reduce": {0: "mean"}},
            "selectors.mine.reduce names axis 0, which 'a:output' with dims "
            f"['sample', 'token', None] does not have. Available: token, 1, 2. {SAMPLE_STAYS}",
        ),
        (
            {"reduce": {"sample": "mean"}},
            "selectors.mine.reduce names axis 'sample', which 'a:output' with dims "
            f"['sample', 'token', None] does not have. Available: token, 1, 2. {SAMPLE_STAYS}",
        ),
        (
            {"slice": {2: 4}},
            "selectors.mine.slice takes element 4 of an axis of 'a:output' that has 4 elements",
        ),
        (
            {"slice": {2: -5}},
            "selectors.mine.slice takes element -5 of an axis of 'a:output' that has 4 elements",
        ),
        (
            {"reduce": {"token": "mean", 1: "max"}},
            "selectors.mine.reduce names axis 1, which 'a:output' with dims ['sample', None] does "
            f"not have. Available: 2. {SAMPLE_STAYS}",
        ),
        (
            {"slice": {"token": 0, 1: "0:4"}},
            "selectors.mine.slice names an axis of 'a:output' with dims ['sample', 'token', None] "
            "twice, by 'token' and 1",
        ),
    ],
)
def test_it_does_not_fit_the_tensor(entries: dict[str, object], message: str) -> None:
    with pytest.raises(SelectionError) as caught:
        bind(parse(**entries), "a:output", TOKENS, (None, None, 4), "float32")
    assert str(caught.value) == message


@pytest.mark.parametrize(("key", "value"), [("reduce", "sum"), ("cast", "int8")])
def test_texts_are_not_numbers(key: str, value: str) -> None:
    with pytest.raises(SelectionError) as caught:
        bind(parse(**{key: value}), "a:output", ("sample",), (None,), "string")
    assert str(caught.value) == f"selectors.mine.{key} needs numbers, but 'a:output' holds texts"


def test_a_name_means_every_axis_that_bears_it() -> None:
    shape = (None, 12, None, None)
    bound = bind(parse(reduce={"token": "mean"}), "a:op/Softmax", ATTENTION, shape, "float32")
    assert bound.spec == TensorSpec.of("float32", ("sample", None), (None, 12))


def test_a_bare_reduction_means_every_axis_but_the_sample() -> None:
    bound = bind(parse(reduce="max"), "a:output", TOKENS, (None, None, 4), "int32")
    assert bound.spec == TensorSpec.of("int32", ("sample",), (None,))


def test_a_constant_has_no_sample_axis_to_be_spared() -> None:
    pipeline = parse(slice={0: 1}, reduce="sum")
    bound = bind(pipeline, "a:kernel", (None, None), (3, 4), "float32")
    assert bound.spec == TensorSpec.of("float32", (), ())


def test_every_cast_is_a_dtype_of_numpy() -> None:
    assert [np.dtype(name).name for name in CASTS] == list(CASTS)


def test_a_cast_counts_what_is_beyond_its_range() -> None:
    spec = TensorSpec.of("float32", ("sample", None), (None, 7))
    results = parse(cast="int8").bind("a:b", spec)
    values = np.array([1.9, -1.9, 127.9, 128.0, -300.7, np.nan, np.inf], np.float32)
    assert results[""].in_numpy(values).tolist() == [1, -1, 127, 127, -128, 0, 127]
    assert results["overflow"].in_numpy(values).tolist() == 4


@pytest.mark.parametrize(
    ("source", "target"),
    [
        *(("uint8", "int16"), ("bool", "int8"), ("float32", "float16"), ("float64", "float32")),
        *(("int64", "bool"), ("uint64", "bool")),  # any integer but 0 is true
    ],
)
def test_a_cast_that_cannot_overflow_counts_nothing(source: str, target: str) -> None:
    spec = TensorSpec.of(source, ("sample", None), (None, 7))
    assert list(parse(cast=target).bind("a:b", spec)) == [""]


LIMITS = (-(2**63), -(2**31), -(2**31) - 1, -129, -128, -1, 0, 127, 128, 255, 256, 2**31 - 1)
LARGE = (2**31, 2**63 - 1024, 2**63 - 1, 2**63, 2**64 - 2048, 2**64 - 1)


@pytest.mark.parametrize("source", ["int64", "uint64", "uint32", "float64", "bfloat16"])
@pytest.mark.parametrize("target", ["int8", "uint8", "int32", "int64"])
def test_a_cast_at_the_limits_is_that_of_whole_numbers(source: str, target: str) -> None:
    """Against Python's integers, which have no limits, in both forms."""
    dtype = tf.as_dtype(source).as_numpy_dtype
    if source in ("float64", "bfloat16"):
        values = np.array([*map(float, LIMITS), *map(float, LARGE)], dtype)
    else:
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
        values = np.array([n for n in LIMITS + LARGE if least <= n <= most], dtype)
    low, high = int(np.iinfo(target).min), int(np.iinfo(target).max)
    exact = [int(n) for n in values.astype(float if values.dtype.kind not in "iu" else dtype)]
    expected = [min(max(n, low), high) for n in exact]
    count = sum(not low <= n <= high for n in exact)
    results = parse(cast=target).bind("a:b", TensorSpec.of(source, ("sample", None), (None, 7)))
    found = [results[""].in_numpy(values)]
    found.append(results[""].in_graph(tf, Masked(tf.constant(values[None]), {}))[0].numpy())
    for one in found:
        assert one.tolist() == expected
    if "overflow" in results:
        over = results["overflow"]
        assert over.in_numpy(values).tolist() == count
        assert over.in_graph(tf, Masked(tf.constant(values[None]), {})).numpy().tolist() == [count]
    else:
        assert not count


def test_counts_of_one_sample_that_would_not_fit_into_memory_are_refused() -> None:
    spec = TensorSpec.of("float32", ("sample", None, "token"), (None, 4000, None))
    steps = parse(do=[{"histogram": {"bins": 100_000, "range": [0, 1], "axis": "token"}}])
    with pytest.raises(SelectionError) as caught:
        steps.bind("a:b", spec)
    assert str(caught.value) == (
        "selectors.mine.do.0.histogram of 'a:b' would hold 3,200,000,000 bytes for each sample, "
        "more than 268,435,456. Count over more axes together, or in at most 8,388 intervals"
    )


def test_the_largest_elements_have_an_axis_of_their_own() -> None:
    for size, label in [(None, "element=token*2"), (3, "element")]:
        spec = TensorSpec.of(
            "float32", ("sample", "token" if size is None else None, None), (None, size, 2)
        )
        bound = parse(do=[{"sparsify": 4}]).bind("a:b", spec)[""]
        assert bound.spec.labels == ("sample", label)
