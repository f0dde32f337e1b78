"""Any tensor of a graph as an input, in every graph format."""

import shlex
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from extractkit.config.hydra_internals import parse_override
from extractkit.core.catalog import Kind
from extractkit.core.component import Component
from extractkit.errors import ConfigError
from extractkit.models import Model, frozen_graph, meta_graph, module, saved_model
from tests.models.programs import values_of
from tests.models.session_graphs import saved, weight

v1 = tf.compat.v1
RNG = np.random.default_rng(0)
ENCODER = RNG.normal(size=(4, 6)).astype(np.float32)
DECODER = RNG.normal(size=(3, 4)).astype(np.float32)
X = RNG.normal(size=(5, 4)).astype(np.float32)
Z = RNG.normal(size=(5, 3)).astype(np.float32)
TOKENS = RNG.integers(0, 9, (5, 7)).astype(np.int32)


class Variational(tf.Module):
    """An encoder, a latent drawn inside, a decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = tf.Variable(ENCODER, name="encoder")
        self.decoder = tf.Variable(DECODER, name="decoder")
        self.generator = tf.random.Generator.from_seed(1)

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def serve(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return self.decoded(x, lambda shape: tf.random.normal(shape, seed=1))

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def generate(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return self.decoded(x, lambda shape: self.generator.normal(shape))

    def decoded(self, x: tf.Tensor, draw: object) -> dict[str, tf.Tensor]:
        loc, scale = tf.split(x @ self.encoder, 2, axis=1, name="statistics")
        scale = tf.nn.softplus(scale, name="scale")
        drawn = draw(tf.shape(loc))  # type: ignore[operator]
        z = tf.add(loc, scale * drawn, name="z")
        return {"loc": loc, "z": z, "reconstruction": tf.matmul(z, self.decoder, name="rec")}


def module_with(**arguments: object) -> Model:
    return module.load(Component("model.factory", f"{__name__}.Variational", {}), **arguments)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same computation in every graph format, and a graph that reads from an iterator."""
    path = tmp_path_factory.mktemp("graphs")
    variational = Variational()
    signatures = {"serving_default": variational.serve, "generate": variational.generate}
    tf.saved_model.save(variational, str(path / "saved"), signatures=signatures)
    with v1.Graph().as_default(), v1.Session() as session:
        x, outputs = session_graph()
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(path / "saved_1"), {"x": x}, outputs)
        graph_def = v1.graph_util.convert_variables_to_constants(
            session, session.graph.as_graph_def(), ["rec"]
        )
        tf.io.write_graph(graph_def, str(path), "frozen.pb", as_text=False)
        v1.train.Saver().save(session, str(path / "meta/model.ckpt"))
    saved(reading, path / "reading/model.ckpt")
    return path


def session_graph() -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    v1.set_random_seed(1)  # a test before this one may have made TensorFlow deterministic
    x = v1.placeholder(tf.float32, [None, 4], "x")
    encoder = v1.get_variable("encoder", initializer=ENCODER)
    decoder = v1.get_variable("decoder", initializer=DECODER)
    loc, scale = tf.split(tf.matmul(x, encoder), 2, axis=1, name="statistics")
    drawn = tf.nn.softplus(scale) * tf.random.normal(tf.shape(loc))
    z = tf.add(loc, drawn, name="z")
    return x, {"loc": loc, "rec": tf.matmul(z, decoder, name="rec")}


def reading() -> None:
    """A graph whose inputs come from an iterator, one of them through a queue of its own."""
    v1.set_random_seed(1)
    rows = {"ids": np.zeros(7, np.int32), "mask": np.ones((7, 2), np.float32)}
    dataset = v1.data.Dataset.from_tensors(rows).repeat().batch(4)
    batch = v1.data.make_one_shot_iterator(dataset).get_next()
    table = weight("table", [9, 2])
    embedded = tf.gather(table, batch["ids"], name="embedded")
    tf.reduce_sum(embedded * batch["mask"], [1, 2], name="pooled")


def every_format(folder: Path, inputs: object) -> dict[str, Model]:
    return {
        "saved_model": saved_model.load(str(folder / "saved"), input_axes=inputs),
        "generator": saved_model.load(str(folder / "saved"), "generate", input_axes=inputs),
        "saved_model of TensorFlow 1": saved_model.load(str(folder / "saved_1"), input_axes=inputs),
        "frozen_graph": frozen_graph.load(str(folder / "frozen.pb"), input_axes=inputs),
        "meta_graph": meta_graph.load(str(folder / "meta"), input_axes=inputs),
        "module": module_with(signature="serve", input_axes=inputs),
    }


def test_a_latent_of_ones_own(folder: Path) -> None:
    expected = Z.astype(np.float64) @ DECODER
    for name, model in every_format(folder, {"z": ["sample", 3]}).items():
        record = model.catalog["rec:0"]
        assert record.extractable, (name, record.reason)
        assert record.spec.undescribed.labels == ("sample", None), name
        value = values_of(model, ["rec:0"], {"z": Z})["rec:0"]  # type: ignore[arg-type]
        np.testing.assert_allclose(value, expected, rtol=1e-5, err_msg=name)
        fed = model.catalog["z:0"]
        assert fed.kind is Kind.MODEL_INPUT, name
        given = values_of(model, ["z:0"], {"z": Z})["z:0"]  # type: ignore[arg-type]
        np.testing.assert_array_equal(given, Z, err_msg=name)
        assert "x" in (model.catalog["statistics:0"].reason or ""), name
        # The model's own call would take x, and draw another latent.
        for address, own in model.own_call().outputs({"z": Z}, {}).items():
            assert own.shape[-1] in (3, 4), (name, address)


