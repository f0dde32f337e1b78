"""Selectors over the reference model's catalog: what each key matches, and what it refuses."""

import re
from dataclasses import replace

import pytest

from extractkit.core.catalog import Catalog, Edges, Kind, Scope, TensorRecord
from extractkit.core.selectors import SELECTOR_KEYS, parse_selector
from extractkit.core.spec import TensorSpec
from extractkit.errors import ConfigError, SelectionError
from extractkit.testing.reference import ReferenceModel

MODEL = Scope("", "Functional", ("Model", "Layer"))
BLOCK = Scope("encoder/block", "TransformerBlock", ("Layer",))
QUERY = Scope("encoder/block/query", "EinsumDense", ("Dense", "Layer"))

CATALOG = Catalog(
    [
        TensorRecord(":input.ids", Kind.MODEL_INPUT, TensorSpec.of("int32", (), ()), (MODEL,)),
        TensorRecord(
            "encoder/block:output",
            Kind.LAYER_OUTPUT,
            TensorSpec.of("float32", (), ()),
            (MODEL, BLOCK),
        ),
        TensorRecord(
            "encoder/block:op/Softmax",
            Kind.OP,
            TensorSpec.of("float16", (), ()),
            (MODEL, BLOCK),
            op_type="Softmax",
        ),
        TensorRecord(
            "encoder/block/query:kernel",
            Kind.WEIGHT,
            TensorSpec.of("float32", (), ()),
            (MODEL, BLOCK, QUERY),
            name="encoder_1/block/query:kernel",
        ),
        TensorRecord("scope/MatMul:0", Kind.OP, TensorSpec.of("float64", (), ()), op_type="MatMul"),
    ],
    "tiny",
)
IDS, OUTPUT, SOFTMAX, KERNEL, GRAPH = CATALOG


def matched(**mapping: object) -> list[str]:
    predicate = parse_selector("mine", mapping).predicate
    return [record.address for record in CATALOG.records if predicate.matches(record)]


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        # A glob over the whole address, or the layers' own names; `*` crosses `/`.
        ({"path": "encoder/*:kernel"}, [KERNEL]),
        ({"path": "encoder_1/*"}, [KERNEL]),
        ({"path": "encoder/block"}, []),
        ({"path": "*:op/Soft?ax"}, [SOFTMAX]),
        # A regular expression is searched, not anchored.
        ({"regex": "block:o"}, [OUTPUT, SOFTMAX]),
        ({"regex": "^encoder_1"}, [KERNEL]),
        # The record's own layer, by class or base, and any enclosing layer, by class, base or path.
        ({"layer_type": "TransformerBlock"}, [OUTPUT, SOFTMAX]),
        ({"layer_type": "Dense"}, [KERNEL]),
        ({"layer_type": "*Model"}, [IDS]),
        ({"inside": "Transformer*"}, [OUTPUT, SOFTMAX, KERNEL]),
        ({"inside": "encoder/block"}, [OUTPUT, SOFTMAX, KERNEL]),
        ({"inside": "*"}, [IDS, OUTPUT, SOFTMAX, KERNEL]),
        ({"op_type": "[MS]*"}, [SOFTMAX, GRAPH]),
        ({"kind": "op"}, [SOFTMAX, GRAPH]),
        ({"port": "op/*"}, [SOFTMAX]),
        ({"port": "0"}, [GRAPH]),
        ({"dtype": "float*"}, [OUTPUT, SOFTMAX, KERNEL, GRAPH]),
        ({"depth": 0}, [IDS]),
        ({"depth": 3}, [KERNEL]),
        # Of a list, one must hold; of several keys, all.
        ({"kind": ["weight", "model_input"]}, [IDS, KERNEL]),
        ({"depth": [0, 3]}, [IDS, KERNEL]),
        ({"kind": "op", "dtype": "float64"}, [GRAPH]),
        ({"any": [{"kind": "weight"}, {"port": "output"}]}, [OUTPUT, KERNEL]),
        ({"all": [{"kind": "op"}, {"inside": "*"}]}, [SOFTMAX]),
        ({"not": {"inside": "*"}}, [GRAPH]),
        # Of a list under `not`, none may hold.
        ({"not": [{"kind": "op"}, {"depth": 0}]}, [OUTPUT, KERNEL]),
        ({"kind": "op", "any": [{"not": {"inside": "*"}}, {"all": [{"depth": 9}]}]}, [GRAPH]),
        # What is null was not said.
        ({"kind": "weight", "path": None}, [KERNEL]),
    ],
)  # fmt: skip
def test_it_matches(mapping: dict[str, object], expected: list[str]) -> None:
    assert matched(**mapping) == expected


