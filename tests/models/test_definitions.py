"""Definitions of models that are no graph, or more than one: files, tokenizers, preprocessing."""

import json
import shutil
import subprocess
from pathlib import Path

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
import tokenizers

from extractkit.core.component import Component
from extractkit.models import applications, bert, checkpoint, hub, meta_graph, module, tflite
from extractkit.testing.reference import ReferenceModel
from tests.models import tflite_zoo, tiny_bert, tiny_presets


def test_of_a_preset_the_tokenizer_counts_and_the_weights_do_not(tmp_path: Path) -> None:
    def saved(name: str, seed: int = 0) -> str:
        folder = tiny_presets.saved(tiny_presets.gpt2, tmp_path / name, seed)
        return str(tiny_presets.with_tokenizer(folder))

    one, other_weights, other_merges = saved("one"), saved("two", seed=1), saved("three")
    vocabulary = {token: index for index, token in enumerate(tiny_presets.VOCABULARY)}
    keras_hub.models.GPT2Tokenizer(
        vocabulary=vocabulary, merges=tiny_presets.MERGES[::-1]
    ).save_to_preset(other_merges)
    first, other = hub.load(one), hub.load(other_weights)
    digest = first.definition_digest()
    assert digest is not None
    assert other.definition_digest() == digest
    assert first.weights_digest() != other.weights_digest()
    assert hub.load(other_merges).definition_digest() != digest
    assert hub.load(one, max_length=5).definition_digest() != digest
    assert hub.load(one, task="CausalLM").definition_digest() != digest


def test_another_process_gives_a_preset_the_same_definition(
    tmp_path: Path, preloaded: Path
) -> None:
    folder = str(tiny_bert.keras_hub_preset(tmp_path / "bert", tiny_bert.backbone()))
    code = (
        "import sys\nfrom extractkit.models import bert\n"
        "print(bert.load(sys.argv[1], 12).definition_digest())"
    )
    command = [preloaded / "python", "-c", code, folder]
    run = subprocess.run(command, capture_output=True, check=True)
    assert run.stdout.decode().split()[-1] == bert.load(folder, 12).definition_digest()


@pytest.mark.parametrize(
    ("setting", "value"),
    [("lowercase", False), ("vocabulary", [*tiny_bert.VOCABULARY[:-1], "chairs"])],
    ids=["lowercase", "vocabulary"],
)
def test_the_settings_of_a_tokenizer_count(setting: str, value: object, tmp_path: Path) -> None:
    settings = {"vocabulary": tiny_bert.VOCABULARY, "lowercase": True}
    folder = tiny_bert.keras_hub_preset(tmp_path / "bert", tiny_bert.backbone())
    before = bert.load(str(folder), 12).definition_digest()
    keras_hub.models.BertTokenizer(**{**settings, setting: value}).save_to_preset(str(folder))
    assert bert.load(str(folder), 12).definition_digest() != before


def test_the_tokenizer_of_hugging_face_counts(tmp_path: Path) -> None:
    """As it is, elsewhere, and as one that knows capital letters."""
    original, elsewhere = tiny_bert.hugging_face(tmp_path / "one"), tmp_path / "two"
    vocabulary = {token: index for index, token in enumerate(tiny_bert.VOCABULARY)}
    file = original / "tokenizer.json"
    tokenizers.BertWordPieceTokenizer(vocabulary).save(str(file))
    shutil.copytree(original, elsewhere)
    one, same = (bert.load(str(folder), 12).definition_digest() for folder in (original, elsewhere))
    tokenizer = json.loads(file.read_text())
    tokenizer["normalizer"]["lowercase"] = False
    file.write_text(json.dumps(tokenizer))
    assert one == same != bert.load(str(original), 12).definition_digest()


def test_of_images_what_prepares_pixels_counts(tmp_path: Path) -> None:
    folder = tiny_presets.saved(tiny_presets.vit, tmp_path / "vit")
    plain = hub.load(str(folder)).definition_digest()
    tiny_presets.with_converter(folder)
    assert hub.load(str(folder)).definition_digest() != plain
    # Without it only the range of what is taken as an example differs.
    raw = hub.load(str(folder), preprocess=False)
    assert raw.definition_digest() == plain


