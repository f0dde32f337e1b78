"""What sections compute, against other implementations; and how they are cut to size."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.decomposition import PCA

import extractkit
from extractkit.core.values import Array
from extractkit.errors import ConfigError, MissingExtraError
from extractkit.reports import Code, Cube, Figure, Header, Listing, Section, summary
from extractkit.reports.attention import attention, habits
from extractkit.reports.budget import compact, decoded, encoded
from extractkit.reports.images import reduced
from extractkit.reports.material import fitting, short_names, spread
from extractkit.reports.page import drawn_figures, material_of, page, report, sections_of
from extractkit.reports.samples import colours, components
from extractkit.testing.reference import ReferenceModel
from tests.reports.examples import EVERYTHING
from tests.reports.many import COUNT, Many
from tests.reports.parsed import Page

RANDOM = np.random.default_rng(0)


def test_the_map_of_samples_is_that_of_scikit_learn() -> None:
    values = RANDOM.normal(size=(30, 5)) * [5, 3, 1, 1, 1] + 7
    found, share = components(values)
    oracle = PCA(2)
    wanted = oracle.fit_transform(values)
    np.testing.assert_allclose(np.abs(found), np.abs(wanted), atol=1e-9)
    assert share == pytest.approx(oracle.explained_variance_ratio_.sum())


def test_samples_are_mapped_by_umap_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[dict[str, object], Array]] = []

    class Umap:
        """Stands for umap-learn, which is not in the lock."""

        def __init__(self, **options: object) -> None:
            self.options = options

        def fit_transform(self, values: Array) -> Array:
            asked.append((self.options, values))
            return values[:, :2]

    run = extractkit.extract(
        model=ReferenceModel(),
        inputs=["abc", "de", "f", "ghij"],
        selectors={"pooled": {"path": "pool:output"}},
        run_dir=tmp_path / "run",
    )
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'extractkit\[umap\]'"):
        report(run.path, umap=True)
    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=Umap))
    figures = Page(report(run.path, umap=True).read_text("utf-8")).figures()
    ((options, values),) = asked
    assert options == {"n_neighbors": 3, "init": "pca", "random_state": 0, "n_jobs": 1}
    np.testing.assert_array_equal(values, np.asarray(run["pool:output"]))
    drawn = decoded(figures["samples-umap"]["cubes"][0]["values"])
    np.testing.assert_array_equal(drawn[:, :2], values[:, :2].astype(np.float32))
    assert "samples" in figures
    with pytest.raises(ConfigError, match="umap is for the page about one run"):
        report(extractkit.diff(run, run), umap=True)


def test_samples_that_are_all_the_same_are_at_one_place() -> None:
    found, share = components(np.ones((4, 3)))
    np.testing.assert_allclose(found, 0, atol=1e-9)
    assert share == 1


def test_classes_colour_the_map_of_samples_and_few_samples_have_none() -> None:
    rows = [{"id": str(at), "index": at, "kind": "ab"[at % 2], "length": at} for at in range(4)]
    assert colours(rows)[:2] == ("kind", {"class": ("a", "b", "a", "b")})
    field, texts, numbers = colours([{**row, "kind": 0} for row in rows])
    assert (field, texts, numbers.tolist()) == ("length", {}, [0, 1, 2, 3])
    assert colours([{"id": "0", "index": 0}])[0] is None


def test_habits_of_heads_are_those_of_a_loop() -> None:
    raw = RANDOM.random((2, 3, 5, 5))
    maps = raw / raw.sum(-1, keepdims=True)
    for layer in range(2):
        for head in range(3):
            one = maps[layer, head]
            entropy = np.mean([-sum(p * np.log2(p) for p in row) for row in one])
            own = np.mean([one[at, at] for at in range(5)])
            before = np.mean([one[at, at - 1] for at in range(1, 5)])
            after = np.mean([one[at, at + 1] for at in range(4)])
            wanted = [entropy, own, before, after, one[:, 0].mean()]
            np.testing.assert_allclose(habits(maps)[:, layer, head], wanted)


def test_maps_of_one_token_have_no_neighbours() -> None:
    np.testing.assert_array_equal(habits(np.ones((1, 1, 1, 1)))[:, 0, 0], [0, 1, 0, 0, 1])


def test_large_maps_are_reduced_to_means_of_blocks() -> None:
    maps = RANDOM.random((2, 112, 100))
    found = reduced(maps)
    assert found.shape == (2, 56, 50)
    assert found[1, 3, 4] == pytest.approx(maps[1, 6:8, 8:10].mean())


@pytest.mark.parametrize("scale", [1.0, 1e-7, 1e6])
def test_values_keep_three_digits_whatever_their_size(scale: float) -> None:
    values = RANDOM.normal(size=(3, 4)) * scale
    values[0, 0] = np.nan
    found = decoded(encoded(compact(values)))
    np.testing.assert_allclose(found, values, rtol=1e-3)


def test_a_faint_picture_beside_a_strong_one_keeps_three_digits() -> None:
    pictures = RANDOM.uniform(1, 2, (2, 3, 4)) * np.array([1, 1e-8])[:, None, None]
    np.testing.assert_allclose(compact(pictures), pictures, rtol=1e-3)
    assert compact(pictures[:1]).dtype == np.float16


def test_spread_samples_hold_the_first_and_the_last() -> None:
    assert spread(range(10), 4) == [0, 3, 6, 9]
    assert list(spread(range(3), 4)) == [0, 1, 2]
    assert fitting({0: 5, 1: 5, 2: 5, 3: 5}, 11) == [0, 3]
    assert list(fitting({0: 50, 1: 5}, 11)) == [0]


def test_short_names_keep_what_differs() -> None:
    keys = ["block_0/attention/softmax:output", "block_1/attention/softmax:output"]
    assert list(short_names(keys).values()) == ["block_0", "block_1"]
    assert list(short_names(["a:output"]).values()) == ["a:output"]
    assert list(short_names(["a:output", "b/c:output"]).values()) == ["a:output", "b/c:output"]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a thousand tensors."""
    run = extractkit.extract(
        model=Many(),
        inputs=["a" * (n % 7 + 1) for n in range(50)],
        selectors={"units": {"path": "block*"}},
        run_dir=tmp_path_factory.mktemp("runs") / "many",
    )
    return run.path