def test_predicates_combine_as_python_values() -> None:
    op, inside = (parse_selector("mine", m).predicate for m in ({"kind": "op"}, {"inside": "*"}))
    found = [
        [record.address for record in CATALOG.records if predicate.matches(record)]
        for predicate in (op & inside, op | inside, ~(op | inside))
    ]
    assert found == [[SOFTMAX], list(CATALOG), []]


def test_transforms_are_kept_and_say_nothing_about_what_matches() -> None:
    selector = parse_selector("mine", {"kind": "op", "cast": "float16", "reduce": "mean"})
    assert selector.pipeline.cast == "float16"
    assert [record.address for record in selector.select(CATALOG)] == [SOFTMAX, GRAPH]


PREDICATES = "path, regex, layer_type, inside, op_type, kind, port, dtype, dims, depth"


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"pth": "*"}, "selectors.mine.pth does not exist. Nearest: 'path', 'depth', 'port'."),
        (
            {"any": [{"path": "*"}, {"knd": "op"}]},
            "selectors.mine.any.knd does not exist. Nearest: 'kind', 'inside', 'any'.",
        ),
        (
            {"all": [{"not": {"any": [{"dtpye": "x"}]}}]},
            "selectors.mine.all.not.any.dtpye does not exist. "
            "Nearest: 'dtype', 'op_type', 'depth'.",
        ),
        (
            {"any": [{"path": "*", "cast": "int8"}]},
            "selectors.mine.any.cast does not exist. Nearest: 'path', 'consumes', 'all'.",
        ),
        (
            "encoder/*",
            "selectors.mine='encoder/*' is not a mapping of predicates. "
            "Write for example selectors.mine.path='*:output'",
        ),
        (
            {"any": ["encoder/*"]},
            "selectors.mine.any='encoder/*' is not a mapping of predicates. "
            "Write for example selectors.mine.any.path='*:output'",
        ),
        (
            {"any": {"path": "*"}},
            "selectors.mine.any={'path': '*'} is not a list of mappings of predicates",
        ),
        ({"any": []}, "selectors.mine.any is empty. Give a list of mappings of predicates"),
        ({"not": []}, "selectors.mine.not is empty. Give a list of mappings of predicates"),
        (
            {"feeds": "Softmax"},
            "selectors.mine.feeds='Softmax' is not a mapping of predicates. "
            "Write for example selectors.mine.feeds.path='*:output'",
        ),
        (
            {"consumes": {"feeds": {"optype": "Softmax"}}},
            "selectors.mine.consumes.feeds.optype does not exist. "
            "Nearest: 'op_type', 'dtype', 'layer_type'.",
        ),
        ({"feeds": []}, "selectors.mine.feeds is empty. Give a list of mappings of predicates"),
        ({"path": []}, "selectors.mine.path is an empty list, which matches nothing"),
        ({"path": 7}, "selectors.mine.path=7 is not a text; quote it: selectors.mine.path='7'"),
        (
            {"port": ["output", 0]},
            "selectors.mine.port=0 is not a text; quote it: selectors.mine.port='0'",
        ),
        ({"depth": "2"}, "selectors.mine.depth='2' is not a number of layers (0, 1, 2, …)"),
        ({"depth": True}, "selectors.mine.depth=True is not a number of layers (0, 1, 2, …)"),
        ({"depth": -1}, "selectors.mine.depth=-1 is not a number of layers (0, 1, 2, …)"),
        (
            {"kind": "weights"},
            "selectors.mine.kind='weights' is not a kind of tensor. "
            "Nearest: 'weight', 'layer_input', 'model_input'.",
        ),
        (
            {"regex": "a("},
            "selectors.mine.regex='a(' is not a regular expression: "
            "missing ), unterminated subpattern at position 1",
        ),
        (
            {"regex": "a{99999999999}"},
            "selectors.mine.regex='a{99999999999}' is not a regular expression: "
            "the repetition number is too large",
        ),
    ],
)  # fmt: skip
def test_it_refuses(mapping: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_selector("mine", mapping)
    assert str(caught.value) == message


@pytest.mark.parametrize("mapping", [{}, {"path": None}, {"cast": "float16"}])
def test_a_selector_without_a_predicate_says_how_to_match_everything(
    mapping: dict[str, object],
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_selector("mine", mapping)
    assert str(caught.value) == (
        f"selectors.mine has no predicate. Give one of {PREDICATES}, consumes, feeds, any, all, "
        f"not; "
        f"selectors.mine.path='*' matches every tensor"
    )


def test_a_name_that_hydra_could_not_take_is_refused() -> None:
    with pytest.raises(ConfigError, match=re.escape("selectors.my-own: a selector's name is")):
        parse_selector("my-own", {"path": "*"})


def test_every_key_that_the_design_promises_exists() -> None:
    assert set(SELECTOR_KEYS) == {
        *PREDICATES.split(", "), "consumes", "feeds", "any", "all", "not", "take", "slice",
        "reduce", "cast", "do", "gradient", "rollout", "statistics",
    }  # fmt: skip


SHAPED = Catalog(
    [
        TensorRecord(f"{name}:output", Kind.LAYER_OUTPUT, TensorSpec.of("float32", dims, shape))
        for name, shape, dims in [
            ("words", (None, None, 8), ("sample", "token", None)),
            ("pairs", (None, 2, None, None), ("sample", None, "token", "token")),
            ("pooled", (None, 8), ("sample", None)),
            ("unknown", None, None),
        ]
    ],
    "shaped",
)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("sample,token,*", ["words"]),
        ("*,*,*", ["words"]),
        ("sample, 8", ["pooled"]),
        (["*,*", "*,2,token,token"], ["pairs", "pooled"]),
        ("*", []),
        (["*,*,#", "*,#"], ["words", "pooled"]),
        ("sample,#,*,*", ["pairs"]),
        ("sample,*,*,#", []),
    ],
)
def test_dims_are_matched_axis_by_axis(pattern: object, expected: list[str]) -> None:
    assert layers_with_dims(SHAPED, pattern) == expected


