"""Inputs are read once for identity, digest and lengths, and once to compute."""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from extractkit.core.component import Component
from extractkit.core.plan import PlannedTensor
from extractkit.engine import Silent
from extractkit.engine.execute import execute, resume
from extractkit.engine.preview import preview
from extractkit.engine.samples import SampleRow, Surveyor, survey
from extractkit.errors import InputError, JobError, RunDirectoryError, SelectionError
from extractkit.inputs import Scanning, Signature, Source, Visit
from extractkit.inputs.in_memory import LiveRows, LiveTexts
from extractkit.inputs.texts import Texts
from extractkit.runs.files import origins
from extractkit.runs.reader import open_run
from tests.engine.examples import MODEL, TEXTS, Collected, job, shard_files

LETTERS = [ord(text[0]) % 50 for text in TEXTS]
COLUMNS = {"tokens": "tokens"}


def texts(folder: Path, letter: str) -> str:
    (folder / "x.txt").write_text("".join(f"{text[0]}{letter}\n" for text in TEXTS))
    return str(folder / "x.txt")


def json_lines(folder: Path, letter: str) -> str:
    rows = [json.dumps({"tokens": [one, ord(letter) % 50]}) for one in LETTERS]
    (folder / "x.jsonl").write_text("\n".join(rows))
    return str(folder / "x.jsonl")


def files(folder: Path, letter: str) -> str:
    (folder / "x").mkdir(exist_ok=True)
    for index, text in enumerate(TEXTS):
        (folder / "x" / f"{index:02}.txt").write_text(f"{text[0]}{letter}")
    return str(folder / "x")


def arrays(folder: Path, letter: str) -> str:
    np.save(folder / "x.npy", np.array([[one, ord(letter) % 50] for one in LETTERS], "int32"))
    return str(folder / "x.npy")


def hdf5(folder: Path, letter: str) -> str:
    with h5py.File(folder / "made.h5", "w") as file:
        file["tokens"] = np.array([[one, ord(letter) % 50] for one in LETTERS], "int32")
    # HDF5 refuses to write to a file that it has open.
    (folder / "x.h5").write_bytes((folder / "made.h5").read_bytes())
    return str(folder / "x.h5")


def parquet(folder: Path, letter: str) -> str:
    rows = [[one, ord(letter) % 50] for one in LETTERS]
    pyarrow.parquet.write_table(pa.table({"tokens": rows}), folder / "x.parquet", row_group_size=4)
    return str(folder / "x.parquet")


class Counting(list[Any]):
    """Counts how often each element is read."""

    def __init__(self, elements: Sequence[Any]) -> None:
        super().__init__(elements)
        self.reads: Counter[int] = Counter()

    def __getitem__(self, index: Any) -> Any:
        self.reads[index] += 1
        return super().__getitem__(index)


def test_a_job_reads_every_sample_once_before_it_computes_and_once_for_that(
    tmp_path: Path,
) -> None:
    rows = Counting([{"tokens": np.array([n, n + 1], "int32")} for n in range(40)] * 5)
    execute(
        job({"path": ":output"}, inputs=LiveRows(rows), self_check=False),
        tmp_path / "run",
        hydra_files={},
        listener=Silent(),
    )
    # The first samples are also read to measure the model.
    assert {rows.reads[index] for index in range(64, 200)} == {2}


_OPENED: Counter[str] = Counter()
_LISTENING: list[Path] = []


def _count(event: str, given: tuple[Any, ...]) -> None:
    if event == "open" and _LISTENING and str(given[0]).startswith(str(_LISTENING[0])):
        _OPENED[str(given[0])] += 1


@contextmanager
def counted_opens(folder: Path) -> Iterator[Counter[str]]:
    """Count how often Python opens each file below a folder."""
    if not hasattr(sys, "_extractkit_counts_opens"):
        sys.addaudithook(_count)
        sys._extractkit_counts_opens = True  # type: ignore[attr-defined]
    _OPENED.clear()
    _LISTENING.append(folder)
    try:
        yield _OPENED
    finally:
        _LISTENING.clear()


def run(directory: Path, inputs: Component, listener: Silent | None = None) -> Path:
    """Run a job on configured inputs, without a self-check."""
    wanted = replace(job({"path": ":output"}, shard_size=5, self_check=False), inputs=inputs)
    return execute(wanted, directory, hydra_files={}, listener=listener or Silent())


