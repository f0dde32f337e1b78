"""Variables of functions: each listed, each in the digest, whatever its name and type."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from extractkit.core.catalog import Kind
from extractkit.core.component import Component
from extractkit.core.requests import Value
from extractkit.models import Fetch, Model
from extractkit.models.module import load


class Unnamed(tf.Module):
    """Two variables that nobody named."""

    def __init__(self, second: float = 2.0) -> None:
        self.one, self.two = tf.Variable([1.0]), tf.Variable([second])

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return x * self.one + self.two


class Texts(tf.Module):
    def __init__(self, text: str = "a") -> None:
        self.names = tf.Variable([text, "b"], name="names")

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return tf.gather(self.names, tf.cast(x, tf.int32))


class Halves(tf.Module):
    def __init__(self) -> None:
        self.kernel = tf.Variable(tf.constant([1.5, 2.5], tf.bfloat16), name="kernel")

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return tf.cast(x, tf.bfloat16) * self.kernel


class Namesake(tf.Module):
    def __init__(self) -> None:
        self.w = tf.Variable(tf.eye(2), name="w")

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return tf.matmul(x, self.w, name="w")


def model(name: str, **arguments: object) -> Model:
    factory = Component("model.factory", f"{__name__}.{name}", arguments)
    return load(factory, input_axes={"x": {"dims": ["sample", 2]}})


def weights(given: Model) -> list[np.ndarray]:
    records = [r for r in given.catalog.records if r.kind is Kind.WEIGHT]
    return [np.asarray(v) for v in given.constants([Fetch(Value(r.address)) for r in records])]


def test_variables_that_nobody_named_are_distinguished() -> None:
    assert [value.tolist() for value in weights(model("Unnamed"))] == [[1.0], [2.0]]
    digests = {model("Unnamed", second=second).weights_digest() for second in (2.0, 3.0)}
    assert len(digests) == 2


def test_an_operation_named_like_a_variable_is_listed_beside_it() -> None:
    kinds = {r.kind: r.op_type for r in model("Namesake").catalog.records if "w:0" in r.address}
    assert kinds == {Kind.OP: "MatMul", Kind.WEIGHT: None}


@pytest.mark.parametrize("name", ["Texts", "Halves"])
def test_the_digest_is_the_same_in_another_process(name: str, preloaded: Path) -> None:
    code = f"from {__name__} import model; print(model({name!r}).weights_digest())"
    command = [preloaded / "python", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == model(name).weights_digest()


def test_the_digest_sees_what_a_text_says() -> None:
    assert model("Texts").weights_digest() != model("Texts", text="c").weights_digest()
