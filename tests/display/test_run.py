"""The overview of `extractkit show`."""

import io
from dataclasses import replace
from pathlib import Path

import pytest

from extractkit.core.checkpoints import Checkpoint, ExcludedCheckpoint
from extractkit.core.digests import Digest
from extractkit.core.spec import TensorSpec
from extractkit.core.value_checks import ValueChecks
from extractkit.display import render
from extractkit.display.run import run_overview, summary
from extractkit.engine import Summary
from extractkit.runs.environment import Volatile
from extractkit.runs.files import StoredFile
from extractkit.runs.manifest import (
    Actual,
    Manifest,
    RunInputs,
    RunPlan,
    RunTensor,
    Status,
    Unextractable,
)
from extractkit.runs.overview import Overview
from extractkit.sinks import StoredTensor
from tests.display.examples import CATALOG, EVIL, SHOWN_EVIL

MANIFEST = Manifest(
    volatile=Volatile(started="2026-11-22T10:00:00+00:00"),
    status=Status.FINISHED,
    job_given=("model=reference", "selectors=layers"),
    inputs=RunInputs("f00", 48, ("1 empty line was left out",)),
    tensors=(
        RunTensor(
            StoredTensor(
                "pool:output",
                TensorSpec.of(
                    "float32",
                    ("sample", None),
                    (None, 4),
                ),
                constant=False,
            ),
            CATALOG["pool:output"],
            ("layers",),
        ),
        RunTensor(
            StoredTensor(
                "attention:kernel", TensorSpec.of("float32", (None, None), (4, 4)), constant=True
            ),
            CATALOG["attention:kernel"],
            ("weights",),
        ),
    ),
    unextractable=(Unextractable("x", "because"),),
    plan=RunPlan.of(3000, True, ((0, 48),)),
    actual=Actual(samples=48, shards=2, bytes=4000),
)


def shown(manifest: Manifest) -> str:
    return render(run_overview(Overview.of(Path("out/run"), manifest)), io.StringIO())


def test_it_tells_what_a_run_is_and_holds() -> None:
    lines = shown(MANIFEST).splitlines()
    assert lines == [
        "run            out/run",
        "status         finished",
        "started        2026-11-22T10:00:00+00:00",
        "job            model=reference selectors=layers",
        "samples        48",
        "               1 empty line was left out",
        "shards         2",
        "size           4.0 kB (3.0 kB of values planned)",
        "digests        BLAKE3",
        "unextractable  1 tensor, with their reasons in the manifest",
        "",
        "tensor            dtype    shape       bytes        selectors",
        "pool:output       float32  sample × 4  16 B/sample  layers",
        "attention:kernel  float32  4 × 4       64 B         weights",
    ]


FOUND = {
    "a:output": ValueChecks(nan=2, inf=1, samples=2, minimum=0, maximum=1, examined=5, elements=20),
    "w": ValueChecks(inf=4, minimum=0, maximum=1, elements=9),
    "b:output": ValueChecks(minimum=0.5, maximum=0.5, same="f00", examined=5, elements=20),
    "c:output": ValueChecks(minimum=0, maximum=1, same="f00", examined=5, elements=20),
    "d:output": ValueChecks(minimum=0, maximum=1, examined=5, elements=20),
    "d:output@overflow": ValueChecks(minimum=0, maximum=7, examined=5, elements=5),
}


def finding_rows(text: str) -> list[list[str]]:
    labels = ("samples", "missing", "not finite", "constant", "unchanging", "overflow")
    return [line.split() for line in text.splitlines() if line.startswith(labels)]


@pytest.mark.parametrize(
    ("settings", "files", "reported"),
    [
        (
            {"index": "auto"},
            (),
            "not written for so many shards; to write it: sinks.mine.index=true",
        ),
        ({}, (), "not written for so many shards; to write it: sinks.mine.index=true"),
        ({"index": False}, (), "not written: sinks.mine.index=false"),
        ({"index": "auto"}, (StoredFile("tensors.h5", Digest("sha256:aa"), 1),), None),
    ],
)
def test_a_run_without_a_file_over_all_shards_tells_why(
    settings: dict[str, object], files: tuple[StoredFile, ...], reported: str | None
) -> None:
    sink = {"_target_": "extractkit.sinks.hdf5.Hdf5Sink", **settings}
    run = replace(MANIFEST, files=files, job_resolved={"sinks": {"mine": sink}})
    (line,) = [line for line in shown(run).splitlines() if line.startswith("tensors.h5")] or [None]
    assert line == (reported and f"tensors.h5     {reported}")
    assert "tensors.h5" not in shown(replace(run, status=Status.STARTED, actual=None))


