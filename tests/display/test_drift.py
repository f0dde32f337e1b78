"""The table of `extractkit show` on how tensors moved."""

import io

from extractkit.display import render
from extractkit.display.run import drift_overview
from extractkit.runs.drift import Drift, Moved, Series, TensorDrift
from tests.display.examples import EVIL, SHOWN_EVIL


def moved(first: Series, previous: Series, cka: Series | None = None) -> TensorDrift:
    return TensorDrift(
        Moved(first, tuple(1 - (one or 0) for one in first), cka or first),
        Moved(previous, previous, previous),
    )


def shown(drift: Drift) -> list[str]:
    return render(drift_overview(drift), io.StringIO()).splitlines()


def test_it_tells_where_the_last_stands_and_which_step_was_the_largest() -> None:
    drift = Drift(
        ("start", "middle", "end"),
        {
            "a": moved((0.0, 0.5, 0.25), (0.0, 0.5, 0.125), (1.0, 0.9, 0.123456)),
            "b": moved((0.0, 0.5, 0.1), (0.0, 0.05, 3e-7)),
            "c": moved((None, None, None), (None, None, None)),
            "d": moved((9.0,) * 3, (9.0, None, 0.25)),
        },
    )
    assert [line.split() for line in shown(drift)] == [
        ["moved", "last", "against", "first", "cosine", "CKA", "largest", "step", "to"],
        ["a", "0.25", "0.75", "0.1235", "0.5", "middle"],
        ["b", "0.1", "0.9", "0.1", "0.05", "middle"],
        ["c", "–", "1", "–", "–"],
        ["d", "9", "-8", "9", "0.25", "end"],  # the first is no step
    ]


def test_a_long_list_is_cut_and_what_a_file_says_cannot_control_the_terminal() -> None:
    one = moved((0.0, 0.5), (0.0, 0.5))
    many = Drift(("a", EVIL), {f"{EVIL}{n}": one for n in range(45)})
    lines = shown(many)
    assert len(lines) == 42
    assert lines[-1] == "… and 5 more; `run.drift` has them all"
    assert lines[1].startswith(f"{SHOWN_EVIL}0 ")
    assert lines[1].split()[-1] == SHOWN_EVIL
