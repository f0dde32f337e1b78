"""Charts in notebooks: the values of the run, for the sample, layer and head that are asked for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import extractkit
from extractkit.errors import ConfigError, MissingExtraError, RunDirectoryError, UnknownTensorError
from extractkit.notebooks.plots import run_of
from extractkit.reports import Cube, Figure
from extractkit.reports.attention import habits, is_map
from extractkit.reports.charts import points, with_values
from extractkit.reports.steps import is_saliency
from extractkit.runs.reader import Run
from tests.notebooks.examples import CHANNELS, Pictured
from tests.reports.examples import EVERYTHING, HOSTILE, STATISTICS


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return extractkit.extract(
        model=Pictured(),
        inputs=[*HOSTILE, *("abcdefgh"[:n] for n in range(1, 9))],
        selectors={**EVERYTHING, **STATISTICS},
        run_dir=tmp_path_factory.mktemp("runs") / "run",
    )


def maps_of(run: Run) -> list[str]:
    return [key for key, view in run.items() if is_map(view) and len(view.dims) == 4]


def rows(chart: Any) -> list[dict[str, Any]]:
    (held,) = chart.to_dict()["datasets"].values()
    return list(held)


def drawn(chart: Any, *shape: int) -> Any:
    return np.array([row["value"] for row in rows(chart)]).reshape(shape)


def test_attention_is_that_of_the_sample_layer_and_head(run: Run) -> None:
    key = maps_of(run)[-1]
    value = run[key].sample(7)
    heads, queries, keys = value.shape
    for chart in (
        run.plot.attention(7, key, heads - 1),
        run.plot.attention(7, 1, heads - 1),
        run[key].plot(7, head=heads - 1),
    ):
        np.testing.assert_allclose(drawn(chart, queries, keys), value[-1], atol=1e-3)
    mean = drawn(run.plot.attention(7, key), queries, keys)
    np.testing.assert_allclose(mean, value.mean(0), atol=1e-3)
    cut = run.plot.attention(7, key, tokens=2)
    assert len(rows(cut)) == 4
    note = "1 sample is longer: the first 2 tokens are shown."
    assert cut.to_dict()["title"]["subtitle"][-1] == note
    alone = run["attention:op/Softmax"]
    for head in (None, 0):
        chart = alone.plot(7, head=head)
        np.testing.assert_allclose(drawn(chart, queries, keys), alone.sample(7), atol=1e-3)
        assert chart.to_dict()["title"]["text"].endswith("head 0")
    with pytest.raises(UnknownTensorError, match=r"'head 1' is not a choice"):
        alone.plot(7, head=1)
    title = run.plot.attention(0, key, 1).to_dict()["title"]
    assert "head 1" in title["text"]
    assert title["subtitle"][0].replace("\u2060", "") == f"0: {HOSTILE[0]}"


def test_no_text_ends_the_script_of_a_saved_chart(run: Run) -> None:
    alt = pytest.importorskip("altair")
    name = "<SCRIPT><!--</Script>"  # as a column of the samples may be called
    cube = Cube(np.zeros((1, 2), np.float32), (("",),), {"sample": (name,), "class": ("</s>",)})
    plain = points("a", "b", name, nominal=True)
    figure = Figure("samples", "", plain, (), ("n",), (cube,), fields=("a", "b"))
    hostile, other = run.plot.attention(0), with_values(figure, title=[name])
    charts = [hostile, other, hostile | other, alt.layer(hostile, hostile), other.facet("class:N")]
    for chart in charts:
        shown, saved = chart._repr_mimebundle_()["text/html"].lower(), chart.to_html().lower()
        assert [shown.count(one) for one in ("<script", "</script", "<!--")] == [1, 1, 0]
        assert [saved.count(one) for one in ("<script", "</script", "<!--")] == [4, 4, 0]
    assert rows(other)[0]["class"] == "</s>"  # a token of many models, which ends nothing


def test_heads_are_compared_by_a_measure(run: Run) -> None:
    maps = np.stack([run[key].sample(7) for key in maps_of(run)])
    found = drawn(run.plot.heads(7, "share on the first token"), *maps.shape[:2])
    np.testing.assert_allclose(found, habits(maps)[-1], atol=1e-3)


def test_charts_can_be_changed_and_put_together(run: Run) -> None:
    wide = run.plot.attention(7).properties(width=600).mark_rect(opacity=0.5)
    both = (wide | run.plot.attention(5)).to_dict()
    assert both["hconcat"][0]["width"] == 600
    convert = pytest.importorskip("vl_convert")
    assert "<svg" in convert.vegalite_to_svg(both)
    alt = pytest.importorskip("altair")
    with alt.theme.enable("extractkit"):
        assert wide.to_dict()["config"]["background"] == "white"


def test_further_charts_hold_values_of_the_run(run: Run) -> None:
    assert len(rows(run.plot.map("pool:output"))) == len(run.samples)
    few = run.plot.map("pool:output", most=5).to_dict()
    assert [len(held) for held in few["datasets"].values()] == [5]
    assert few["title"]["subtitle"][0].startswith("5 of 13 samples are shown")
    image = "block/<b>image:output"
    for channel in (None, CHANNELS - 2):
        value = run[image].sample(3)
        value = value.mean(-1) if channel is None else value[..., channel]
        for chart in (run.plot.image(3, channel=channel), run[image].plot(3, channel=channel)):
            np.testing.assert_allclose(drawn(chart, *value.shape), value, rtol=1e-3)
    counted = "pool:output@counted"
    counts = [row["value"] for row in rows(run.plot.histogram(counted))]
    assert counts == run.statistics[counted].histogram.counts.tolist()
    drawn_from = np.concatenate([run["pool:output"].sample(at) for at in (0, 4, 8, 12)])
    assert sum(row["value"] for row in rows(run.plot.histogram("pool:output"))) == drawn_from.size
    assert rows(run["pool:output"].plot()) == rows(run.plot.map("pool:output"))
    assert rows(run["pool:output"].plot.histogram()) == rows(run.plot.histogram("pool:output"))


def test_mistakes_are_named(run: Run) -> None:
    plot, key = run.plot, maps_of(run)[0]
    with pytest.raises(UnknownTensorError, match=r"'head 99' is not a choice of 'head'\. "):
        plot.attention(head=99)
    with pytest.raises(UnknownTensorError, match=r"layer=99 is not among the tensors that this "):
        plot.attention(layer=99)
    with pytest.raises(
        UnknownTensorError, match=r"'pol:output' is not a tensor .*'pool:output@all'"
    ):
        plot.map("pol:output")
    with pytest.raises(UnknownTensorError, match=r"key='attention:kernel' is not among the "):
        plot.map("attention:kernel")
    with pytest.raises(IndexError, match=r"sample=13: .* has 13 samples, from 0 on"):
        plot.attention(sample=13)
    with pytest.raises(UnknownTensorError, match=r"'x' is not a choice of 'heads by'\. .*'entropy"):
        plot.heads(by="x")
    with pytest.raises(UnknownTensorError, match="has no attributions over tokens"):
        plot.saliency()
    with pytest.raises(UnknownTensorError, match="has no drift"):
        plot.drift()
    with pytest.raises(TypeError, match=r"^channel is not .* of attention, .* takes head, tokens$"):
        run[key].plot(0, channel=1)
    with pytest.raises(TypeError, match=r"^bins is not .* of histogram, .* takes no more$"):
        run["embedding:output"].plot(bins=3)
    with pytest.raises(UnknownTensorError, match=r"layer=0\.5 is not among the tensors that this "):
        plot.attention(layer=0.5)  # type: ignore[arg-type]
    with pytest.raises(UnknownTensorError, match=r"^5 is not a choice of 'heads by'\. "):
        plot.heads(by=5)  # type: ignore[arg-type]
    for chart in (plot.attention, plot.saliency, plot.heads, run[key].plot):
        for tokens in (0, -5, "a", 2.5, True):
            with pytest.raises(
                ConfigError, match=rf"^tokens={tokens!r} is not a whole number of 1"
            ):
                chart(0, tokens=tokens)
    with pytest.raises(ConfigError, match=r"^most=0 is not a whole number of 1 or more$"):
        plot.map(most=0)
    for wrong in (plot.attention, plot.heads, run[key].sample, run.samples.__getitem__):
        with pytest.raises(TypeError, match=r"^sample='x' is not a whole number$"):
            wrong("x")
        with pytest.raises(IndexError, match=r"^sample=-14: .* has 13 samples, from 0 on$"):
            wrong(-14)


def test_damaged_values_are_no_chart(run: Run, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(run.path, copy)
    opened = extractkit.open(copy)
    for file in copy.glob("shards/*"):
        file.write_bytes(b"damaged")
    with pytest.raises(RunDirectoryError, match=r"digest|damaged"):
        opened.plot.attention()  # type: ignore[union-attr]


def test_without_altair_the_command_that_installs_it_is_named(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "altair", None)
    for value in (run, next(iter(run.values()))):
        with pytest.raises(MissingExtraError, match=r"pip install 'extractkit\[notebook\]'"):
            _ = value.plot


def test_a_view_knows_its_run(run: Run) -> None:
    assert run_of(run["pool:output"]).path == run.path


GOLDEN = Path(__file__).parents[1] / "golden" / "runs" / "schema-13"


def test_drift_over_checkpoints_is_that_of_the_run() -> None:
    run = extractkit.open(GOLDEN / "trajectory")
    assert isinstance(run, Run)
    assert run.drift is not None
    for key, moved in run.drift.tensors.items():
        found = [row["value"] for row in rows(run.plot.drift(key))]
        wanted = [*moved.from_first.relative_norm, *moved.from_previous.relative_norm]
        np.testing.assert_allclose(
            np.array(found, np.float64), np.array(wanted, np.float64), rtol=1e-6
        )


def test_saliency_is_the_length_of_gradients() -> None:
    run = extractkit.open(GOLDEN / "gradients")
    assert isinstance(run, Run)
    keys = [key for key, view in run.items() if is_saliency(view)]
    assert keys
    for key in keys:
        value = run[key].sample(1)
        wanted = np.linalg.norm(value, axis=-1) if value.ndim > 1 else value
        np.testing.assert_allclose(drawn(run.plot.saliency(1, key), -1), wanted, rtol=1e-5)
        assert len(rows(run.plot.saliency(1, key, tokens=1))) == 1
