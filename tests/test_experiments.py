"""The experiments: their pages' commands run, on less; their measures measure what they say."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import extractkit
from experiments.alleles.groups import grouping, mantel
from experiments.alleles.loci import loci
from experiments.alleles.peptides import encoded
from experiments.attention_patterns.patterns import patterns
from experiments.attribution.deletion import SHARES, area, curves, enlarged
from experiments.reproduce import names
from experiments.result import FIGURE, RESULT
from experiments.similarity import cka, distances, planar, rank_correlation
from experiments.training_dynamics.digits import digits
from tests.pages import run_page
from tests.real_models import FOLDER, real_model, skipped_if_out_of_reach

ROOT = Path(__file__).parents[1]

PRODUCTION = "outputs/models/mhcnuggets-2.4.1/mhcnuggets/saves/production"
LESS: Mapping[str, Mapping[str, str]] = {
    "attention_patterns": {
        "experiment=attention_patterns": "experiment=attention_patterns inputs.limit=6",
    },
    "alleles": {
        "experiment=alleles": "experiment=alleles inputs.limit=12 'model.checkpoints=["
        f"{PRODUCTION}/HLA-A02:0*_BA.h5,{PRODUCTION}/HLA-B27:0*_BA.h5,"
        f"{PRODUCTION}/HLA-DQB10*_BA.h5,{PRODUCTION}/HLA-DRB104:0*_BA.h5]'",
    },
    "attribution": {
        "experiment=attribution": "experiment=attribution inputs.limit=3 "
        "selectors.integrated_gradients.gradient.integrate.steps=4 "
        "selectors.smoothgrad.gradient.smooth.draws=2",
    },
    "training_dynamics": {
        "outputs/training_dynamics 5": "outputs/training_dynamics 2",
        "experiment=training_dynamics": "experiment=training_dynamics inputs.limit=40 "
        "model.checkpoints=outputs/training_dynamics/seed_0/step_000?4*.weights.h5,"
        "outputs/training_dynamics/seed_1/step_000?4*.weights.h5",
    },
}
"""What a page's commands are turned into, so that they take seconds."""


def page(name: str) -> Path:
    return ROOT / "experiments" / name / "README.md"


def on_less(name: str, folder: Path, programs: Path) -> Path:
    """Run a page's commands in a folder; where its result goes."""
    shutil.copytree(ROOT / "experiments", folder / "experiments")
    result = folder / "experiments" / name
    for file in (RESULT, FIGURE):
        (result / file).unlink(missing_ok=True)
    (folder / "outputs").mkdir()
    (folder / "outputs" / "models").symlink_to(FOLDER)
    text = page(name).read_text(encoding="utf-8")
    for whole, less in LESS[name].items():
        assert whole in text
        text = text.replace(whole, less)
    (folder / "README.md").write_text(text, encoding="utf-8")
    assert run_page(folder / "README.md", folder, programs) >= 1
    return result


def structure(value: object) -> object:
    """The keys of a result, without its numbers."""
    if isinstance(value, dict):
        return {key: structure(one) for key, one in value.items()}
    return isinstance(value, list)


def check(name: str, result: Path) -> dict[str, object]:
    """A result has the structure of the page's own, and the identities of its runs."""
    found = json.loads((result / RESULT).read_text("utf-8"))
    published = json.loads((page(name).parent / RESULT).read_text("utf-8"))
    # Which alleles there are is not the same.
    assert structure(found | {"alleles": 0}) == structure(published | {"alleles": 0})
    for run in found["runs"]:
        assert re.fullmatch("[0-9a-f]{64}", run["identity"])
    assert (result / FIGURE).read_bytes()[1:4] == b"PNG"
    assert isinstance(found, dict)
    return found


def test_every_experiment_has_a_page_that_tells_its_command_and_its_runs() -> None:
    for name in names():
        text = page(name).read_text("utf-8")
        assert f"experiment={name}" in text
        if name in LESS:
            result = json.loads((page(name).parent / RESULT).read_text("utf-8"))
            for run in result["runs"]:
                assert run["identity"][:12] in text
            assert (page(name).parent / FIGURE).stat().st_size < 200_000


@pytest.mark.real_model
@pytest.mark.thorough
def test_attention_patterns(tmp_path: Path, preloaded: Path) -> None:
    found = check("attention_patterns", on_less("attention_patterns", tmp_path, preloaded))
    heads = {name: np.array(values) for name, values in found["heads"].items()}  # type: ignore[attr-defined]
    assert {values.shape for values in heads.values()} == {(6, 12)}
    shares = sum(heads[name] for name in ("cls", "sep", "self", "before", "after"))
    assert np.all(shares <= 1.001)
    assert heads["before"][0, 2] > 0.8


@pytest.mark.real_model
@pytest.mark.thorough
def test_alleles(tmp_path: Path, preloaded: Path) -> None:
    real_model("mhcnuggets", "")  # fetched once, outside the repository
    found = check("alleles", on_less("alleles", tmp_path, preloaded))
    assert set(found["alleles"]) >= {"HLA-A", "HLA-B", "HLA-DQ", "HLA-DR"}  # type: ignore[call-overload]
    assert found["weights_within_class"] < found["weights_between_classes"]  # type: ignore[operator]


@pytest.mark.real_model
@pytest.mark.thorough
def test_attribution(tmp_path: Path, preloaded: Path) -> None:
    real_model("fer", "")
    found = check("attribution", on_less("attribution", tmp_path, preloaded))
    for name, curve in found["curves"].items():  # type: ignore[attr-defined]
        assert curve[0] == 1, name
        assert curve[-1] == found["curves"]["random"][-1], name  # type: ignore[index]


