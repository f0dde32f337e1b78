"""The tree of `extractkit tensors`."""

import io

from extractkit.display.console import render
from extractkit.display.tree import listing
from extractkit.selectors import parse_selector
from extractkit.tensors import Catalog, TensorRecord
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


def test_names_are_shown_harmless() -> None:
    text = shown(evil_catalog())
    assert "\x1b" not in text
    assert f":{SHOWN_EVIL}  float32  sample × {SHOWN_EVIL}" in text
    assert f"cannot be extracted: {SHOWN_EVIL}\n" in text
    assert text.startswith(f"{SHOWN_EVIL}  {SHOWN_EVIL}\n")
