"""Every transform behind the contract, and transforms with a defect, which the contract finds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from extractkit.core.transforms import Operand, Transform, no_options, present, registry
from extractkit.core.transforms.projection import Components, Project
from extractkit.testing.transforms import TransformContract

OVER = ["*", "token"]
OPTIONS: Mapping[str, Sequence[object]] = {
    "slice": [{"token": "-2:"}, {1: "::-1"}],
    **dict.fromkeys(("mean", "sum", "min", "max", "norm", "std", "var"), OVER),
    "argmax": [1],
    "argmin": [1],
    "quantile": [{"q": 0.3, "axis": "*"}, {"q": [0.0, 0.5], "axis": 1}],
    "histogram": [{"edges": [-1, 0, 3]}],
    "topk": [{"axis": 1, "k": 2, "smallest": True}, {"axis": 1, "k": 4}],
    "flatten": [None],
    "channels_last": [None],
    "abs": [None],
    "softmax": ["*"],
    "normalize": [1],
    "pool": [{"axis": 1, "window": 2}, {"axis": 1, "window": 3, "stride": 1, "op": "max"}],
    "project": [{"axis": 2, "to": 2}],
    "threshold": [0.7],
    "sparsify": [4],
    "cast": ["bfloat16", "int8"],
    "quantize": ["int8"],
}


def test_every_transform_is_tested() -> None:
    assert set(OPTIONS) == set(registry.names())


@pytest.mark.parametrize("name", sorted(OPTIONS))
class TestTransforms(TransformContract):
    @pytest.fixture(autouse=True)
    def _named(self, name: str) -> None:
        self.name = name

    def transform(self) -> type[Transform]:
        return registry.transform(self.name, "")

    def options(self) -> Sequence[object]:
        return OPTIONS[self.name]


class Onto(Project):
    """A projection onto components, as if they had been read from a run."""

    @classmethod
    def parse(cls, options: object, at: str) -> Project:
        vectors = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
        one = Components("a:b", "a:b", "runs/pca", None, "0", np.ones(3), vectors)
        return Project.parse(options, at).given([one], before=())


class TestComponents(TransformContract):
    def transform(self) -> type[Transform]:
        return Onto

    def options(self) -> Sequence[object]:
        return [{"run": "runs/pca", "tensor": "a:b", "axis": 2, "to": 2}]

    def test_its_name_is_its_own(self) -> None:
        """It is a form of `project`."""


@dataclass(frozen=True)
class Centred:
    """Subtracts the mean over the first axis of each sample: right in every respect."""

    name: ClassVar[str] = "centred"
    at: str

    @classmethod
    def parse(cls, options: object, at: str) -> "Centred":
        no_options(options, at)
        return cls(at)

    def results(self, operand: Operand) -> Mapping[str, Operand]:
        operand.needs_numbers(self.at)
        operand.find_some(["*"], self.at)
        return {"": replace(operand, dtype="float32")}

    def lengths(self, xp: Any, operand: Operand, lengths: Any) -> Any:
        return [lengths]

    def in_graph(self, tf: Any, operand: Operand, value: Any) -> Any:
        first = operand.first
        tensor = tf.cast(value.tensor, tf.float32)
        mask = present(tf, value, operand.every_axis)
        own = tf.where(mask, tensor, 0.0)
        count = tf.reduce_sum(tf.broadcast_to(tf.cast(mask, tf.float32), tf.shape(own)), first)
        mean = tf.math.divide_no_nan(tf.reduce_sum(own, first), count)
        return [own - tf.expand_dims(mean, first)]

    def in_numpy(self, operand: Operand, value: Any) -> Any:
        wide = value.astype(np.float64)
        return [(wide - wide.mean(operand.first, keepdims=True)).astype(np.float32)]


class TestCentred(TransformContract):
    def transform(self) -> type[Transform]:
        return Centred


class OtherDtype(Centred):
    def results(self, operand: Operand) -> Mapping[str, Operand]:
        return {"": replace(super().results(operand)[""], dtype="float64")}


class OtherAxes(Centred):
    def results(self, operand: Operand) -> Mapping[str, Operand]:
        return {"": super().results(operand)[""].without([len(operand.axes) - 1])}


class OtherSize(Centred):
    def in_numpy(self, operand: Operand, value: Any) -> Any:
        return [super().in_numpy(operand, value)[0][..., :-1]]


class OtherLengths(Centred):
    def lengths(self, xp: Any, operand: Operand, lengths: Any) -> Any:
        return [{axis: xp.minimum(one, 2) for axis, one in lengths.items()}]


class OtherForm(Centred):
    def in_numpy(self, operand: Operand, value: Any) -> Any:
        return [value.astype(np.float32)]


class ReadsPadding(Centred):
    def in_graph(self, tf: Any, operand: Operand, value: Any) -> Any:
        tensor = tf.cast(value.tensor, tf.float32)
        return [tensor - tf.reduce_mean(tensor, operand.first, keepdims=True)]


class NeedsElements(Centred):
    def in_numpy(self, operand: Operand, value: Any) -> Any:
        return [(value - value.max(operand.first, keepdims=True)).astype(np.float32)]

    def in_graph(self, tf: Any, operand: Operand, value: Any) -> Any:
        tensor = tf.cast(value.tensor, tf.float32)
        own = tf.where(present(tf, value, operand.every_axis), tensor, tensor.dtype.min)
        return [tensor - tf.reduce_max(own, operand.first, keepdims=True)]


class LosesInfinities(NeedsElements):
    def in_numpy(self, operand: Operand, value: Any) -> Any:
        highest = np.max(value, operand.first, keepdims=True, initial=np.finfo(np.float32).min)
        return [(value - highest).astype(np.float32)]


class MixesSamples(Centred):
    def in_graph(self, tf: Any, operand: Operand, value: Any) -> Any:
        (found,) = super().in_graph(tf, operand, value)
        return [found - tf.reduce_mean(found, 0, keepdims=True)]


class ChangesItsInput(Centred):
    def in_numpy(self, operand: Operand, value: Any) -> Any:
        found = super().in_numpy(operand, value)
        value[...] = 0
        return found


class TakesAnything(Centred):
    @classmethod
    def parse(cls, options: object, at: str) -> "Centred":
        return cls(at)


class ForgetsItsKey(Centred):
    @classmethod
    def parse(cls, options: object, at: str) -> "Centred":
        no_options(options, at)
        return cls("")


class NamedAsAnother(Centred):
    name = "mean"


@pytest.mark.parametrize(
    ("defective", "test"),
    [
        (OtherDtype, "test_results_are_as_their_specs_predict"),
        (OtherAxes, "test_results_are_as_their_specs_predict"),
        (OtherSize, "test_results_are_as_their_specs_predict"),
        (OtherLengths, "test_results_are_as_their_specs_predict"),
        (OtherForm, "test_both_forms_agree_for_each_sample"),
        (LosesInfinities, "test_both_forms_agree_for_each_sample"),
        (ReadsPadding, "test_padding_is_not_read"),
        (MixesSamples, "test_a_sample_alone_has_the_same_values"),
        (ChangesItsInput, "test_an_array_is_not_changed"),
        (TakesAnything, "test_unknown_options_are_a_mistake_in_the_configuration"),
        (ForgetsItsKey, "test_options_are_parsed_to_equal_values_that_know_their_key"),
        (NamedAsAnother, "test_its_name_is_its_own"),
    ],
)
def test_a_defect_is_found(defective: type[Transform], test: str) -> None:
    class Contract(TransformContract):
        def transform(self) -> type[Transform]:
            return defective

    with pytest.raises(AssertionError):
        getattr(Contract(), test)()


def test_a_transform_that_needs_elements_is_found() -> None:
    class Contract(TransformContract):
        def transform(self) -> type[Transform]:
            return NeedsElements

    with pytest.raises(ValueError, match="zero-size array to reduction operation maximum"):
        Contract().test_both_forms_agree_for_each_sample()
