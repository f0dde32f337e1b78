"""Results of statistics read back: as tables, as labelled arrays, and in one line each."""

import copy
import json
import pickle
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import extractkit
from extractkit import cli
from extractkit.core.statistics import Array, Arrays, Block, Statistic
from extractkit.core.statistics.registry import Asked
from extractkit.core.statistics.results import Results, Statistics, TensorStatistics
from extractkit.core.values import Dense
from extractkit.display import checks
from extractkit.errors import MissingExtraError, UnknownTensorError, UserError
from tests.statistics.examples import many, over, statistics
from tests.statistics.examples import one as asked

ROWS = many(7)


def results(options: object, **settings: object) -> Results:
    statistic = asked(options)
    return Results(statistic, over(statistic, ROWS, [4, 20]), **settings)  # type: ignore[arg-type]


def over_two(options: object) -> Results:
    """The results at two checkpoints, of which the second has the negative values."""
    statistic = asked(options)
    each = [over(statistic, rows, [9]) for rows in (ROWS, [-one for one in ROWS])]
    stacked = {name: np.stack([one[name] for one in each]) for name in each[0]}
    return Results(statistic, stacked, "channel", outer={"checkpoint": (100, 200)})


@pytest.mark.parametrize("statistic", statistics())
def test_every_result_has_its_axes(statistic: Statistic) -> None:
    found = over(statistic, ROWS, [4])
    assert statistic.dims.keys() == found.keys()
    assert {name: len(axes) for name, axes in statistic.dims.items()} == {
        name: array.ndim for name, array in found.items()
    }
    assert Results(statistic, found).summary()
    data = Results(statistic, found).to_xarray()
    assert data.sizes.get("feature", 3) == 3


@pytest.mark.parametrize("statistic", statistics())
def test_features_have_a_name_of_their_own(statistic: Statistic) -> None:
    """The last axis of a tensor may be named as the transforms `project` and `quantile` do."""
    arrays = over(statistic, ROWS, [4])
    plain = Results(statistic, arrays)
    axes = {axis for each in statistic.dims.values() for axis in each}
    own = {"edge", "checkpoint", "tensor", "result", "value", "lower", "bin", *axes, *arrays}
    for name in sorted(own):
        found = Results(statistic, arrays, name)
        assert all(len(set(each)) == len(each) for each in found.dims.values())
        for column, expected in zip(
            found.columns().values(), plain.columns().values(), strict=True
        ):
            np.testing.assert_array_equal(column, expected)
        sizes = found.to_xarray().sizes.values()
        assert list(sizes) == list(plain.to_xarray().sizes.values())
        whole = Statistics({"a": TensorStatistics("a", {statistic.name: found})})
        table = whole.to_pandas()
        for result, array in arrays.items():
            axes_of = list(found.dims[result])
            rows = table[table.result == result]
            assert len(rows[axes_of].drop_duplicates()) == (array.size if axes_of else 1)
            np.testing.assert_array_equal(rows["value"], np.ravel(array))
        assert len(whole.to_xarray()) == len(arrays)


def test_an_outer_axis_keeps_its_name() -> None:
    statistic = asked("moments")
    arrays = over(statistic, ROWS, [4])
    stacked = {name: np.stack([array] * 2) for name, array in arrays.items()}
    found = Results(statistic, stacked, "checkpoint", outer={"checkpoint": (100, 200)})
    assert found.to_xarray()["mean"].dims == ("checkpoint", "feature")
    assert len(found.to_pandas()) == 2 * 3


@pytest.mark.parametrize("statistic", statistics())
def test_without_rows_there_is_a_summary(statistic: Statistic) -> None:
    nothing = np.zeros((0, 3), np.float32)
    found = statistic.finish(statistic.of(Block(Dense(nothing), np.arange(0), 3)))
    assert Results(statistic, found).summary()
    assert Results(statistic, found).columns()


def test_a_table_has_a_row_for_each_element() -> None:
    found = results({"top": {"k": 2}})
    table = found.to_pandas()
    assert list(table) == ["feature", "k", "values", "samples", "positions"]
    rows = [
        (feature, k, found.values[feature, k], found.samples[feature, k])
        for feature in range(3)
        for k in range(2)
    ]
    np.testing.assert_array_equal(table.iloc[:, :4].to_numpy(), np.array(rows))


def test_results_without_an_axis_are_repeated_along_it() -> None:
    found = results({"pca": {"components": 2}})
    table = found.to_pandas()
    assert len(table) == 2 * 3
    row = table[(table.component == 1) & (table.feature == 2)].iloc[0]
    assert row["components"] == found.components[1, 2]
    assert row["mean"] == found.mean[2]
    assert row["explained_variance"] == found.explained_variance[1]
    assert set(table["count"]) == {int(found.count)}


def test_numbers_over_all_elements_are_one_row() -> None:
    table = results({"moments": {"per": "all"}}).to_pandas()
    assert (len(table), list(table)) == (1, ["count", "mean", "variance", "min", "max"])


