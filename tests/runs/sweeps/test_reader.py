"""A sweep read back: its table, its runs, one labelled array."""

import shutil
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import extractkit
from extractkit.errors import ConfigError, RunDirectoryError, SelectionError
from extractkit.runs import sweeps
from extractkit.runs.manifest import Status
from extractkit.runs.sweeps import JobStatus, next_steps
from extractkit.sinks.npz import NpzSink
from tests.sweep_examples import placed, resumed, swept

HIDDEN = "attention:output"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four jobs over two keys, of which two fail."""
    place = placed(tmp_path_factory.mktemp("made"))
    with chdir(place):
        failures = swept("selectors=layers", "model.seed=1,2", "model.longest=4,-1")
    assert len(failures) == 2
    return place / "s"


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two jobs over one key, both finished."""
    place = placed(tmp_path_factory.mktemp("seeds"))
    with chdir(place):
        assert not swept("selectors=[layers,weights]", "model.seed=1,2")
    return place / "s"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(placed(tmp_path))
    return tmp_path


def test_the_swept_keys_stand_in_the_order_of_the_overrides(made: Path) -> None:
    sweep = extractkit.open(made)
    assert sweep.keys == ("model.seed", "model.longest")
    assert repr(sweep) == (
        f"<Sweep {made}: failed, 2 of 4 runs finished, over model.seed, model.longest>"
    )


def test_a_row_for_each_job(made: Path) -> None:
    table = extractkit.open(made).table
    assert [(row["job"], row["model.seed"], row["model.longest"]) for row in table] == [
        (0, 1, 4),
        (1, 1, -1),
        (2, 2, 4),
        (3, 2, -1),
    ]
    first, failed = table[:2]
    assert (first["status"], first["samples"], first["tensors"]) == ("finished", 3, 3)
    assert first["run"] == str(made / "0")
    run = extractkit.open(first["run"])
    assert run.manifest.actual is not None
    assert first["bytes"] == run.manifest.actual.bytes
    assert first["extract"] == run.manifest.volatile.timings["extract"]
    assert isinstance(first["seconds"], float)
    assert first["seconds"] > first["extract"]
    assert (failed["status"], failed["samples"]) == ("failed", None)
    assert str(failed["error"]).startswith("model.longest=-1 is not a whole number")


def test_the_table_is_a_data_frame(made: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(extractkit.open(made).table)
    assert list(frame[frame.status == "finished"]["model.seed"]) == [1, 2]


def test_runs_by_number_are_the_finished_ones(made: Path) -> None:
    runs = extractkit.open(made).runs
    assert list(runs) == [0, 2]
    assert len(runs) == 2
    assert 1 not in runs
    assert runs[2].path == made / "2"
    with pytest.raises(KeyError):
        _ = runs[4]
    with pytest.raises(RunDirectoryError, match=r"job 1 of .*s has no finished run \(status: fail"):
        _ = runs[1]


def test_a_run_by_its_values(made: Path) -> None:
    sweep = extractkit.open(made)
    assert sweep.run({"model.seed": 2, "model.longest": 4}).path == made / "2"
    assert sweep.run(**{"model.seed": "2", "model.longest": "4"}).path == made / "2"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"model.sed": 1},
            "model.sed is not swept in {}. Available: 'model.longest', 'model.seed'.",
        ),
        ({"model.seed": 3}, "no job of {} has model.seed=3. Of model.seed: Available: '1', '2'."),
        ({"model.seed": 1}, "model.seed=1 matches 2 jobs of {}: 0, 1. Give also: model.longest"),
    ],
)
def test_values_of_no_run_or_several(made: Path, values: dict[str, int], message: str) -> None:
    with pytest.raises(SelectionError) as caught:
        extractkit.open(made).run(values)
    assert str(caught.value) == message.format(made)


def test_one_array_over_the_swept_keys(made: Path) -> None:
    pytest.importorskip("xarray")
    sweep = extractkit.open(made)
    array = sweep.to_xarray(HIDDEN)
    assert array.dims == ("model.seed", "model.longest", "sample", "token", "axis")
    assert array.shape == (2, 2, 3, 4, 4)
    assert list(array.coords["model.seed"].values) == [1, 2]
    assert list(array.coords["sample"].values) == [row["id"] for row in sweep.runs[0].samples]
    found = array.sel({"model.seed": 2, "model.longest": 4}).values
    np.testing.assert_array_equal(found, np.asarray(sweep.runs[2][HIDDEN]))
    assert np.isnan(array.sel({"model.longest": -1}).values).all()
    assert "missing" not in array.coords