def test_each_file_is_opened_once_for_digests_and_length_and_once_to_compute(
    tmp_path: Path,
) -> None:
    count = 200
    folder = tmp_path / "inputs"
    folder.mkdir()
    for index in range(count):
        (folder / f"{index:03}.txt").write_text("a" * (index % 7 + 1))
    inputs = Component("inputs", "extractkit.inputs.whole_files.Files", {"path": str(folder)})
    with counted_opens(folder) as opened:
        run(tmp_path / "run", inputs)
    # The first samples are also read to measure the model.
    assert {opened[str(folder / f"{index:03}.txt")] for index in range(64, count)} == {2}
    recorded = open_run(tmp_path / "run").manifest
    assert recorded.origins == origins([inputs])


def test_a_file_of_texts_is_read_once_before_it_is_computed(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("".join(f"line {number}\n" for number in range(2000)))
    inputs = Component("inputs", "extractkit.inputs.texts.Texts", {"path": str(path)})

    class Stopping(Silent):
        def planned(self, tensors: Sequence[PlannedTensor], samples: int, total: int) -> None:
            raise JobError("all has been read that is needed for the plan")

    with counted_opens(tmp_path) as opened, pytest.raises(JobError, match="all has been read"):
        run(tmp_path / "run", inputs, Stopping())
    # One pass, and the first samples to measure the model and to run it on one.
    assert opened[str(path)] <= 3
    assert open_run(tmp_path / "run").manifest.origins == origins([inputs])


class Changing(Silent):
    """Changes the inputs when all of them have been read, and nothing has been computed."""

    def __init__(self, change: Callable[[], object]) -> None:
        self._change = change

    def planned(self, tensors: Sequence[PlannedTensor], samples: int, total: int) -> None:
        self._change()


TARGETS = {
    texts: ("texts.Texts", {}),
    json_lines: ("texts.Texts", {"columns": COLUMNS}),
    files: ("whole_files.Files", {}),
    arrays: ("arrays.Arrays", {}),
    hdf5: ("hdf5.Hdf5", {}),
    parquet: ("parquet.Parquet", {"columns": COLUMNS}),
}


kinds = pytest.mark.parametrize("kind", TARGETS, ids=lambda kind: str(kind.__name__))


@kinds
def test_a_file_that_changes_after_the_scan_ends_the_job_without_wrong_values(
    tmp_path: Path, kind: Callable[[Path, str], str]
) -> None:
    name, arguments = TARGETS[kind]
    path = kind(tmp_path, "b")
    inputs = Component("inputs", f"extractkit.inputs.{name}", {"path": path, **arguments})
    every = [Path(path)] if Path(path).is_file() else sorted(Path(path).iterdir())
    times = [(one.stat().st_atime_ns, one.stat().st_mtime_ns) for one in every]
    sizes = [one.stat().st_size for one in every]

    def change() -> None:
        kind(tmp_path, "c")
        for one, size, time in zip(every, sizes, times, strict=True):
            assert one.stat().st_size == size  # neither size nor date shows it
            os.utime(one, ns=time)

    with pytest.raises(JobError, match="changed while the job ran"):
        run(tmp_path / "run", inputs, Changing(change))
    assert not shard_files(tmp_path / "run")
    # What the run recorded is what was there at the scan.
    wanted = replace(job({"path": ":output"}, shard_size=5, self_check=False), inputs=inputs)
    with pytest.raises(RunDirectoryError, match="the inputs: 20 samples"):
        resume(wanted, tmp_path / "run", listener=Silent())
    kind(tmp_path, "b")
    resume(wanted, tmp_path / "run", listener=Silent())
    run(tmp_path / "undisturbed", inputs)
    assert shard_files(tmp_path / "run") == shard_files(tmp_path / "undisturbed")


def test_a_file_whose_mode_changes_after_the_scan_is_read_on(tmp_path: Path) -> None:
    path = texts(tmp_path, "b")
    inputs = Component("inputs", "extractkit.inputs.texts.Texts", {"path": path})
    run(tmp_path / "run", inputs, Changing(lambda: Path(path).chmod(0o640)))
    run(tmp_path / "undisturbed", inputs)
    assert shard_files(tmp_path / "run") == shard_files(tmp_path / "undisturbed")


@kinds
def test_a_scan_gives_the_survey_of_a_pass_of_its_own(
    tmp_path: Path, kind: Callable[[Path, str], str]
) -> None:
    name, arguments = TARGETS[kind]
    inputs = Component(
        "inputs", f"extractkit.inputs.{name}", {"path": kind(tmp_path, "b"), **arguments}
    ).build()
    scanned: list[SampleRow] = []
    surveyor = Surveyor(MODEL, scanned.extend)
    source = inputs.scan(MODEL.signature, surveyor.see)
    rows: list[SampleRow] = []
    found, expected = surveyor.result(), survey(MODEL, source, rows.extend)
    assert scanned == rows
    assert found.missing == expected.missing
    assert {axis: n.tolist() for axis, n in found.lengths.axes.items()} == {
        axis: n.tolist() for axis, n in expected.lengths.axes.items()
    }


def test_unreadable_lines_are_missing_in_a_scan_as_in_a_pass_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"good\n\xff\xfe\nbetter\n\n")
    scanned: list[SampleRow] = []
    surveyor = Surveyor(MODEL, scanned.extend, "skip")
    source = Texts(str(path)).scan(MODEL.signature, surveyor.see)
    rows: list[SampleRow] = []
    expected = survey(MODEL, source, rows.extend, "skip")
    assert scanned == []  # a chunk is not full yet
    assert surveyor.result().missing == expected.missing == {1: expected.missing[1]}
    assert scanned == rows
    failing = Surveyor(MODEL, lambda rows: None)
    Texts(str(path)).scan(MODEL.signature, failing.see)
    with pytest.raises(InputError, match=r"sample 'x\.txt:2' \(number 1\).* is not UTF-8"):
        failing.result()