@pytest.mark.parametrize("options", [{"bins": 4}, {"edges": [-1, 0, 2]}])
def test_edges_are_the_bounds_of_each_interval(options: object) -> None:
    found = results({"histogram": options})
    table = found.to_pandas()
    edges = np.broadcast_to(found.edges, (3, found.edges.shape[-1]))
    row = table[(table.feature == 1) & (table.bin == 1)].iloc[0]
    assert (row["lower"], row["upper"]) == tuple(edges[1, 1:3])
    assert row["counts"] == found.counts[1, 1]
    data = found.to_xarray()
    assert data["counts"].dims == ("feature", "bin")
    np.testing.assert_array_equal(data["lower"], found.edges[..., :-1])
    np.testing.assert_array_equal(data["upper"], found.edges[..., 1:])


def test_quantiles_are_labels_of_their_axis() -> None:
    found = results({"quantiles": {"q": [0.25, 0.75], "per": "feature"}})
    data = found.to_xarray()
    assert data["values"].dims == ("feature", "quantile")
    assert float(data["values"].sel(quantile=0.75)[1]) == found.values[1, 1]
    assert found.to_pandas()["quantile"].tolist() == [0.25, 0.75] * 3


def test_checkpoints_are_labels_too() -> None:
    found = over_two("moments")
    data = found.to_xarray()
    assert data["mean"].dims == ("checkpoint", "channel")
    np.testing.assert_array_equal(data["mean"].sel(checkpoint=200), found.mean[1])
    assert found.to_pandas()["checkpoint"].tolist() == [100] * 3 + [200] * 3
    assert found.at(1).to_xarray()["mean"].dims == ("channel",)
    assert found.summary() == f"{found.at(1).summary()} (checkpoint 200)"
    assert over_two({"quantiles": {"q": [0.5]}}).to_xarray()["values"].dims == (
        "checkpoint",
        "quantile",
    )


def every() -> Statistics:
    """Statistics of two tensors with different numbers of features."""
    narrow = asked({"top": {"k": 2}})
    rows: Array = np.arange(8.0).reshape(4, 2)
    partial: Arrays = narrow.of(Block(Dense(rows), np.arange(4), 2))
    pair = Asked.parse(["similarity"], "s").joint[0]
    labels = dict.fromkeys(("tensor", "other_tensor"), ("a", "b"))
    cka = {"count": np.asarray(9), "cka": np.array([[1, 0.25], [0.25, 1]])}
    return Statistics(
        {
            "a": TensorStatistics("a", {"moments": results("moments"), "pca": results("pca")}),
            "b": TensorStatistics("b", {"top": Results(narrow, narrow.finish(partial))}),
            "@s": TensorStatistics("@s", {"similarity": Results(pair, cka, labels=labels)}),
        }
    )


def test_all_statistics_are_one_long_table() -> None:
    found = every()
    table = found.to_pandas()
    assert list(table) == [
        *("tensor", "statistic", "result", "feature", "component", "k"),
        *("other_tensor", "value"),
    ]
    arrays = [
        array for one in found.values() for _, each in one.items() for _, array in each.items()
    ]
    assert len(table) == sum(array.size for array in arrays)
    mine = table[(table.tensor == "a") & (table.result == "variance")]
    np.testing.assert_array_equal(mine["value"], found["a"].moments.variance)
    assert mine["feature"].tolist() == [0, 1, 2]
    assert mine["k"].isna().all()


def test_all_statistics_are_one_dataset() -> None:
    found = every()
    data = found.to_xarray()
    assert data["a moments.mean"].dims == ("feature",)
    assert data["b top.values"].dims == ("feature_1", "k")
    np.testing.assert_array_equal(data["a pca.components"], found["a"].pca.components)
    assert float(data["@s similarity.cka"].sel(tensor="a", other_tensor="b")) == 0.25
    assert found["a"].to_xarray()["moments.mean"].dims == ("feature",)
    assert len(Statistics({}).to_pandas()) == 0


def test_results_survive_copies() -> None:
    found = every()
    for again in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert again["a"].moments.to_pandas().equals(found["a"].moments.to_pandas())


