"""Targets of gradients: what may be written, what fits a tensor, and what is stored of them."""

import re

import numpy as np
import pytest

from extractkit.core.catalog import Catalog, Kind, TensorRecord
from extractkit.core.plan import PlannedTensor, SampleLengths, plan_tensors
from extractkit.core.requests import BoundGradients, Gradient, unsuited
from extractkit.core.selectors import Selector, parse_selector
from extractkit.core.spec import TensorSpec
from extractkit.core.targets import Target
from extractkit.errors import ConfigError, SelectionError

AT = "selectors.g.gradient"


def record(
    address: str,
    *dims: str | int,
    kind: Kind = Kind.LAYER_OUTPUT,
    dtype: str = "float32",
    depends: bool = True,
) -> TensorRecord:
    labels = tuple(dim if isinstance(dim, str) else None for dim in dims)
    sizes = tuple(dim if isinstance(dim, int) else None for dim in dims)
    spec = TensorSpec.of(dtype, labels, sizes)
    return TensorRecord(address, kind, spec, depends_on_inputs=depends)


CATALOG = Catalog(
    [
        record("words:output", "sample", "token", 4),
        record("words:kernel", 9, 4, kind=Kind.WEIGHT, depends=False),
        record("ids:input", "sample", "token", kind=Kind.MODEL_INPUT, dtype="int32"),
        record("logits:output", "sample", "token", 5),
        record("pool:output", "sample", "f(token)"),
        record("score:output", "sample"),
        record("late:output", "sample", "?"),
        record(":output", "sample", 3, kind=Kind.MODEL_OUTPUT),
    ],
    "tiny",
)


def of_words(of: object, name: str = "g") -> Selector:
    return parse_selector(name, {"path": "words:output", "gradient": {"of": of}})


def plan(*selectors: Selector) -> list[PlannedTensor]:
    gradients = {
        one.name: BoundGradients(one.gradient.bound(CATALOG), {})
        for one in selectors
        if one.gradient is not None
    }
    return list(plan_tensors(CATALOG, selectors, gradients))


def planned(of: object) -> PlannedTensor:
    (found,) = plan(of_words(of))
    return found


