"""How tensors moved over a run's checkpoints, as a table: `extractkit show` of such a run."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from extractkit.display.text import safe
from extractkit.runs.drift import Drift, Series, TensorDrift

_MOST_ROWS = 40
_NOTHING = "–"


def overview(drift: Drift) -> Table:
    """A row a tensor: where the last checkpoint stands, and between which two it moved most."""
    table = Table(
        *("moved", "last against first", "cosine", "CKA", "largest step", "to"),
        box=None,
        pad_edge=False,
    )
    for key, moved in list(drift.tensors.items())[:_MOST_ROWS]:
        table.add_row(
            Text(safe(key), overflow="fold"),
            *(_number(series[-1]) for series in _series(moved)),
            *_largest(moved.from_previous.relative_norm, drift.checkpoints),
        )
    if len(drift.tensors) > _MOST_ROWS:
        rest = len(drift.tensors) - _MOST_ROWS
        table.add_row(f"… and {rest:,} more; `run.drift` has them all")
    return table


def _series(moved: TensorDrift) -> tuple[Series, Series, Series]:
    first = moved.from_first
    return first.relative_norm, first.cosine, first.cka


def _number(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.4g}"


def _largest(steps: Series, labels: Sequence[str]) -> tuple[str, str]:
    """The largest relative norm of a step, and the checkpoint that it leads to."""
    known = [(value, place) for place, value in enumerate(steps) if place and value is not None]
    if not known:
        return _NOTHING, ""
    value, place = max(known)
    return _number(value), safe(labels[place])
