"""One job on several processes: the same run as in one, whatever becomes of a worker."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from extractkit.core.digests import PREFERRED
from extractkit.core.values import Dense
from extractkit.engine.distributed import driver
from extractkit.engine.execute import resume
from extractkit.errors import BadSampleError, ConfigError, ExtractkitError, JobError
from extractkit.runs import JOURNAL, LOG, manifest
from extractkit.runs.checking.files import damage
from extractkit.runs.journal import read as read_journal
from extractkit.runs.manifest import Status
from extractkit.runs.reader import sink_of
from extractkit.runs.shards import ShardValues, Storing, remove_temporary
from extractkit.testing.reference import ReferenceModel
from tests.engine.distributed.troubled import SHARD, wanted
from tests.engine.examples import EVERYTHING, executed, job
from tests.engine.test_resume import Collected
from tests.faults.runs import content

ROOT = Path(__file__).parents[3]

# Those of the first test, and of drivers that are processes themselves, start as they are.
quick = pytest.mark.usefixtures("quick_workers")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What the run holds that was made in this process."""
    return content(executed(tmp_path_factory.mktemp("local") / "run", wanted()).path)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """A run that has ended leaves no process behind."""
    before = set(psutil.Process().children(recursive=True))
    yield
    begun = set(psutil.Process().children(recursive=True)) - before
    _, left = psutil.wait_procs(begun, timeout=10)
    assert not left


def test_two_processes_make_the_same_run(tmp_path: Path, local: dict[str, object]) -> None:
    run = executed(tmp_path / "run", wanted(engine="processes"))
    assert content(run.path) == local
    assert not damage(run.path, run.manifest)
    (machine,) = run.manifest.volatile.workers
    assert machine == run.manifest.volatile.host


@quick
@pytest.mark.parametrize(
    ("trouble", "reported"),
    [
        ("die", "was killed by SIGKILL; shard "),
        ("stop", "took more than 2 s over its shard (runtime.shard_timeout); shard "),
        ("sleep", "took more than 2 s over its shard (runtime.shard_timeout); shard "),
        ("crash", "crashed: RuntimeError: out of order; shard "),
        ("start", "was killed by SIGKILL, before it was ready"),
        ("digest", "is damaged: its digest is not the recorded one; shard "),
        ("shard", "returned garbage: it was given "),
        ("files", "names the file 'shards/mine.npz', not "),
        ("tensors", "returned garbage: it stored other tensors than those planned; shard "),
        ("samples", "returned garbage: it records samples that are not in its shard; shard "),
        ("truncated", " were written; shard "),
        ("missing", "is missing from its run; shard "),
        ("entry", "returned garbage: the checksum of its entry does not match; shard "),
        ("message", "returned garbage: it is not a message: b'\\x80 what?'; shard "),
        ("unknown", "which is not an extractkit error; shard "),
    ],
)
def test_what_a_worker_in_trouble_held_is_computed_by_another(
    tmp_path: Path, local: dict[str, object], trouble: str, reported: str
) -> None:
    listener = Collected()
    wait = {"shard_timeout": 2} if trouble in ("stop", "sleep") else {}
    job = wanted(tmp_path, trouble, engine="processes", workers=2, **wait)
    run = executed(tmp_path / "run", job, listener)
    notes = [note for note in listener.notes if re.match(r"worker \d+ ", note)]
    assert len(notes) == 1
    assert reported in notes[0]
    assert trouble == "start" or notes[0].endswith(" is computed again")
    assert content(run.path) == local
    assert notes[0] in (run.path / LOG).read_text("utf-8")


@quick
def test_a_shard_that_fails_three_workers_ends_the_job_and_is_named(
    tmp_path: Path, local: dict[str, object]
) -> None:
    reported = Collected()
    with pytest.raises(
        JobError, match=rf"shard {SHARD} has failed on 3 workers\. The last time, "
    ) as e:
        executed(tmp_path / "run", wanted(tmp_path, "die", 99, engine="processes"), reported)
    assert "What was committed before is intact" in str(e.value)
    recorded = manifest.read(tmp_path / "run")
    assert recorded.status is Status.FAILED
    assert not damage(tmp_path / "run", recorded)
    resume(wanted(engine="processes"), tmp_path / "run", listener=reported)
    assert content(tmp_path / "run") == local


@quick
@pytest.mark.parametrize(
    ("trouble", "kind", "reported"),
    [
        ("job", JobError, "the disk is gone"),
        ("sample", BadSampleError, "sample '5' (number 5): no good. "),
        ("config", ConfigError, "no such thing"),
        ("plugin", ConfigError, "of a plugin"),
    ],
)
def test_what_fails_anywhere_ends_the_job_at_once(
    tmp_path: Path, trouble: str, kind: type[ExtractkitError], reported: str
) -> None:
    notes = Collected()
    with pytest.raises(kind) as caught:
        executed(tmp_path / "run", wanted(tmp_path, trouble, 99, engine="processes"), notes)
    assert type(caught.value) is kind
    assert reported in str(caught.value)
    assert not [note for note in notes.notes if note.startswith("worker ")]


