"""The tree of `extractkit tensors`."""

import io

from extractkit.core.catalog import Catalog, Kind, TensorRecord
from extractkit.core.selectors import parse_selector
from extractkit.core.spec import TensorSpec
from extractkit.display import render
from extractkit.display.tensors import listing
from tests.display.examples import CATALOG, SHOWN_EVIL, evil_catalog


def shown(catalog: Catalog, **matches: tuple[TensorRecord, ...]) -> str:
    return render(listing(catalog, matches), io.StringIO())


def test_without_selectors_operations_are_only_counted() -> None:
    text = shown(CATALOG)
    assert "├── attention  SelfAttention  + 3 ops\n" in text
    assert "│   └── :kernel  float32  4 × 4  64 B\n" in text
    assert ":op/" not in text
    assert (
        "11 tensors: 1 model input, 1 model output, 3 outputs, 4 ops, 2 weights; "
        "1 cannot be extracted\n"
    ) in text


def test_with_selectors_it_shows_exactly_their_matches() -> None:
    matched = parse_selector("mine", {"op_type": ["Softmax", "Count"]}).matching(CATALOG)
    lines = shown(CATALOG, mine=matched).splitlines()
    assert lines[:4] == [
        "reference  ReferenceModel",
        "└── attention  SelfAttention",
        "    ├── :op/Softmax  float32  sample × token × token  4 B/token^2",
        "    └── :op/Count  float32  scalar  4 B  cannot be extracted: no axis of it follows the "
        "samples: its value belongs to a whole batch",
    ]
    assert lines[-1].split() == ["mine", "2", "of", "11", "tensors", "1"]


def test_every_layer_stands_under_the_one_that_calls_it() -> None:
    text = shown(CATALOG)
    layers = [line for line in text.splitlines() if line.startswith(("├── ", "└── "))]
    assert [line.split()[1] for line in layers][-1] == ":output"
    assert {"embedding", "attention", "pool"} < {line.split()[1] for line in layers}


def graph(*scopes: str) -> Catalog:
    """A graph, which has no layers, with two operations in each of these name scopes."""
    return Catalog(
        TensorRecord(
            f"{scope}/{op}:0", Kind.OP, TensorSpec.of("float32", (None,), (2,)), op_type=op
        )
        for scope in scopes
        for op in ("MatMul", "Relu")
    )


def tree_of(catalog: Catalog) -> list[str]:
    extra = TensorRecord(":input.x", Kind.MODEL_INPUT, TensorSpec.of("float32", (None,), (2,)))
    text = shown(Catalog([extra, *catalog.records]))
    return text[: text.index("\n\n")].splitlines()


def test_operations_of_a_graph_are_counted_at_their_name_scopes() -> None:
    assert tree_of(graph("a", "a/b", "c")) == [
        "model",
        "├── :input.x  float32  2  8 B",
        "├── a  + 2 ops",
        "│   └── b  + 2 ops",
        "└── c  + 2 ops",
    ]


def test_where_there_are_very_many_name_scopes_the_inner_ones_are_not_shown() -> None:
    scopes = [f"block_{block}/layer_{layer}" for block in range(20) for layer in range(60)]
    lines = tree_of(graph(*scopes))
    assert lines[2:] == [
        *(f"├── block_{block}  + 120 ops" for block in range(19)),
        "└── block_19  + 120 ops",
    ]
    flat = tree_of(graph(*(f"scope_{number}" for number in range(600))))
    assert flat == ["model  + 1,200 ops", "└── :input.x  float32  2  8 B"]


def test_names_are_shown_harmless() -> None:
    text = shown(evil_catalog())
    assert "\x1b" not in text
    assert f":{SHOWN_EVIL}  float32  sample × {SHOWN_EVIL}" in text
    assert f"cannot be extracted: {SHOWN_EVIL}\n" in text
    assert text.startswith(f"{SHOWN_EVIL}  {SHOWN_EVIL}\n")
