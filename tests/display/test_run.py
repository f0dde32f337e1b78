"""The overview of `extractkit show`."""

import io
from dataclasses import replace
from pathlib import Path

from extractkit.display.console import render
from extractkit.display.run import overview
from extractkit.runs.manifest import (
    Actual,
    Manifest,
    RunInputs,
    RunPlan,
    RunTensor,
    Skipped,
    Status,
    Volatile,
)
from extractkit.sinks.protocol import StoredTensor
from tests.display.examples import CATALOG, EVIL, SHOWN_EVIL

MANIFEST = Manifest(
    volatile=Volatile(started="2026-11-22T10:00:00+00:00"),
    status=Status.FINISHED,
    job_given=("model=reference", "selectors=layers"),
    inputs=RunInputs("f00", 48, ("1 empty line was left out",)),
    tensors=(
        RunTensor(
            StoredTensor("pool:output", "float32", ("sample", None), (4,), constant=False),
            CATALOG["pool:output"],
            ("layers",),
        ),
        RunTensor(
            StoredTensor("attention:kernel", "float32", (None, None), (4, 4), constant=True),
            CATALOG["attention:kernel"],
            ("weights",),
        ),
    ),
    skipped=(Skipped("x", "because"),),
    plan=RunPlan(3000, True, ((0, 48),)),
    actual=Actual(samples=48, shards=2, bytes=4000),
)


def shown(manifest: Manifest) -> str:
    return render(overview(Path("out/run"), manifest), io.StringIO())


def test_it_tells_what_a_run_is_and_holds() -> None:
    lines = shown(MANIFEST).splitlines()
    assert lines == [
        "run       out/run",
        "status    finished",
        "started   2026-11-22T10:00:00+00:00",
        "job       model=reference selectors=layers",
        "samples   48",
        "          1 empty line was left out",
        "shards    2",
        "size      4.0 kB (3.0 kB of values planned)",
        "left out  1 tensor, with their reasons in the manifest",
        "",
        "tensor            dtype    shape       bytes        selectors",
        "pool:output       float32  sample × 4  16 B/sample  layers",
        "attention:kernel  float32  4 × 4       64 B         weights",
    ]


def test_a_run_that_has_only_begun_can_be_shown() -> None:
    begun = Manifest(volatile=Volatile(started="now"), status=Status.STARTED)
    assert "status   started" in shown(begun)
    assert "size     3.0 kB of values planned" in shown(replace(begun, plan=MANIFEST.plan))


def test_what_a_file_says_cannot_control_the_terminal() -> None:
    text = shown(replace(MANIFEST, job_given=(EVIL,)))
    assert f"job       {SHOWN_EVIL}\n" in text
