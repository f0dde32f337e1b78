"""Names and inputs of subgraphs, made by hand."""

import numpy as np
import pytest

from extractkit.errors import ModelError
from extractkit.models.litert.entry import READINGS, Entry, Reading, entry_of, signature_of
from extractkit.models.litert.entry import tensor_paths as paths_of
from extractkit.models.litert.graph import (
    Graph,
    GraphSignature,
    GraphTensor,
    Quantization,
    Subgraph,
)


def subgraph(*tensors: GraphTensor, inputs: tuple[int, ...] = ()) -> Subgraph:
    return Subgraph(0, "main", tensors, inputs, (), ())


def tensor(
    name: str = "x",
    shape: tuple[int | None, ...] = (1, 3),
    *,
    type: str = "FLOAT32",  # noqa: A002
    constant: bool = False,
    scale: float | None = None,
) -> GraphTensor:
    quantization = (
        None
        if scale is None
        else Quantization(np.array([scale], np.float32), np.zeros(1, np.int64), 0)
    )
    place = (0, 0) if constant else None
    return GraphTensor(0, name, type, shape, False, quantization, place)


def paths(*names: str, constants: tuple[str, ...] = ()) -> list[str]:
    made = [tensor(name) for name in names] + [tensor(name, constant=True) for name in constants]
    return [":".join(pair) for pair in paths_of(subgraph(*made))]


def test_paths_are_tensorflow_s_own() -> None:
    assert paths("block/conv/Relu", "x:0", "call:2") == ["block/conv/Relu:0", "x:0", "call:2"]


def test_of_fused_operations_the_first_names_the_tensor() -> None:
    assert paths("a/Relu;a/BiasAdd;a/Conv2D") == ["a/Relu:0"]


def test_a_name_that_stands_twice_counts_and_constants_come_last() -> None:
    assert paths("Relu", "Relu;b", constants=("Relu",)) == ["Relu:0", "Relu@2:0", "Relu@3:0"]
    assert paths("b", constants=("b",))[0] == "b:0"


def test_the_wrapper_s_prefix_is_left_out_where_names_stay_unique() -> None:
    wrapper = "StatefulPartitionedCall"
    assert paths(f"{wrapper}/a", f"{wrapper}:0") == ["a:0", f"{wrapper}:0"]
    assert paths(f"{wrapper}/a", "a") == [f"{wrapper}/a:0", "a:0"]


def test_what_would_be_ambiguous_is_escaped() -> None:
    assert paths("a:b", "", "p@2/q") == ["a%3Ab:0", "%:0", "p%402/q:0"]


def _entry(*tensors: GraphTensor) -> Entry:
    inputs = {one.name: index for index, one in enumerate(tensors)}
    return Entry(None, subgraph(*tensors), inputs, {})


@pytest.mark.parametrize(
    ("whole", "shape", "dims", "sample_axis"),
    [
        ((1, 3), (3,), (None,), 0),
        ((None, 3), (3,), (None,), 0),
        ((4, 3), (4, 3), (None, None), None),
        ((), (), (), None),
        ((1, None, 4), (None, 4), ("axis1", None), 0),
    ],
)
def test_a_first_axis_of_one_or_any_size_counts_samples(
    whole: tuple[int | None, ...],
    shape: tuple[int | None, ...],
    dims: tuple[str | None, ...],
    sample_axis: int | None,
) -> None:
    signature = signature_of(_entry(tensor(shape=whole)), "m", Reading())
    (spec,) = signature.specs
    assert (spec.shape, spec.dims, spec.sample_axis) == (shape, dims, sample_axis)
    assert signature.batch == 1


def test_several_readings_of_open_sizes() -> None:
    entry = _entry(tensor("a", (None, None)), tensor("b", (None, None)))
    readings = [signature_of(entry, "m", reading).free_axes for reading in READINGS]
    assert readings == [
        ("a.axis1", "b.axis1"),
        ("axis1",),
        ("a.axis1", "a.axis2", "b.axis1", "b.axis2"),
        ("axis1", "axis2"),
    ]


def test_every_number_of_a_quantised_input_makes_sense() -> None:
    signature = signature_of(_entry(tensor(type="UINT8", scale=0.5)), "m", Reading())
    assert (signature.specs[0].low, signature.specs[0].high) == (0, 256)


def test_what_is_neither_number_nor_string_is_refused() -> None:
    graph = Graph("", (subgraph(tensor("words", type="VARIANT"), inputs=(0,)),), ())
    with pytest.raises(ModelError, match="'words' of the file is VARIANT; model=tflite takes numb"):
        entry_of(graph, None)


def test_serving_default_is_called_where_nobody_chose() -> None:
    signatures = tuple(GraphSignature(key, 0, {}, {}) for key in ("train", "serving_default"))
    graph = Graph("", (subgraph(),), signatures)
    assert entry_of(graph, None).signature == "serving_default"
    assert entry_of(Graph("", (subgraph(),), signatures[:1]), None).signature == "train"
