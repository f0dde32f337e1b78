"""The main job on real weights, against a float64 NumPy forward pass written for the tests."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import extractkit
from extractkit.engine.model_cache import forget, kept
from extractkit.runs.reader import Run
from tests.corpus import stdlib_docstrings
from tests.oracles.bert_float64 import BertFloat64, BertTrace
from tests.oracles.wordpiece import WordPiece

pytestmark = pytest.mark.real_model

LAYERS = range(6)
UNCHECKED = "runtime.self_check=false"
"""The first run checks itself, which loads the model once more. The others have the same model."""


@pytest.fixture(scope="module", autouse=True)
def one_model() -> Iterator[None]:
    """As within a sweep, jobs on the same weights share the loaded model."""
    with kept():
        yield
    forget()


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Very different lengths in one run: one letter to far beyond what the model takes."""
    return ["a", *stdlib_docstrings(5), "every word " * 200, "Ünïcode straße, « naïve » — 北京"]


@pytest.fixture(scope="module")
def run(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return extractkit.extract(
        [
            "model=bert",
            "selectors=attention",
            "+selectors.hidden.regex='^transformer_layer_.:output'",
        ],
        inputs=texts,
        run_dir=tmp_path_factory.mktemp("bert") / "run",
    )


@pytest.fixture(scope="module")
def oracle(texts: list[str], run: Run) -> list[BertTrace]:
    directory = Path(str(run.manifest.model["path"]))
    forward = BertFloat64(directory)
    ids = WordPiece(directory).token_ids(texts, max_length=128)
    return [forward.forward(one) for one in ids]


@pytest.mark.parametrize("layer", LAYERS)
def test_attention_agrees_to_1e_5(run: Run, oracle: list[BertTrace], layer: int) -> None:
    view = run[f"transformer_layer_{layer}/self_attention_layer/softmax:output"]
    for index, trace in enumerate(oracle):
        np.testing.assert_allclose(view.sample(index), trace.attention[layer], rtol=0, atol=1e-5)


@pytest.mark.parametrize("layer", LAYERS)
def test_hidden_states_agree_to_1e_4(run: Run, oracle: list[BertTrace], layer: int) -> None:
    view = run[f"transformer_layer_{layer}:output"]
    for index, trace in enumerate(oracle):
        expected = trace.hidden_states[layer + 1]
        np.testing.assert_allclose(view.sample(index), expected, rtol=0, atol=1e-4)


def test_a_text_beyond_the_models_length_is_cut_and_marked(run: Run, texts: list[str]) -> None:
    rows = list(run.samples)
    assert [row["truncated"] for row in rows].count(True) == run.manifest.inputs.truncated  # type: ignore[union-attr]
    assert rows[-2]["truncated"]
    assert rows[-2]["length"] == 128
    assert rows[-2]["text"] == texts[-2]
    assert not rows[0]["truncated"]
    assert rows[0]["tokens"] == ["[CLS]", "a", "[SEP]"]


def test_pooled_tokens_leave_padding_out(
    texts: list[str], oracle: list[BertTrace], tmp_path: Path
) -> None:
    pooled = extractkit.extract(
        [
            "model=bert",
            UNCHECKED,
            "+selectors.mean={path: 'transformer_layer_5:output', reduce: {token: mean}}",
        ],
        inputs=texts,
        run_dir=tmp_path / "run",
    )["transformer_layer_5:output"]
    expected = np.stack([trace.hidden_states[6].mean(axis=0) for trace in oracle])
    assert pooled.shape == (len(texts), 384)
    np.testing.assert_allclose(np.asarray(pooled), expected, rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def counted(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Statistics of hidden layers."""
    return extractkit.extract(
        ["model=bert"],
        inputs=texts,
        selectors={
            "units": {
                "path": "transformer_layer_2/feedforward_intermediate_dense:output",
                "statistics": [{"top": {"k": 5, "smallest": True}}],
            },
            "means": {
                "regex": "^transformer_layer_.:output",
                "do": [{"mean": "token"}],
                "statistics": ["similarity"],
            },
            "tokens": {"regex": "^transformer_layer_.:output", "statistics": ["similarity"]},
        },
        runtime={"shard_size": 5},
        run_dir=tmp_path_factory.mktemp("bert") / "counted",
    )


def test_top_examples_of_units_are_those_of_a_search(
    counted: Run, texts: list[str], oracle: list[BertTrace]
) -> None:
    directory = Path(str(counted.manifest.model["path"]))
    ids = WordPiece(directory).token_ids(texts, max_length=128)
    words = (directory / "vocab.txt").read_text("utf-8").split("\n")
    (key,) = (key for key, one in counted.statistics.items() if "top" in one)
    every = np.concatenate([trace.wide[2] for trace in oracle])
    for smallest in (False, True):
        best = np.sort(every if smallest else -every, axis=0)[:5].T
        # Looking up the examples of a unit takes longer than finding them all.
        for unit in range(0, len(best), 8):
            expected = best[unit] if smallest else -best[unit]
            examples = counted.examples(key, unit, smallest=smallest)
            values = [one.value for one in examples]
            assert values == sorted(values, reverse=not smallest)
            np.testing.assert_allclose(values, expected, rtol=0, atol=1e-4)
            for one in examples:
                (token,) = one.position
                there = oracle[one.sample].wide[2][token, unit]
                assert abs(there - one.value) < 1e-4
                assert one.token == words[ids[one.sample][token]]
            assert len({(one.sample, one.position) for one in examples}) == 5


@pytest.mark.parametrize("name", ["means", "tokens"])
def test_similarity_of_layers_is_that_of_gram_matrices(
    counted: Run, oracle: list[BertTrace], name: str
) -> None:
    def rows(layer: int) -> np.ndarray:
        states = [trace.hidden_states[layer + 1] for trace in oracle]
        if name == "means":
            return np.stack([one.mean(0) for one in states])
        return np.concatenate(states)

    grams = []
    for layer in LAYERS:
        centered = rows(layer) - rows(layer).mean(0)
        gram = centered @ centered.T
        grams.append(gram / np.linalg.norm(gram))
    expected = [[(one * other).sum() for other in grams] for one in grams]
    found = counted.statistics[f"@{name}"]
    assert [key.partition("@")[0] for key in found.tensors] == [
        f"transformer_layer_{layer}:output" for layer in LAYERS
    ]
    np.testing.assert_allclose(found.similarity.cka, expected, rtol=1e-5)


def test_weights_equal_the_file_they_were_read_from(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    run = extractkit.extract(
        ["model=bert", "selectors=weights", UNCHECKED], run_dir=tmp_path / "run"
    )
    stored = load_file(Path(str(run.manifest.model["path"])) / "model.safetensors")
    for layer in LAYERS:
        kernel = np.asarray(run[f"transformer_layer_{layer}/self_attention_layer/query:kernel"])
        expected = stored[f"encoder.layer.{layer}.attention.self.query.weight"].T
        np.testing.assert_array_equal(kernel.reshape(384, 384), expected)
    parameters = sum(np.asarray(view).size for view in run.values())
    assert parameters == run.manifest.model["parameters"]


@pytest.mark.thorough
def test_batching_changes_nothing_beyond_rounding(texts: list[str], tmp_path: Path) -> None:
    ways = [
        extractkit.extract(
            ["model=bert", "selectors=layers", f"runtime.batch_size={size}", UNCHECKED],
            inputs=texts[:4],
            run_dir=tmp_path / str(size),
        )
        for size in (1, 32)
    ]
    for key, alone in ways[0].items():
        for index in range(4):
            np.testing.assert_allclose(
                alone.sample(index), ways[1][key].sample(index), rtol=0, atol=1e-4, err_msg=key
            )


def test_a_shard_is_bitwise_the_same_whatever_follows_it(texts: list[str], tmp_path: Path) -> None:
    digests = [
        [
            entry.values
            for entry in extractkit.extract(
                ["model=bert", "selectors=attention", "runtime.shard_size=2", UNCHECKED],
                inputs=texts[:count],
                run_dir=tmp_path / str(count),
            ).journal.entries
        ]
        for count in (4, 6)
    ]
    assert digests[0] == digests[1][:2]