def layers_with_dims(catalog: Catalog, pattern: object) -> list[str]:
    """Return the layers of the tensors that a pattern of dims matches."""
    predicate = parse_selector("mine", {"dims": pattern}).predicate
    return [record.layer for record in catalog.records if predicate.matches(record)]


OTHER_ORDERS = Catalog(
    [
        TensorRecord(f"{name}:output", Kind.LAYER_OUTPUT, TensorSpec.of("float32", dims, shape))
        for name, shape, dims in [
            ("scanned", (None, None, 6, 2), ("time", "sample", None, None)),
            ("flat", (None, 5), ("sample*token", None)),
            ("strided", (None, None, 3, 1), ("sample", "f(token)", None, None)),
            ("unmeasured", (None, None, 3), ("sample", "?", None)),
            ("fixed", (None, 7, 3), ("sample", None, None)),
        ]
    ],
    "orders",
)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("time,sample,#,#", ["scanned"]),  # as the model has them
        ("sample,time,#,#", ["scanned"]),  # as they are stored
        ("sample*token,#", ["flat"]),
        ("sample,token,#", ["flat"]),
        ("sample,~,#,#", ["scanned", "strided"]),
        ("sample,~,#", ["flat"]),
        ("~,*", []),
        ("~,~,*", []),
    ],
)
def test_dims_are_in_the_models_order_or_as_stored(pattern: str, expected: list[str]) -> None:
    assert layers_with_dims(OTHER_ORDERS, pattern) == expected


