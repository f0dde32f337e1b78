"""LiteRT's private names, each on its own."""

import pytest

from tests.internals.names import check, unlisted

_CALLS = "models/litert/interpreter.py, to compute in any subgraph"

NAMES = {
    **{
        f"interpreter:_interpreter.{method}": _CALLS
        for method in (
            "AllocateTensors",
            "GetTensor",
            "Invoke",
            "ResetVariableTensors",
            "ResizeInputTensor",
            "SetTensor",
            "TensorSize",
            "TensorType",
        )
    },
    "buffer:_tab": "models/litert/graph.py, to find weights in a file",
}


@pytest.fixture(scope="module")
def objects() -> dict[str, object]:
    import tensorflow as tf
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.interpreter import Interpreter

    @tf.function(input_signature=[tf.TensorSpec([1])])
    def double(x: tf.Tensor) -> tf.Tensor:
        return x * 2.0

    concrete = double.get_concrete_function()
    content = tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert()
    buffer = schema.Model.GetRootAs(content).Buffers(0)
    return {"interpreter": Interpreter(model_content=content), "buffer": buffer}


@pytest.mark.filterwarnings("ignore")  # the converter's own
@pytest.mark.parametrize("name", NAMES)
def test_litert_has(name: str, objects: dict[str, object]) -> None:
    check("ai-edge-litert", name, NAMES[name], objects)


def test_every_name_that_is_used_is_checked() -> None:
    assert not unlisted("extractkit/models/litert_internals.py", NAMES)
