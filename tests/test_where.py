"""Where a recorded run is resumed: other workers, and nothing else."""

from pathlib import Path

import pytest

from extractkit.commands.jobs import resumable
from extractkit.config.overrides import where_it_runs
from extractkit.core.job import Runtime, moved
from extractkit.errors import ConfigError


def test_what_may_be_given() -> None:
    given = ["runtime.engine=ray", "runtime.ray_address='[::1]:1'", "runtime.worker_cpus=0.5"]
    found = where_it_runs("resume", [*given, "runtime.workers=null"])
    assert found == {
        "engine": "ray", "ray_address": "[::1]:1", "worker_cpus": 0.5, "workers": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    "text", ["model=bert", "runtime.part=1/2", "~runtime.engine", "runtime={}", "x", "a='"]
)
def test_what_may_not(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        where_it_runs("rerun", [text])
    assert str(caught.value) == (
        f"rerun: {text!r} cannot be given: the run keeps its settings. Only where it runs may be "
        f"given: runtime.engine, runtime.workers, runtime.shard_timeout, runtime.ray_address, "
        f"runtime.worker_cpus, runtime.worker_gpus, runtime.self_check"
    )


def test_what_another_engine_has_no_use_for_is_left_out() -> None:
    recorded = {"engine": "ray", "workers": 3, "ray_address": "auto", "seed": 5}
    here = Runtime.parse(moved(recorded, {"engine": "local"}))
    assert here == Runtime(seed=5)
    near = Runtime.parse(moved(recorded, {"engine": "processes"}))
    assert near == Runtime(seed=5, engine="processes", workers=3)
    with pytest.raises(ConfigError, match=r"runtime\.workers=2 has no effect with"):
        Runtime.parse(moved(recorded, {"engine": "local", "workers": 2}))


def test_going_on_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "manifest.json").touch()
    with pytest.raises(KeyboardInterrupt), resumable(tmp_path, ["own"], ["runtime.engine=local"]):
        raise KeyboardInterrupt
    assert capsys.readouterr().err == (
        f"Resume the run: extractkit resume {tmp_path} runtime.engine=local --trust own\n"
    )