def test_what_is_missing_has_the_value_that_is_asked_for(made: Path) -> None:
    pytest.importorskip("xarray")
    array = extractkit.open(made).to_xarray(HIDDEN, fill=-1)
    assert (array.sel({"model.longest": -1}).values == -1).all()
    assert (array.sel({"model.longest": 4}, drop=True).values[:, 0, 3] == -1).all()  # "one"


def test_ragged_tensors_are_padded_to_the_longest_of_all_runs(place: Path) -> None:
    pytest.importorskip("xarray")
    assert not swept("selectors=layers", "model.longest=4,6")
    sweep = extractkit.open(place / "s")
    array = sweep.to_xarray(HIDDEN)
    assert array.sizes["token"] == 6
    for label, run in ((4, sweep.runs[0]), (6, sweep.runs[1])):
        longest = run[HIDDEN].shape[1]
        own = array.sel({"model.longest": label}).values
        np.testing.assert_array_equal(own[:, :longest], np.asarray(run[HIDDEN]))
        assert np.isnan(own[:, longest:]).all()


def test_whole_numbers_have_nothing_to_stand_for_a_missing_run(place: Path) -> None:
    pytest.importorskip("xarray")
    swept('+selectors.mine.path=":input.tokens"', "model.longest=4,-1")
    sweep = extractkit.open(place / "s")
    with pytest.raises(RunDirectoryError) as caught:
        sweep.to_xarray(":input.tokens")
    assert str(caught.value) == (
        f"{place / 's'} has no finished run of model.longest=-1, and int32 has no NaN to mark its "
        f"values as missing. Give a fill value: to_xarray(':input.tokens', fill=0). "
        f"{next_steps(place / 's', sweep.jobs)}"
    )
    assert (sweep.to_xarray(":input.tokens", fill=-7).values[1] == -7).all()


@pytest.mark.parametrize(
    ("arguments", "reported"),
    [
        (["inputs.limit=2,3"], r"its samples are \[.*\] in job 0 and \[.*\] in job 1"),
        (
            ["+selectors.mine.slice={token: 0},{token: '0:2'}"],
            r"its dims are \['sample', None\] in job 0 and \['sample', 'token', None\] in job 1",
        ),
        (
            ["+selectors.mine.cast=float16,float64"],
            r"its types are \['float16'\] in job 0 and \['float64'\] in job 1",
        ),
        (
            [
                "+selectors.mine.do=[{quantile:{q:[0.1,0.5],axis:1}}],"
                "[{quantile:{q:[0.1,0.5,0.9],axis:1}}]"
            ],
            r"its fixed sizes are \[4, 2\] in job 0 and \[4, 3\] in job 1",
        ),
    ],
)
def test_runs_of_different_kinds_are_no_array(
    place: Path, arguments: list[str], reported: str
) -> None:
    pytest.importorskip("xarray")
    assert not swept(f"+selectors.mine.path={HIDDEN!r}", *arguments)
    with pytest.raises(
        RunDirectoryError, match=f"does not fit one array: {reported}. Take the runs one by"
    ):
        extractkit.open(place / "s").to_xarray(HIDDEN)


def test_missing_samples_are_marked_in_the_runs_that_lack_them(place: Path) -> None:
    pytest.importorskip("xarray")
    lines = '{"text": "one"}\n{"text": 5}\n{"text": "three"}\n'
    Path("texts.jsonl").write_text(lines, encoding="utf-8")
    given = ("inputs.path=texts.jsonl", "inputs.column=text", "runtime.bad_samples=skip")
    assert not swept("selectors=layers", *given, "model.seed=1,2")
    marks = extractkit.open(place / "s").to_xarray("pool:output").coords["missing"]
    assert marks.dims == ("model.seed", "sample")
    assert marks.values.tolist() == [[False, True, False]] * 2


def test_lists_are_labels_as_they_are_typed(place: Path) -> None:
    pytest.importorskip("xarray")
    assert not swept("selectors=[layers],[layers,outputs]")
    sweep = extractkit.open(place / "s")
    assert [row["selectors"] for row in sweep.table] == [["layers"], ["layers", "outputs"]]
    array = sweep.to_xarray(HIDDEN)
    assert list(array.coords["selectors"].values) == ["[layers]", "[layers,outputs]"]
    assert sweep.run(selectors="[layers,outputs]").path == place / "s" / "1"


