"""Top-activating examples: a search over the stored rows finds the same samples and tokens."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import extractkit
from extractkit.core.statistics.examples import Example, Examples, Places
from extractkit.errors import UnknownTensorError
from extractkit.testing.reference import ReferenceModel
from tests.engine.checkpoint_examples import files, over
from tests.engine.examples import executed

TEXTS = ["one two", "the second text", "3", "fourth, and longest of all", "last"]


def extracted(directory: Path, do: Sequence[object], k: int = 4) -> extractkit.Run:
    return extractkit.extract(
        model=ReferenceModel(),
        inputs=TEXTS,
        selectors={
            "rows": {"path": "embedding:output", "do": do},
            "best": {
                "path": "embedding:output",
                "do": do,
                "statistics": [{"top": {"k": k, "smallest": True}}],
            },
        },
        runtime={"shard_size": 2},
        run_dir=directory,
    )


def searched(run: extractkit.Run, unit: int, k: int, sign: int) -> list[tuple[float, int, int]]:
    """The best values of a unit with sample and position, equal ones by these."""
    every = []
    for sample in range(len(TEXTS)):
        rows = run["embedding:output@rows"].sample(sample)
        for position, value in enumerate(rows.reshape(-1, rows.shape[-1])[:, unit].tolist()):
            every.append((-sign * value, sample, position))
    return [(-sign * key, sample, position) for key, sample, position in sorted(every)[:k]]


TOKENS: Mapping[str, tuple[list[Any], Callable[[str], str | list[str]] | None]] = {
    "whole": ([], list),
    "features": ([{"slice": {2: "1:3"}}, "abs", {"softmax": 2}], list),
    "components": ([{"project": {"axis": 2, "to": 2}}], list),
    "the last four": ([{"slice": {"token": "-4:"}}], lambda text: list(text[-4:])),
    "backwards": ([{"slice": {"token": "::-1"}}], lambda text: list(text[::-1])),
    "two slices": (
        [{"slice": {"token": "::2"}}, "abs", {"slice": {"token": "1:"}}],
        lambda text: list(text[::2][1:]),
    ),
    "the last": ([{"slice": {"token": -1}}], lambda text: text[-1]),
    "the second to last of a few": (
        [{"slice": {"token": "-3:"}}, {"slice": {"token": 0}}],
        lambda text: text[-3:][0],
    ),
    "mean": ([{"mean": "token"}], None),
    "windows": ([{"pool": {"axis": "token", "window": 2}}], None),
    "windows of stride 1": ([{"pool": {"axis": "token", "window": 2, "stride": 1}}], None),
    "largest": ([{"topk": {"k": 2, "axis": "token"}}], None),
}


@pytest.mark.parametrize("case", TOKENS)
def test_examples_are_those_of_a_search_with_their_tokens(case: str, tmp_path: Path) -> None:
    do, tokens = TOKENS[case]
    run = extracted(tmp_path / "run", do)
    width = len(run.statistics["embedding:output@best"].top["values"])

    def examples(unit: int | None = None, smallest: bool = False) -> Examples:
        return run.examples("embedding:output@best", unit, smallest=smallest)

    for unit in range(width):
        for sign in (1, -1):
            found = examples(unit, sign < 0)
            expected = searched(run, unit, 4, sign)
            assert len(found) == len(expected)
            for one, (value, sample, position) in zip(found, expected, strict=True):
                assert (one.unit, one.value, one.sample) == (unit, value, sample)
                assert one.id == str(run.samples[sample]["id"])
                assert one.row == run.samples[sample]
                if tokens is None:
                    assert one.token is one.context is None
                    continue
                kept = tokens(TEXTS[sample])
                assert one.position == ((position,) if isinstance(kept, list) else ())
                assert one.token == (kept[position] if isinstance(kept, list) else kept)
    assert list(examples()) == [one for unit in range(width) for one in examples(unit)]


@pytest.mark.parametrize("case", TOKENS)
def test_values_are_read_beside_their_tokens(case: str, tmp_path: Path) -> None:
    do, tokens = TOKENS[case]
    run = extracted(tmp_path / "run", do)
    key = "embedding:output@rows"
    for sample, text in enumerate(TEXTS):
        if tokens is None or isinstance(kept := tokens(text), str):
            with pytest.raises(UnknownTensorError, match="tokens are along none of them"):
                run.by_token(key, sample)
            continue
        found = run.by_token(key, sample)
        assert [token for token, _ in found] == kept
        for (_, value), expected in zip(found, run[key].sample(sample), strict=True):
            np.testing.assert_array_equal(value, expected)


def test_one_of_two_axes_of_tokens_is_chosen(tmp_path: Path) -> None:
    key = "attention:op/Softmax"
    selectors = {"maps": {"path": key, "do": [{"slice": {2: "1:"}}]}}
    run = extractkit.extract(
        model=ReferenceModel(), inputs=TEXTS, selectors=selectors, run_dir=tmp_path / "run"
    )
    whole = run[key].sample(1)
    for axis, kept, values in ((1, TEXTS[1], whole), (2, TEXTS[1][1:], whole.T)):
        found = run.by_token(key, 1, axis)
        assert [token for token, _ in found] == list(kept)
        np.testing.assert_array_equal([value for _, value in found], values)
    with pytest.raises(UnknownTensorError, match=r"along 1 and 2. Choose one: .*, axis=1\)"):
        run.by_token(key, 1)
    with pytest.raises(
        UnknownTensorError, match=r"axis='query': .*not along.* Available: '1', '2'"
    ):
        run.by_token(key, 1, "query")
    with pytest.raises(IndexError):
        run.by_token(key, len(TEXTS), 1)


def test_samples_without_tokens_or_values_have_none_to_show(tmp_path: Path) -> None:
    arrays = [np.arange(3, dtype=np.int32), np.zeros((2, 2), np.int32)]
    run = extractkit.extract(
        model=ReferenceModel(),
        inputs=arrays,
        selectors={"rows": {"path": "embedding:output"}},
        runtime={"bad_samples": "skip"},
        run_dir=tmp_path / "run",
    )
    with pytest.raises(UnknownTensorError, match="no tokens of sample 0 along axis 'token'"):
        run.by_token("embedding:output", 0)
    with pytest.raises(UnknownTensorError, match=r"sample 1 of .* has no values: "):
        run.by_token("embedding:output", 1)


def test_examples_print_as_a_table(tmp_path: Path) -> None:
    run = extracted(tmp_path / "run", [], k=2)
    found = run.examples("embedding:output@best", 1)
    first, second = (
        (value, sample, position, TEXTS[sample])
        for value, sample, position in searched(run, 1, 2, 1)
    )
    header, *lines = str(found).splitlines()
    assert header.split() == ["unit", "value", "sample", "id", "position", "token", "context"]
    for line, (value, sample, position, text) in zip(lines, (first, second), strict=True):
        cells = line.split()
        assert cells[:5] == ["1", f"{value:.4g}", str(sample), str(sample), str(position)]
        assert f"[{text[position]}]" in line
    assert repr(found[:1]).count("\n") == 1


def test_text_that_a_terminal_would_obey_is_printed_escaped() -> None:
    one = Example(0, 1.0, 0, "a\x1b[2Jb", (0,), "\n", "x [\n]", {})
    assert "\x1b" not in repr(Examples([one]))
    assert r"a\x1b[2Jb" in repr(Examples([one]))
    assert len(repr(Examples([one])).splitlines()) == 2


def test_positions_count_in_c_order() -> None:
    for position, expected in enumerate(np.ndindex(4, 3, 2)):
        assert Places((None, 3, 2)).found(position, {}) == (expected, None)
    # The tokens of this row are along another axis.
    whole = Places((None,), 0, ())
    assert whole.found(2, {"tokens": ["a", "b"], "length": {"token": 3, "other": 2}}) == (
        (2,),
        None,
    )
    assert whole.found(1, {"tokens": ["a", "b"], "length": {"token": 2, "other": 3}}) == ((1,), 1)
    assert whole.found(1, {"tokens": ["a", "b"], "length": 2}) == ((1,), 1)
    # Only the model knows the size of the second axis.
    assert Places((4, None)).found(7, {}) == ((7,), None)


def test_units_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    run, key = extracted(tmp_path / "run", []), "embedding:output@best"
    with pytest.raises(extractkit.UnknownTensorError, match=r"unit 4 does not exist: .* 0 to 3"):
        run.examples(key, 4)
    with pytest.raises(extractkit.UnknownTensorError, match="unit -1 does not exist"):
        run.examples(key, -1)
    with pytest.raises(extractkit.UnknownTensorError, match="is not a tensor with statistics"):
        run.examples("embedding:output")
    largest = extractkit.extract(
        model=ReferenceModel(),
        inputs=TEXTS,
        selectors={"s": {"path": "pool:output", "statistics": [{"top": {"k": 9}}]}},
        run_dir=tmp_path / "largest",
    )
    assert len(largest.examples("pool:output", 0)) == len(TEXTS)  # fewer than asked for
    with pytest.raises(extractkit.UnknownTensorError, match="smallest: true"):
        largest.examples("pool:output", 0, smallest=True)


def test_each_checkpoint_has_its_examples(tmp_path: Path) -> None:
    paths = files(tmp_path, [0, 1])
    asked = {"path": "embedding:output", "statistics": [{"top": {"k": 2}}]}
    run = executed(tmp_path / "run", over(paths, asked))
    with pytest.raises(extractkit.UnknownTensorError, match=r"run\.at\('step_1'\)\.examples\("):
        run.examples("embedding:output", 0)
    for position, label in enumerate(run.checkpoints):
        found = run.at(label).examples("embedding:output", 0)
        values = run.statistics["embedding:output"].top["values"][position, 0]
        assert [one.value for one in found] == values.tolist()