@pytest.mark.parametrize(
    ("of", "text", "written"),
    [
        ("score:output", "score:output", {"tensor": "score:output", "index": []}),
        ("argmax", ":output[argmax]", {"tensor": ":output", "index": "argmax"}),
        ({"index": 2}, ":output[2]", {"tensor": ":output", "index": [2]}),
        (
            {"tensor": "logits:output", "index": [-1, 0]},
            "logits:output[-1, 0]",
            {"tensor": "logits:output", "index": [-1, 0]},
        ),
        (
            {"index": "argmax", "minus": 0},
            ":output[argmax] - :output[0]",
            {"tensor": ":output", "index": "argmax", "minus": [0]},
        ),
    ],
)
def test_a_target_is_planned(of: object, text: str, written: object) -> None:
    tensor = planned(of)
    assert isinstance(tensor.request, Gradient)
    assert (str(tensor.target), tensor.request.written) == (text, {"gradient": written})
    assert tensor.key == "words:output@grad"
    assert tensor.spec == TensorSpec.of("float32", ("sample", "token", None), (None, None, 4))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "selectors.g.gradient=3 is not {of: TARGET}, as in "),
        ({"to": 1}, "selectors.g.gradient={'to': 1} is not {of: TARGET}"),
        ({"of": "argmax", "to": 1}, "selectors.g.gradient.to does not exist. Nearest: 'of', "),
        (
            {"of": 3},
            "selectors.g.gradient.of=3 is not a target. Give the address of a tensor with one "
            "number per sample, argmax, or a mapping as in {tensor: ADDRESS, index: 3}",
        ),
        (
            {"of": {"tensors": "a:b"}},
            "selectors.g.gradient.of.tensors does not exist. Available: 'index', 'loss', "
            "'minus', 'tensor'.",
        ),
        ({"of": {"tensor": 3}}, "selectors.g.gradient.of.tensor=3 is not the address of a tensor"),
        ({"of": {"index": "last"}}, "selectors.g.gradient.of.index='last' is not an index. Write"),
        ({"of": {"index": [1, True]}}, "selectors.g.gradient.of.index=[1, True] is not an index"),
        ({"of": {}}, "selectors.g.gradient.of.index is missing. Give an index, as in "),
        ({"of": {"minus": 0}}, "selectors.g.gradient.of.index is missing"),
        ({"of": {"tensor": "a:b", "minus": 0}}, "selectors.g.gradient.of.index is missing"),
        ({"of": {"index": 1, "minus": 1}}, "is the index itself: the difference is always 0"),
    ],
)
def test_what_is_not_a_target(given: object, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_selector("g", {"path": "*", "gradient": given})


@pytest.mark.parametrize(
    ("of", "message"),
    [
        (
            {"tensor": "logits:output", "index": 3},
            "selectors.g.gradient.of is not one number per sample: 'logits:output' has dims "
            "['token', '5'] besides the samples, and selectors.g.gradient.of.index gives 1 "
            "number. Give one for each axis, as in 'selectors.g.gradient.of={tensor: "
            '"logits:output", index: [0, 0]}\'',
        ),
        (
            {"tensor": "logits:output"},
            "selectors.g.gradient.of is not one number per sample: 'logits:output' has dims "
            "['token', '5'] besides the samples, and selectors.g.gradient.of.index gives no "
            "number. Give one for each axis, as in 'selectors.g.gradient.of={tensor: "
            '"logits:output", index: [0, 0]}\'',
        ),
        (
            {"tensor": "logits:output", "index": "argmax", "minus": 3},
            "selectors.g.gradient.of is not one number per sample: 'logits:output' has dims "
            "['token', '5'] besides the samples, and selectors.g.gradient.of.minus gives 1 "
            "number. Give one for each axis, as in 'selectors.g.gradient.of={tensor: "
            '"logits:output", index: argmax, minus: [0, 0]}\'',
        ),
        (
            {"tensor": "logits:output", "index": [-1, 4], "minus": [-1, -1]},
            "selectors.g.gradient.of.minus=[-1, -1] is the index itself in 'logits:output', which "
            "has dims ['token', '5'] besides the samples: the difference is always 0",
        ),
        (
            {"tensor": "score:output", "index": 3},
            "selectors.g.gradient.of is not one number per sample: 'score:output' has no other "
            "axis, and selectors.g.gradient.of.index gives 1 number. Give its address alone: "
            "'selectors.g.gradient.of=\"score:output\"'",
        ),
        (
            {"index": 3},
            "selectors.g.gradient.of.index takes element 3 of an axis of ':output' that has "
            "3 elements",
        ),
        (
            {"tensor": "score:output", "index": "argmax"},
            "selectors.g.gradient.of.index=argmax: 'score:output' has no axis besides that of the "
            "samples. Give its address alone: 'selectors.g.gradient.of=\"score:output\"'",
        ),
        (
            "ids:input",
            "selectors.g.gradient.of: 'ids:input' cannot be a target, because it holds int32, and "
            "gradients need real numbers",
        ),
        (
            "words:kernel",
            "selectors.g.gradient.of: 'words:kernel' cannot be a target, because it does not "
            "depend on the inputs",
        ),
        (
            {"tensor": "pool:output", "index": 0},
            "selectors.g.gradient.of: the model computes the length of an axis of 'pool:output', "
            "which has dims ['f(token)']. Choose a target without such an axis",
        ),
    ],
)
def test_a_target_that_does_not_fit(of: object, message: str) -> None:
    with pytest.raises(SelectionError) as refused:
        planned(of)
    assert str(refused.value) == message


def test_an_unknown_target_names_the_nearest() -> None:
    with pytest.raises(SelectionError) as refused:
        planned("logit:output")
    assert str(refused.value).startswith(
        "selectors.g.gradient.of: 'logit:output' is not a tensor of model 'tiny'. Nearest: "
        "'logits:output', "
    )


def test_a_target_without_a_name_needs_one_output() -> None:
    outputs = [record(f":output.{name}", "sample", kind=Kind.MODEL_OUTPUT) for name in "ab"]
    target = Target.parse({"of": "argmax"}, AT)
    with pytest.raises(SelectionError) as refused:
        target.bound(Catalog(outputs, "tiny"))
    assert str(refused.value) == (
        "selectors.g.gradient.of does not name a tensor, and model 'tiny' has 2 outputs. Name "
        "one, as in 'selectors.g.gradient.of={tensor: \":output.a\", index: argmax}'. Available: "
        "':output.a', ':output.b'."
    )


def test_axes_that_have_to_be_measured_are_left_open() -> None:
    target = planned({"tensor": "late:output", "index": 4}).target
    assert target is not None
    assert target.layout is None
    known = target.target.of(record("late:output", "sample", 5))
    assert known.layout is not None
    with pytest.raises(SelectionError, match="is not one number per sample"):
        target.target.of(record("late:output", "sample", 5, 6))


@pytest.mark.parametrize(
    ("index", "short"),
    [([-1, 0], [1]), ([2, 0], [0, 1]), ("argmax", [1])],
)
def test_a_sample_without_the_element_is_too_short(index: object, short: list[int]) -> None:
    tensor = planned({"tensor": "logits:output", "index": index})
    lengths = SampleLengths(3, {"token": np.array([2, 0, 3])})
    found = tensor.too_short(lengths)
    assert list(found) == short
    assert "in 'logits:output'" in found[1]
    with pytest.raises(SelectionError, match=rf"of 'token' in 'logits:output', but {len(short)}"):
        tensor.check_lengths(lengths)


def test_values_and_gradients_of_one_tensor_have_keys_of_their_own() -> None:
    values = parse_selector("v", {"path": "words:output"})
    same = [of_words("argmax"), of_words({"index": "argmax"}, "h")]
    keys = [one.key for one in plan(values, *same)]
    assert keys == ["words:output", "words:output@grad"]
    other = [of_words("argmax"), of_words({"index": 0}, "h")]
    keys = [one.key for one in plan(values, *other)]
    assert keys == ["words:output", "words:output@grad@g", "words:output@grad@h"]


def test_a_selector_may_not_take_the_key_of_a_gradient() -> None:
    two = [
        parse_selector("grad", {"path": "words:output"}),
        parse_selector("mean", {"path": "words:output", "reduce": "mean"}),
        of_words("argmax"),
    ]
    with pytest.raises(SelectionError) as refused:
        plan(*two)
    assert str(refused.value) == (
        "selectors.grad and selectors.g would both store 'words:output@grad'. Give one of these "
        "selectors another name"
    )


def test_weights_need_calls_on_single_samples() -> None:
    kernel, ids = CATALOG["words:kernel"], CATALOG["ids:input"]
    assert unsuited(kernel, alone=True) is None
    assert unsuited(kernel, alone=False) == (
        "it has no axis of samples, and in a batch its gradient is that of all samples "
        "(runtime.batch_size=1 gives one for each)"
    )
    assert unsuited(ids, alone=True) == "it holds int32, and gradients need real numbers"
