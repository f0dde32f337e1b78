"""What a job would do, without doing it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

import extractkit
from extractkit.engine.preview import preview
from extractkit.errors import ConfigError, DiskSpaceError, InputError, SelectionError, UserError
from extractkit.runs.directory import human_bytes
from tests.engine.examples import EVERYTHING, MODEL, TEXTS, executed, job, tokens
from tests.engine.test_measure import described

HIDDEN = {"path": "embedding:output"}
POOLED = {"path": "pool:output"}


def computed_bytes(address: str) -> int:
    return sum(MODEL.forward(tokens(text))[address].nbytes for text in TEXTS)


def test_a_size_that_does_not_depend_on_lengths_is_exact(tmp_path: Path) -> None:
    plan = preview(job(POOLED), tmp_path)
    assert (plan.bytes, plan.bound) == (computed_bytes("pool:output"), "exact")


def test_the_longest_texts_allowed_bound_the_size(tmp_path: Path) -> None:
    plan = preview(job(HIDDEN), tmp_path)
    assert (plan.bytes, plan.bound) == (len(TEXTS) * MODEL.longest * 4 * 4, "upper bound")


def test_reading_every_text_makes_it_exact(tmp_path: Path) -> None:
    plan = preview(job(HIDDEN, POOLED), tmp_path, exact=True)
    sizes = {address: computed_bytes(address) for address in ("embedding:output", "pool:output")}
    assert (plan.sizes, plan.bytes, plan.bound) == (sizes, sum(sizes.values()), "exact")


def test_a_length_that_the_model_computes_leaves_it_open(tmp_path: Path) -> None:
    model = described("embedding:output", "sample", "f(token)", None)
    plan = preview(job({"path": "embedding:output"}, POOLED, model=model), tmp_path, exact=True)
    assert plan.sizes == {"embedding:output": None, "pool:output": computed_bytes("pool:output")}
    assert (plan.bytes, plan.bound) == (computed_bytes("pool:output"), "at least")


def test_weights_alone_need_no_samples(tmp_path: Path) -> None:
    plan = preview(job({"kind": "weight"}), tmp_path)
    assert plan.bytes == sum(array.nbytes for array in MODEL.weights.values())
    assert (plan.bound, plan.samples, plan.shards) == ("exact", 0, ())


def test_it_says_what_is_measured_matched_and_left_out(tmp_path: Path) -> None:
    plan = preview(job({"path": "pool:*"}, {"path": "attention:op/*"}), tmp_path)
    assert plan.measured == ("pool:op/Max",)
    assert plan.matches == {"s0": 2, "s1": 2}
    assert [record.address for record in plan.unextractable] == ["attention:op/Count"]
    assert [tensor.key for tensor in plan.tensors] == [
        "attention:op/Softmax", "attention:op/MatMul", "pool:op/Max", "pool:output",
    ]  # fmt: skip


def test_the_shards_are_those_of_the_run(tmp_path: Path) -> None:
    wanted = job(EVERYTHING, shard_size=8)
    plan = preview(wanted, tmp_path, exact=True)
    run = executed(tmp_path / "run", wanted)
    assert [(s.start, s.stop) for s in plan.shards] == [(0, 8), (8, 16), (16, 20)]
    assert run.manifest.plan is not None
    assert run.manifest.plan.shards == ((0, 8), (8, 16), (16, 20))
    assert run.manifest.plan.bytes == plan.bytes


def test_json_is_plain_data(tmp_path: Path) -> None:
    plan = preview(job(HIDDEN, shard_size=10), tmp_path).to_json()
    assert json.loads(json.dumps(plan)) == plan
    assert plan["tensors"] == [
        {
            "key": "embedding:output", "address": "embedding:output", "kind": "layer_output",
            "selectors": ["s0"], "dtype": "float32", "dims": ["sample", "token", None],
            "shape": [None, None, 4], "bytes": 20 * 64 * 16, "measured": False,
            "statistics": [], "request": {},
        }
    ]  # fmt: skip
    assert plan["shards"] == [{"start": 0, "stop": 10}, {"start": 10, "stop": 20}]


def room(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))


def test_a_disk_with_just_enough_room_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = computed_bytes("pool:output")
    room(monkeypatch, needed)
    assert preview(job(POOLED), tmp_path).free_bytes == needed


@pytest.mark.parametrize("sinks", [("npz",), ("hdf5", "npz")])
def test_a_disk_without_room_is_refused_by_plan_and_run_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sinks: tuple[str, ...]
) -> None:
    needed = computed_bytes("pool:output") * len(sinks)
    room(monkeypatch, needed - 1)
    message = (
        f"The run needs {human_bytes(needed)}, but {tmp_path} has {human_bytes(needed - 1)} free. "
        f"Take fewer samples (inputs.limit=…), store less of each tensor (selectors.NAME.reduce, "
        f".slice or .cast), or choose another disk (run_dir=…)"
    )
    with pytest.raises(DiskSpaceError) as caught:
        preview(job(POOLED, sinks=sinks), tmp_path / "run")
    assert str(caught.value) == message
    with pytest.raises(DiskSpaceError):
        executed(tmp_path / "run", job(POOLED, sinks=sinks))
    assert not any(tmp_path.iterdir())


def test_too_many_samples_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubled = tf.function(lambda x: x * 2, input_signature=[tf.TensorSpec([None, 9], tf.float32)])

    def refused(ask: Callable[..., object], samples: int) -> str:
        words = ["inputs=random", f"inputs.samples={samples}", "selectors=outputs"]
        with pytest.raises(UserError) as caught:
            ask(words, model=doubled, run_dir=tmp_path / "run")
        return str(caught.value)

    for ask in (extractkit.plan, extractkit.extract):
        assert refused(ask, 10**12).startswith(
            "inputs holds 1,000,000,000,000 samples, whose plan needs 32.0 TB of memory, and "
        )
    room(monkeypatch, 10**6)
    for ask in (extractkit.plan, extractkit.extract):
        needed = refused(ask, 10**6)
        assert needed.startswith(f"The run needs 36.0 MB, but {tmp_path}")
    assert not any(tmp_path.iterdir())


def test_states_of_statistics_are_written_once_whatever_the_sinks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = {"path": "pool:output", "statistics": ["moments"]}
    wanted = job(counted, sinks=("hdf5", "npz"), shard_size=5)
    plan = preview(wanted, tmp_path)
    assert plan.bytes > 0
    room(monkeypatch, plan.bytes)
    assert preview(wanted, tmp_path).bytes == plan.bytes
    room(monkeypatch, plan.bytes - 1)
    with pytest.raises(DiskSpaceError):
        preview(wanted, tmp_path)
    monkeypatch.undo()
    run = executed(tmp_path / "run", wanted)
    assert run.manifest.plan is not None
    assert run.manifest.plan.bytes == plan.bytes


def test_an_element_that_a_text_may_lack_is_reported_where_lengths_are_known(
    tmp_path: Path,
) -> None:
    taking = job({"path": "embedding:output", "slice": {"token": 2}})
    preview(taking, tmp_path)
    with pytest.raises(SelectionError, match=r"but 5 of 20 samples are shorter, first sample 0 "):
        preview(taking, tmp_path, exact=True)


def test_nothing_is_written(tmp_path: Path) -> None:
    preview(job(EVERYTHING), tmp_path / "run", exact=True)
    assert not any(tmp_path.iterdir())


def test_a_job_without_a_selector_says_how_to_choose(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        preview(job(), tmp_path)
    assert str(caught.value) == (
        "selectors is empty: nothing would be extracted. Choose some: selectors=outputs, or "
        "'+selectors.mine.path=…'. List what there is: extractkit tensors model=reference"
    )


def test_a_source_without_samples_is_refused(tmp_path: Path) -> None:
    class Nothing:
        digest, notes = "", ()

        def bind(self, signature: object) -> "Nothing":
            return self

        def __len__(self) -> int:
            return 0

        def read(self, start: int, stop: int) -> list[np.ndarray]:
            return []

    with pytest.raises(InputError, match=r"^inputs holds no sample\. Give at least one$"):
        preview(job(POOLED, inputs=Nothing()), tmp_path)
