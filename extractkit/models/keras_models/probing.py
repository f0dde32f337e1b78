"""Calls that Keras makes to learn shapes, in the same graph as the model's own.

Before its loop, an RNN calls its step once on the first time step, and Keras 3 calls each cell of a
stack once more to learn how large its dropout masks are. Nothing of the result but its shape is
used, yet the names are those of the loop.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from extractkit.models.keras_models.dialects import Dialect
from extractkit.models.patching import patched


@dataclass(eq=False)
class Probes:
    """The probing calls made so far.

    Attributes:
        spans: `(graph, start, end)`: its operations start … end-1 were made by such a call.
        depth: how many of them are under way.
    """

    spans: list[tuple[tf.Graph, int, int]] = field(default_factory=list)
    depth: int = 0

    def operations(self, graph: tf.Graph) -> set[int]:
        """Positions, in order of creation, of the operations that probing calls made."""
        spans = [(start, end) for one, start, end in self.spans if one is graph]
        return {position for start, end in spans for position in range(start, end)}

    @contextmanager
    def one(self) -> Iterator[None]:
        """Take what happens inside as a probing call."""
        graph = tf.compat.v1.get_default_graph()
        start = len(graph.get_operations())
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1
            self.spans.append((graph, start, len(graph.get_operations())))


@contextmanager
def watched_probes(dialect: Dialect) -> Iterator[Probes]:
    """Record the probing calls that this thread makes inside the block."""
    probes = Probes()

    def looping(original: Callable[..., Any]) -> Callable[..., Any]:
        parameters = inspect.signature(original)

        def rnn(*args: Any, **kwargs: Any) -> Any:
            bound = parameters.bind(*args, **kwargs)
            step = bound.arguments["step_function"]
            outside = tf.compat.v1.get_default_graph()

            def stepping(*given: Any) -> Any:
                if tf.compat.v1.get_default_graph() is not outside:
                    return step(*given)
                with probes.one():
                    return step(*given)

            # Unrolled there is no loop: each call is a step.
            if not bound.arguments.get("unroll"):
                bound.arguments["step_function"] = stepping
            return original(*bound.args, **bound.kwargs)

        return rnn

    def learning(original: Callable[..., Any]) -> Callable[..., Any]:
        def learned(*args: Any, **kwargs: Any) -> Any:
            with probes.one():
                return original(*args, **kwargs)

        return learned

    with ExitStack() as stack:
        for module in dialect.loops:
            stack.enter_context(patched(module, "rnn", looping))
        for layer, name in dialect.mask_makers:
            stack.enter_context(patched(layer, name, learning))
        yield probes