def test_of_an_application_the_preprocessing_counts_and_the_seed_does_not() -> None:
    def digest(**settings: object) -> str | None:
        small = {"input_shape": [32, 32, 3], "include_top": False, **settings}
        return applications.load("MobileNet", **small).definition_digest()  # type: ignore[arg-type]

    assert digest() == digest(seed=1) != digest(preprocess=False)


def test_of_a_tflite_file_everything_counts(tmp_path: Path) -> None:
    files = {name: tflite_zoo.written(name, tmp_path) for name in ("float32", "float16", "two")}
    digests = [tflite.load(str(file)).definition_digest() for file in files.values()]
    two, plain = str(files["two"]), str(files["float32"])
    digests.append(tflite.load(two, signature="arithmetic").definition_digest())
    digests.append(tflite.load(plain, xnnpack=False).definition_digest())
    # `dense` and `arithmetic`: one of them is the first, which nobody has to name.
    named = tflite.load(two, signature="dense").definition_digest()
    assert len({*digests, named}) == 5
    assert tflite.load(plain, threads=2).definition_digest() == digests[0]


def test_weights_alone_compute_nothing(tmp_path: Path) -> None:
    for name, units in (("a", 2), ("b", 3)):
        own = keras.Sequential([keras.Input((4,)), keras.layers.Dense(units)])
        own.save_weights(tmp_path / f"{name}.weights.h5")
    one, other = (checkpoint.load(str(tmp_path / f"{name}.weights.h5")) for name in "ab")
    assert one.definition_digest() == other.definition_digest()


def test_of_the_reference_model_the_longest_text_counts_and_the_seed_does_not() -> None:
    assert ReferenceModel(seed=1).definition_digest() == ReferenceModel().definition_digest()
    assert ReferenceModel(longest=9).definition_digest() != ReferenceModel().definition_digest()


def doubled() -> object:
    return lambda x: x * 2.0


def test_nobody_can_tell_what_runs_eagerly() -> None:
    factory = Component("model.factory", f"{__name__}.doubled")
    inputs = {"x": {"dims": ["sample", 2], "dtype": "float32"}}
    assert module.load(factory, input_axes=inputs, eager=True).definition_digest() is None
    assert module.load(factory, input_axes=inputs).definition_digest() is not None


def tabled(words: Path) -> tf.Variable:
    """`x` times a variable; a table of the words in a file."""
    v1 = tf.compat.v1
    x = v1.placeholder(tf.float32, [None, 2], "x")
    kernel = v1.get_variable("kernel", [2])
    tf.multiply(x, kernel, name="y")
    table = v1.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64, name="table")
    filled = v1.raw_ops.InitializeTableFromTextFileV2(
        table_handle=table, filename=tf.constant(str(words)), key_index=-2, value_index=-1
    )
    v1.add_to_collection(v1.GraphKeys.TABLE_INITIALIZERS, filled)
    return kernel


def test_of_a_session_what_tables_hold_counts_and_variables_do_not(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"

    def digests(text: str, weight: float) -> tuple[str | None, str]:
        words.write_text(text)
        with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
            tf.compat.v1.set_random_seed(0)  # another test may have asked for determinism
            tabled(words).load(np.array([weight, 1.0], np.float32), session)
            tf.compat.v1.train.Saver().save(session, str(tmp_path / "m"))
        model = meta_graph.load(str(tmp_path / "m.meta"))
        return model.definition_digest(), model.weights_digest()

    one, weight, table = digests("a\nb\n", 1.0), digests("a\nb\n", 2.0), digests("a\nc\n", 1.0)
    assert None not in one
    assert (one[0] == weight[0], one[1] == weight[1]) == (True, False)
    assert (one[0] == table[0], one[1] == table[1]) == (False, True)
