"""`runtime.keep_texts=false`: no file of a run holds a text of its samples, and values stay."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import extractkit
from extractkit.errors import RunDirectoryError, UnknownTensorError
from extractkit.runs import manifest
from extractkit.runs.reader import Run
from extractkit.runs.same_job import check_configuration
from extractkit.testing.reference import ReferenceModel
from tests.reports.examples import EVERYTHING

TEXTS = ["secret one", "another secret", ""]


def made(folder: Path, **runtime: object) -> Run:
    source = folder.parent / "texts.jsonl"
    source.write_text("".join(f"{json.dumps({'text': one})}\n" for one in TEXTS), "utf-8")
    return extractkit.extract(
        ["inputs=texts", f"inputs.path={source}"],
        model=ReferenceModel(),
        selectors=EVERYTHING,
        runtime=runtime,
        run_dir=folder,
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    folder = tmp_path_factory.mktemp("runs")
    return made(folder / "with"), made(folder / "without", keep_texts=False)


def test_rows_have_digests_in_place_of_texts_and_tokens(runs: tuple[Run, Run]) -> None:
    usual, private = runs
    for one, row, text in zip(usual.samples, private.samples, TEXTS, strict=True):
        assert one["text"] == text
        assert row["text_sha256"] == hashlib.sha256(text.encode()).hexdigest()
        assert row == {
            **{name: value for name, value in one.items() if name not in ("text", "tokens")},
            "text_sha256": row["text_sha256"],
        }


def test_no_file_of_the_run_holds_a_text(runs: tuple[Run, Run]) -> None:
    holding = {
        run.path.name: [
            path.name
            for path in run.path.rglob("*")
            if path.is_file() and any(one.encode() in path.read_bytes() for one in TEXTS if one)
        ]
        for run in runs
    }
    assert holding == {"with": ["samples.jsonl"], "without": []}


def test_values_are_the_same_and_the_run_is_whole(runs: tuple[Run, Run]) -> None:
    usual, private = runs
    for key, view in usual.items():
        np.testing.assert_array_equal(np.asarray(private[key]), np.asarray(view))
    assert not extractkit.verify(private.path).failed
    assert not extractkit.diff(usual, private).beyond


def test_its_identity_is_another_one_and_the_default_has_that_of_before(
    runs: tuple[Run, Run], tmp_path: Path
) -> None:
    usual, private = runs
    assert usual.manifest.identity != private.manifest.identity
    again = made(tmp_path / "again", reuse_from=str(private.path.parent))
    assert again.path == usual.path


def test_a_run_from_before_the_setting_is_one_with_texts(runs: tuple[Run, Run]) -> None:
    recorded = runs[0].manifest
    now = recorded.job_resolved
    old = {key: one for key, one in now["runtime"].items() if key != "keep_texts"}
    before = replace(recorded, job_resolved={**now, "runtime": old})
    check_configuration(runs[0].path, before, now)
    private = runs[1].manifest.job_resolved
    with pytest.raises(RunDirectoryError, match="cannot be resumed with other settings"):
        check_configuration(runs[0].path, before, {**now, "runtime": private["runtime"]})


def test_what_needs_tokens_names_the_setting(runs: tuple[Run, Run]) -> None:
    _, private = runs
    with pytest.raises(UnknownTensorError, match=r"unless the job has runtime\.keep_texts=false$"):
        private.by_token("embedding:output", 0)


def test_a_resumed_run_keeps_to_it(runs: tuple[Run, Run], tmp_path: Path) -> None:
    _, private = runs
    run = made(tmp_path / "run", keep_texts=False)
    (run.path / "samples.jsonl").unlink()
    extractkit.resume(run.path, model=ReferenceModel())
    assert (run.path / "samples.jsonl").read_bytes() == (
        private.path / "samples.jsonl"
    ).read_bytes()
    assert manifest.read(run.path).status is manifest.Status.FINISHED
