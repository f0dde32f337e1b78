"""Jobs over checkpoints of other formats, held against a loop that loads one after the other."""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from extractkit.core.requests import Value
from extractkit.inputs.in_memory import LiveArrays, LiveTexts
from extractkit.models import Fetch, bert, hub, keras_file, meta_graph
from tests.engine.examples import executed, job
from tests.models import tiny_bert
from tests.models.session_graphs import classifier

v1 = tf.compat.v1


def test_a_graph_of_tensorflow_1_with_what_a_saver_kept_of_its_training(tmp_path: Path) -> None:
    x = np.random.default_rng(5).normal(size=(5, 6)).astype(np.float32)
    expected, kernels = [], []
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        classifier()
        session.run(v1.global_variables_initializer())
        saver = v1.train.Saver()
        for step in (9, 10):
            for variable in v1.global_variables():
                noise = np.random.default_rng(step).normal(size=variable.shape)
                session.run(v1.assign_add(variable, noise.astype(np.float32)))
            saver.save(session, str(tmp_path / "model.ckpt"), global_step=step)
            expected.append(session.run("probs:0", {"x:0": x, "training:0": False}))
            kernels.append(session.run("top/kernel:0"))
    model = meta_graph.load(
        str(tmp_path / "model.ckpt-9.meta"),
        checkpoints=f"{tmp_path}/model.ckpt-*",
        checkpoint_step=r"ckpt-(\d+)",
        constants={"training": False},
    )
    wanted = job(
        {"path": ["probs:0", "top/kernel:0"]}, model=model, inputs=LiveArrays(x), shard_size=2
    )
    run = executed(tmp_path / "run", wanted)
    assert run.checkpoints == ("model.ckpt-9", "model.ckpt-10")
    assert [one.step for one in run.manifest.checkpoints] == [9, 10]
    np.testing.assert_allclose(np.asarray(run["probs:0"]), expected, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(run["top/kernel:0"]), kernels, strict=True)


@pytest.mark.parametrize("resource", [False, True], ids=["reference variables", "resources"])
def test_weights_that_were_read_stay_when_others_are_loaded(tmp_path: Path, resource: bool) -> None:
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        classifier(resource=resource)
        session.run(v1.global_variables_initializer())
        saver = v1.train.Saver()
        for step in range(3):
            for variable in v1.global_variables():
                session.run(v1.assign(variable, np.full(variable.shape, step, np.float32)))
            saver.save(session, str(tmp_path / "model.ckpt"), global_step=step)
    model = meta_graph.load(
        str(tmp_path / "model.ckpt-0.meta"),
        checkpoints=f"{tmp_path}/model.ckpt-*",
        constants={"training": False},
    )
    assert model.checkpoints is not None
    model.checkpoints.choose("fail")
    read = []
    operations = []
    for place in range(3):
        model.checkpoints.use(place)
        read.append(model.constants([Fetch(Value("top/kernel:0"))])[0])
        operations.append(len(model.session.graph.get_operations()))
    assert [set(value.ravel()) for value in read] == [{0.0}, {1.0}, {2.0}]
    assert len(set(operations)) == 1  # compiled for the first one, nothing is added after that


def test_weights_of_a_traced_model_are_compiled_once(tmp_path: Path) -> None:
    live = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="only")])
    live.save(tmp_path / "model.keras")
    kernels = []
    for step in range(3):
        kernels.append(np.full((3, 2), step, np.float32))
        live.layers[0].kernel.assign(kernels[-1])
        live.save_weights(tmp_path / f"step_{step}.weights.h5")
    model = keras_file.load(
        str(tmp_path / "model.keras"), checkpoints=f"{tmp_path}/step_*.weights.h5"
    )
    assert model.checkpoints is not None
    model.checkpoints.choose("fail")
    assert "only:kernel" in model.catalog  # traced for that, before anybody counts
    traced: list[None] = []
    original = tf.function

    def watching(function: Callable[..., object], **settings: object) -> object:
        traced.append(None)
        return original(function, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf, "function", watching)
        read = []
        for place in range(3):
            model.checkpoints.use(place)
            read.append(model.constants([Fetch(Value("only:kernel"))])[0])
    np.testing.assert_array_equal(read, kernels)
    assert len(traced) == 1


IDS = [[2, 5, 6, 8, 7, 9, 3], [2, 5, 6, 3], [2, 9, 3]]
Berts = tuple[Path, list[Path], list[list[np.ndarray]]]
TEXTS = ("the houses of cards", "the house", "cards")


@pytest.fixture(scope="module")
def berts(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, list[Path], list[list[np.ndarray]]]:
    """A preset, two checkpoints of it, and by checkpoint and text the last layer by Keras alone."""
    folder = tmp_path_factory.mktemp("bert")
    live = tiny_bert.backbone()
    tiny_bert.keras_hub_preset(folder / "preset", live)
    files, expected = [], []
    draw = np.random.default_rng(3)
    for number in range(2):
        live.set_weights([w + 0.1 * draw.normal(size=w.shape) for w in live.get_weights()])
        files.append(folder / f"epoch_{number}.weights.h5")
        live.save_weights(files[-1])
    for file in files:
        live.load_weights(file)
        outputs = []
        for ids in IDS:
            array = np.array([ids], np.int32)
            features = {"token_ids": array, "segment_ids": 0 * array, "padding_mask": 0 * array + 1}
            outputs.append(np.asarray(live(features)["sequence_output"])[0])
        expected.append(outputs)
    return folder / "preset", files, expected


@pytest.mark.parametrize("kind", ["bert", "keras_hub"])
def test_bert_over_two_checkpoints_is_two_times_load_weights_and_call(
    kind: str, berts: Berts, tmp_path: Path
) -> None:
    preset, files, expected = berts
    glob = f"{files[0].parent}/*.weights.h5"
    if kind == "bert":
        model = bert.load(str(preset), 12, checkpoints=glob)
    else:
        model = hub.load(str(preset), max_length=12, checkpoints=glob)  # type: ignore[assignment]
    wanted = job({"path": ":output.sequence_output"}, model=model, inputs=LiveTexts(TEXTS))
    run = executed(tmp_path / "run", wanted)
    assert run.checkpoints == ("epoch_0", "epoch_1")
    for at, outputs in enumerate(expected):
        view = run.at(run.checkpoints[at])[":output.sequence_output"]
        for found, own in zip(view, outputs, strict=True):
            np.testing.assert_allclose(found, own, atol=1e-5)
    assert np.abs(expected[0][0] - expected[1][0]).max() > 1e-2


def test_a_compiled_program_computes_with_the_new_weights(tmp_path: Path) -> None:
    """What XLA has compiled captures variables, and no values of them."""
    live = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="top")])
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    expected = []
    for number in range(3):
        live.set_weights([np.full(w.shape, number + 0.5, np.float32) for w in live.get_weights()])
        live.save_weights(tmp_path / f"w{number}.weights.h5")
        expected.append(x @ np.full((4, 3), number + 0.5, np.float32) + np.float32(number + 0.5))
    live.save(tmp_path / "model.keras")
    for compile_mode in ("graph", "xla"):
        model = keras_file.load(
            str(tmp_path / "model.keras"), checkpoints=f"{tmp_path}/w*.weights.h5"
        )
        wanted = job({"path": ":output"}, model=model, inputs=LiveArrays(x), compile=compile_mode)
        run = executed(tmp_path / compile_mode, wanted)
        np.testing.assert_allclose(np.asarray(run[":output"]), expected, atol=1e-5)
