"""Projections: onto the principal components of another run, and matrices that are too large."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import extractkit
from extractkit.core.spec import TensorSpec
from extractkit.core.transforms import Masked
from extractkit.core.transforms.pipeline import BoundPipeline, Pipeline
from extractkit.core.transforms.projection import Components
from extractkit.core.values import Array
from extractkit.errors import ConfigError, RunDirectoryError, SelectionError
from extractkit.runs.files import relocated
from extractkit.testing.reference import ReferenceModel
from tests.engine.examples import Collected

TEXTS = ["abc", "a", "hello", "it is", "x y z", "words", "of", "many lengths", "end"]
ADDRESS = "attention:output"


def extracted(
    directory: Path, selectors: Mapping[str, object], **settings: object
) -> extractkit.Run:
    return extractkit.extract(
        model=ReferenceModel(),
        inputs=TEXTS,
        selectors=selectors,
        runtime={"shard_size": 2, **settings},
        run_dir=directory,
    )


def with_components(directory: Path) -> extractkit.Run:
    paths = ["attention:output", "embedding:output"]
    return extracted(directory, {"all": {"path": paths, "statistics": ["moments", "pca"]}})


def onto(run: Path, **options: object) -> dict[str, dict[str, object]]:
    return {
        "few": {"path": ADDRESS, "do": [{"project": {"run": str(run), **options}}]},
        "rows": {"path": ADDRESS},
    }


def rows_of(run: extractkit.Run, key: str) -> Array:
    return np.concatenate([run[key].sample(i) for i in range(len(TEXTS))])


def decomposed(rows: Array) -> tuple[Array, Array]:
    """Mean and principal components from a singular value decomposition of the rows."""
    mean = rows.mean(0)
    _, _, vectors = np.linalg.svd(rows - mean, full_matrices=False)
    largest = np.abs(vectors).argmax(1)
    return mean, vectors * np.sign(vectors[np.arange(len(vectors)), largest])[:, None]


def test_rows_are_projected_as_by_a_decomposition_of_all_rows(tmp_path: Path) -> None:
    with_components(tmp_path / "pca")
    run = extracted(tmp_path / "run", onto(tmp_path / "pca", to=3))
    wide = rows_of(run, f"{ADDRESS}@rows").astype(np.float64)
    mean, vectors = decomposed(wide)
    found = run[f"{ADDRESS}@few"]
    assert found.dims == ("sample", "token", "component")
    assert found.dtype == np.float32
    expected = (wide - mean) @ vectors[:3].T
    np.testing.assert_allclose(rows_of(run, f"{ADDRESS}@few"), expected, atol=1e-6)


@pytest.mark.oracle
def test_rows_are_projected_as_scikit_learn_does(tmp_path: Path) -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    with_components(tmp_path / "pca")
    run = extracted(tmp_path / "run", onto(tmp_path / "pca"))
    wide = rows_of(run, f"{ADDRESS}@rows").astype(np.float64)
    expected = decomposition.PCA().fit(wide).transform(wide)
    found = rows_of(run, f"{ADDRESS}@few")
    signs = np.sign((expected * found).sum(0))
    np.testing.assert_allclose(found, expected * signs, atol=1e-6)


def test_the_other_run_is_recorded_and_not_needed_any_more(tmp_path: Path) -> None:
    other = with_components(tmp_path / "pca")
    run = extracted(tmp_path / "run", onto(tmp_path / "pca"))
    (recorded,) = run.manifest.components
    assert recorded.at == "selectors.few.do.0.project"
    assert recorded.identity == other.manifest.identity
    assert (recorded.run, recorded.tensor) == (str(tmp_path / "pca"), ADDRESS)
    before = run.journal.digests()
    shutil.rmtree(tmp_path / "pca")
    for file in sorted((tmp_path / "run" / "shards").iterdir())[1:]:
        file.unlink()
    live = {"model": ReferenceModel(), "inputs": TEXTS}
    assert extractkit.resume(tmp_path / "run", **live).journal.digests() == before
    assert not extractkit.verify(tmp_path / "run", recompute=9, **live).failed
    again = extractkit.rerun(tmp_path / "run", tmp_path / "again", **live)
    assert again.journal.digests() == before
    assert again.manifest.components == run.manifest.components


@pytest.mark.usefixtures("quick_workers")
def test_workers_and_joined_parts_have_the_same_bits(tmp_path: Path) -> None:
    with_components(tmp_path / "pca")
    selectors = onto(tmp_path / "pca", to=2)
    whole = extracted(tmp_path / "whole", selectors)
    hired = extracted(tmp_path / "hired", selectors, engine="processes", workers=2)
    for part in ("1/2", "2/2"):
        extracted(tmp_path / "parts", selectors, part=part)
    joined = extractkit.join(tmp_path / "parts")
    for run in (hired, joined):
        assert run.journal.digests() == whole.journal.digests()
        assert run.manifest.identity == whole.manifest.identity
    assert not extractkit.verify(tmp_path / "parts").failed
    kept = {path.name for path in (tmp_path / "parts").iterdir()}
    assert "components.npz" in kept
    assert "parts" not in kept


def test_components_decide_the_identity_and_the_path_of_their_run_does_not(
    tmp_path: Path,
) -> None:
    with_components(tmp_path / "pca")
    shutil.copytree(tmp_path / "pca", tmp_path / "copy")
    extracted(
        tmp_path / "fewer",
        {"all": {"path": ADDRESS, "slice": {"token": "1:"}, "statistics": ["pca"]}},
    )
    runs = {
        name: extracted(tmp_path / f"of-{name}", onto(tmp_path / name, tensor=ADDRESS))
        for name in ("pca", "copy", "fewer")
    }
    found = {name: run.manifest.identity for name, run in runs.items()}
    assert found["pca"] == found["copy"]
    assert found["pca"] != found["fewer"]


def test_a_damaged_file_of_components_is_restored_or_the_resume_refused(tmp_path: Path) -> None:
    with_components(tmp_path / "pca")
    run = extracted(tmp_path / "run", onto(tmp_path / "pca"))
    live = {"model": ReferenceModel(), "inputs": TEXTS}
    frozen = run.path / "components.npz"
    before = frozen.read_bytes()
    frozen.write_bytes(before[:-1])
    extractkit.resume(run.path, **live)
    assert frozen.read_bytes() == before
    frozen.unlink()
    (tmp_path / "pca").rename(tmp_path / "moved")
    with pytest.raises(RunDirectoryError) as caught:
        extractkit.resume(run.path, **live)
    assert str(caught.value) == (
        f"{frozen} is missing from its run. It holds the principal components onto which "
        f"selectors.few.do.0.project projects, and {tmp_path / 'pca'} does not have them any more. "
        f"Restore one of them"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"run": "pac"},
            ".run='pac' cannot be used: {here}/pac does not exist. In {here}: Available: "
            "'{here}/pca', '{here}/rows'.",
        ),
        (
            {"run": "rows"},
            ".run='rows' cannot be used: {here}/rows has no principal components. "
            "Compute them: statistics: [pca]",
        ),
        ({"run": 3}, ".run=3 is not a run directory"),
        ({"run": "pca", "tensor": ""}, ".tensor='' is not the key of a tensor"),
        (
            {"run": "pca", "seed": 1},
            ".seed is for random projections, {at}.run for components. Leave one out",
        ),
        (
            {"tensor": "a:b", "axis": 2, "to": 1},
            ".tensor needs a run: add {at}.run=…, the run with its pca",
        ),
        (
            {"run": "pca", "to": 5},
            ".to=5 is larger than the 4 principal components of 'attention:output' in pca",
        ),
        (
            {"run": "pca", "tensor": "embeding:output"},
            ".tensor='embeding:output' has no principal components in pca. "
            "Available: 'attention:output', 'embedding:output'.",
        ),
        (
            {"run": "pca", "axis": "token"},
            " needs an axis of one size, and token of 'attention:output' differs from sample to "
            "sample",
        ),
    ],
)
def test_it_refuses(
    options: dict[str, object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with_components(tmp_path / "pca")
    extracted(tmp_path / "rows", {"all": {"path": ADDRESS}})
    at = "selectors.mine.do.0.project"
    with pytest.raises((ConfigError, SelectionError)) as caught:
        extracted(tmp_path / "run", {"mine": {"path": ADDRESS, "do": [{"project": options}]}})
    assert str(caught.value) == at + message.format(here=tmp_path, at=at)
    assert not (tmp_path / "run").exists()


def test_a_tensor_without_components_of_its_own_needs_the_name_of_another(tmp_path: Path) -> None:
    with_components(tmp_path / "pca")
    pooled = {"path": "pool:output", "do": [{"project": {"run": str(tmp_path / "pca")}}]}
    with pytest.raises(SelectionError) as caught:
        extracted(tmp_path / "run", {"mine": pooled})
    assert str(caught.value) == (
        f"selectors.mine.do.0.project: {tmp_path / 'pca'} has no principal components of "
        f"'pool:output'. Those of another tensor: selectors.mine.do.0.project.tensor=…. "
        f"Available: 'attention:output', 'embedding:output'."
    )


PART = {1: "0:2", 2: ":"}


@pytest.mark.parametrize(
    ("theirs", "own", "difference"),
    [
        ([{"mean": "token"}], [], "after [{'mean': 'token'}], IS without transforms before"),
        ([], ["abs"], "without transforms before, IS after ['abs']"),
        (
            [{"slice": PART}],
            [{"slice": {1: "0:3"}}],
            "after [{'slice': {'1': '0:2', '2': ':'}}], IS after [{'slice': {'1': '0:3'}}]",
        ),
        (["abs", {"slice": PART}], ["abs", {"slice": PART}], None),
    ],
    ids=str,
)
def test_components_of_values_after_other_transforms_have_to_be_named(
    theirs: list[object], own: list[object], difference: str | None, tmp_path: Path
) -> None:
    other = {"all": {"path": ADDRESS, "do": theirs, "statistics": ["pca"]}}
    extracted(tmp_path / "pca", other)
    step = {"run": str(tmp_path / "pca")}

    def projected(name: str, **options: str) -> extractkit.Run:
        do = [*own, {"project": {**step, **options}}]
        return extracted(tmp_path / name, {"few": {"path": ADDRESS, "do": do}})

    named = projected("named", tensor=ADDRESS)
    if difference is None:
        assert projected("run").journal.digests() == named.journal.digests()
        return
    with pytest.raises(SelectionError) as caught:
        projected("run")
    at = f"selectors.few.do.{len(own)}.project"
    assert str(caught.value) == (
        f"{at}: {tmp_path / 'pca'} has principal components of {ADDRESS!r} "
        f"{difference.replace('IS', 'and this projection is')}. Write the same transforms before "
        f"it, or use the components all the same: {at}.tensor={ADDRESS!r}"
    )


def test_of_several_components_of_a_tensor_those_after_the_same_transforms_are_taken(
    tmp_path: Path,
) -> None:
    extracted(
        tmp_path / "pca",
        {
            "plain": {"path": ADDRESS, "statistics": ["pca"]},
            "absolute": {"path": ADDRESS, "do": ["abs"], "statistics": ["pca"]},
        },
    )
    step = {"project": {"run": str(tmp_path / "pca")}}
    run = extracted(tmp_path / "run", {"few": {"path": ADDRESS, "do": ["abs", step]}})
    assert [one.tensor for one in run.manifest.components] == [f"{ADDRESS}@absolute"]


def test_components_of_a_projection_onto_another_run_have_to_be_named(tmp_path: Path) -> None:
    with_components(tmp_path / "first")
    step = {"project": {"run": str(tmp_path / "first"), "to": 3}}
    extracted(tmp_path / "pca", {"of": {"path": ADDRESS, "do": [step], "statistics": ["pca"]}})
    second = {"project": {"run": str(tmp_path / "pca")}}
    at = "selectors.few.do.1.project"
    with pytest.raises(SelectionError) as caught:
        extracted(tmp_path / "run", {"few": {"path": ADDRESS, "do": [step, second]}})
    assert str(caught.value) == (
        f"{at}: {tmp_path / 'pca'} has principal components of {ADDRESS!r} after {[step]}, and "
        f"this projection is after {[step]}. The runs onto which they project may differ. Use the "
        f"components all the same: {at}.tensor={ADDRESS!r}"
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_components_of_other_weights_are_noted(seed: int, tmp_path: Path) -> None:
    with_components(tmp_path / "pca")
    listener = Collected()
    extractkit.extract(
        model=ReferenceModel(seed=seed),
        inputs=TEXTS,
        selectors=onto(tmp_path / "pca"),
        run_dir=tmp_path / "run",
        listener=listener,
    )
    note = (
        f"selectors.few.do.0.project projects onto the principal components of other weights: "
        f"those of {tmp_path / 'pca'}"
    )
    assert (note in listener.notes) == (seed == 1)


def test_the_path_of_the_other_run_is_relative_to_where_the_job_was_written(
    tmp_path: Path,
) -> None:
    (tmp_path / "runs/pca").mkdir(parents=True)
    (tmp_path / "runs/pca/manifest.json").write_text("{}")
    step = {"project": {"run": "runs/pca", "tensor": "a:b"}}
    found = relocated({"selectors": {"few": {"path": "runs/pca", "do": ["abs", step]}}}, tmp_path)
    absolute = {"project": {"run": str(tmp_path / "runs/pca"), "tensor": "a:b"}}
    assert found == {"selectors": {"few": {"path": "runs/pca", "do": ["abs", absolute]}}}


def test_a_run_with_statistics_is_resumed_and_repeated_if_that_path_is_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with_components(tmp_path / "runs/pca")
    of_few = {**onto(Path("runs/pca"))["few"], "statistics": ["moments"]}
    whole = extracted(tmp_path / "run", {"few": of_few})
    before = whole.journal.digests()
    partial = sorted((tmp_path / "run" / "shards").glob("*.statistics.npz"))
    for file in partial[1:]:
        file.unlink()
    live = {"model": ReferenceModel(), "inputs": TEXTS}
    assert extractkit.resume("run", **live).journal.digests() == before
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert not extractkit.verify("../run", recompute=9, **live).failed
    again = extractkit.rerun("../run", "again", **live)
    assert again.journal.digests() == before
    assert again.manifest.identity == whole.manifest.identity


def projecting(
    *components: Components, shape: tuple[int | None, ...] = (None, 3, 5, 2), **options: object
) -> BoundPipeline:
    pipeline = Pipeline.parse({"do": [{"project": {"run": "runs/pca", **options}}]}, "selectors.s")
    given = pipeline.given(lambda at, source: components)
    spec = TensorSpec.of("float32", ("sample", *[None] * (len(shape) - 1)), shape)
    return given.bind("a:b", spec)[""]


def components(key: str = "a:b", features: int = 5, count: int = 4) -> Components:
    draw = np.random.default_rng(3)
    vectors = np.linalg.qr(draw.normal(size=(features, features)))[0][:count]
    return Components(key, "a:b", "runs/pca", None, key, draw.normal(size=features), vectors)


def test_an_axis_between_others_is_projected_in_both_forms() -> None:
    one = components()
    values = np.random.default_rng(0).normal(size=(2, 3, 5, 2)).astype(np.float32)
    bound = projecting(one, axis=2, to=3)
    expected = np.einsum("saft,cf->sact", values - one.mean[:, None], one.components[:3])
    assert bound.spec.shape == (None, 3, 3, 2)
    for row, sample in zip(expected, values, strict=True):
        np.testing.assert_allclose(bound.in_numpy(sample), row, atol=1e-6)
    found = bound.in_graph(tf, Masked(tf.constant(values), {}))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def changed(change: Callable[[Components], None]) -> Components:
    one = components()
    change(one)
    return one


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (
            [components(features=6)],
            ": the principal components of 'a:b' in runs/pca have 6 features, and the axis of "
            "'a:b' with dims ['sample', None, None, None] has 5 elements",
        ),
        (
            [changed(lambda one: one.mean.fill(np.nan))],
            ": the principal components of 'a:b' in runs/pca are not finite, because its values "
            "were not, or there were none",
        ),
        (
            [components("a:b@one"), components("a:b@two")],
            ": runs/pca has principal components of 'a:b' under several names: 'a:b@one', "
            "'a:b@two'. Choose one with selectors.s.do.0.project.tensor=…",
        ),
    ],
)
def test_components_that_do_not_fit(found: list[Components], message: str) -> None:
    with pytest.raises(SelectionError) as caught:
        projecting(*found, axis=2)
    assert str(caught.value) == f"selectors.s.do.0.project{message}"


def test_a_random_matrix_that_would_not_fit_into_memory_is_refused() -> None:
    pipeline = Pipeline.parse({"do": [{"project": {"axis": 1, "to": 5000}}]}, "selectors.s")
    with pytest.raises(SelectionError) as caught:
        pipeline.bind("a:b", TensorSpec.of("float32", ("sample", None), (None, 100_000)))
    assert str(caught.value) == (
        "selectors.s.do.0.project.to=5000 of 100000 elements of 'a:b' needs a matrix of "
        "4,000,000,000 bytes, more than 268,435,456. The most for this axis is "
        "selectors.s.do.0.project.to=335"
    )