def test_a_thousand_tensors_fit_on_a_page_and_are_all_listed(many: Path) -> None:
    written = report(many)
    assert written.stat().st_size < 5_000_000
    shown = Page(written.read_text("utf-8"))
    (listing,) = shown.data["tensors"]["blocks"]
    assert len(listing["rows"]) == COUNT
    assert "more are not shown" in shown.text  # histograms


def test_what_would_exceed_a_page_is_replaced_by_a_note(many: Path) -> None:
    material = material_of(many)
    header = summary.header(material)
    sections = sections_of(material)
    whole = len(page(header, sections).encode())
    cut = page(header, sections, most=whole - 1)
    assert len(cut.encode()) < whole
    assert "This section is not shown" in Page(cut).text


def test_a_long_configuration_is_replaced_though_a_table_stays() -> None:
    header = Header("run", "finished", "good", "", ())
    table = Section("overview", "Overview", "", (Listing(("finding",), (("one",),)),))
    long = Section("provenance", "Provenance", "", (Code("job", "key: value\n" * 2000),))
    whole = len(page(header, [table, long]).encode())
    cut = Page(page(header, [table, long], most=whole - 10_000))
    assert "key: value" not in cut.text
    assert "This section is not shown" in cut.text
    assert cut.data["overview"]["blocks"]
    assert "Overview" in page(header, [table, long], most=10)  # nothing more can be left out


def test_attention_is_cut_to_the_room_that_it_has(tmp_path: Path) -> None:
    texts = ["a" * size for size in (60, 40, 40, 60)]
    run = extractkit.extract(
        model=ReferenceModel(), inputs=texts, selectors=EVERYTHING, run_dir=tmp_path / "run"
    )
    material = material_of(run.path)

    def shown(room: int) -> tuple[Section, Figure]:
        (section,) = attention(material, room)
        (figure,) = (one for one in section.blocks if isinstance(one, Figure))
        return section, figure

    section, figure = shown(1_000_000)
    assert [cube.values.shape for cube in figure.cubes] == [(1, n, n) for n in (48, 40, 40, 48)]
    assert "2 samples are longer" in str(section.blocks)
    section, figure = shown(5_000)
    assert [cube.values.shape for cube in figure.cubes] == [(1, 30, 30), (1, 30, 30)]
    assert "2 of 4 samples are shown" in str(section.blocks)


class Faint(ReferenceModel):
    """Maps with numbers that half precision does not have, as gradients of maps may have."""

    def forward(self, tokens: Array) -> dict[str, Array]:
        found = super().forward(tokens)
        return {**found, "attention:op/Softmax": found["attention:op/Softmax"] * np.float32(1e-8)}


def test_maps_keep_three_digits_of_any_size(tmp_path: Path) -> None:
    selectors = {"maps": {"path": "*/Softmax"}}
    run = extractkit.extract(
        model=Faint(), inputs=["abc", "ab"], selectors=selectors, run_dir=tmp_path / "run"
    )
    (section,) = attention(material_of(run.path), 1_000_000)
    (figure,) = (one for one in section.blocks if isinstance(one, Figure))
    for index, cube in enumerate(figure.cubes):
        wanted = run["attention:op/Softmax"].sample(index)
        np.testing.assert_allclose(cube.values[0], wanted, rtol=1e-3)


def test_rows_of_a_figure_are_those_of_the_chosen_options() -> None:
    values = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    values[1, 2, 1] = np.nan
    figure = Figure(
        "f",
        "",
        None,
        ("one", "other"),
        ("x",),
        (Cube(values, (("a", "b", "c"),)),),
        fields=("p", "q"),
    )
    assert figure.rows((0, 1)) == [
        {"x": "0 a", "p": 6, "q": 7},
        {"x": "1 b", "p": 8, "q": 9},
        {"x": "2 c", "p": 10, "q": None},
    ]


def test_each_chart_is_saved_for_papers(many: Path, tmp_path: Path) -> None:
    sections = sections_of(material_of(many))
    charts = [one for section in sections for one in section.blocks if isinstance(one, Figure)]
    drawn = drawn_figures(sections, tmp_path)
    assert (
        {path.stem for path in drawn} == {one.name for one in charts} == {"samples", "distribution"}
    )
    for path, content in drawn.items():
        start = content[:8]
        assert start.startswith(b"<svg" if path.suffix == ".svg" else b"\x89PNG")


def test_a_missing_extra_is_named(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'extractkit\[report\]'"):
        report(many, tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []
