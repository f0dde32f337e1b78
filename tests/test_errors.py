"""The exceptions, and what their messages offer in place of what was given."""

import difflib
import re

from hypothesis import given
from hypothesis import strategies as st

from extractkit import errors
from extractkit.errors import ExtractkitError, UnknownTensorError, choices, nearest

OPTIONS = st.lists(st.text("abc_", min_size=1, max_size=6), max_size=12)


def test_the_tree_in_the_docstring_is_the_tree_of_classes() -> None:
    drawn: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"^((?:[│ ]   )*(?:[├└]── )?)(\w+Error)\b", line):
            depth = len(found[1]) // 4
            path = [*path[:depth], found[2]]
            drawn[found[2]] = path[-2] if depth else "Exception"
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    defined = [cls for cls in classes if issubclass(cls, Exception)]
    assert drawn == {cls.__name__: cls.__bases__[0].__name__ for cls in defined}
    assert all(issubclass(cls, ExtractkitError) for cls in defined)


def test_every_class_says_what_it_means() -> None:
    assert all(getattr(errors, name).__doc__ for name in vars(errors) if name.endswith("Error"))


def test_a_missing_tensor_is_a_key_error_without_quotes() -> None:
    assert isinstance(UnknownTensorError("no 'x'"), KeyError)
    assert str(UnknownTensorError("no 'x'")) == "no 'x'"


@given(st.text("abc_", max_size=6), OPTIONS, st.integers(1, 4))
def test_the_nearest_are_the_best_by_ratio(given_: str, options: list[str], count: int) -> None:
    def likeness(option: str) -> float:
        return difflib.SequenceMatcher(None, given_, option).ratio()

    found = nearest(given_, options, count)
    others = set(options) - set(found)
    assert len(found) == min(count, len(set(options)))
    assert [likeness(one) for one in found] == sorted(map(likeness, found), reverse=True)
    assert all(likeness(one) >= likeness(other) for one in found for other in others)


@given(st.text("abc_", max_size=6), OPTIONS, st.randoms())
def test_the_order_of_the_options_does_not_matter(
    given_: str, options: list[str], random: object
) -> None:
    shuffled = sorted(options, key=lambda _: random.random())  # type: ignore[attr-defined]
    assert nearest(given_, options) == nearest(given_, shuffled)
    assert choices(given_, options) == choices(given_, shuffled)


def test_a_handful_of_choices_is_listed_whole() -> None:
    assert choices("x", []) == "There is none."
    assert choices("x", ["b", "a", "b"]) == "Available: 'a', 'b'."
    assert choices("x", "fedcba") == "Available: 'a', 'b', 'c', 'd', 'e', 'f'."


def test_of_many_choices_the_nearest_three_are_named() -> None:
    options = ["path", "pattern", "port", "kind", "dtype", "depth", "regex"]
    assert choices("pth", options) == "Nearest: 'path', 'depth', 'port'."
