"""Methods of attribution as written: what may be given, what fits a tensor, and what is stored."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

import extractkit
from extractkit.core.attribution import Baseline, Integrate, Method
from extractkit.core.catalog import Catalog, Kind, TensorRecord
from extractkit.core.plan import PlannedTensor, plan_tensors
from extractkit.core.requests import BoundGradients, request_text
from extractkit.core.selectors import Selector, parse_selector
from extractkit.core.spec import TensorSpec
from extractkit.core.targets import Target
from extractkit.engine.gradients import check_method
from extractkit.errors import ConfigError, SelectionError
from extractkit.inputs import InputSpec, Signature
from tests.gradients.test_formats import ROWS, TOKENS, recurrent
from tests.gradients.test_targets import CATALOG, record

MAPS = replace(
    record("maps:output"),
    spec=TensorSpec.of("float32", ("height", "sample", "width", "channel"), (6, None, 5, 3)),
)


def selector(name: str = "g", **method: object) -> Selector:
    of = {"path": "maps:output", "gradient": {"of": "argmax", **method}}
    return parse_selector(name, of)


def method_of(one: Selector) -> Method:
    assert one.method is not None
    return one.method


def planned(*selectors: Selector) -> list[PlannedTensor]:
    catalog = Catalog([*CATALOG.records, MAPS], "tiny")
    gradients = {}
    for one in selectors:
        assert isinstance(one.gradient, Target)
        gradients[one.name] = BoundGradients(one.gradient.bound(catalog), {}, method=one.method)
    return list(plan_tensors(catalog, selectors, gradients))


@pytest.mark.parametrize(
    ("given", "written", "text"),
    [
        ({"times": "value"}, {"times": "value"}, "gradient × value"),
        (
            {"integrate": {}},
            {"integrate": {"steps": 64, "baseline": 0.0}},
            "integrated gradient",
        ),
        (
            {"integrate": {"steps": 8, "baseline": {"inputs": {"b": 1, "a": 0}}}},
            {"integrate": {"steps": 8, "baseline": {"inputs": {"a": 0.0, "b": 1.0}}}},
            "integrated gradient",
        ),
        (
            {"smooth": {"draws": 4}},
            {"smooth": {"draws": 4, "noise": 0.1, "seed": 0}},
            "smoothed gradient",
        ),
        ({"cam": True}, {"cam": {"channel": "channel"}}, "Grad-CAM"),
        ({"cam": {"channel": 3}}, {"cam": {"channel": 3}}, "Grad-CAM"),
        ({"cam": False}, {}, "gradient"),
        ({"times": None}, {}, "gradient"),
    ],
)
def test_a_method_is_planned(
    given: Mapping[str, object], written: Mapping[str, object], text: str
) -> None:
    first, *further = planned(selector(**given))
    target = {"tensor": ":output", "index": "argmax"}
    request = first.request.written
    assert request == {"gradient": {**target, **written}}
    assert json.loads(json.dumps(request)) == request
    assert request_text(request) == f"{text} of :output[argmax]"
    assert [one.key for one in further] == (
        ["maps:output@grad@completeness"] if "integrate" in given else []
    )
    # As written, it is read as the same method.
    again = planned(selector(**written))
    assert again[0].request.written == request


def test_the_map_of_a_convolution_has_no_channels() -> None:
    (first,) = planned(selector(cam=True))
    assert first.spec.titles == ("sample", "height", "width")
    assert first.spec.shape == (None, 6, 5)
    (numbered,) = planned(selector(cam={"channel": 1}))
    assert numbered.spec.titles == ("sample", "width", "channel")


def test_completeness_is_one_number_per_sample_whatever_is_done_to_the_attributions() -> None:
    one = parse_selector(
        "g",
        {
            "path": "maps:output",
            "gradient": {"of": "argmax", "integrate": {}},
            "do": [{"sum": "*"}, {"cast": "float16"}],
        },
    )
    main, completeness = planned(one)
    assert (main.spec.dtype, completeness.spec.dtype) == ("float16", "float64")
    assert main.spec.titles == completeness.spec.titles == ("sample",)
    assert completeness.result == "completeness"


def test_methods_of_one_tensor_have_keys_of_their_own() -> None:
    keys = [
        one.key
        for one in planned(
            selector("plain"), selector("times", times="value"), selector("path", integrate={})
        )
    ]
    key = "maps:output@grad"
    assert keys == [
        f"{key}@plain",
        f"{key}@times",
        f"{key}@path",
        f"{key}@path@completeness",
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"times": 0}, "gradient.times=0 is not 'value', the value of the tensor"),
        ({"integrate": 0}, "gradient.integrate=0 is not a mapping of options, as in {steps: 64"),
        ({"smooth": 0}, "gradient.smooth=0 is not a mapping of options, as in {draws: 16"),
        ({"cam": 0}, "gradient.cam=0 is neither true nor an axis, as in {channel: 3}"),
        ({"times": 2}, "selectors.g.gradient.times=2 is not 'value', the value of the tensor"),
        (
            {"integrate": 64},
            "selectors.g.gradient.integrate=64 is not a mapping of options, as in {steps: 64, "
            "baseline: 0}",
        ),
        (
            {"integrate": {"step": 64}},
            "selectors.g.gradient.integrate.step does not exist. Available: steps, baseline. ",
        ),
        ({"integrate": {"steps": 0}}, "integrate.steps=0 is not a whole number from 1 to "),
        ({"integrate": {"steps": 1.5}}, "integrate.steps=1.5 is not a whole number from 1 to "),
        (
            {"integrate": {"steps": 1001}},
            "integrate.steps=1001 is more than the largest number, 1000",
        ),
        (
            {"smooth": {"draws": 10**9}},
            "smooth.draws=1000000000 is more than the largest number, 10000",
        ),
        (
            {"integrate": {"baseline": "zeros"}},
            "selectors.g.gradient.integrate.baseline='zeros' is not a baseline. Give a number for "
            "all elements, numbers that replace inputs, as in {inputs: {ids: 0}}, or a sample, as "
            "in {sample: 3}",
        ),
        ({"integrate": {"baseline": True}}, "integrate.baseline=True is not a baseline"),
        ({"integrate": {"baseline": [0, 1]}}, "integrate.baseline=[0, 1] is not a baseline"),
        ({"integrate": {"baseline": float("nan")}}, "integrate.baseline=nan is not a number"),
        ({"integrate": {"baseline": {"inputs": {}}}}, "names no input. Give some, as in"),
        ({"integrate": {"baseline": {"inputs": {"a": "x"}}}}, "inputs.a='x' is not a number"),
        ({"integrate": {"baseline": {"feed": {}}}}, "integrate.baseline.feed does not exist"),
        ({"smooth": {"draws": 0}}, "smooth.draws=0 is not a whole number from 1 to "),
        ({"smooth": {"noise": 0}}, "selectors.g.gradient.smooth.noise=0 is not more than 0"),
        ({"smooth": {"seed": -1}}, "smooth.seed=-1 is not a whole number from 0 to "),
        ({"cam": "last"}, "cam='last' is neither true nor an axis, as in {channel: 3}"),
        ({"cam": {}}, "selectors.g.gradient.cam.channel needs an axis"),
        (
            {"times": "value", "cam": True},
            "selectors.g.gradient.times and selectors.g.gradient.cam exclude each other. Give one "
            "method, and a selector for each",
        ),
        ({"integral": {}}, "selectors.g.gradient.integral does not exist. Nearest: 'integrate', "),
    ],
)
def test_what_is_not_a_method(given: Mapping[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        selector(**given)


@pytest.mark.parametrize(
    ("tensor", "given", "reason"),
    [
        (
            record("a:kernel", 3, 4, kind=Kind.WEIGHT, depends=False),
            {"times": "value"},
            "times needs a value that depends on the inputs",
        ),
        (
            record("a:output", "sample", "?"),
            {"cam": True},
            "cam needs axes that are known before the model runs",
        ),
        (
            record("a:output", "sample", 4, 5),
            {"cam": True},
            "cam needs one axis 'channel', and it has dims ['sample', '4', '5']. Give the number "
            "of the channels' axis, as in selectors.g.gradient.cam.channel=2",
        ),
        (
            record("a:output", "sample", 4, 5),
            {"cam": {"channel": 3}},
            "cam needs one axis 3, and it has dims ['sample', '4', '5']",
        ),
        (
            record("a:output", "sample", 4, 5),
            {"cam": {"channel": 0}},
            "cam needs one axis 0, and it has dims ['sample', '4', '5']",
        ),
        (
            record("a:output", "sample", 4),
            {"cam": {"channel": 1}},
            "cam needs positions, and it has no axis besides that of the channels",
        ),
        (MAPS, {"cam": True}, None),
        (record("a:output", "sample", "?"), {"integrate": {}}, None),
    ],
)
def test_tensors_that_a_method_does_not_suit(
    tensor: TensorRecord, given: Mapping[str, object], reason: str | None
) -> None:
    found = method_of(selector(**given)).unsuited(tensor)
    assert found == reason if reason is None else str(found).startswith(reason)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            {"words": 0},
            "selectors.g.gradient.integrate.baseline.inputs: 'words' is not an input of model "
            "'model'. Available: 'ids'.",
        ),
        ({"ids": 0.5}, "integrate.baseline.inputs.ids=0.5: the input takes int32"),
        ({"ids": 2**40}, "integrate.baseline.inputs.ids=1.09951e+12: the input takes int32"),
    ],
)
def test_baselines_that_the_model_does_not_take(inputs: object, message: str) -> None:
    of = {"of": {"index": [-1, 0]}, "integrate": {"baseline": {"inputs": inputs}}}
    with pytest.raises(SelectionError, match=re.escape(message)):
        extractkit.plan(
            ["selectors=none"],
            model=recurrent(),
            inputs=[{"ids": ids} for ids in TOKENS],
            selectors={"g": {"path": "words:output", "gradient": of}},
        )


@pytest.mark.parametrize("policy", ["fail", "skip"])
@pytest.mark.parametrize(
    ("baseline", "named"), [({"inputs": {"ids": 99}}, "inputs.ids=99"), ({"sample": 2}, "sample=2")]
)
def test_a_baseline_on_which_the_model_fails_is_named_in_place_of_samples(
    baseline: object, named: str, policy: str, tmp_path: Path
) -> None:
    ids = keras.Input((3,), dtype="int32", name="ids")
    words = keras.layers.Embedding(10, 4, name="words")(ids)
    model = keras.Model(ids, keras.layers.Dense(2)(keras.layers.Flatten()(words)))
    rows = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 99]], "int32")
    of = {"of": {"index": 0}, "integrate": {"steps": 2, "baseline": baseline}}
    with pytest.raises(SelectionError) as refused:
        extractkit.extract(
            ["selectors=none", f"runtime.bad_samples={policy}"],
            model=model,
            inputs=rows,
            selectors={"g": {"path": "words:output", "gradient": of}},
            run_dir=tmp_path / "run",
        )
    assert str(refused.value).startswith(
        f"selectors.g.gradient.integrate.baseline.{named}: the model takes the first sample, but "
        f"not this baseline: model 'model' failed on a batch: indices[0,"
    )
    assert str(refused.value).endswith("99 is not in [0, 10). Give one that it takes")
    assert not (tmp_path / "run").exists()


def test_a_baseline_beyond_a_known_vocabulary_is_refused_at_once() -> None:
    ids = InputSpec("ids", "int32", (None,), ("token",), low=0, high=10)
    method = Integrate.parse({"baseline": {"inputs": {"ids": 10}}}, "g.integrate")
    message = "g.integrate.baseline.inputs.ids=10: the input takes 0 to 9"
    with pytest.raises(SelectionError, match=re.escape(message)):
        check_method(method, Signature("m", (ids,)))
    check_method(replace(method, baseline=Baseline(None, (("ids", 9.0),))), Signature("m", (ids,)))


def test_weights_are_refused_for_a_reason_that_no_batch_size_changes() -> None:
    of = {"of": {"index": [-1, 0]}, "times": "value"}
    with pytest.raises(SelectionError) as refused:
        extractkit.plan(
            ["selectors=none"],
            model=recurrent(),
            inputs=[{"ids": ids} for ids in TOKENS],
            selectors={"g": {"path": "words:embeddings", "gradient": of}},
        )
    assert "words:embeddings: times needs a value that depends on the inputs" in str(refused.value)
    assert "batch_size" not in str(refused.value)


def test_runs_record_compare_resume_and_verify_methods(tmp_path: Path) -> None:
    """The method is part of the identity, and every job stores the same bits."""
    keras.utils.set_random_seed(0)
    given = keras.Input((4,), name="x")
    hidden = keras.layers.Dense(5, "tanh", name="hidden")(given)
    keras.Model(given, keras.layers.Dense(3)(hidden)).save(tmp_path / "net.keras")

    def extracted(name: str, **method: object) -> extractkit.Run:
        of = {"of": "argmax", **method}
        return extractkit.extract(
            [
                *("selectors=none", "runtime.shard_size=4", "model=keras"),
                f"model.path={tmp_path}/net.keras",
            ],
            inputs=ROWS,
            selectors={"g": {"path": "hidden:output", "gradient": of}},
            run_dir=tmp_path / name,
        )

    smooth, longer = (extracted(str(draws), smooth={"draws": draws, "seed": 3}) for draws in (2, 3))
    assert smooth.manifest.identity != longer.manifest.identity
    (apart,) = extractkit.diff(smooth, longer).tensors
    assert apart.verdict == "not comparable"
    key = "hidden:output@grad"
    whole = smooth[key][:]
    for shard in sorted((tmp_path / "2" / "shards").iterdir())[1:]:
        shard.unlink()
    resumed = extractkit.resume(tmp_path / "2", inputs=ROWS)
    np.testing.assert_array_equal(resumed[key][:], whole)
    found = extractkit.verify(tmp_path / "2", recompute=3, inputs=ROWS)
    assert not found.failed, [str(one) for one in found.findings]

    path = extracted("path", integrate={"steps": 4})
    assert path[key].gradient["integrate"] == {"steps": 4, "baseline": 0.0}
    found = extractkit.verify(tmp_path / "path", recompute=1, inputs=ROWS)
    assert not found.failed, [str(one) for one in found.findings]
    rerun = extractkit.rerun(tmp_path / "path", run_dir=tmp_path / "again", inputs=ROWS)
    verdicts = {one.verdict for one in extractkit.diff(path, rerun).tensors}
    assert verdicts == {"equal"}
