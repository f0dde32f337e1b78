"""Interfaces of LiteRT that its documentation does not promise: the only file that uses them.

Known to work with ai-edge-litert 2.3. `tests/internals/test_litert.py` checks each name on its
own, so that a release without one fails with what it lacks.
"""

from typing import Any


def wrapper_of(interpreter: Any) -> Any:
    """Return the object behind an interpreter, whose methods take the number of a subgraph.

    Uses `Interpreter._interpreter`. The public methods set and resize inputs of the first subgraph
    alone.
    """
    return interpreter._interpreter


def vector_start(reader: Any, field: int) -> int:
    """Return where a vector begins in a file.

    Uses `_tab` of the generated readers, which copy vectors but do not give their offsets.

    Args:
        reader: A reader of the schema, such as a `Buffer`.
        field: The field's offset in the table of fields.
    """
    table = reader._tab
    return int(table.Vector(table.Offset(field)))