UNMEASURED = TensorRecord(
    "loop:output", Kind.LAYER_OUTPUT, TensorSpec.of("float32", ("?", "?", None), (None, None, 5))
)


@pytest.mark.parametrize(
    ("mapping", "verdict"),
    [
        ({"dims": "sample,time,#"}, None),
        ({"dims": "sample,*,*,*"}, None),  # an axis may be a product with the samples
        ({"dims": "sample,*"}, False),
        ({"not": {"dims": "sample,time,#"}}, None),
        ({"dims": "sample,time,#", "kind": "op"}, False),
        ({"any": [{"dims": "sample,time,#"}, {"kind": "layer_output"}]}, True),
    ],
)
def test_axes_that_are_not_measured_leave_it_open(mapping: object, verdict: bool | None) -> None:
    predicate = parse_selector("mine", mapping).predicate
    assert predicate.verdict(UNMEASURED) is verdict
    assert predicate.matches(UNMEASURED) is (verdict is True)
    opposite = parse_selector("mine", {"not": mapping}).predicate
    assert opposite.verdict(UNMEASURED) is (None if verdict is None else not verdict)
    lost = replace(UNMEASURED, reason="it is random")  # and will not be measured
    assert not parse_selector("mine", {"dims": "sample,time,#"}).predicate.may_match(lost)
    partly = OTHER_ORDERS["unmeasured:output"]  # whose samples are known
    assert parse_selector("mine", {"dims": "sample,~,#"}).predicate.verdict(partly) is None
    assert parse_selector("mine", {"dims": "sample,*,4"}).predicate.verdict(partly) is False


def test_a_model_without_an_axis_that_varies_is_reported() -> None:
    fixed = Catalog([OTHER_ORDERS["fixed:output"]], "fixed")
    with pytest.raises(SelectionError) as caught:
        parse_selector("last", {"dims": "sample,~,*"}).select(fixed)
    assert str(caught.value) == (
        "selectors.last.dims='sample,~,*' matched 0 of 1 tensor of model 'fixed'. No axis of "
        "these tensors varies in length from sample to sample ('~'). For one element of an axis of "
        "one size ('#'): {dims: 'sample,#,#', slice: {1: -1}}. "
        "List them: extractkit tensors model=fixed"
    )


def test_dims_that_match_nothing_name_those_that_exist() -> None:
    catalog = Catalog(SHAPED.records[:3], "shaped")  # without an unknown number of axes
    with pytest.raises(SelectionError) as caught:
        parse_selector("mine", {"dims": "sample,tokens,8"}).select(catalog)
    assert str(caught.value) == (
        "selectors.mine.dims='sample,tokens,8' matched 0 of 3 tensors of model 'shaped'. "
        "Available: 'sample,2,token,token', 'sample,8', 'sample,token,8'. "
        "List them: extractkit tensors model=shaped"
    )


@pytest.mark.parametrize(
    ("take", "expected"),
    [
        ("-2:", ["pooled", "unknown"]),
        ("::2", ["words", "pooled"]),
        (":1", ["words"]),
        ("::-1", ["unknown", "pooled", "pairs", "words"]),
    ],
)
def test_take_is_a_slice_over_what_matches(take: str, expected: list[str]) -> None:
    selector = parse_selector("mine", {"kind": "layer_output", "take": take})
    assert [record.layer for record in selector.matching(SHAPED)] == expected


LAYERS = Catalog(
    [
        TensorRecord(f"{name}:output", Kind.LAYER_OUTPUT, TensorSpec("int8", None), reason=why)
        for name, why in [("a", None), ("b", "in a loop"), ("c", None), ("d", "in a loop")]
    ],
    "layers",
)


