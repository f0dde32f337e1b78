"""Overrides in messages: Hydra and OmegaConf read from them the text that they were made of."""

import shlex

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from extractkit.advice import choice_override, hydra_text, names_override, override
from extractkit.config.hydra_internals import parse_override

# Half a surrogate pair cannot be typed; a NUL ends an argument.
WORDS = st.sampled_from(
    ["null", "True", "1.0", "1_0", "-inf", "NaN", "1e5", ".", "${a}", "\\", '"']
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


def read(word: str) -> object:
    """What one word of a shell gives for the key `k`."""
    (argument,) = shlex.split(word)
    value = parse_override(argument).value()
    return OmegaConf.to_container(OmegaConf.create({"k": value}), resolve=True)["k"]  # type: ignore[call-overload,index]


@given(WORDS | TEXTS | st.lists(WORDS | TEXTS).map("".join))
@example("null")
@example("1.0")
@example("a\\\\${b}\\")
def test_a_text_stays_the_text_that_it_is(text: str) -> None:
    assert read(override("k", text)) == text


@given(st.lists(WORDS | TEXTS, max_size=3))
def test_names_stay_the_names_that_they_are(names: list[str]) -> None:
    assert read(names_override("k", names)) == names


@given(st.lists(WORDS | TEXTS, min_size=2, max_size=3))
def test_a_sweep_goes_over_the_texts_that_it_names(texts: list[str]) -> None:
    (argument,) = shlex.split(choice_override("k", texts))
    parsed = parse_override(argument)
    jobs = [f"k={one}" for one in parsed.sweep_string_iterator()]
    assert [read(shlex.quote(job)) for job in jobs] == texts


@pytest.mark.parametrize("text", ["dir/net.keras", "a_b-1.txt", "nullable", "1.0.0", "x1"])
def test_what_needs_no_quotes_gets_none(text: str) -> None:
    assert hydra_text(text) == text


@pytest.mark.parametrize("text", ["null", "TRUE", "1", "1.0", "-2e3", "inf", ""])
def test_what_would_be_another_type_is_quoted(text: str) -> None:
    assert hydra_text(text) == f'"{text}"'