def test_what_may_be_a_mistake_is_reported_with_its_counts() -> None:
    actual = Actual(samples=48, shards=2, bytes=4000, missing=1, values=FOUND)
    inputs = RunInputs("f00", 48, truncated=3)
    stored = replace(MANIFEST.tensors[0].stored, key="d:output@overflow")
    counter = replace(MANIFEST.tensors[0], stored=stored, result="overflow")
    tensors = (*MANIFEST.tensors, counter)
    run = replace(MANIFEST, actual=actual, inputs=inputs, tensors=tensors)
    assert finding_rows(shown(run)) == [
        line.split()
        for line in (
            "samples 48, 3 of them cut off",
            "missing 1 sample, the reasons are in `run.missing`",
            "not finite NaN or infinity in a:output (2 NaN, 1 infinite in 2 samples), "
            "w (4 infinite)",
            "constant one number throughout in b:output (0.5)",
            "unchanging the same for every sample: b:output, c:output",
            "overflow elements beyond the range of the type in d:output",
        )
    ]


def test_show_and_the_summary_of_a_run_tell_the_same_of_many_tensors() -> None:
    many = {
        f"{key}{n}": one for key, one in FOUND.items() if key in ("w", "b:output") for n in range(4)
    }
    actual = Actual(samples=48, shards=2, bytes=4000, missing=7, values=many)
    text = shown(replace(MANIFEST, actual=actual))
    constant = tuple(key for key in many if key.startswith("b"))
    closing = Summary(
        Path("out/run"), 9, 48, 0, 2, 4000, 1.0, tuple(key for key in many if key[0] == "w"), 7,
        constant, constant,
    )  # fmt: skip
    assert finding_rows(text) == finding_rows(render(summary(closing), io.StringIO()))
    assert "NaN or infinity in w0, w1, w2, …\n" in text


def test_a_run_that_has_only_begun_can_be_shown() -> None:
    begun = Manifest(volatile=Volatile(started="now"), status=Status.STARTED)
    assert "status   started" in shown(begun)
    assert "size     3.0 kB of values planned" in shown(replace(begun, plan=MANIFEST.plan))


def test_what_a_file_says_cannot_control_the_terminal() -> None:
    found = {EVIL: ValueChecks(nan=1, samples=1, examined=5, elements=5)}
    actual = Actual(samples=48, shards=2, bytes=4000, values=found)
    text = shown(replace(MANIFEST, job_given=(EVIL,), actual=actual))
    assert f"infinity in {SHOWN_EVIL} (1 NaN in 1 sample)\n" in text
    assert f"job            {SHOWN_EVIL}\n" in text


def axis(count: int) -> tuple[Checkpoint, ...]:
    return tuple(Checkpoint(f"epoch_{at}", at, f"/c/{at}.h5", "f00", 10) for at in range(count))


def test_checkpoints_are_counted_and_the_first_and_last_named() -> None:
    few, many = (replace(MANIFEST, checkpoints=axis(count)) for count in (3, 284))
    assert "checkpoints    3: epoch_0, epoch_1, epoch_2\n" in shown(few)
    assert "checkpoints    284: epoch_0, epoch_1, …, epoch_283\n" in shown(many)
    assert "shards         6\n" in shown(few)


def test_excluded_checkpoints_are_shown_with_their_reasons() -> None:
    wrong = tuple(ExcludedCheckpoint(f"{EVIL}{at}", "/c", "is damaged") for at in range(5))
    text = shown(replace(MANIFEST, checkpoints=axis(1), excluded=wrong))
    for at in range(3):
        assert f"excluded       {SHOWN_EVIL}{at}: is damaged\n" in text
    assert "               and 2 checkpoints more, see the manifest\n" in text


def test_the_summary_counts_checkpoints_and_all_that_was_computed() -> None:
    closing = Summary(
        Path("out/run"), 9, 48, 0, 6, 4000, 2.0, computed=144, checkpoints=3
    )  # fmt: skip
    lines = render(summary(closing), io.StringIO()).splitlines()
    assert lines[0].split() == ["checkpoints", "3"]
    assert "72 samples/s" in next(line for line in lines if line.startswith("time"))
