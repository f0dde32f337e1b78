"""BERT as Google released it, against the forward pass in float64 and a graph of TensorFlow 1."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import extractkit
from extractkit.errors import ModelError
from extractkit.inputs import Sample
from extractkit.models import hub
from extractkit.models.bert import load
from tests.models.programs import values_of

v1 = tf.compat.v1
WIDTH, WIDE, LAYERS, HEADS, POSITIONS, SEGMENTS = 8, 16, 2, 2, 12, 3
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "house", "of", "##s", "cards", "a"]
IDS = np.array([[2, 5, 6, 8, 7, 9, 3]], np.int32)
PARTS = np.array([[0, 0, 0, 1, 1, 2, 2]], np.int32)


def config(**changes: object) -> dict[str, object]:
    return {
        "hidden_size": WIDTH,
        "intermediate_size": WIDE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": SEGMENTS,
        "vocab_size": len(WORDS),
        "hidden_act": "gelu",
        **changes,
    }


def weights() -> dict[str, np.ndarray]:
    """By Google's names, as its graph stores them."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings/word_embeddings": (len(WORDS), WIDTH),
        "embeddings/position_embeddings": (POSITIONS, WIDTH),
        "embeddings/token_type_embeddings": (SEGMENTS, WIDTH),
        "pooler/dense/kernel": (WIDTH, WIDTH),
        "pooler/dense/bias": (WIDTH,),
    }
    norms = ["embeddings"]
    for layer in (f"encoder/layer_{number}" for number in range(LAYERS)):
        norms += [f"{layer}/attention/output", f"{layer}/output"]
        dense = {f"attention/self/{one}": (WIDTH, WIDTH) for one in ("query", "key", "value")}
        dense |= {"attention/output/dense": (WIDTH, WIDTH)}
        dense |= {"intermediate/dense": (WIDTH, WIDE), "output/dense": (WIDE, WIDTH)}
        for name, shape in dense.items():
            shapes |= {f"{layer}/{name}/kernel": shape, f"{layer}/{name}/bias": shape[1:]}
    for scope in norms:
        shapes |= {f"{scope}/LayerNorm/{part}": (WIDTH,) for part in ("gamma", "beta")}
    draw = np.random.default_rng(0)
    return {f"bert/{name}": draw.normal(size=s).astype(np.float32) for name, s in shapes.items()}


def release(folder: Path, vocabulary: list[str] = WORDS, **changes: object) -> Path:
    """A directory as it is unpacked, with slots of an optimizer and a head beside the weights."""
    folder.mkdir()
    (folder / "bert_config.json").write_text(json.dumps(config(**changes)))
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    with v1.Graph().as_default(), v1.Session() as session:
        for name, value in weights().items():
            v1.get_variable(name, initializer=value)
        v1.get_variable("bert/pooler/dense/kernel/adam_m", initializer=np.zeros(3, np.float32))
        v1.get_variable("cls/predictions/output_bias", initializer=np.zeros(3, np.float32))
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(folder / "bert_model.ckpt"))
    return folder


