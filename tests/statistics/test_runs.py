"""Statistics of runs: against NumPy on the stored values, and the same bits however they came."""

import copy
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

import extractkit
from extractkit.core.digests import PREFERRED
from extractkit.runs import JOURNAL, journal
from extractkit.runs import manifest as manifests
from extractkit.runs.comparing.result import Verdict
from extractkit.runs.files import StoredFile
from extractkit.runs.statistics import parsed, serialized
from extractkit.testing.reference import ReferenceModel
from tests.engine.checkpoint_examples import files, over
from tests.engine.examples import executed
from tests.faults.runs import content

TEXTS = [" ".join(["word"] * n) + f" {n}" for n in (3, 1, 4, 1, 5, 9, 2, 6)]


def extracted(directory: Path, **settings: object) -> extractkit.Run:
    return extractkit.extract(
        model=ReferenceModel(),
        inputs=TEXTS,
        selectors={
            "rows": {"path": "embedding:output"},
            "counted": {"path": "embedding:output", "statistics": ["moments"]},
        },
        runtime={"shard_size": 3, **settings},
        run_dir=directory,
    )


def test_moments_are_those_of_the_stored_values(tmp_path: Path) -> None:
    run = extracted(tmp_path / "run")
    (key,) = run.statistics
    rows = np.concatenate([run["embedding:output"].sample(i) for i in range(len(TEXTS))])
    wide = rows.astype(np.float64)
    found = run.statistics[key].moments
    assert int(found.count) == len(rows)
    np.testing.assert_allclose(found.mean, wide.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.variance, wide.var(0), rtol=1e-12)
    np.testing.assert_array_equal(found.min, wide.min(0))
    np.testing.assert_array_equal(found.max, wide.max(0))


