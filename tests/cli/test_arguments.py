"""Where a verb may stand, and which words are its overrides."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import extractkit
from extractkit.commands.arguments import RunOptions, overrides_first, split_verb
from extractkit.commands.verbs import VERBS, of_verb, overview
from extractkit.errors import ConfigError


@pytest.mark.parametrize(
    ("arguments", "verb", "rest"),
    [
        (["plan", "model=bert"], "plan", ["model=bert"]),
        (["model=bert", "plan"], "plan", ["model=bert"]),
        (["--config-dir", "my", "plan", "model=own"], "plan", ["--config-dir", "my", "model=own"]),
        (["--config-dir=my", "-m", "plan"], "plan", ["--config-dir=my", "-m"]),
        (["--json", "show", "runs/a"], "show", ["--json", "runs/a"]),
        (["--trust", "mine", "resume", "runs/a"], "resume", ["--trust", "mine", "runs/a"]),
        # A folder, a module or a run may have the name of a verb.
        (["--config-dir", "plan", "tensors"], "tensors", ["--config-dir", "plan"]),
        (["--trust", "show", "model=bert"], None, ["--trust", "show", "model=bert"]),
        (["show", "diff"], "show", ["diff"]),
        (["model=bert"], None, ["model=bert"]),
        ([], None, []),
    ],
)
def test_a_verb_may_stand_anywhere(arguments: list[str], verb: str | None, rest: list[str]) -> None:
    assert split_verb(arguments) == (verb, rest)


_OVERRIDES = st.lists(st.sampled_from(["model=bert", "~selectors", "+a.b=1", "a=b=c"]))
_OPTIONS = st.sampled_from(
    [["-m"], ["--json"], ["--cfg", "job"], ["--info"], ["-i", "config"], ["-cd=x"]]
)


@given(st.lists(st.tuples(_OVERRIDES, _OPTIONS), max_size=4))
def test_overrides_come_first_and_each_kind_keeps_its_order(
    groups: list[tuple[list[str], list[str]]],
) -> None:
    typed = [word for overrides, option in groups for word in (*option, *overrides)]
    overrides = [word for some, _ in groups for word in some]
    options = [word for _, option in groups for word in option]
    assert overrides_first(typed) == overrides + options


def test_any_other_word_is_refused_with_the_verbs_that_there_are() -> None:
    with pytest.raises(ConfigError) as refused:
        overrides_first(["tensor", "model=bert"])
    assert str(refused.value).startswith("'tensor' is neither a verb nor an override. Nearest: 'te")


def test_a_file_that_does_not_exist_is_named_with_its_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.keras").touch()
    for word, available in [("net.kers", "Available: 'net.keras'."), ("no/net", "There is none.")]:
        with pytest.raises(ConfigError) as refused:
            overrides_first([word])
        assert str(refused.value) == (
            f"{word!r} does not exist, and is neither a verb nor an override. {available}"
        )


@pytest.mark.parametrize(
    ("verb", "words", "name"),
    [
        ("report", [""], "a word"),
        ("report", ["a", "--output", ""], "--output"),
        ("verify", ["a", "--key="], "--key"),
    ],
)
def test_an_empty_word_is_not_the_working_directory(verb: str, words: list[str], name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{verb}: {name} is empty\. Usage: extractkit {verb} "):
        RunOptions(verb).read(words)


@pytest.mark.parametrize("verb", [name for name, verb in VERBS.items() if verb.operands])
def test_the_help_of_a_verb_lists_every_option_that_its_parser_takes(verb: str) -> None:
    usage = RunOptions(verb).format_usage()
    taken = set(re.findall(r"--\w+", usage))
    assert taken == {option.flag for option in VERBS[verb].options}
    _, _, listed = of_verb(verb).partition("\nOptions\n")
    assert set(re.findall(r"^  (--\w+)", listed, re.MULTILINE)) == taken
    assert taken <= set(re.findall(r"^  (--\w+)", overview({}), re.MULTILINE))


def test_options_are_declared_in_one_place() -> None:
    source = Path(extractkit.__file__).parent
    adding = [path for path in source.rglob("*.py") if ".add_argument(" in path.read_text()]
    assert {path.parent.name for path in adding} == {"commands"}
    declaring = [path for path in adding if '.add_argument("-' in path.read_text()]
    assert not declaring, "an option is an entry of VERBS"
