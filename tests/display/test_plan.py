"""The overview of `extractkit plan`."""

import io
from dataclasses import replace
from pathlib import Path

from extractkit.core.checkpoints import Checkpoint, ExcludedCheckpoint
from extractkit.core.shards import Shard
from extractkit.display import render
from extractkit.display.tensors import plan_overview
from extractkit.engine.preview import Preview
from extractkit.engine.sharing import Shared, Sharing
from tests.display.examples import CATALOG, EVIL, SHOWN_EVIL, planned

COUNT = CATALOG["attention:op/Count"]


def preview() -> Preview:
    tensors = planned(path="attention:op/Softmax", cast="float16")
    return Preview(
        model="reference",
        tensors=tensors,
        measured=(),
        matches={"mine": 1},
        unextractable=(COUNT,),
        samples=1500,
        checkpoints=(),
        excluded=(),
        bytes=2_000_000,
        bound="upper bound",
        sizes={tensors[0].key: 2_000_000},
        shards=(Shard(0, 1024), Shard(1024, 1500)),
        directory=Path("/out/run"),
        free_bytes=10**10,
    )


def shown(plan: Preview) -> list[str]:
    return render(plan_overview(plan), io.StringIO()).splitlines()


def test_it_says_what_is_stored_and_whether_there_is_room() -> None:
    lines = shown(preview())
    assert lines[1].split("  ") == [
        "attention:op/Softmax", "float16", "sample × token × token", "2.0 MB", "mine",
    ]  # fmt: skip
    assert lines[3:] == [
        "selectors.mine matches 1 tensor",
        "1 matching tensor cannot be extracted:",
        f"  attention:op/Count: {COUNT.reason}",
        "1,500 samples, 1 tensor: at most 2.0 MB in 2 shards; 10.0 GB are free for /out/run",
    ]


def test_what_only_the_model_can_tell_is_left_open() -> None:
    key = preview().tensors[0].key
    plan = replace(preview(), sizes={key: None}, bound="at least", measured=(key,))
    lines = shown(plan)
    assert "sample × token × token (measured)  ?" in lines[1]
    assert ": at least 2.0 MB in " in lines[-1]


def test_a_long_list_is_cut() -> None:
    (tensor,) = preview().tensors
    plan = replace(preview(), tensors=(tensor,) * 100)
    assert "… and 40 more; --json lists them all" in shown(plan)


AXIS = tuple(Checkpoint(f"epoch_{at}", at, f"/c/epoch_{at}.h5", "f00", 10) for at in (1, 2, 3))


def test_a_plan_over_checkpoints_counts_shards_for_each_of_them() -> None:
    lines = shown(replace(preview(), checkpoints=AXIS))
    assert lines[-1] == (
        "3 checkpoints of 1,500 samples, 1 tensor: at most 2.0 MB in 6 shards; 10.0 GB are free "
        "for /out/run"
    )


def test_checkpoints_that_cannot_be_used_are_named_with_their_reasons() -> None:
    wrong = tuple(
        ExcludedCheckpoint(f"{EVIL}{at}", f"/c/{at}.h5", f"{EVIL} is damaged") for at in range(5)
    )
    lines = shown(replace(preview(), checkpoints=AXIS, excluded=wrong))
    assert lines[-6:-1] == [
        "5 checkpoints cannot be used:",
        *(f"  {SHOWN_EVIL}{at}: {SHOWN_EVIL} is damaged" for at in range(3)),
        "  … and 2 more; --json lists them all",
    ]


def test_the_document_tells_of_checkpoints() -> None:
    wrong = (ExcludedCheckpoint("bad", "/c/bad.h5", "damaged"),)
    document = replace(preview(), checkpoints=AXIS[:1], excluded=wrong).to_json()
    assert document["checkpoints"] == [{"label": "epoch_1", "step": 1, "path": "/c/epoch_1.h5"}]
    assert document["excluded"] == [{"label": "bad", "path": "/c/bad.h5", "reason": "damaged"}]
    assert document["shards"] == [{"start": 0, "stop": 1024}, {"start": 1024, "stop": 1500}]


def test_who_may_share_a_batch_is_reported_with_the_reason() -> None:
    alone = Shared(Sharing.ALONE, "several samples together give other values")
    lines = shown(replace(preview(), shared=alone))
    assert lines[-2] == (
        "a call of the model takes one sample: several samples together give other values"
    )