def test_what_is_drawn_ends_at_the_given_tensor_alone(folder: Path) -> None:
    for name, model in every_format(folder, None).items():
        assert "random" in (model.catalog["rec:0"].reason or ""), name
        assert model.catalog["statistics:0"].extractable, name


def test_an_input_of_the_model_and_a_tensor_behind_it(folder: Path) -> None:
    settings = {"x": ["sample", 4], "z:0": ["sample", 3]}
    for name, model in every_format(folder, settings).items():
        values = values_of(model, ["statistics:0", "rec:0"], {"x": X, "z:0": Z})  # type: ignore[arg-type]
        loc = X.astype(np.float64) @ ENCODER[:, :3]
        np.testing.assert_allclose(values["statistics:0"], loc, rtol=1e-4, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(values["rec:0"], Z @ DECODER, rtol=1e-4, err_msg=name)
        # A call of the model itself would not use the latent that is given.
        own = model.own_call().outputs({"x": X, "z:0": Z}, {})
        for address, value in own.items():
            if address.endswith(("rec:0", "output.rec")):
                np.testing.assert_allclose(value, Z @ DECODER, rtol=1e-4, err_msg=name)


def test_one_of_two_results_is_given(folder: Path) -> None:
    """The other result of the operation still comes from x."""
    settings = {"x": ["sample", 4], "statistics:1": ["sample", 3]}
    for name, model in every_format(folder, settings).items():
        given = {"x": X, "statistics:1": Z}
        value = values_of(model, ["statistics:0"], given)["statistics:0"]  # type: ignore[arg-type]
        loc = X.astype(np.float64) @ ENCODER[:, :3]
        np.testing.assert_allclose(value, loc, rtol=1e-4, atol=1e-6, err_msg=name)


def test_the_definition_tells_which_tensor_is_given(folder: Path) -> None:
    path = str(folder / "saved")
    digests = {
        saved_model.load(path, input_axes=inputs).definition_digest()
        for inputs in (None, {"z": ["sample", 3]}, {"scale": ["sample", 3]})
    }
    assert len(digests) == 3


def test_a_name_that_does_not_exist(folder: Path) -> None:
    for load in (
        lambda: saved_model.load(str(folder / "saved"), input_axes=["zz:0"]),
        lambda: frozen_graph.load(str(folder / "frozen.pb"), input_axes=["zz:0"]),
        lambda: module_with(signature="serve", input_axes={"zz:0": ["sample"]}),
    ):
        with pytest.raises(ConfigError, match=r"'zz:0' is neither an input nor a tensor.*'z:0'"):
            load()
    with pytest.raises(ConfigError, match="are the same tensor"):
        saved_model.load(str(folder / "saved"), input_axes=["z", "z:0"])


def as_hydra_reads_it(message: str) -> object:
    """The value of the override that a message advises, typed into a shell."""
    words = shlex.split(message[message.index("'model.input_axes=") :])
    override = parse_override(words[0])
    value = override.value()
    assert isinstance(value, dict)
    return {str(getattr(key, "text", key)): axes for key, axes in value.items()}


def test_an_iterator_names_what_it_gives(folder: Path) -> None:
    path = str(folder / "reading")
    reason = meta_graph.load(path).catalog["pooled:0"].reason or ""
    assert "'IteratorGetNext' (IteratorGetNext)" in reason
    advised = as_hydra_reads_it(reason)
    assert advised == {"IteratorGetNext:0": ["sample", 7], "IteratorGetNext:1": ["sample", 7, 2]}
    with pytest.raises(ConfigError, match=r"'OneShotIterator'.*is a handle") as raised:
        meta_graph.load(path, input_axes=["OneShotIterator"])
    assert as_hydra_reads_it(str(raised.value)) == advised
    # What is advised works.
    model = meta_graph.load(path, input_axes=advised)
    mask = RNG.normal(size=(5, 7, 2)).astype(np.float32)
    batch = {"IteratorGetNext:0": TOKENS, "IteratorGetNext:1": mask}
    pooled = values_of(model, ["pooled:0"], batch)["pooled:0"]  # type: ignore[arg-type]
    with tf.Graph().as_default():
        generator = np.random.default_rng(sum(b"table"))
    table = generator.normal(size=(9, 2)).astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(pooled, (table[TOKENS] * mask).sum((1, 2)), rtol=1e-4, atol=1e-5)


def test_inputs_past_the_parser_of_serialized_examples(tmp_path: Path) -> None:
    kernel = RNG.normal(size=(2, 3)).astype(np.float32)
    with v1.Graph().as_default(), v1.Session() as session:
        serialized = v1.placeholder(tf.string, [None], name="input_example_tensor")
        feature = v1.io.FixedLenFeature([2], tf.float32)
        parsed = v1.io.parse_example(serialized, {"age": feature}, name="Parse")
        kernel_variable = v1.get_variable("kernel", initializer=kernel)
        logits = tf.matmul(parsed["age"] / 50.0, kernel_variable, name="logits")
        session.run(v1.global_variables_initializer())
        name = parsed["age"].name
        v1.saved_model.simple_save(session, str(tmp_path / "1"), {"e": serialized}, {"y": logits})
    ages = RNG.normal(size=(4, 2)).astype(np.float32)
    model = saved_model.load(str(tmp_path / "1"), input_axes={name: ["sample", 2]})
    value = values_of(model, [":output.y"], {name: ages})[":output.y"]  # type: ignore[arg-type]
    np.testing.assert_allclose(value, ages.astype(np.float64) / 50 @ kernel, rtol=1e-5)
