"""State that is carried from batch to batch, whatever the model: by a model in plain NumPy."""

from pathlib import Path

import numpy as np
import pytest

from extractkit.core.shards import Shard, plan_shards
from extractkit.engine import Silent
from extractkit.engine.carrying import check_count
from extractkit.engine.execute import resume
from extractkit.engine.preview import preview
from extractkit.errors import InputError, RunDirectoryError
from extractkit.runs import JOURNAL, journal
from extractkit.runs.shards import state_before
from tests.engine.carrying_examples import carrying
from tests.engine.examples import MODEL, TEXTS, Collected, executed, tokens


def test_each_sample_starts_from_the_state_that_those_before_it_left(tmp_path: Path) -> None:
    run = executed(tmp_path / "run", carrying())
    state = np.zeros(4, np.float32)
    for number, text in enumerate(TEXTS[:12]):
        forward = MODEL.forward(tokens(text))
        np.testing.assert_array_equal(
            run["pool:output"].sample(number), forward["pool:output"] + state
        )
        np.testing.assert_array_equal(run[":output"].sample(number), forward[":output"] + state)
        state = state + forward["pool:output"]


def test_each_shard_but_the_constants_has_its_state(tmp_path: Path) -> None:
    executed(tmp_path / "run", carrying())
    entries = journal.read(tmp_path / "run" / JOURNAL).by_shard()
    states = {shard.key: entry.state and entry.state.name for shard, entry in entries.items()}
    assert states == {
        "constants": None,
        "000000000-000000005": "shards/000000000-000000005.state.npz",
        "000000005-000000010": "shards/000000005-000000010.state.npz",
        "000000010-000000012": "shards/000000010-000000012.state.npz",
    }
    pooled = [MODEL.forward(tokens(text))["pool:output"] for text in TEXTS[:5]]
    (state,) = state_before(tmp_path / "run", entries, Shard(5, 10))
    np.testing.assert_allclose(state, np.sum(pooled, axis=0), rtol=1e-6)


def test_a_shard_in_front_of_which_no_state_is_stored_cannot_start(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError) as raised:
        state_before(tmp_path, {}, Shard(5, 10))
    assert str(raised.value) == (
        f"{tmp_path / JOURNAL} has no state before sample 5, from which shard "
        "000000005-000000010 starts"
    )


def test_the_user_learns_how_samples_share_a_call(tmp_path: Path) -> None:
    reported = Collected()
    executed(tmp_path / "run", carrying(), reported)
    assert (
        "the model's state is carried in the order of the samples, one sample per call"
        in reported.notes
    )
    plan = preview(carrying(), tmp_path)
    assert plan.to_json()["sharing"] == "consecutive samples"


def test_resuming_keeps_what_is_whole(tmp_path: Path) -> None:
    executed(tmp_path / "run", carrying())
    middle = tmp_path / "run" / "shards" / "000000005-000000010.npz"
    before = middle.read_bytes()
    middle.unlink()
    others = {
        p: p.stat().st_mtime_ns for p in middle.parent.iterdir() if "000000005-" not in p.name
    }
    resume(carrying(), tmp_path / "run", listener=Silent())
    assert middle.read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in others} == others


def test_shards_hold_whole_batches() -> None:
    shards = plan_shards(np.full(100, 40 * 2**20), None, 4)
    assert [shard.start for shard in shards] == list(range(0, 100, 4))  # the least there can be
    shards = plan_shards(np.full(100, 4 * 2**20), None, 3)  # 32 would fit
    assert {len(shard) for shard in shards[:-1]} == {30}
    assert shards[-1].stop == 100


def test_too_few_samples_for_one_batch() -> None:
    with pytest.raises(InputError) as raised:
        check_count(3, 4)
    assert str(raised.value) == (
        "inputs holds 3 samples, and with model.state=carry each call takes exactly 4: 3 would be "
        "left over. Give at least 4 samples"
    )