def test_a_resumed_run_has_the_same_bits(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    extracted(whole)
    extracted(cut)
    for file in sorted((cut / "shards").glob("*.statistics.npz"))[1:]:
        file.unlink()
    extractkit.resume(cut, model=ReferenceModel(), inputs=TEXTS)
    assert (whole / "statistics.npz").read_bytes() == (cut / "statistics.npz").read_bytes()


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    extracted(directory)
    file = next(iter(sorted((directory / "shards").glob("*.statistics.npz"))))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    found = extractkit.verify(directory)
    assert found.failed
    assert any(file.name in str(one) for one in found.findings)


def test_a_key_may_hold_a_line_break() -> None:
    partials = {("two\nlines", "moments"): {"mean": np.arange(3.0)}}
    (at,) = parsed(serialized(partials), Path("statistics.npz"))
    assert at == ("two\nlines", "moments")


@pytest.mark.parametrize("form", ["text", "empty", "array", "other archive", "cut", "member"])
def test_a_file_of_another_form_is_damaged(form: str, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    extracted(directory)
    path = directory / "statistics.npz"
    before = path.read_bytes()
    if form == "array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif form == "other archive":
        np.savez(path, of=np.zeros(3))
    elif form == "member":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a%0Amoments%0Amean", b"no array")
    else:
        path.write_bytes({"text": b"text", "empty": b"", "cut": before[:-9]}[form])
    recorded = manifests.read(directory)
    changed = StoredFile.on_disk(directory, "statistics.npz", by=PREFERRED)
    files = tuple(changed if one.name == changed.name else one for one in recorded.files)
    manifests.write(directory, replace(recorded, files=files))
    with pytest.raises(extractkit.RunDirectoryError, match=r"statistics\.npz is damaged"):
        _ = extractkit.open(directory).statistics


def test_a_tensor_with_statistics_has_no_rows(tmp_path: Path) -> None:
    run = extracted(tmp_path / "run")
    assert list(run) == ["embedding:output@rows"]
    assert list(run.statistics) == ["embedding:output@counted"]


def test_parts_that_are_joined_have_the_same_bits(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    extracted(whole)
    for part in ("1/2", "2/2"):
        extracted(parts, part=part)
    extractkit.join(parts)
    assert (whole / "statistics.npz").read_bytes() == (parts / "statistics.npz").read_bytes()


def test_the_numbers_that_keras_gives_layers_are_not_part_of_the_identity(tmp_path: Path) -> None:
    """Parts are computed with a model built twice in one process, and can be joined."""

    def part(number: int) -> extractkit.Run:
        hidden, last = keras.layers.Dense(3), keras.layers.Dense(2)
        model = keras.Sequential([keras.Input((4,)), hidden, last])
        model.set_weights([np.ones_like(one) for one in model.get_weights()])
        return extractkit.extract(
            model=model,
            inputs=np.arange(24, dtype=np.float32).reshape(6, 4),
            selectors={"counted": {"path": "*:output", "statistics": ["moments"]}},
            runtime={"shard_size": 2, "part": f"{number}/2"},
            run_dir=tmp_path / "parts",
        )

    names = [[one.record.name for one in part(at).manifest.statistics] for at in (1, 2)]
    assert names[0] != names[1]
    joined = extractkit.join(tmp_path / "parts")
    sums = np.arange(24.0).reshape(6, 4).sum(1)
    found = next(one for key, one in joined.statistics.items() if key.endswith("dense:output"))
    np.testing.assert_allclose(found.moments.mean, np.full(3, sums.mean() + 1))


LIVE = {"model": ReferenceModel(), "inputs": TEXTS}


def with_partials(directory: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Put other arrays into the first shard's partial results, recorded as if written so."""
    entries = journal.read(directory / JOURNAL).entries
    file = entries[0].statistics
    assert file is not None
    partials = parsed((directory / file.name).read_bytes(), directory / file.name)
    for each in partials.values():
        each.update(arrays)
    (directory / file.name).write_bytes(serialized(partials))
    other = replace(
        entries[0], statistics=StoredFile.of(file.name, serialized(partials), by=PREFERRED)
    )
    journal.rewrite(directory / JOURNAL, [other, *entries[1:]])


def of_another_numpy(directory: Path) -> None:
    recorded = manifests.read(directory)
    versions = {**recorded.versions, "numpy": "1.0"}
    manifests.write(directory, replace(recorded, versions=versions))


@pytest.mark.parametrize("other", [False, True], ids=["same", "another NumPy"])
def test_recomputing_agrees_and_finds_results_of_other_values(other: bool, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    extracted(directory)
    if other:
        of_another_numpy(directory)
    agreed = extractkit.verify(directory, recompute=3, **LIVE)
    assert not agreed.failed
    notes = [note for check in agreed.checks for note in check.notes]
    uncompared = "counts and positions in partial results of statistics are not compared"
    assert (uncompared in notes) == other
    with_partials(directory, {"mean": np.full(4, 9.0)})
    found = extractkit.verify(directory, recompute=3, **LIVE)
    assert any("it differs when computed again" in str(one) for one in found.findings)


def test_verify_merges_the_partial_results_again(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    run = extracted(directory)
    checked = {check.name: check for check in extractkit.verify(directory).checks}
    detail = "partial results of 3 of 3 shards, merged again bit for bit"
    assert checked["statistics"].detail == detail
    path = directory / "statistics.npz"
    results = parsed(path.read_bytes(), path)
    for arrays in results.values():
        arrays["mean"] = np.nextafter(arrays["mean"], np.inf)
    path.write_bytes(serialized(results))
    changed = StoredFile.on_disk(directory, path.name, by=PREFERRED)
    files = tuple(changed if one.name == path.name else one for one in run.manifest.files)
    manifests.write(directory, replace(run.manifest, files=files))
    (finding,) = extractkit.verify(directory).findings
    assert finding.message == f"{path}: it differs from the shards' merged partial results"
    of_another_numpy(directory)
    checked = {check.name: check for check in extractkit.verify(directory).checks}
    assert checked["statistics"].notes == (
        "statistics.npz is not compared bit for bit, as releases of NumPy differ",
    )


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"more": np.zeros(4)}, "holds other statistics than the run"),
        ({"mean": np.zeros(3)}, "its partial results cannot be merged"),
    ],
)
def test_verify_finds_partial_results_of_another_form(
    arrays: Mapping[str, np.ndarray], problem: str, tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    extracted(directory)
    with_partials(directory, arrays)
    assert any(problem in finding.message for finding in extractkit.verify(directory).findings)


def test_diff_compares_results(tmp_path: Path) -> None:
    one = extracted(tmp_path / "one")
    other = extractkit.extract(
        model=ReferenceModel(),
        inputs=[*TEXTS[:-1], "another text"],
        selectors={"counted": {"path": "embedding:output", "statistics": ["moments"]}},
        run_dir=tmp_path / "other",
    )
    compared = extractkit.diff(one, one)
    labels = {tensor.a: str(tensor.verdict) for tensor in compared.tensors}
    assert labels["embedding:output@counted moments.mean"] == "equal"
    assert list(other.statistics) == ["embedding:output"]
    assert extractkit.diff(one, other).only_in_b == ("embedding:output moments",)


def test_diff_lists_statistics_and_results_of_one_run_alone(tmp_path: Path) -> None:
    def run(name: str, *statistics: object) -> extractkit.Run:
        return extractkit.extract(
            model=ReferenceModel(),
            inputs=TEXTS,
            selectors={"counted": {"path": "*:output", "statistics": ["moments", *statistics]}},
            run_dir=tmp_path / name,
        )

    one, other = run("one", {"top": {"k": 2, "smallest": True}}), run("other", {"top": {"k": 2}})
    only = "embedding:*"
    found = extractkit.diff(one, other, only=only)
    lone = {"embedding:output top.smallest_values", "embedding:output top.smallest_samples"}
    assert lone <= set(found.only_in_a)
    assert all(key.startswith("embedding:output top.smallest_") for key in found.only_in_a)
    assert not found.only_in_b
    assert found.beyond
    compared = {tensor.a: tensor.verdict for tensor in found.tensors}
    assert set(compared.values()) == {Verdict.EQUAL}
    assert {"embedding:output moments.mean", "embedding:output top.values"} <= set(compared)
    assert all(key.startswith("embedding:output ") for key in compared)
    plain = run("plain")
    assert extractkit.diff(plain, one, only=only).only_in_b == ("embedding:output top",)
    with pytest.raises(extractkit.SelectionError, match=r"no tensor of .*embedding:output"):
        extractkit.diff(one, other, only="embeding:output")


def test_diff_pairs_the_checkpoints_of_results_by_label(tmp_path: Path) -> None:
    paths = files(tmp_path, [0, 1, 2])
    forward = executed(tmp_path / "run", over(paths, COUNTED, shard_size=7))
    back = executed(tmp_path / "back", over(paths[:0:-1], COUNTED, shard_size=7))
    found = extractkit.diff(forward, back)
    means = [one for one in found.tensors if one.a == "embedding:output moments.mean"]
    labels = [("step_1", "step_1"), ("step_2", "step_2")]
    assert [(one.checkpoint, one.checkpoint_b) for one in means] == labels
    assert {one.verdict for one in found.tensors} == {Verdict.EQUAL}
    assert found.checkpoints_only_in_a == ("step_0",)


def test_a_run_of_statistics_alone_stores_no_rows(tmp_path: Path) -> None:
    run = extractkit.extract(
        model=ReferenceModel(),
        inputs=TEXTS,
        selectors={"counted": {"path": "*:output", "statistics": ["moments", {"top": {"k": 2}}]}},
        run_dir=tmp_path / "run",
    )
    assert not list(run)
    assert set(run.statistics) == {"embedding:output", "attention:output", "pool:output", ":output"}
    assert not extractkit.verify(tmp_path / "run").findings
    tokens = [len(text.split()) for text in TEXTS]
    assert int(run.statistics["embedding:output"].moments.count) >= sum(tokens)
    assert run.statistics["pool:output"].top.samples.shape[1] == 2


EVERY = {
    "moments": {"count", "mean", "variance", "min", "max"},
    "histogram": {"edges", "counts", "below", "above", "nan"},
    "quantiles": {"q", "values"},
    "covariance": {"count", "mean", "covariance"},
    "pca": {"count", "mean", "components", "explained_variance", "explained_variance_ratio"},
    "top": {
        *("values", "samples", "positions"),
        *("smallest_values", "smallest_samples", "smallest_positions"),
    },
    "sparsity": {"count", "zeros", "dead"},
    "coactivation": {"count", "active", "both"},
}
OPTIONS = {
    "histogram": {"bins": 4, "range": [-1, 1]},
    "pca": {"components": 1},
    "top": {"k": 2, "smallest": True},
}


def test_each_result_is_an_attribute_and_survives_copies(tmp_path: Path) -> None:
    asked = [{name: OPTIONS[name]} if name in OPTIONS else name for name in EVERY]
    run = extractkit.extract(
        model=ReferenceModel(),
        inputs=TEXTS,
        selectors={"all": {"path": "pool:output", "statistics": asked}},
        run_dir=tmp_path / "run",
    )
    found = run.statistics["pool:output"]
    for one in (found, copy.copy(found), copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert set(one) == set(EVERY)
        for name, expected in EVERY.items():
            statistic = getattr(one, name)
            assert statistic.keys() == expected
            for result in expected:
                array = getattr(statistic, result)
                assert isinstance(array, np.ndarray)
                np.testing.assert_array_equal(array, found[name][result])
    with pytest.raises(AttributeError, match="read only"):
        found.top.values = np.zeros(1)


def test_a_statistic_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    run = extracted(tmp_path / "run")
    moments = run.statistics["embedding:output@counted"].moments
    with pytest.raises(AttributeError, match=r"'moments' has no result 'meen'. Available: 'count'"):
        _ = moments.meen
    with pytest.raises(KeyError, match=r"'moments' has no result 'meen'. Available: 'count'"):
        _ = moments["meen"]
    with pytest.raises(KeyError, match=r"has no statistic 'pca'. Available: 'moments'"):
        _ = run.statistics["embedding:output@counted"]["pca"]
    with pytest.raises(AttributeError, match="has no statistic 'pca'"):
        _ = run.statistics["embedding:output@counted"].pca
    with pytest.raises(extractkit.UnknownTensorError, match="is not a tensor with statistics"):
        _ = run.statistics["embeding:output"]


COUNTED = {"path": "embedding:output", "statistics": ["moments", "covariance", {"top": {"k": 3}}]}


def test_checkpoints_are_the_first_axis_of_results(tmp_path: Path) -> None:
    paths = files(tmp_path, [0, 1, 2])
    run = executed(tmp_path / "run", over(paths, COUNTED, shard_size=7))
    found = run.statistics["embedding:output"]
    assert found.moments.mean.shape[0] == 3
    for position, path in enumerate(paths):
        alone = executed(tmp_path / str(position), over([path], COUNTED, shard_size=7))
        single = alone.statistics["embedding:output"]
        for name in ("moments", "covariance", "top"):
            for result, values in single[name].items():
                np.testing.assert_array_equal(found[name][result][position], values[0])
        at = run.at(f"step_{position}").statistics["embedding:output"]
        np.testing.assert_array_equal(at.moments.mean, single.moments.mean[0])


@pytest.mark.usefixtures("quick_workers")
def test_two_workers_have_the_bits_of_one_process(tmp_path: Path) -> None:
    paths = files(tmp_path, [0, 1])
    one = executed(tmp_path / "one", over(paths, COUNTED, shard_size=7))
    two = executed(tmp_path / "two", over(paths, COUNTED, shard_size=7, engine="processes"))
    assert content(one.path) == content(two.path)
    assert "statistics.npz" in content(two.path)


def test_missing_samples_take_no_part(tmp_path: Path) -> None:
    """A sample whose values are not finite is missing."""
    model = ReferenceModel()
    embeddings = model.weights["embedding:embeddings"].copy()
    embeddings[ord("b") % 50] = np.nan
    vars(model)["weights"] = {**model.weights, "embedding:embeddings": embeddings}
    run = extractkit.extract(
        model=model,
        inputs=["ac", "ab", "aca"],
        selectors={"counted": {"path": "embedding:output", "statistics": ["moments"]}},
        runtime={"non_finite": "skip"},
        run_dir=tmp_path / "run",
    )
    assert list(run.missing) == [1]
    found = run.statistics["embedding:output"].moments
    assert int(found.count) == 5
    rows = embeddings[[ord(letter) % 50 for letter in "acaca"]].astype(np.float64)
    np.testing.assert_allclose(found.mean, rows.mean(0), rtol=1e-12)


def test_further_results_are_stored_for_each_sample(tmp_path: Path) -> None:
    """What lies beyond the range of a cast is counted, with statistics too."""
    asked = {"do": [{"cast": "int8"}], "statistics": [{"pca": {"components": 2}}]}
    run = extractkit.extract(
        model=ReferenceModel(),
        inputs=TEXTS,
        selectors={
            "values": {"path": "pool:output"},
            "counted": {"path": "pool:output", **asked},
        },
        run_dir=tmp_path / "run",
    )
    assert list(run.statistics) == ["pool:output@counted"]
    assert list(run) == ["pool:output@values", "pool:output@counted@overflow"]
    for sample in range(len(TEXTS)):
        whole = np.trunc(run["pool:output@values"].sample(sample).astype(np.float64))
        beyond = ((whole < -128) | (whole > 127)).sum()
        assert run["pool:output@counted@overflow"].sample(sample) == beyond
    assert not extractkit.verify(tmp_path / "run").findings
