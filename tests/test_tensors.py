"""Records, addresses and the catalog."""

import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from extractkit.core.catalog import Catalog, Kind, Scope, TensorRecord, address_of, escape
from extractkit.core.spec import TensorSpec
from extractkit.errors import UnknownTensorError

MODEL = Scope("", "Functional", ("Model", "Layer"))
SPEC = TensorSpec.of("float32", ("sample", None), (None, 3))
DENSE = Scope("encoder/dense", "Dense", ("Layer",))


def record(address: str, name: str = "", **changes: object) -> TensorRecord:
    values = {"kind": Kind.LAYER_OUTPUT, "spec": SPEC, **changes}
    return TensorRecord(address, name=name, **values)  # type: ignore[arg-type]


KERNEL = record("encoder/dense:kernel", "encoder/dense_7:kernel", scopes=(MODEL, DENSE))
OUTPUT = record(":output", ":output", scopes=(MODEL,), kind=Kind.MODEL_OUTPUT)


def test_a_record_knows_its_layer_port_type_and_depth() -> None:
    assert (KERNEL.layer, KERNEL.port, KERNEL.depth) == ("encoder/dense", "kernel", 2)
    assert KERNEL.layer_type == "Dense"
    assert (OUTPUT.layer, OUTPUT.port, OUTPUT.depth) == ("", "output", 0)
    assert record("scope/op:0").layer_type is None
    assert record("layer:op/MatMul.1").port == "op/MatMul.1"


def test_types_are_the_class_and_its_bases_nearest_first() -> None:
    assert MODEL.types == ("Functional", "Model", "Layer")


def test_a_record_with_a_reason_cannot_be_extracted() -> None:
    assert KERNEL.extractable
    assert not record("loop:output", reason="inside a loop").extractable


def test_json_says_everything_in_plain_data() -> None:
    document = KERNEL.to_json()
    assert json.loads(json.dumps(document)) == document
    assert document == {
        "address": "encoder/dense:kernel",
        "kind": "layer_output",
        "port": "kernel",
        "layer": "encoder/dense",
        "layer_type": "Dense",
        "op_type": None,
        "dtype": "float32",
        "shape": [None, 3],
        "dims": ["sample", None],
        "name": "encoder/dense_7:kernel",
        "extractable": True,
        "reason": None,
    }


def test_json_leaves_an_unknown_rank_unknown() -> None:
    unknown = TensorRecord("a:output", Kind.LAYER_OUTPUT, TensorSpec.of("float32", None, None))
    assert (unknown.to_json()["shape"], unknown.to_json()["dims"]) == (None, None)


def test_a_catalog_is_a_mapping_in_the_models_order() -> None:
    catalog = Catalog([KERNEL, OUTPUT], "bert")
    assert list(catalog) == ["encoder/dense:kernel", ":output"]
    assert list(catalog.values()) == [KERNEL, OUTPUT]
    assert len(catalog) == 2
    assert repr(catalog) == "<Catalog of 'bert': 2 tensors>"


def test_a_lookup_takes_the_address_or_the_layers_own_name() -> None:
    catalog = Catalog([KERNEL, OUTPUT])
    assert catalog["encoder/dense:kernel"] is catalog["encoder/dense_7:kernel"] is KERNEL
    assert "encoder/dense_7:kernel" in catalog
    assert "dense" not in catalog


def test_a_name_that_two_tensors_bear_names_neither() -> None:
    catalog = Catalog([record("a:output", "x:output"), record("b:output", "x:output")])
    assert "x:output" not in catalog


def test_a_name_never_hides_an_address() -> None:
    first, second = record("a:output", "b:output"), record("b:output", "a:output")
    catalog = Catalog([first, second])
    assert (catalog["a:output"], catalog["b:output"]) == (first, second)


def test_a_record_without_a_name_is_not_found_under_an_empty_one() -> None:
    assert "" not in Catalog([record("a:output")])


def test_a_missing_tensor_is_answered_with_the_nearest() -> None:
    addresses = ["encoder:output", "encoder:input", "decoder:output", *"abcd"]
    catalog = Catalog(map(record, addresses), "bert")
    with pytest.raises(UnknownTensorError) as caught:
        catalog["encodr:output"]
    assert str(caught.value) == (
        "'encodr:output' is not a tensor of model 'bert'. Nearest: 'encoder:output', "
        "'decoder:output', 'encoder:input'. List them: extractkit tensors model=bert"
    )


def test_an_address_stands_once_in_a_catalog() -> None:
    twice = [record("b:output"), record("a:output"), record("a:output")]
    with pytest.raises(ValueError, match=r"^address 'a:output' occurs twice in the catalog of 'm'"):
        Catalog(twice, "m")


def test_the_bytes_of_the_weights_are_those_of_known_size() -> None:
    of = TensorSpec.of
    kernel = record("a:kernel", kind=Kind.WEIGHT, spec=of("float16", (None, None), (4, 5)))
    step = record("optimizer:step", kind=Kind.OPTIMIZER, spec=of("int64", (), ()))
    words = record("a:table", kind=Kind.WEIGHT, spec=of("string", (None,), (7,)))
    unknown = record("a:other", kind=Kind.WEIGHT, spec=of("float32", None, None))
    assert Catalog([kernel, step, words, unknown, OUTPUT]).weights_bytes == 4 * 5 * 2 + 8


NAMES = st.text(st.sampled_from("ab%:@/.~\0\n\x7fé2F5") | st.characters(), max_size=5)


@given(NAMES, NAMES)
@example("", "\0")
@example(".", "%2E")
@example("", "%")
def test_different_names_stay_different(one: str, other: str) -> None:
    assert (escape(one) == escape(other)) == (one == other)


@given(NAMES)
def test_an_escaped_name_is_one_component_of_a_path(name: str) -> None:
    escaped = escape(name)
    assert escaped not in {"", ".", ".."}
    assert not re.search(r"[:@/\x00-\x1f\x7f]", escaped)
    assert "%" not in re.sub(r"%[0-9A-F]{2}|^%$", "", escaped)


@given(st.text("abcXYZ019_-. é", min_size=1).filter(lambda name: name.strip(".")))
def test_an_ordinary_name_stays_as_it_is(name: str) -> None:
    assert escape(name) == name


@given(NAMES, st.sampled_from(["output", "op/MatMul.1"]))
def test_layer_and_port_are_distinguished_again(name: str, port: str) -> None:
    joined = record(address_of(escape(name), port))
    assert (joined.layer, joined.port) == (escape(name), port)