def _gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def forward() -> dict[str, np.ndarray]:
    """The published computation, in float64."""
    found = {name.removeprefix("bert/"): w.astype(np.float64) for name, w in weights().items()}

    def norm(x: np.ndarray, scope: str) -> np.ndarray:
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        gamma, beta = (found[f"{scope}/LayerNorm/{part}"] for part in ("gamma", "beta"))
        return (x - mean) / np.sqrt(variance + 1e-12) * gamma + beta

    def dense(x: np.ndarray, scope: str) -> np.ndarray:
        return x @ found[f"{scope}/kernel"] + found[f"{scope}/bias"]

    words = found["embeddings/word_embeddings"][IDS[0]]
    words = words + found["embeddings/token_type_embeddings"][PARTS[0]]
    x = norm(words + found["embeddings/position_embeddings"][: IDS.shape[1]], "embeddings")
    attention = x
    for layer in (f"encoder/layer_{number}" for number in range(LAYERS)):
        split = (
            dense(x, f"{layer}/attention/self/{one}").reshape(-1, HEADS, WIDTH // HEADS)
            for one in ("query", "key", "value")
        )
        query, key, value = split
        scores = np.einsum("qhd,khd->hqk", query, key) / math.sqrt(WIDTH // HEADS)
        powers = np.exp(scores - scores.max(-1, keepdims=True))
        attention = powers / powers.sum(-1, keepdims=True)
        context = np.einsum("hqk,khd->qhd", attention, value).reshape(-1, WIDTH)
        x = norm(x + dense(context, f"{layer}/attention/output/dense"), f"{layer}/attention/output")
        inner = _gelu(dense(x, f"{layer}/intermediate/dense"))
        x = norm(x + dense(inner, f"{layer}/output/dense"), f"{layer}/output")
    return {"hidden": x, "attention": attention, "pooled": np.tanh(dense(x[0], "pooler/dense"))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return release(tmp_path_factory.mktemp("google") / "uncased_L-2_H-8_A-2")


def test_it_agrees_with_the_published_computation(folder: Path) -> None:
    model = load(str(folder), 12)
    batch = {"token_ids": IDS, "segment_ids": PARTS, "padding_mask": np.ones_like(IDS)}
    softmax = "transformer_layer_1/self_attention_layer/softmax:op/Softmax"
    addresses = [":output.sequence_output", ":output.pooled_output", softmax]
    values = values_of(model, addresses, batch)
    expected = forward()
    for address, key in zip(addresses, ("hidden", "pooled", "attention"), strict=True):
        np.testing.assert_allclose(values[address][0], expected[key], atol=1e-5)


def tokens(folder: Path, text: str) -> list[str]:
    encoded = load(str(folder), 12).encode([Sample(0, "0", "test", text)])[0]
    assert encoded.tokens is not None
    return list(encoded.tokens)


def test_the_vocabulary_tells_whether_it_lowercases(folder: Path, tmp_path: Path) -> None:
    assert tokens(folder, "The HOUSES öf") == ["[CLS]", "the", "house", "##s", "of", "[SEP]"]
    # `[MASK]` in a text is no special token to the release's tokenizer.
    assert tokens(folder, "[MASK]") == ["[CLS]", "[UNK]", "[UNK]", "[UNK]", "[SEP]"]
    cased = release(tmp_path / "cased", [*WORDS[:-1], "The"])
    assert tokens(cased, "The the HOUSE") == ["[CLS]", "The", "the", "[UNK]", "[SEP]"]
    digests = {load(str(path), 12).definition_digest() for path in (folder, cased)}
    assert len(digests) == 2


def test_its_own_checkpoint_given_as_another(folder: Path) -> None:
    given = load(str(folder), 12, checkpoint=str(folder / "bert_model.ckpt"))
    assert given.weights_digest() == load(str(folder), 12).weights_digest()


@pytest.mark.parametrize("given", [False, True])
def test_a_job_checks_itself(given: bool, folder: Path, tmp_path: Path) -> None:
    overrides = ["model=bert", f"model.path={folder}", "model.max_length=12", "selectors=outputs"]
    if given:
        overrides.append(f"model.checkpoint={folder / 'bert_model.ckpt'}")
    run = extractkit.extract(overrides, inputs=["the house of cards"], run_dir=tmp_path / "run")
    (check,) = run.manifest.volatile.self_check
    assert check.not_applicable is None
    assert len(check.outputs) == 2
    assert str(check.loaded_by).startswith("extractkit's own reading of the release")


def test_what_is_missing_or_does_not_fit(folder: Path, tmp_path: Path) -> None:
    def reported(name: str, **changes: object) -> str:
        made = release(tmp_path / name, **changes)  # type: ignore[arg-type]
        with pytest.raises(ModelError) as raised:
            load(str(made), 12)
        return str(raised.value)

    assert "'bert/encoder/layer_2/attention/self/query/kernel'" in reported(
        "a", num_hidden_layers=3
    )
    message = reported("b", intermediate_size=9)
    assert "kernel' is [8, 16] in the checkpoint, bert_config.json asks for [8, 9]" in message
    assert "hidden_size=8, which is not a multiple of num_attention_heads=3" in reported(
        "c", num_attention_heads=3
    )
    assert "has no whole number of 1 or more for hidden_size" in reported("d", hidden_size="8")
    assert "hidden_act='mish'" in reported("e", hidden_act="mish")
    assert "vocab.txt has 12 tokens, the model 11" in reported("f", vocabulary=[*WORDS, "b"])
    assert "has no token [SEP]" in reported("g", vocabulary=WORDS[:3])
    half = release(tmp_path / "half")
    (half / "bert_model.ckpt.index").unlink()
    with pytest.raises(
        ModelError, match=r"without its index\. Copy the file bert_model\.ckpt\.index"
    ):
        load(str(half), 12)
    with pytest.raises(ModelError, match=r"as Google released it\. That is for model=bert"):
        hub.load(str(folder))


def test_what_is_wrong_with_a_release_is_put_right_as_advised(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, place := tmp_path / "release")
    settings, vocabulary = place / "bert_config.json", place / "vocab.txt"
    for file in (settings, vocabulary):
        whole = file.read_bytes()
        file.write_bytes(b"\xff" + whole)
        with pytest.raises(ModelError, match=rf": {file.name} is damaged: .* Copy it from the rel"):
            load(str(place), 12)
        file.write_bytes(whole)
    vocabulary.unlink()
    with pytest.raises(ModelError, match=r"has no vocab\.txt, .* Copy it from the release"):
        load(str(place), 12)
    shutil.copy(folder / "vocab.txt", place)
    for file in place.glob("bert_model.ckpt.*"):
        file.unlink()
    with pytest.raises(ModelError) as raised:
        load(str(place), 12)
    assert "has no checkpoint. It holds 'bert_config.json', " in str(raised.value)
    assert str(raised.value).endswith("Copy the files bert_model.ckpt.* from the release")
    for file in folder.glob("bert_model.ckpt.*"):
        shutil.copy(file, place)
    with pytest.raises(ModelError, match=r"is a file of a model\. Give its folder: model\.path="):
        load(str(settings), 12)
    assert load(str(settings.parent), 12).catalog.outputs
