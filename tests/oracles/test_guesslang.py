"""guesslang's SavedModel of TensorFlow 1 against both of TensorFlow's own loaders."""

import inspect
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import extractkit
from tests.real_models import real_model

pytestmark = [pytest.mark.real_model, pytest.mark.oracle]

CODE = [
    inspect.getsource(json),
    '#include <stdio.h>\nint main(void) { printf("hello\\n"); return 0; }',
    "SELECT name, count(*) FROM people GROUP BY name ORDER BY 2 DESC;",
    'fn main() { let numbers = vec![1, 2, 3]; println!("{:?}", numbers); }',
    "x",
    inspect.getsource(Path),
]
HIDDEN = ("dnn/hiddenlayer_0/Relu:0", "dnn/logits/BiasAdd:0", "head/predictions/probabilities:0")


@pytest.fixture(scope="module")
def folder() -> Path:
    return real_model("guesslang", "guesslang/data/model")


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> extractkit.Run:
    return extractkit.extract(
        ["model=saved_model", f"model.path={folder}", "model.signature=predict",
         "selectors=[outputs,weights]", f"+selectors.inside.path=[{','.join(HIDDEN)}]",
         "runtime.batch_size=4"],
        inputs=CODE,
        run_dir=tmp_path_factory.mktemp("runs") / "guesslang",
    )  # fmt: skip


@pytest.fixture(scope="module")
def session(folder: Path) -> Iterator[tf.compat.v1.Session]:
    with tf.compat.v1.Session(graph=tf.Graph()) as session, session.graph.as_default():
        tf.compat.v1.saved_model.load(session, ["serve"], str(folder))
        yield session


def test_python_is_recognised(run: extractkit.Run) -> None:
    classes = np.asarray(run[":output.classes"])[:, 0]
    assert [classes[index] for index in (0, 1, 2, 3, 5)] == [b"py", b"c", b"sql", b"rs", b"py"]


def test_outputs_agree_with_the_loader_of_version_two(run: extractkit.Run, folder: Path) -> None:
    predict = tf.saved_model.load(str(folder)).signatures["predict"]
    for index, code in enumerate(CODE):
        for name, expected in predict(tf.constant([code])).items():
            value = run[f":output.{name}"].sample(index)
            if expected.dtype == tf.string:
                assert value.tolist() == expected.numpy()[0].tolist()
            else:
                np.testing.assert_allclose(value, expected.numpy()[0], atol=1e-5)


def test_what_is_inside_agrees_with_a_plain_session(
    run: extractkit.Run, session: tf.compat.v1.Session
) -> None:
    for index, code in enumerate(CODE):
        expected = session.run(HIDDEN, {"Placeholder:0": [code]})
        for name, value in zip(HIDDEN, expected, strict=True):
            np.testing.assert_allclose(run[name].sample(index), value[0], atol=1e-5)


def test_weights_agree_with_the_checkpoint(run: extractkit.Run, folder: Path) -> None:
    reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    weights = [address for address, view in run.items() if view.constant]
    assert len(weights) >= 5
    for address in weights:
        name = address.removesuffix(":0")
        np.testing.assert_array_equal(np.asarray(run[address]), reader.get_tensor(name))


def opened(operation: tf.Operation, role: str, given: Sequence[tf.Tensor]) -> None:
    """Add the operations of a function to the graph of the operation that calls it.

    Args:
        role: "then_branch" or "body". Names begin with that of the caller and the role.
        given: the arguments.
    """
    from tensorflow.python.framework.function_def_to_graph import function_def_to_graph

    library = operation.graph.as_graph_def().library.function
    name = operation.get_attr(role).name
    body = function_def_to_graph(next(one for one in library if one.signature.name == name))
    tf.graph_util.import_graph_def(
        body.as_graph_def(),
        {one.name: value for one, value in zip(body.inputs, given, strict=True)},
        name=f"{operation.name}/{role}",
    )


@pytest.mark.thorough
def test_the_loop_and_the_branches_agree_with_a_plain_session(
    folder: Path, session: tf.compat.v1.Session, tmp_path: Path
) -> None:
    """The session runs what they contain as operations of its graph."""
    texts = CODE[1:5]
    run = extractkit.extract(
        ["model=saved_model", f"model.path={folder}", "model.signature=predict", "selectors=none",
         "+selectors.inner.path=['map/while/body/*','*_branch/*']"],
        inputs=texts,
        run_dir=tmp_path / "run",
    )  # fmt: skip
    inside = [address for address, view in run.items() if not view.constant]
    branches = {
        address.partition("/then_branch/")[0] for address in inside if "_branch/" in address
    }
    assert len(inside) > 100
    assert len(branches) == 4
    graph = session.graph
    with graph.as_default():
        loop = graph.get_operation_by_name("map/while")
        opened(loop, "body", loop.inputs)
        predicates = []
        for address in branches:
            predicate, *given = graph.get_operation_by_name(address).inputs
            opened(graph.get_operation_by_name(address), "then_branch", given)
            predicates.append(predicate)
    for at, text in enumerate(texts):
        fed = {"Placeholder:0": [text]}
        assert all(session.run(predicates, fed))
        # One text is one step of the loop, and a branch has values of a batch of one.
        for address, value in zip(inside, session.run(inside, fed), strict=True):
            np.testing.assert_array_equal(run[address].sample(at), value)