@pytest.mark.parametrize(
    ("take", "stored", "lost"),
    [
        ("-2:", ["a", "c"], ["d"]),
        ("-1:", ["c"], ["d"]),
        (":1", ["a"], []),
        ("1:2", ["c"], ["b"]),
        ("::-1", ["c", "a"], ["d", "b"]),
        (None, ["a", "c"], ["b", "d"]),
    ],
)
def test_take_counts_tensors_that_can_be_extracted(
    take: str | None, stored: list[str], lost: list[str]
) -> None:
    """Those in the same places among all are reported, since they may have been meant."""
    given = {"path": "*"} | ({"take": take} if take else {})
    selector = parse_selector("mine", given)
    assert [record.layer for record in selector.select(LAYERS)] == stored
    assert [one.layer for one in selector.matching(LAYERS) if not one.extractable] == lost


def test_a_taken_tensor_that_cannot_be_extracted_gives_its_reason() -> None:
    with pytest.raises(SelectionError) as caught:
        parse_selector("mine", {"path": "*", "take": "3:"}).select(LAYERS)
    assert str(caught.value) == (
        "selectors.mine.path='*', take='3:' matched 1 tensor of model 'layers', none of which can "
        "be extracted. d:output: in a loop. List them: extractkit tensors model=layers"
    )


def test_take_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(SelectionError) as caught:
        parse_selector("mine", {"kind": "layer_output", "take": "9:"}).matching(SHAPED)
    assert str(caught.value) == (
        "selectors.mine.kind='layer_output', take='9:' takes none of the 4 tensors of model "
        "'shaped' that match. List them: extractkit tensors model=shaped"
    )


@pytest.mark.parametrize("take", [3, "last", "1:2:3:4"])
def test_take_is_a_range(take: object) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"selectors.mine.take={take!r} is not a ")):
        parse_selector("mine", {"path": "*", "take": take})


def test_matching_nothing_names_the_nearest_three() -> None:
    selector = parse_selector("mine", {"path": "embeding:outptu"})
    with pytest.raises(SelectionError) as caught:
        selector.select(ReferenceModel().catalog)
    assert str(caught.value) == (
        "selectors.mine.path='embeding:outptu' matched 0 of 11 tensors of model 'reference'. "
        "Nearest: 'embedding:output', 'attention:output', ':output'. "
        "List them: extractkit tensors model=reference"
    )


def test_matching_only_what_cannot_be_extracted_lists_the_reasons() -> None:
    selector = parse_selector("mine", {"path": "*Count"})
    catalog = ReferenceModel().catalog
    assert [record.address for record in selector.matching(catalog)] == ["attention:op/Count"]
    with pytest.raises(SelectionError) as caught:
        selector.select(catalog)
    assert str(caught.value) == (
        "selectors.mine.path='*Count' matched 1 tensor of model 'reference', none of which can "
        "be extracted. attention:op/Count: no axis of it follows the samples: its value belongs "
        "to a whole batch. List them: extractkit tensors model=reference"
    )


def test_what_cannot_be_extracted_is_left_out_beside_what_can() -> None:
    catalog = ReferenceModel().catalog
    chosen = parse_selector("mine", {"path": "attention:op/*"}).select(catalog)
    assert [record.address for record in chosen] == ["attention:op/Softmax", "attention:op/MatMul"]