@pytest.mark.parametrize("library", ["pandas", "xarray"])
def test_a_missing_library_is_named(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    for owner in (results("moments"), every(), every()["a"]):
        with pytest.raises(MissingExtraError, match=rf"^to_{library} needs {library}, which"):
            getattr(owner, f"to_{library}")()


def test_summaries_show_what_matters() -> None:
    rows = [np.array([[0.0, 5.0, 0.0], [0.0, -1.0, 0.0]]), np.array([[0.0, 2.0, 4.0]])]

    def summary(options: object) -> str:
        statistic = asked(options)
        return Results(statistic, over(statistic, rows, [1])).summary()

    assert summary("moments").startswith("values from -1 to 5, mean 0 to 2, standard deviation 0 ")
    assert summary("moments").endswith("; 3 rows")
    assert summary("sparsity") == "55.6% zeros; 1 dead of 3 features: 0"
    assert summary({"top": {"k": 1}}) == (
        "feature 1: 5 in sample 0, position 0; feature 2: 4 in sample 1, position 0; "
        "feature 0: 0 in sample 0, position 0"
    ).replace(", position 0", "")
    assert summary({"histogram": {"edges": [-1, 1, 3], "per": "all"}}) == "-1 █▂ 3; 2 above"
    assert summary({"quantiles": {"q": [0, 0.5]}}) == "0 %: -0.99, 50 %: 0"
    assert summary("coactivation") == "most often features 1 and 2, in 33.3% of 3 rows"
    assert summary({"pca": {"components": 1}}).startswith("1 components explain ")


# ---- of a run


def test_all_statistics_of_a_tensor_call_its_features_alike(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6, "relu", name="lift")])
    run = extractkit.extract(
        model=model,
        inputs=np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32),
        selectors={
            "s": {
                "path": "lift:output",
                "do": [{"project": {"axis": 1, "to": 3}}],
                "statistics": ["moments", {"pca": {"components": 3}}],
            },
            "alone": {
                "path": "lift:output",
                "do": [{"project": {"axis": 1, "to": 3}}],
                "statistics": ["moments"],
            },
        },
        run_dir=tmp_path / "run",
    )
    found = run.statistics["lift:output@s"]
    assert found.pca.dims["components"] == ("component", "feature")
    assert found.moments.dims["mean"] == ("feature",)
    table = found.pca.to_pandas()
    assert table["components"].tolist() == found.pca.components.ravel().tolist()
    data = found.to_xarray()
    assert data["pca.components"].dims == ("component", "feature")
    assert run.statistics["lift:output@alone"].moments.dims["mean"] == ("component",)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> extractkit.Run:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "relu", name="lift")])
    folder = tmp_path_factory.mktemp("results")
    rows = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    return extractkit.extract(
        model=model,
        inputs=rows,
        selectors={"s": {"path": "lift:output", "statistics": ["moments", "sparsity"]}},
        run_dir=folder / "run",
    )


def test_a_run_without_values_names_its_statistics(run: extractkit.Run) -> None:
    with pytest.raises(UnknownTensorError) as caught:
        run.to_xarray()
    assert str(caught.value) == (
        f"{run.path} has statistics and no values per sample. Its results are in "
        f"run.statistics.to_xarray()"
    )
    with pytest.raises(UnknownTensorError) as caught:
        run["lift:output"]
    assert str(caught.value) == (
        f"'lift:output' is not a tensor of {run.path}. It has statistics and no values per sample: "
        f"run.statistics['lift:output']"
    )
    assert run.statistics.to_xarray()["lift:output moments.mean"].shape == (3,)


def test_show_lists_what_statistics_found(
    run: extractkit.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.execute(["show", str(run.path)]) == cli.DONE
    found = run.statistics["lift:output"]
    lines = capsys.readouterr().out.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("lift:output"))
    assert lines[at].split(maxsplit=5) == [
        *("lift:output", "sample", "×", "3", "moments"),
        found.moments.summary(),
    ]
    assert lines[at + 1].split(maxsplit=1) == ["sparsity", found.sparsity.summary()]


def test_show_prints_the_numbers_of_one_tensor(
    run: extractkit.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.execute(["show", str(run.path), "--tensor", "lift:output"]) == cli.DONE
    lines = capsys.readouterr().out.splitlines()
    table = run.statistics["lift:output"].moments.to_pandas()
    assert lines[0] == "lift:output (sample × 3)"
    assert lines[3].split() == list(table)
    assert [float(cell) for cell in lines[5].split()] == pytest.approx(list(table.iloc[1]), 1e-5)
    assert cli.execute(["show", str(run.path), "--tensor", "lift:output", "--json"]) == cli.DONE
    document = json.loads(capsys.readouterr().out)
    np.testing.assert_array_equal(
        document["moments"]["mean"], run.statistics["lift:output"].moments.mean
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tensor", "lift"], "'lift' is not a tensor with statistics of this run. Available: "),
        (["--tensor", "a", "--figure", "b.png"], "show: --tensor and --figure exclude each other"),
    ],
)
def test_show_refuses_tensors_without_statistics(
    run: extractkit.Run, options: list[str], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        cli.execute(["show", str(run.path), *options])
    assert str(caught.value).startswith(message)


def test_diff_counts_results_and_lists_none_if_many_are_equal(
    run: extractkit.Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.execute(["diff", str(run.path), str(run.path)]) == cli.DONE
    assert capsys.readouterr().out.endswith("\n8 results of statistics compared: 8 bitwise equal\n")
    monkeypatch.setattr(checks, "MOST_ROWS", 5)
    assert cli.execute(["diff", str(run.path), str(run.path)]) == cli.DONE
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "all 8 results of statistics are bitwise equal; --json lists them",
        "",
        "8 results of statistics compared: 8 bitwise equal",
    ]