@quick
def test_a_run_that_a_worker_refuses_to_go_on_with_is_not_left_as_started(tmp_path: Path) -> None:
    with pytest.raises(JobError):
        executed(tmp_path / "run", wanted(tmp_path, "job", 1, engine="processes"))
    (tmp_path / "0").unlink()
    changed = wanted(tmp_path, "config", 1, engine="processes")
    with pytest.raises(ConfigError):
        resume(changed, tmp_path / "run", listener=Collected())
    assert manifest.read(tmp_path / "run").status is Status.FAILED


@quick
def test_workers_that_never_start_end_the_job(tmp_path: Path) -> None:
    with pytest.raises(JobError) as caught:
        executed(tmp_path / "run", wanted(tmp_path, "start", 99, engine="processes"))
    assert str(caught.value).startswith("no worker could be started, ")
    assert str(caught.value).endswith(" was killed by SIGKILL")


@quick
def test_a_worker_that_takes_too_long_to_start_is_replaced(
    tmp_path: Path, local: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "START_SECONDS", 3.0)
    monkeypatch.setattr(driver, "START_TIMES", 0)
    reported = Collected()
    run = executed(
        tmp_path / "run", wanted(tmp_path, "late", engine="processes", workers=1), reported
    )
    late = "worker 1 took more than 3 s to start (to load libraries and the model)"
    assert f"{late}, before it was ready" in reported.notes
    assert content(run.path) == local


@quick
def test_a_sample_that_a_model_fails_on_is_skipped_as_in_one_process(tmp_path: Path) -> None:
    kept = []
    for engine in ("local", "processes"):
        job = wanted(tmp_path, "sample", 99, engine=engine, bad_samples="skip")
        kept.append(content(executed(tmp_path / engine, job).path))
    assert kept[0] != kept[1]


def test_what_is_in_memory_and_cannot_be_sent_is_refused(tmp_path: Path) -> None:
    class Local(ReferenceModel):
        pass

    with pytest.raises(ConfigError) as caught:
        executed(tmp_path / "run", job(EVERYTHING, model=Local(), engine="processes"))
    assert str(caught.value).startswith(
        "model is in memory and cannot be sent to workers (runtime.engine=processes): "
    )
    assert not (tmp_path / "run").exists()


UNSENDABLE = """
import sys
from pathlib import Path
from tests.engine.examples import EVERYTHING, executed, job
from extractkit.testing.reference import ReferenceModel
from extractkit.core.values import Dense

class Mine(ReferenceModel):
    pass

executed(Path(sys.argv[1]), job(EVERYTHING, model=Mine(), engine="processes"))
"""


def test_a_class_of_a_script_cannot_be_made_again_and_that_is_reported(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNSENDABLE, tmp_path / "run"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    last = done.stderr.strip().splitlines()[-1]
    assert "ConfigError: a worker cannot recreate what was given in memory: AttributeError" in last
    assert "Put its class or function into a module that can be imported" in last
    assert not (tmp_path / "run").exists()


SLOW = """
import signal, sys
from pathlib import Path
from extractkit.engine.execute import execute
from extractkit.engine import Silent
from tests.engine.distributed.troubled import wanted

signal.signal(signal.SIGTERM, signal.default_int_handler)
job = wanted(Path(sys.argv[2]), "sleep", 1, engine="processes", workers=2)
execute(job, Path(sys.argv[1]), hydra_files={}, listener=Silent())
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_driver_and_the_run_is_resumed(
    tmp_path: Path, local: dict[str, object], how: signal.Signals
) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, run, tmp_path],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_until(lambda: (tmp_path / "0").exists() and len(read_journal(run / JOURNAL).entries) > 0)
    workers = psutil.Process(process.pid).children()
    assert len(workers) == 2
    process.send_signal(how)
    _, left = psutil.wait_procs(workers, timeout=10)
    assert not left
    _, words = process.communicate(timeout=20)
    if how is not signal.SIGKILL:
        assert words.strip().endswith("KeyboardInterrupt")
        assert manifest.read(run).status is Status.INTERRUPTED
    resume(wanted(engine="processes"), run, listener=Collected())
    assert content(run) == local


def wait_until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_worker_whose_driver_is_gone_changes_no_file_of_the_run(tmp_path: Path) -> None:
    """What it forces out has a name of its own, and is swept away by whoever goes on."""
    run = executed(tmp_path / "run", wanted())
    before = content(run.path)
    shard = run.manifest.shards[1]
    entry = read_journal(run.path / JOURNAL).by_shard()[shard]
    sinks = {"npz": sink_of(run.manifest, "npz")}
    late = Storing(run.path, sinks, PREFERRED, writer="late")
    late.store(ShardValues(shard, {t.key: Dense(np.zeros((2, 1))) for t in run.manifest.tensors}))
    assert not damage(run.path, run.manifest)
    (left,) = (run.path / "shards").glob("*.tmp")
    assert left.name == f"{Path(entry.files['npz'].name).name}.late.tmp"
    remove_temporary(run.path)
    assert content(run.path) == before