def test_weights_have_no_samples(seeds: Path) -> None:
    pytest.importorskip("xarray")
    array = extractkit.open(seeds).to_xarray("attention:kernel")
    assert array.dims == ("model.seed", "axis", "axis_1")
    assert set(array.coords) == {"model.seed"}


def test_jobs_of_the_same_values_are_no_array(place: Path) -> None:
    pytest.importorskip("xarray")
    assert not swept("selectors=layers", "model.seed=1,1")
    sweep = extractkit.open(place / "s")
    assert sweep.keys == ()
    with pytest.raises(RunDirectoryError, match=r"^jobs 0 and 1 of .*s have the same values"):
        sweep.to_xarray(HIDDEN)
    with pytest.raises(SelectionError, match=r"^no values matches 2 jobs .*: 0, 1. Choose one: "):
        sweep.run()


def test_runs_that_were_exchanged_are_no_values_of_each_other(place: Path) -> None:
    assert not swept("selectors=layers", "model.seed=1,2")
    sweep = place / "s"
    (sweep / "0").rename(place / "kept")
    (sweep / "1").rename(sweep / "0")
    (place / "kept").rename(sweep / "1")
    with pytest.raises(RunDirectoryError) as caught:
        extractkit.open(sweep).to_xarray(HIDDEN)
    assert str(caught.value) == (
        f"{sweep / '0'} holds the run of another job (model=reference inputs.path=texts.txt "
        f"selectors=layers model.seed=2) than job 0 of {sweep} (model=reference "
        f"inputs.path=texts.txt selectors=layers model.seed=1). Move it away, and run the job "
        f"again: extractkit resume {sweep}"
    )
    reported = resumed(sweep)
    assert len(reported) == 2
    assert all("holds the run of another job: model=reference" in str(error) for error in reported)


def test_a_run_that_is_gone_is_missing(seeds: Path, tmp_path: Path) -> None:
    sweep = shutil.copytree(seeds, tmp_path / "s")
    whole = extractkit.open(sweep).to_xarray(HIDDEN)
    shutil.rmtree(sweep / "0")
    found = extractkit.open(sweep)
    assert (list(found.runs), 0 in found.runs) == ([1], False)
    with pytest.raises(RunDirectoryError) as caught:
        found.run({"model.seed": 1})
    assert str(caught.value) == (
        f"job 0 of {sweep} has lost its run: {sweep / '0'} is gone. Run the job again: "
        f"extractkit resume {sweep}"
    )
    left = found.to_xarray(HIDDEN)
    assert np.isnan(left[0]).all()
    np.testing.assert_array_equal(left[1], whole[1])


def test_a_moved_sweep_is_read_where_it_is(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "moved")
    sweep = extractkit.open(tmp_path / "moved")
    assert sweep.runs[0].path == tmp_path / "moved" / "0"
    assert sweep.runs[0].status == "finished"


def test_a_run_that_was_resumed_by_itself_counts(seeds: Path, tmp_path: Path) -> None:
    """Its job's record still says that it failed."""
    sweep = shutil.copytree(seeds, tmp_path / "s")
    index = sweep / "sweep.json"
    whole = sweeps.read(sweep)
    failed = replace(whole.jobs[1], status=JobStatus.FAILED, error="disk full")
    sweeps.SWEEP_FILE.write(
        index, replace(whole, status=Status.FAILED, jobs=(whole.jobs[0], failed))
    )
    sweeps.JOB_FILE.write(sweep / "jobs" / "1.json", sweeps.JobFile(failed))
    assert list(extractkit.open(sweep).runs) == [0, 1]


def test_a_directory_of_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"is not a run directory: it holds no manifest"):
        extractkit.open(tmp_path)


def test_runs_and_sweeps_are_opened_by_one_function(made: Path) -> None:
    assert isinstance(extractkit.open(made), extractkit.Sweep)
    assert isinstance(extractkit.open(made / "0", check=False), extractkit.Run)
    for alone in ({"check": False}, {"sink": NpzSink()}):
        with pytest.raises(ConfigError) as caught:
            extractkit.open(made, **alone)
        assert str(caught.value) == (
            f"sink= and check= are for a single run, and {made} is a sweep. Open one of its runs: "
            f"extractkit.open({str(made / '0')!r}, …)"
        )
