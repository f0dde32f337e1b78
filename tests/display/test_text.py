"""Names, shapes, sizes and times as short texts."""

from collections import Counter

import pytest

from extractkit.core.catalog import Kind
from extractkit.core.spec import TensorSpec
from extractkit.display import counts_text, duration_text, rate_text, safe
from extractkit.errors import counted
from extractkit.runs.overview import shape_text, size_text
from tests.display.examples import EVIL, SHOWN_EVIL


def test_a_name_cannot_control_the_terminal() -> None:
    assert safe(EVIL) == SHOWN_EVIL
    assert safe("transformer_layer_0/ü:output") == "transformer_layer_0/ü:output"


@pytest.mark.parametrize(
    ("dims", "shape", "shown", "size"),
    [
        (("sample", "token", None), (None, None, 384), "sample × token × 384", "1.5 kB/token"),
        (("sample", None, "token", "token"), (None, 12, None, None),
         "sample × 12 × token × token", "48 B/token^2"),
        (("sample", None), (None, 4), "sample × 4", "16 B/sample"),
        (("sample*token", None), (None, 4), "sample*token × 4", "16 B/token"),
        (("sample", "f(token)"), (None, None), "sample × f(token)", "4 B/f(token)"),
        (("sample", "element=token*6"), (None, None), "sample × element", "24 B/token"),
        ((None, None), (30522, 384), "30522 × 384", "46.9 MB"),
        ((), (), "scalar", "4 B"),
        (("?", None), (None, 4), "? × 4", ""),
        (None, None, "any shape", ""),
    ],
)  # fmt: skip
def test_axes_show_by_name_or_size(
    dims: tuple[str | None, ...] | None, shape: tuple[int | None, ...] | None, shown: str, size: str
) -> None:
    spec = TensorSpec.of("float32", dims, shape)
    assert shape_text(spec) == shown
    assert size_text(spec) == size


def test_a_type_without_a_size_shows_none() -> None:
    assert size_text(TensorSpec.fixed("string", (3,))) == ""
    assert size_text(TensorSpec.fixed("bfloat16", (3,))) == "6 B"  # stored as its bits


def test_counts() -> None:
    kinds = Counter({Kind.OP: 1054, Kind.LAYER_INPUT: 1})
    assert counts_text(kinds) == "1 input, 1,054 ops"
    assert (counted(1, "shard"), counted(1200, "shard")) == ("1 shard", "1,200 shards")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.04, "0.0 s"), (9.96, "10 s"), (59.4, "59 s"), (59.9, "1:00"), (185, "3:05"),
     (7385, "2:03:05")],
)  # fmt: skip
def test_durations(seconds: float, shown: str) -> None:
    assert duration_text(seconds) == shown


def test_rates() -> None:
    assert rate_text(5, 2) == "2.5 samples/s"
    assert rate_text(2500, 2) == "1,250 samples/s"
    assert rate_text(5, 0) == ""
