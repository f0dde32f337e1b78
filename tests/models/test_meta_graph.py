"""`model=meta_graph`: how its files are found, restored, and distinguished from others."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from extractkit.core.catalog import Kind
from extractkit.core.requests import Value
from extractkit.errors import ModelError, UserError
from extractkit.models import Compilation, Fetch
from extractkit.models.meta_graph import load
from tests.models.session_graphs import by_hand, classifier, saved, trained, weight
from tests.models.test_frozen_graph import damaged

v1 = tf.compat.v1
OFF = {"training": False}


def scores(path: str, **settings: object) -> np.ndarray:
    model = load(path, constants=OFF, **settings)
    (value,) = model.program([Fetch(Value("probs:0"))], Compilation())({"x": X}, {})
    return np.asarray(value)


X = np.random.default_rng(5).normal(size=(3, 6)).astype(np.float32)


def test_a_file_a_prefix_and_a_folder_are_one_model(tmp_path: Path) -> None:
    prefix = saved(classifier, tmp_path / "model.ckpt-3")
    expected = by_hand(X)["probs:0"]
    for path in (f"{prefix}.meta", str(prefix), str(tmp_path)):
        np.testing.assert_allclose(scores(path), expected, atol=1e-6)


def test_a_prefix_without_a_name_and_another_machines_path(tmp_path: Path) -> None:
    saved(classifier, tmp_path / "model")
    for file in tmp_path.glob("model.*"):
        file.rename(tmp_path / file.name.removeprefix("model"))
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/home/else/where/"\n')
    np.testing.assert_allclose(scores(str(tmp_path)), by_hand(X)["probs:0"], atol=1e-6)


def test_the_latest_of_several(tmp_path: Path) -> None:
    saved(trained, tmp_path / "a")
    saved(classifier, tmp_path / "b")
    assert "hidden/kernel:0" in load(str(tmp_path), constants=OFF).catalog
    (tmp_path / "checkpoint").unlink()
    with pytest.raises(ModelError, match=r"holds several\. Available: 'a', 'b'\."):
        load(str(tmp_path))


def test_weights_of_another_checkpoint(tmp_path: Path) -> None:
    prefix = saved(classifier, tmp_path / "one" / "model")
    zeros = tmp_path / "two" / "model"
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        classifier()
        session.run(v1.global_variables_initializer())
        for variable in v1.global_variables():
            session.run(v1.assign(variable, variable * 0.0))
        v1.train.Saver().save(session, str(zeros), write_meta_graph=False)
    for checkpoint in (str(zeros), f"{zeros}.index", str(zeros.parent)):
        np.testing.assert_allclose(scores(str(prefix), checkpoint=checkpoint), 0.25)


@pytest.mark.parametrize("resource", [True, False])
def test_weights_without_a_saver_are_found_by_name(tmp_path: Path, resource: bool) -> None:
    prefix = saved(lambda: classifier(resource=resource), tmp_path / "model")
    with tf.Graph().as_default() as graph:
        classifier(resource=resource)
    v1.train.export_meta_graph(f"{prefix}.meta", graph_def=graph.as_graph_def(), graph=graph)
    np.testing.assert_allclose(scores(str(prefix)), by_hand(X)["probs:0"], atol=1e-6)


def test_parts_of_a_variable_are_put_together(tmp_path: Path) -> None:
    def build() -> None:
        x = v1.placeholder(tf.float32, [None, 6], "x")
        parts = v1.fixed_size_partitioner(2)
        start = v1.random_normal_initializer(seed=1)
        kernel = v1.get_variable(
            "kernel", [6, 2], initializer=start, partitioner=parts, use_resource=False
        )
        tf.matmul(x, tf.convert_to_tensor(kernel), name="y")

    prefix = saved(build, tmp_path / "model")
    stored = tf.train.load_checkpoint(str(prefix)).get_tensor("kernel")
    model = load(str(prefix))
    (value,) = model.program([Fetch(Value("y:0"))], Compilation())({"x": X}, {})
    np.testing.assert_allclose(value, X @ stored, atol=1e-6)


def test_training_is_no_part_of_the_weights(tmp_path: Path) -> None:
    model = load(str(saved(trained, tmp_path / "model")), input_axes=["x"])
    kinds = {
        address: record.kind
        for address, record in model.catalog.items()
        if record.kind in (Kind.WEIGHT, Kind.OPTIMIZER) and record.extractable
    }
    assert kinds == {
        "kernel:0": Kind.WEIGHT,
        "global_step:0": Kind.OPTIMIZER,
        "beta1_power:0": Kind.OPTIMIZER,
        "beta2_power:0": Kind.OPTIMIZER,
        "kernel/Adam:0": Kind.OPTIMIZER,
        "kernel/Adam_1:0": Kind.OPTIMIZER,
    }
    assert model.catalog["y:0"].kind is Kind.MODEL_OUTPUT
    assert "no checkpoint holds it" in (model.catalog["metric/total:0"].reason or "")
    assert "no checkpoint holds it" in (model.catalog["metric/value:0"].reason or "")


def test_tables_are_filled(tmp_path: Path) -> None:
    model = load(str(saved(trained, tmp_path / "model")), input_axes=["word"])
    words = np.array(["b", "?", "a"], object)
    (found,) = model.program([Fetch(Value("found:0"))], Compilation())({"word": words}, {})
    assert found.tolist() == [8, -1, 7]


def narrow() -> None:
    v1.placeholder(tf.float32, [None, 6], "x")
    weight("hidden/kernel", [6, 3])


def renamed() -> None:
    v1.placeholder(tf.float32, [None, 6], "x")
    weight("first/kernel", [6, 5])
    weight("top/kernel", [5, 4])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (narrow, "'hidden/kernel' has shape [6, 5] in the graph, [6, 3] in the checkpoint"),
        (narrow, "'top/kernel' is not in the checkpoint"),
        (renamed, "'hidden/kernel' is not in the checkpoint"),
    ],
    ids=["shape", "missing", "renamed"],
)
def test_a_checkpoint_of_another_architecture(
    tmp_path: Path, build: Callable[[], None], message: str
) -> None:
    prefix = saved(classifier, tmp_path / "one" / "model")
    other = saved(build, tmp_path / "two" / "model")
    with pytest.raises(ModelError) as caught:
        load(str(prefix), checkpoint=str(other))
    assert f"model.checkpoint={str(other)!r}: the checkpoint does not fit the graph" in str(
        caught.value
    )
    assert message in str(caught.value)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    prefix = saved(classifier, tmp_path / "model")
    with pytest.raises(ModelError, match=r"does not exist.*'model\.meta'"):
        load(str(tmp_path / "modle"))
    with pytest.raises(ModelError, match=r"model\.checkpoint=.*does not exist.*'model'\."):
        load(str(prefix), checkpoint=str(tmp_path / "modle"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"is a folder without a \.meta file"):
        load(str(tmp_path / "empty"))
    Path(f"{prefix}.index").unlink()
    with pytest.raises(ModelError, match=r"has no weights beside it.*model\.checkpoint=PREFIX"):
        load(str(prefix))


def test_damaged_weights(tmp_path: Path) -> None:
    prefix = saved(classifier, tmp_path / "model")
    data = tmp_path / "model.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:50])
    with pytest.raises(ModelError, match="is damaged or cut off"):
        load(str(prefix), constants=OFF)
    Path(f"{prefix}.index").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="damaged"):
        load(str(prefix), constants=OFF)


def test_damage_is_reported_or_does_no_harm(tmp_path: Path) -> None:
    prefix = saved(classifier, tmp_path / "model")
    meta = Path(f"{prefix}.meta")
    content = meta.read_bytes()
    expected = digest(prefix)  # what was not damaged
    harmless, reported = [], []
    for seed in range(40):
        meta.write_bytes(damaged(content, seed))
        try:
            harmless.append(digest(prefix))
        except UserError as error:
            reported.append(str(error))
    assert expected in harmless
    assert len(reported) >= 10, "every file that was cut short"
    assert all(text.startswith(("model.path=", "model.constants")) for text in reported), reported


def digest(prefix: Path) -> str:
    model = load(str(prefix), constants=OFF)
    assert model.catalog.records
    return model.weights_digest()