@pytest.mark.parametrize(
    ("mapping", "exists"),
    [
        ({"op_type": "Sotfmax"}, "Available: 'Count', 'MatMul', 'Max', 'Softmax'."),
        (
            {"layer_type": "Embeding"},
            "Available: 'Embedding', 'Layer', 'MeanPooling', 'ReferenceModel', 'SelfAttention'.",
        ),
        ({"inside": "atention", "op_type": "Softmax"}, "Nearest: 'attention', "),
        ({"dtype": "float16"}, "Available: 'float32', 'int32'."),
        ({"depth": 7}, "Available: '0', '1'."),
        (
            {"path": "pool:*", "op_type": "Softmax"},
            "Each of these predicates matches some tensors, but none matches all of them. "
            "Without path, 1 tensor matches: 'attention:op/Softmax'. "
            "Without op_type, 2 tensors match: 'pool:op/Max', 'pool:output'.",
        ),
        (  # of alternatives, one is enough
            {"any": [{"kind": "optimizer"}, {"kind": "model_output"}], "dims": "sample,~,*"},
            "Each of these predicates matches some tensors, but none matches all of them. "
            "Without any, 5 tensors match: 'embedding:output', 'attention:op/Softmax', "
            "'attention:op/MatMul', …. Without dims, 1 tensor matches: 'sample,4'. No axis of "
            "these tensors varies in length",
        ),
        (
            {"any": [{"kind": "optimizer"}, {"kind": "moving_average"}], "path": "pool*"},
            "Available: ",
        ),
    ],
)
def test_what_exists_is_reported_for_the_field_at_fault(
    mapping: dict[str, object], exists: str
) -> None:
    with pytest.raises(SelectionError, match=re.escape(exists)):
        parse_selector("mine", mapping).matching(ReferenceModel().catalog)


@pytest.mark.parametrize("key", ["layer_type", "inside"])
def test_a_model_without_layers_says_so(key: str) -> None:
    record = TensorRecord("conv/Relu:0", Kind.OP, TensorSpec.of("float32", (), ()), op_type="Relu")
    with pytest.raises(SelectionError, match=f"{key} needs layers, which this"):
        parse_selector("mine", {key: "Dense"}).matching(Catalog([record], "frozen_graph"))


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        ({"feeds": {"op_type": "Softmax"}}, ["embedding:output"]),
        ({"consumes": {"kind": "weight"}}, [
            "embedding:output", "attention:op/MatMul", "attention:output",
        ]),
        ({"consumes": {"kind": "weight"}, "kind": "op"}, ["attention:op/MatMul"]),
        # A list holds alternatives; neighbours of neighbours are nested.
        ({"feeds": [{"op_type": "Count"}, {"layer_type": "MeanPooling", "kind": "op"}]}, [
            ":input.tokens", "attention:output",
        ]),
        ({"consumes": {"consumes": {"port": "kernel"}}}, ["pool:op/Max", "pool:output"]),
        ({"kind": "layer_output", "not": {"feeds": {"kind": "layer_output"}}}, ["pool:output"]),
        ({"any": [{"feeds": {"kind": "model_output"}}, {"op_type": "Max"}]}, [
            "pool:op/Max", "pool:output",
        ]),
    ],
)  # fmt: skip
def test_neighbours(mapping: dict[str, object], expected: list[str]) -> None:
    found = parse_selector("mine", mapping).matching(ReferenceModel().catalog)
    assert [record.address for record in found] == expected


@pytest.mark.parametrize(
    ("mapping", "why"),
    [
        (
            {"feeds": {"op_type": "Sofmax"}},
            "selectors.mine.feeds matches 0 tensors. Available: 'Count', 'MatMul', 'Max', "
            "'Softmax'.",
        ),
        (
            {"consumes": {"kind": "model_output"}},
            "1 tensor matches selectors.mine.consumes, but no listed tensor is made from it.",
        ),
        (
            {"feeds": {"kind": "weight"}},
            "2 tensors match selectors.mine.feeds, but no listed tensor is consumed to make one of "
            "them.",
        ),
        (
            {"op_type": "Max", "feeds": {"op_type": "Softmax"}},
            "Each of these predicates matches some tensors, but none matches all of them. Without "
            "op_type, 1 tensor matches: 'embedding:output'. Without feeds, 1 tensor matches: "
            "'pool:op/Max'.",
        ),
    ],
)
def test_neighbours_that_do_not_exist(mapping: dict[str, object], why: str) -> None:
    catalog = ReferenceModel().catalog
    with pytest.raises(SelectionError) as caught:
        parse_selector("mine", mapping).matching(catalog)
    assert f"matched 0 of {len(catalog)} tensors of model 'reference'. {why} " in str(caught.value)


