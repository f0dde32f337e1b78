"""Lookup tables of a session: what they hold, which their graph need not tell."""

from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from extractkit.models import digests

_TABLES = (
    *("HashTable", "MutableHashTable", "MutableDenseHashTable", "MutableHashTableOfTensors"),
    *("HashTableV2", "MutableHashTableV2", "MutableDenseHashTableV2"),
    "MutableHashTableOfTensorsV2",
)


def table_contents(session: tf.compat.v1.Session, graph_def: Any) -> dict[str, str] | None:
    """A text for each table of a graph, by the name of its node.

    Args:
        session: which has filled them.
        graph_def: the graph as it came.

    Returns:
        None where a function of the graph holds one, of which nobody can tell.
    """
    if any(_is_table(node) for one in graph_def.library.function for node in one.node_def):
        return None
    return dict(_contents(session, [node for node in graph_def.node if _is_table(node)]))


def _is_table(node: Any) -> bool:
    return node.op in _TABLES


def _contents(session: tf.compat.v1.Session, nodes: list[Any]) -> Iterator[tuple[str, str]]:
    for node in nodes:
        with session.graph.as_default():
            handle = session.graph.get_tensor_by_name(f"{node.name}:0")
            newer = handle.dtype == tf.resource
            export = tf.raw_ops.LookupTableExportV2 if newer else tf.raw_ops.LookupTableExport
            both = export(
                table_handle=handle,
                Tkeys=node.attr["key_dtype"].type,
                Tvalues=node.attr["value_dtype"].type,
            )
        try:
            keys, values = session.run([both.keys, both.values])
        except tf.errors.FailedPreconditionError:  # nobody has filled it
            yield node.name, "table"
        else:
            yield node.name, f"table {digests.of_table(keys, values)}"
