"""TensorFlow's private names, each on its own."""

from importlib.metadata import version

import pytest
import tensorflow as tf

from tests.internals.names import check, unlisted

FILE = "extractkit/models/tensorflow_internals.py"
_IMPORTS = "models/graphs/__init__.py, to read large graphs without Python objects"
_SEEDS = "models/process.py, to seed without dropping the kernels of functions"
_EAGER = "models/functions/eager_calls.py, to see the operations of eager functions"
_CONSTANTS = "models/functions/function_graph.py, for compilers that take constants only"
_GRAPHS = "models/graphs/rebuilding.py, to infer shapes of a part of a graph"
_KERAS = "models/keras_models/tracing.py, to trace Keras models"

NAMES = {
    "tensorflow.python.framework.importer:_ProcessNewOps": _IMPORTS,
    "tensorflow.python.framework.importer:_ProcessGraphDefParam": _IMPORTS,
    "tensorflow.python.framework.ops:Operation._init_outputs": _IMPORTS,
    "tensorflow.python.framework.ops:SymbolicTensor": _IMPORTS,
    "graph:new_operations": _IMPORTS,
    "graph:_functions": "models/graphs/rebuilding.py, to run imported loops",
    "tensor:_shape": _IMPORTS,
    "tensorflow.python.framework.function_def_to_graph:function_def_to_graph": (
        "models/graphs/control_flow.py, to look into loops and branches"
    ),
    "tensorflow.python.framework.op_def_registry:get": _GRAPHS,
    "tensorflow:__internal__.FuncGraph": _GRAPHS,
    "tensorflow:__internal__.CompositeTensor": "models/naming.py, to name ragged tensors",
    "tensorflow.python.framework.convert_to_constants:_run_inline_graph_optimization": (
        "models/functions/function_graph.py, to inline functions"
    ),
    "tensorflow.python.framework.convert_to_constants:_FunctionConverterDataInEager": _CONSTANTS,
    "tensorflow.python.framework.convert_to_constants:_replace_variables_by_constants": _CONSTANTS,
    "tensorflow.python.framework.convert_to_constants:disable_lower_using_switch_merge": (
        "models/functions/function_graph.py, to keep the branches of `Case` as functions"
    ),
    "tensorflow.python.framework.ops:Operation._clear_attr": _KERAS,
    "tensorflow.python.framework.ops:gradient_registry": (
        "models/graphs/gradients.py, to find operations without a gradient"
    ),
    "tensorflow.python.saved_model.function_deserialization:_gen_gradient_func": (
        "models/graphs/saved_gradients.py, to take custom gradients from SavedModels"
    ),
    "tensorflow.python.ops.resource_variable_ops:BaseResourceVariable._read_variable_op": _KERAS,
    "tensorflow.python.autograph.core.ag_ctx:ControlStatusCtx": _KERAS,
    "tensorflow.python.autograph.core.ag_ctx:Status.ENABLED": _KERAS,
    "tensorflow.python.framework.op_callbacks:add_op_callback": _EAGER,
    "tensorflow.python.framework.op_callbacks:remove_op_callback": _EAGER,
    "context:has_function": _EAGER,
    "context:get_function_def": _EAGER,
    "context:_initialized": "models/process.py, to refuse settings that come too late",
    "context:_seed": _SEEDS,
    "context:_rng": _SEEDS,
}


@pytest.fixture(scope="module")
def objects() -> dict[str, object]:
    from tensorflow.python.eager import context

    with tf.Graph().as_default() as graph:
        tensor = tf.constant(1)
    seeded = context.Context()  # not that of other tests, whose seed stays as it is
    seeded._set_global_seed(0)
    return {"graph": graph, "tensor": tensor, "context": seeded}


@pytest.mark.parametrize("name", NAMES)
def test_tensorflow_has(name: str, objects: dict[str, object]) -> None:
    check("tensorflow", name, NAMES[name], objects)


def test_every_name_that_is_used_is_checked() -> None:
    assert not unlisted(FILE, NAMES)


def test_a_missing_name_is_named(objects: dict[str, object]) -> None:
    name = "tensorflow.python.framework.importer:_ProcessNoOps"
    expected = rf"^tensorflow {version('tensorflow')} lacks {name}, used in models/x\.py, to read$"
    with pytest.raises(pytest.fail.Exception, match=expected):
        check("tensorflow", name, "models/x.py, to read", objects)