def test_catalogs_without_edges_have_no_neighbours() -> None:
    selector = parse_selector("mine", {"any": [{"path": "*"}, {"not": {"feeds": {"path": "*"}}}]})
    with pytest.raises(SelectionError) as caught:
        selector.matching(CATALOG)
    assert str(caught.value).startswith(
        "selectors.mine.any.not.feeds needs to know which tensors each operation consumes, and the "
        "format of model 'tiny' does not record it. Select by path, regex, kind or op_type. "
    )
    alone = parse_selector("mine", {"not": {"feeds": {"path": "*"}}}).predicate
    with pytest.raises(SelectionError, match=r"^selectors\.mine\.not\.feeds needs a model's graph"):
        alone.matches(CATALOG[IDS])


def test_edges_are_found_once_and_only_for_neighbours() -> None:
    found: list[bool] = []

    def find() -> list[tuple[int, ...]]:
        found.append(True)
        return [(), (0,)]

    catalog = Catalog(CATALOG.records[:2], "tiny", Edges(find)).listed_by("…")
    assert parse_selector("mine", {"path": "*"}).matching(catalog)
    assert not found
    for _ in range(2):
        (record,) = parse_selector("mine", {"consumes": {"path": "*"}}).matching(catalog)
        assert record.address == OUTPUT
    assert found == [True]


def spec(*dims: str) -> TensorSpec:
    return TensorSpec.of("float32", dims, (None,) * len(dims))


MEASURED_LATER = Catalog(
    [
        TensorRecord("start", Kind.OP, spec("sample", "token"), op_type="Start"),
        TensorRecord("known", Kind.OP, spec("sample", "token"), op_type="Known"),
        TensorRecord("later", Kind.OP, spec("sample", "?"), op_type="Later"),
        TensorRecord("never", Kind.OP, spec("sample", "?"), op_type="Never", reason="lost"),
        TensorRecord("from known", Kind.OP, spec("sample", "token"), op_type="End"),
        TensorRecord("from later", Kind.OP, spec("sample", "token"), op_type="End"),
        TensorRecord("from never", Kind.OP, spec("sample", "token"), op_type="End"),
    ],
    "tiny",
    Edges(lambda: [(), (0,), (0,), (0,), (1,), (2,), (3,)]),
).listed_by("…")


def test_neighbours_whose_axes_are_measured_later_are_not_skipped() -> None:
    varying = {"dims": "sample,~", "not": {"op_type": "End"}}
    for mapping, address in (
        ({"consumes": varying}, "from later"),
        ({"not": {"consumes": varying}}, "from later"),
        ({"any": [{"path": "known"}, {"consumes": varying}]}, "from later"),
        ({"consumes": {"consumes": {"feeds": varying}}}, None),
        ({"feeds": {**varying, "op_type": "Later"}}, "start"),
    ):
        selector = parse_selector("mine", mapping)
        if address is None:  # "start" feeds a tensor of known axes, too
            assert selector.matching(MEASURED_LATER)
            continue
        with pytest.raises(SelectionError) as caught:
            selector.matching(MEASURED_LATER)
        assert (
            f" cannot be decided for {address!r}, because the axes of 1 tensor are unknown before "
            "they are measured ('later' is one). Test neighbours by path, regex, op_type or kind "
            "in place of dims"
        ) in str(caught.value)
        assert str(caught.value).startswith("selectors.mine.")


def test_only_neighbours_that_decide_have_to_be_measured() -> None:
    varying = {"dims": "sample,~", "not": {"op_type": ["Start", "End"]}}
    every = ["from known", "from later", "from never"]
    for mapping, expected in (
        ({"feeds": varying}, ["start"]),
        ({"path": "from known", "consumes": varying}, ["from known"]),
        ({"path": "from never", "not": {"consumes": varying}}, ["from never"]),
        ({"any": [{"path": "from *"}, {"consumes": varying}]}, every),
    ):
        found = parse_selector("mine", mapping).matching(MEASURED_LATER)
        assert [record.address for record in found] == expected
