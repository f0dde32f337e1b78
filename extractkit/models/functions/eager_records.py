"""Records of what a function that runs eagerly is given: samples, and the weights it has."""

from typing import Any

import tensorflow as tf

from extractkit.inputs.protocol import InputSpec
from extractkit.models.naming import Ports
from extractkit.tensors import SAMPLE, Kind, TensorRecord, escape, join


def weights_of(built: object) -> dict[str, Any]:
    """Variables of a module or layer by address: `dense:kernel`; a function tells of none."""
    ports = Ports()
    found = {}
    for variable in getattr(built, "variables", ()):
        name = getattr(variable, "path", variable.name).partition(":")[0]
        path, _, port = name.rpartition("/")
        address = join("/".join(escape(part) for part in path.split("/") if part), escape(port))
        found[ports.unique(address)] = variable
    return found


def weight_record(address: str, variable: Any) -> TensorRecord:
    """A weight's record."""
    return TensorRecord(
        address=address,
        kind=Kind.WEIGHT,
        dtype=tf.as_dtype(variable.dtype).name,
        shape=tuple(variable.shape),
        dims=(None,) * len(variable.shape),
        name=address,
        depends_on_inputs=False,
    )


def input_address(name: str) -> str:
    """Address of an argument that gets samples."""
    return join("", f"input.{escape(name)}")


def input_record(spec: InputSpec) -> TensorRecord:
    """The record of an argument that gets samples."""
    address = input_address(spec.name)
    return TensorRecord(
        address=address,
        kind=Kind.MODEL_INPUT,
        dtype=spec.dtype,
        shape=(None, *spec.shape),
        dims=(SAMPLE, *spec.dims),
        name=address,
    )
