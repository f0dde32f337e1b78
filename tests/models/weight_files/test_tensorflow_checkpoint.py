"""TensorFlow's checkpoints, held against the values in the session or the objects saved."""

import shutil
from collections import deque
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from extractkit.errors import ModelError
from extractkit.models.weight_files import Entry, Location, WeightFile, open_weights
from tests.models.weight_files import examples

PREFIX = "model.ckpt-7"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    folder = tmp_path_factory.mktemp("graph") / "saved"
    return folder, examples.graph_checkpoint(folder)


@pytest.fixture
def folder(saved: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return shutil.copytree(saved[0], tmp_path / "copy")


def assert_holds(weights: WeightFile, arrays: dict[str, np.ndarray]) -> None:
    assert set(weights) == set(arrays)
    for key, array in arrays.items():
        assert weights.entry(key) == Entry(array.dtype.name, array.shape)
        np.testing.assert_array_equal(weights.read(key), array, strict=True)


@pytest.mark.parametrize(
    "given", ["", PREFIX, f"{PREFIX}.index", f"{PREFIX}.meta", f"{PREFIX}.data-00000-of-00001",
              "checkpoint"],
)  # fmt: skip
def test_a_savers_checkpoint(given: str, saved: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, arrays = saved
    assert_holds(open_weights(str(folder / given)), arrays)


def test_the_format_of_2015(tmp_path: Path) -> None:
    arrays = examples.graph_checkpoint(tmp_path / "old", version=1)
    for given in ("", PREFIX, f"{PREFIX}.meta"):
        assert_holds(open_weights(str(tmp_path / "old" / given)), arrays)


def test_slots_of_a_savers_checkpoint(saved: tuple[Path, dict[str, np.ndarray]]) -> None:
    weights = open_weights(str(saved[0]))
    places = {key: weights.location(key) for key in weights}
    assert places == {
        "beta1_power": Location((), "beta1_power", training=True),
        "beta2_power": Location((), "beta2_power", training=True),
        "conv/bias": Location(("conv",), "bias"),
        "conv/bias/Adam": Location(("conv",), "bias", "Adam", training=True),
        "conv/bias/Adam_1": Location(("conv",), "bias", "Adam_1", training=True),
        "conv/bias/ExponentialMovingAverage": Location(
            ("conv",), "bias", "ExponentialMovingAverage", average=True
        ),
        "conv/kernel": Location(("conv",), "kernel"),
        "conv/kernel/Adam": Location(("conv",), "kernel", "Adam", training=True),
        "conv/kernel/Adam_1": Location(("conv",), "kernel", "Adam_1", training=True),
        "second/conv/kernel/Momentum": Location(
            ("second", "conv"), "kernel", "Momentum", training=True
        ),
        "global_step": Location((), "global_step", training=True),
        "top": Location((), "top"),
        "top/Adam": Location((), "top", "Adam", training=True),
        "top/Adam_1": Location((), "top", "Adam_1", training=True),
    }


def test_a_prefix_without_a_name_and_a_path_of_another_machine(
    folder: Path, saved: tuple[Path, dict[str, np.ndarray]]
) -> None:
    for file in folder.glob(f"{PREFIX}*"):
        file.rename(folder / file.name.removeprefix(PREFIX))
    recorded = 'model_checkpoint_path: "/home/somebody/experiments/1564671355vgg/"\n'
    (folder / "checkpoint").write_text(recorded, encoding="utf-8")
    for given in (str(folder), f"{folder}/", f"{folder}/.index", f"{folder}/.meta"):
        assert_holds(open_weights(given), saved[1])
    (folder / "checkpoint").unlink()
    assert_holds(open_weights(f"{folder}/"), saved[1])


def test_what_stands_beside_the_state_file_comes_first(folder: Path, tmp_path: Path) -> None:
    away = tmp_path / "an ünusual place"
    examples.graph_checkpoint(away)
    (folder / "checkpoint").write_bytes((away / "checkpoint").read_bytes())
    assert Path(open_weights(str(folder)).path) == folder / PREFIX
    shutil.copytree(away, tmp_path / "state")
    for file in (tmp_path / "state").glob(f"{PREFIX}*"):
        file.unlink()
    state = tmp_path / "state" / "checkpoint"
    text = f'model_checkpoint_path: "{away / PREFIX}"\n'
    state.write_bytes(text.encode().replace("ü".encode(), rb"\303\274"))
    assert open_weights(str(state.parent)).path == str(away / PREFIX)


def message(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        open_weights(str(path))
    return str(caught.value).removeprefix(f"model.path={str(path)!r}")


def test_a_state_file_that_leads_nowhere(folder: Path) -> None:
    (folder / "checkpoint").write_text('model_checkpoint_path: "/gone/model.ckpt-9"\n')
    assert message(folder) == (
        f": its file 'checkpoint' names '/gone/model.ckpt-9', which is neither there nor in the "
        f"folder. Available: '{PREFIX}'. Give one: model.path={folder / PREFIX}"
    )
    (folder / "checkpoint").write_text("hello")
    assert message(folder) == ": 'checkpoint' in it names no checkpoint"


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / f"{PREFIX}.data-00000-of-00001").unlink()
    there = f"the checkpoint in '{folder}', which holds '{PREFIX}.index'. Copy it there, too"
    assert message(folder / PREFIX) == (f": '{PREFIX}.data-00000-of-00001' is missing from {there}")
    (folder / f"{PREFIX}.data-00001-of-00003").touch()
    assert message(folder / PREFIX) == (f": '{PREFIX}.data-00000-of-00003' is missing from {there}")


def test_a_missing_index_is_named(folder: Path) -> None:
    (folder / f"{PREFIX}.index").unlink()
    assert message(folder / f"{PREFIX}.meta") == (
        f": '{PREFIX}.index' is missing from the checkpoint in '{folder}', which holds "
        f"'{PREFIX}.data-00000-of-00001'. Copy it there, too"
    )


def test_a_truncated_index(folder: Path) -> None:
    index = folder / f"{PREFIX}.index"
    index.write_bytes(index.read_bytes()[:-10])
    assert message(folder / PREFIX) == (
        " is damaged, or not whole: OpError: not an sstable (bad magic number)"
    )


def test_a_changed_value_is_found_when_it_is_read(folder: Path) -> None:
    data = folder / f"{PREFIX}.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    weights = open_weights(str(folder))
    with pytest.raises(ModelError, match=r"is damaged, or not whole: .*Checksum does not match"):
        deque(map(weights.read, weights))


def slotted(folder: Path, second: bool = False) -> dict[str, np.ndarray]:
    """A model of TF2's, with the slots of optimizers of Keras 2: what it holds."""
    import tf_keras

    layer = tf.Module()
    layer.kernel = tf.Variable([[1.0, 2.0]])
    optimizer = tf_keras.optimizers.legacy.Adam()
    optimizer.apply_gradients([(tf.ones((1, 2)), layer.kernel)])
    more = {}
    if second:
        more["other"] = tf_keras.optimizers.legacy.SGD(momentum=0.9)
        more["other"].apply_gradients([(tf.ones((1, 2)), layer.kernel)])
    tf.train.Checkpoint(layer=layer, optimizer=optimizer, **more).save(str(folder / "ck"))
    return {
        "layer:kernel": layer.kernel.numpy(),
        "m": optimizer.get_slot(layer.kernel, "m").numpy(),
    }


def test_slots_of_objects(tmp_path: Path) -> None:
    held = slotted(tmp_path)
    weights = open_weights(str(tmp_path))
    value = ".ATTRIBUTES/VARIABLE_VALUE"
    kernel, m = f"layer/kernel/{value}", f"layer/kernel/.OPTIMIZER_SLOT/optimizer/m/{value}"
    assert weights.location(kernel) == Location(("layer",), "kernel")
    assert weights.location(m) == Location(("layer",), "kernel", "m", training=True)
    assert weights.location(f"optimizer/iter/{value}") == Location(
        ("optimizer",), "iter", training=True
    )
    assert weights.location(f"save_counter/{value}") == Location((), "save_counter", training=True)
    np.testing.assert_array_equal(weights.read(kernel), held["layer:kernel"])
    np.testing.assert_array_equal(weights.read(m), held["m"])
    assert "_CHECKPOINTABLE_OBJECT_GRAPH" not in weights


def test_slots_of_two_optimizers_are_distinguished(tmp_path: Path) -> None:
    slotted(tmp_path, second=True)
    weights = open_weights(str(tmp_path))
    slots = {weights.location(key).slot for key in weights} - {None}
    assert slots == {"optimizer/m", "optimizer/v", "other/momentum"}


def test_a_keras_3_model_with_its_optimizer(tmp_path: Path) -> None:
    """The shortest way to its variables leads through the optimizer, whose they are not."""
    model = examples.trained_model()
    tf.train.Checkpoint(model=model, trainer=model.optimizer).save(str(tmp_path / "ck"))
    weights = open_weights(str(tmp_path))
    own = {key: weights.read(key) for key in weights if not weights.location(key).training}
    expected = [np.asarray(weight) for weight in model.get_weights()]
    assert sorted(a.tobytes() for a in own.values()) == sorted(w.tobytes() for w in expected)
    assert all(weights.location(key).layers[0] == "model" for key in own)
    kernels = [weights.location(key).variable for key in own]
    assert kernels.count("_kernel") == 3


def test_names_that_tensorflow_escapes(tmp_path: Path) -> None:
    held = tf.train.Checkpoint(**{"a/b.c": tf.Variable(1.0)})
    held.write(str(tmp_path / "ck"))
    weights = open_weights(str(tmp_path / "ck"))
    assert {weights.location(key).variable for key in weights} >= {"a/b.c"}


def test_texts_and_bfloat16(tmp_path: Path) -> None:
    held = tf.train.Checkpoint(
        words=tf.Variable([b"a", "ü".encode()]), half=tf.Variable([1.5], dtype=tf.bfloat16)
    )
    held.write(str(tmp_path / "ck"))
    weights = open_weights(str(tmp_path / "ck"))
    keys = {weights.location(key).variable: key for key in weights}
    assert weights.entry(keys["words"]) == Entry("string", (2,))
    assert weights.read(keys["words"]).tolist() == [b"a", "ü".encode()]
    assert weights.entry(keys["half"]) == Entry("bfloat16", (1,))
    assert weights.read(keys["half"]).astype(float).tolist() == [1.5]


def test_variables_of_a_saved_model(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    model.export(tmp_path / "exported", verbose=False)
    weights = open_weights(str(tmp_path / "exported"))
    found = {weights.read(key).tobytes() for key in weights}
    assert {np.asarray(one).tobytes() for one in model.get_weights()} <= found