@pytest.mark.real_model
def test_training_dynamics(tmp_path: Path, preloaded: Path) -> None:
    with skipped_if_out_of_reach():
        _, labels = digits(FOLDER)
    assert np.bincount(labels).min() > 170
    found = check("training_dynamics", on_less("training_dynamics", tmp_path, preloaded))
    assert found["steps"] == [4, 54, 64]
    assert len(found["runs"]) == 2  # type: ignore[arg-type]
    assert found["loss"][0] > found["loss"][-1]  # type: ignore[index]
    run = extractkit.open(tmp_path / "outputs" / "training_dynamics" / "runs" / "0")
    assert run.drift is not None
    for key, moved in run.drift.tensors.items():
        alike = cka(np.asarray(run[key]))
        np.testing.assert_allclose(alike[0], moved.from_first.cka, atol=1e-5)
        np.testing.assert_allclose(np.diag(alike, 1), moved.from_previous.cka[1:], atol=1e-5)


# --------------------------------------------------------------------------- the measures


def test_a_head_that_looks_back_and_one_that_looks_evenly() -> None:
    tokens = 7
    back = np.eye(tokens, k=-1)
    back[0, 0] = 1
    found = patterns(np.stack([back, np.full((tokens, tokens), 1 / tokens)]))
    # Of five words the first one has [CLS] before it.
    np.testing.assert_allclose(found["before"], [4 / 5, 4 / 5 / tokens])
    np.testing.assert_allclose(found["cls"], [1 / 5, 1 / tokens])
    np.testing.assert_allclose(found["sep"], [0, 1 / tokens])
    np.testing.assert_allclose(found["entropy"], [0, 1], atol=1e-12)
    assert found["distance"][0] < found["distance"][1] == pytest.approx(1)


def test_likeness_does_not_see_rotation_and_scale() -> None:
    draw = np.random.default_rng(0)
    one, other = draw.normal(size=(2, 50, 6))
    turned = 3 * one @ np.linalg.qr(draw.normal(size=(6, 6)))[0] + 1
    alike = cka(np.stack([one, turned, other]))
    np.testing.assert_allclose(alike[0, 1], 1, atol=1e-5)
    np.testing.assert_allclose(alike, alike.T)
    assert alike[0, 2] < 0.5


def test_planes_and_distances_are_those_of_numpy() -> None:
    flat = np.random.default_rng(1).normal(size=(9, 2)) @ np.array([[2.0, 0, 1], [0, 1, 0]])
    points, shown = planar(flat)
    assert shown.sum() == pytest.approx(1)
    np.testing.assert_allclose(distances(points), distances(flat), atol=1e-7)
    wanted = np.linalg.norm(flat[:, None] - flat, axis=2)
    np.testing.assert_allclose(distances(flat), wanted, atol=1e-7)


def test_groups_show_in_distances_or_do_not() -> None:
    labels = np.repeat(["a", "b", "c"], 12)
    draw = np.random.default_rng(2)
    noise = draw.normal(size=(36, 5))
    apart = distances(noise + 4 * np.repeat(np.eye(3, 5), 12, axis=0))
    clear, unclear = grouping(apart, labels), grouping(distances(noise), labels)
    assert clear.ratio < 0.8 < unclear.ratio
    assert clear.ratio_p == clear.nearest_p == 0.001
    assert clear.nearest > 0.9
    assert unclear.ratio_p > 0.01
    assert clear.ratio < unclear.ratio_chance[0] < 1 < unclear.ratio_chance[1]
    assert mantel(apart, apart**2) == (pytest.approx(1), 0.001)
    assert mantel(apart, distances(draw.normal(size=(36, 5))))[1] > 0.01
    assert rank_correlation(np.array([1.0, 2, 2, 9]), np.array([4.0, 3, 3, 0])) == pytest.approx(-1)


def test_deletion_removes_the_most_important_pixels_first() -> None:
    pictures = np.arange(1.0, 9).reshape(2, 2, 2, 1)

    def model(given: np.ndarray) -> np.ndarray:
        total = given.sum(axis=(1, 2, 3))
        return np.stack([total, 0 * total], axis=1)

    first, second = curves(model, pictures, pictures[..., 0])
    np.testing.assert_allclose(first[SHARES == 0.5], 3 / 10)
    np.testing.assert_allclose(second[SHARES == 0.25], 18 / 26)
    backwards = curves(model, pictures, -pictures[..., 0])
    assert (area(np.stack([first, second])) < area(backwards)).all()


def test_maps_are_enlarged_between_the_centres_of_their_elements() -> None:
    found = enlarged(np.array([[[0.0, 4], [8, 12]]]), 4)[0]
    np.testing.assert_allclose(found[0], [0, 1, 3, 4])
    np.testing.assert_allclose(found[:, 0], [0, 2, 6, 8])


def test_alleles_have_loci() -> None:
    alleles = ["HLA-A02:01", "HLA-A03:01", "HLA-A11:01", "HLA-A68:23", "HLA-C03:03"]
    assert loci(alleles).tolist() == ["HLA-A"] * 4 + ["other"]
    for name, locus in (("H-2-IAb", "H-2-IA"), ("H-2-Kb", "H-2"), ("Mamu-DRB104:06", "Mamu-DRB")):
        assert set(loci([name] * 4)) == {locus}
    assert set(loci(["HLA-DQA101:01-DQB105:01"] * 4)) == {"HLA-DQ"}
    assert set(loci(["HLA-BF02:2101"] * 4)) == {"other"}  # a chicken's


def test_a_peptide_is_encoded_and_masked() -> None:
    (values,) = encoded(["ACY"])
    assert values.shape == (15, 21)
    np.testing.assert_allclose(values[:3].sum(axis=1), 1)
    assert values[:3].argmax(axis=1).tolist() == [0, 1, 19]
    assert set(values[3:].ravel().tolist()) == {-4200000.0}
