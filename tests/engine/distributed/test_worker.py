"""What a worker refuses before it loads anything."""

import os
from pathlib import Path
from queue import SimpleQueue

import pytest

from extractkit.engine.distributed import Failed, Task, decoded
from extractkit.engine.distributed.worker import work
from extractkit.runs import manifest as manifests
from extractkit.runs.environment import Volatile, extractkit_release
from extractkit.runs.manifest import Manifest


def test_a_worker_of_another_release_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the driver's values version, perhaps, but not its messages."""
    monkeypatch.chdir(tmp_path)
    manifests.write(tmp_path, Manifest(volatile=Volatile("now")))
    sent: SimpleQueue[bytes] = SimpleQueue()
    task = Task(b"", str(tmp_path), os.fspath(tmp_path), (), {}, "9.9", "0-1")
    work(task, iter(()), sent.put)  # type: ignore[arg-type]
    message = decoded(sent.get_nowait())
    assert isinstance(message, Failed)
    assert message.error == "RunDirectoryError"
    assert f"has extractkit {extractkit_release()}, and the driver has 9.9. " in message.message
    assert message.message.endswith("pip install extractkit==9.9")