def test_samples_too_short_for_a_slice_are_missing_in_the_rows_too(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("long enough\nno\nlong enough too\n")
    inputs = Component("inputs", "extractkit.inputs.texts.Texts", {"path": str(path)})
    sliced = job(
        {"path": "embedding:output", "slice": {"token": 4}}, bad_samples="skip", self_check=False
    )
    execute(replace(sliced, inputs=inputs), tmp_path / "run", hydra_files={}, listener=Silent())
    stored = open_run(tmp_path / "run")
    assert [row.get("missing", "")[:6] for row in stored.samples] == ["", "it has", ""]
    assert len(stored.samples) == 3


def test_a_slice_of_nothing_is_refused_before_the_model_is_compiled(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("abc\nde\n")
    listener = Collected()
    inputs = Component("inputs", "extractkit.inputs.texts.Texts", {"path": str(path)})
    sliced = replace(job({"path": "embedding:output", "slice": {"token": "3:"}}), inputs=inputs)
    with pytest.raises(SelectionError, match=r"the longest of 2 samples has 3$"):
        execute(sliced, tmp_path / "run", hydra_files={}, listener=listener)
    assert not any("compiling" in stage for stage in listener.stages)
    assert not (tmp_path / "run").exists()
    with pytest.raises(SelectionError, match=r"the longest of 2 samples has 3$"):
        preview(sliced, tmp_path / "run", exact=True)


class Partial(Scanning):
    """Inputs that show fewer samples than they have."""

    def scan(self, signature: Signature, visit: Visit | None) -> Source:
        source = LiveTexts(TEXTS).bind(signature)
        for sample in source.read(0, 3) if visit is not None else ():
            visit(sample)
        return source


def test_inputs_that_do_not_show_every_sample_are_read_once_more(tmp_path: Path) -> None:
    wanted = job({"path": ":output"}, self_check=False)
    shown = Component("inputs", "extractkit.api.given", {"live": Partial()})
    for name, one in (("whole", wanted), ("partial", replace(wanted, inputs=shown))):
        execute(one, tmp_path / name, hydra_files={}, listener=Silent())
    assert shard_files(tmp_path / "partial") == shard_files(tmp_path / "whole")
    samples = [(tmp_path / name / "samples.jsonl").read_bytes() for name in ("whole", "partial")]
    assert samples[0] == samples[1]
