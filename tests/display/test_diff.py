"""The table of `extractkit diff`."""

import io
from dataclasses import replace

import pytest

from extractkit.display import render
from extractkit.display.checks import diff_overview
from extractkit.runs.comparing.result import (
    Circumstance,
    Comparison,
    Counts,
    Errors,
    OneSided,
    SampleComparison,
    SamplePair,
    TensorComparison,
    Tolerance,
    Verdict,
)
from tests.display.examples import EVIL, SHOWN_EVIL

EQUAL = TensorComparison(
    "first:output", "first:output", Verdict.EQUAL, None,
    Counts(80, 0, 0, 0, 0), Errors(0, 0, 0, 0, 0, 1.0, None),
)  # fmt: skip
BEYOND = TensorComparison(
    "last:output", "net/last:0", Verdict.BEYOND, None,
    Counts(80, 40, 8, 0, 0), Errors(0.25, 0.0125, 1.5, 1e-3, 0.0025, 0.999998, 0.5),
    SamplePair("s1", 1, 1), SamplePair("s2", 2, 2), SamplePair("s5", 5, 5),
)  # fmt: skip
APART = TensorComparison("x", "x", Verdict.INCOMPARABLE, "float32 against int32")
FOUND = Comparison(
    a="runs/a",
    b="runs/b",
    tolerance=Tolerance(),
    mapped=False,
    samples=SampleComparison("id", 8, 2, only_in_a=OneSided(5, ("s8", "s9"))),
    tensors=(EQUAL, BEYOND, APART),
    only_in_a=("y:output",),
    circumstances=(Circumstance("versions.tensorflow", "2.20", "2.21"),),
)


def shown(found: Comparison) -> str:
    return render(diff_overview(found), io.StringIO())


def test_it_tells_what_differs_and_where() -> None:
    lines = [" ".join(line.split()) for line in shown(FOUND).splitlines()]
    assert lines == [
        "A runs/a",
        "B runs/b",
        "samples 8 by id, 2 missing in both",
        "tolerance 1e-06 + 1e-05 · max(|a|, |b|)",
        "versions.tensorflow 2.20 against 2.21",
        "",
        "tensor verdict max abs mean abs max rel mean rel rel L2 cosine correlation beyond "
        "first beyond worst",
        "first:output equal 0 0 0 0 0 1.000000 – 0 – –",
        "last:output = net/last:0 beyond 0.25 0.013 1.5 0.001 0.0025 0.999998 0.500000 10.00% "
        "s2 s5",
        "x not comparable float32 against int32",
        "",
        "1 tensor of A only in A: y:output",
        "5 samples only in A: s8, s9, …",
        "3 tensors compared: 1 bitwise equal, 1 beyond it, 1 not comparable; the first beyond: "
        "last:output",
    ]


def test_samples_that_are_missing_from_one_run_alone_are_listed() -> None:
    samples = SampleComparison("id", 3, 0, OneSided(1, ("s4",)), OneSided(5, ("s1", "s2", "s3")))
    text = shown(replace(FOUND, samples=samples))
    assert "1 sample missing in A alone: s4\n" in text
    assert "5 samples missing in B alone: s1, s2, s3, …\n" in text


def test_a_difference_by_nan_alone_has_its_line() -> None:
    nan = replace(BEYOND, counts=Counts(80, 2, 2, 0, 2), errors=Errors(0, 0, 0, 0, 0, 1.0, None))
    one = replace(nan, a="x", b="x", counts=Counts(80, 2, 2, 0, 1))
    text = shown(replace(FOUND, tensors=(nan, one)))
    reported = "NaN or infinite in one run alone, or infinite with opposite signs\n"
    assert f"last:output = net/last:0: 2 values are {reported}" in text
    assert f"\nx: 1 value is {reported}" in text
    many = tuple(replace(one, a=f"t{n}") for n in range(61))
    assert "… and so in 1 more tensor\n" in shown(replace(FOUND, tensors=many))
    assert "NaN or infinite" not in shown(FOUND)


@pytest.mark.parametrize(
    ("beyond", "share"), [(0, " 0 "), (1, " <0.01% "), (100, " 0.01% "), (10**6, " 100.00% ")]
)
def test_a_small_share_is_never_none(beyond: int, share: str) -> None:
    counts = Counts(10**6, beyond, beyond, 0, 0)
    assert share in shown(replace(FOUND, tensors=(replace(BEYOND, counts=counts),)))


def test_what_a_mapping_leaves_out_is_reported_as_that() -> None:
    assert "1 tensor of A not mapped: y:output" in shown(replace(FOUND, mapped=True))


def test_nothing_to_compare_is_said() -> None:
    assert "0 tensors compared: none\n" in shown(replace(FOUND, tensors=()))


def test_of_very_many_tensors_those_that_are_equal_are_counted() -> None:
    many = tuple(replace(EQUAL, a=f"t{n}") for n in range(70))
    text = shown(replace(FOUND, tensors=(*many, BEYOND)))
    assert "t5" not in text
    assert "last:output = net/last:0" in text
    assert "… and 70 more, 70 of them equal; --json lists them all" in text
    apart = tuple(replace(BEYOND, a=f"t{n}") for n in range(70))
    assert "… and 10 more, 0 of them equal" in shown(replace(FOUND, tensors=apart))


def test_of_very_many_circumstances_the_first_are_shown() -> None:
    many = tuple(Circumstance(f"settings.{n}", n, None) for n in range(20))
    text = shown(replace(FOUND, circumstances=many))
    assert "settings.11" in text
    assert "settings.12" not in text
    assert "and 8 more that differ" in text


def test_a_digest_is_cut_and_what_is_not_there_is_nothing() -> None:
    digest = Circumstance("weights", "a1" * 32, None)
    text = shown(replace(FOUND, circumstances=(digest,)))
    assert "weights    a1a1a1a1a1a1… against nothing\n" in text
    path = Circumstance("model.path", "/home/me/projects/of/last/year/nets/a.keras", "b.keras")
    text = shown(replace(FOUND, circumstances=(path,)))
    assert "e/me/projects/of/last/year/nets/a.keras against b.keras\n" in text


def test_names_cannot_control_the_terminal() -> None:
    evil = replace(
        FOUND,
        a=EVIL,
        tensors=(
            replace(BEYOND, a=EVIL, worst=SamplePair(EVIL, 0, 0)),
            replace(APART, reason=EVIL),
        ),
        only_in_b=(EVIL,),
        circumstances=(Circumstance(EVIL, EVIL, EVIL),),
    )
    text = shown(evil)
    assert "\x1b" not in text
    assert text.count(SHOWN_EVIL) >= 8
