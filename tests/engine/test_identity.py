"""What decides a run's bytes decides its identity, and nothing else does."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest

from extractkit.core.component import Component
from extractkit.core.job import Job
from extractkit.core.keys import Effect
from extractkit.core.selectors import parse_selector
from extractkit.engine.identity import described
from extractkit.engine.prepare import prepare
from extractkit.runs.environment import VALUES_VERSION, Volatile
from extractkit.runs.manifest import Manifest
from extractkit.testing.reference import ReferenceModel
from tests.engine.examples import EVERYTHING, TEXTS, job

POOLED = {"path": "pool:output"}


def known(wanted: Job) -> Manifest:
    return described(Manifest(volatile=Volatile("")), prepare(wanted))


def identity(wanted: Job) -> str:
    found = known(wanted).identity
    assert found is not None
    return found


BASE = job(POOLED, sinks=("npz",))


@pytest.fixture(scope="module")
def base() -> str:
    """The identity of a small job."""
    return identity(BASE)


def test_the_same_job_has_the_same_identity(base: str) -> None:
    assert len(base) == 64
    assert identity(job(POOLED, sinks=("npz",))) == base


def test_it_is_the_same_in_another_process_and_directory(base: str, tmp_path: Path) -> None:
    code = "from tests.engine.test_identity import BASE, identity; print(identity(BASE))"
    here = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": here, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == base


def test_where_a_finished_run_is_looked_for_and_what_was_typed_do_not_matter(base: str) -> None:
    assert identity(job(POOLED, reuse_from="outputs")) == base
    assert identity(replace(BASE, given=("a=b",), resolved={}, model_name="other")) == base


@pytest.mark.parametrize(
    "other",
    [
        job(POOLED, model=ReferenceModel(seed=1)),
        job(POOLED, model=ReferenceModel(longest=60)),
        job(POOLED, inputs=TEXTS[:-1]),
        job(POOLED, inputs=(*TEXTS[:-1], "other")),
        job(POOLED, inputs=TEXTS[::-1]),
        job(EVERYTHING),
        job({**POOLED, "cast": "float16"}),
        replace(BASE, selectors=(parse_selector("other", POOLED),)),
        job(POOLED, sinks=("hdf5",)),
        job(POOLED, sinks=("npz", "hdf5")),
        replace(BASE, sinks={"npz": replace(BASE.sinks["npz"], arguments={"compressed": False})}),
        job(POOLED, batch_size=31),
        job(POOLED, batch_tokens=100),
        job(POOLED, shard_size=3),
        job(POOLED, compile="xla"),
        job(POOLED, device="/CPU:0"),
        job(POOLED, seed=1),
        job(POOLED, deterministic=False),
        job(POOLED, bad_samples="skip"),
        job(POOLED, non_finite="skip"),
        job(POOLED, threads=5),
    ],
)
def test_what_may_change_a_byte_changes_it(base: str, other: Job) -> None:
    assert identity(other) != base


def test_the_order_of_sinks_matters_for_the_first_is_read() -> None:
    one, other = job(POOLED, sinks=("npz", "hdf5")), job(POOLED, sinks=("hdf5", "npz"))
    assert identity(one) != identity(other)


def test_versions_that_matter_change_it(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = known(BASE).versions
    for name, same in (("numpy", False), ("extractkit", True), ("hydra-core", True)):
        found = {**versions, name: "0.1"}
        monkeypatch.setattr("extractkit.engine.identity.package_versions", lambda _, f=found: f)
        assert (identity(BASE) == base) == same


def test_the_values_version_changes_it(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extractkit.engine.identity.VALUES_VERSION", VALUES_VERSION + 1)
    assert identity(BASE) != base


def test_flags_change_it(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--fast")
    assert identity(BASE) != base


def test_nobody_can_tell_where_no_definition_is_known() -> None:
    class Eager(ReferenceModel):
        def definition_digest(self) -> None:
            return None

    assert known(job(POOLED, model=Eager())).identity is None


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A file of token ids."""
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data" / "tokens.npy", np.arange(12, dtype=np.int32).reshape(3, 4))
    return tmp_path / "data"


def of_file(path: object) -> Job:
    inputs = Component("inputs", "extractkit.inputs.arrays.Arrays", {"path": path})
    return replace(BASE, inputs=inputs)


@pytest.mark.parametrize("named", [False, True], ids=["path", "mapping of paths"])
def test_a_file_counts_by_its_content_wherever_it_lies(named: bool, files: Path) -> None:
    def of(path: Path) -> Job:
        return of_file({"tokens": str(path)} if named else str(path))

    before = identity(of(files / "tokens.npy"))
    shutil.copytree(files, files.with_name("moved"))
    moved = files.with_name("moved") / "tokens.npy"
    assert identity(of(moved)) == before
    np.save(moved, np.arange(1, 13, dtype=np.int32).reshape(3, 4))
    assert identity(of(moved)) != before


def test_arguments_that_build_the_model_count() -> None:
    def of(**arguments: object) -> Job:
        target = "extractkit.testing.reference.ReferenceModel"
        return replace(BASE, model=Component("model", target, arguments))

    assert identity(of(seed=0)) == identity(of(seed=0))
    assert identity(of(seed=0)) != identity(of())


class Cached(ReferenceModel):
    """A model of foreign code with an argument that changes no byte."""

    def __init__(self, seed: int = 0, cache: Annotated[str, Effect.NONE] = "") -> None:
        super().__init__(seed)


def test_an_argument_counts_unless_it_declares_that_it_changes_no_byte() -> None:
    def of(**arguments: object) -> Job:
        return replace(BASE, model=Component("model", f"{__name__}.Cached", arguments))

    assert identity(of(cache="here")) == identity(of(cache="there")) == identity(of())
    assert identity(of(seed=0)) != identity(of())
