"""Which tensors belong together: equal keys, addresses of a mapping, patterns."""

from pathlib import Path

import numpy as np
import pytest

from extractkit.errors import ConfigError, SelectionError
from extractkit.runs.comparing import diff
from extractkit.runs.comparing.pairing import FileMapping, pair_tensors
from extractkit.runs.reader import Run
from tests.runs.diff_examples import made_run

ONE = {f"block_{n}:output": np.float32([n]) for n in (1, 2, 3)} | {":output": np.float32([9])}
OTHER = {f"net/block_{n}/Relu:0": np.float32([n]) for n in (2, 3, 4)} | {
    "net/out:0": ONE[":output"]
}


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Run, Run]:
    """Two address spaces of one model; neither has all blocks."""
    return made_run(tmp_path / "a", ONE), made_run(tmp_path / "b", OTHER)


def test_equal_keys_belong_together(runs: tuple[Run, Run]) -> None:
    assert pair_tensors(runs[0], runs[0]).pairs == tuple((key, key) for key in ONE)
    apart = pair_tensors(*runs)
    assert (apart.pairs, apart.only_in_a, apart.only_in_b) == ((), tuple(ONE), tuple(OTHER))


def test_a_mapping_names_both_addresses(runs: tuple[Run, Run]) -> None:
    found = pair_tensors(*runs, {":output": "net/out:0", "block_2:output": "net/block_2/Relu:0"})
    assert found.pairs == (("block_2:output", "net/block_2/Relu:0"), (":output", "net/out:0"))
    assert found.only_in_a == ("block_1:output", "block_3:output")
    assert found.only_in_b == ("net/block_3/Relu:0", "net/block_4/Relu:0")


def test_a_star_stands_for_the_same_text_on_both_sides(runs: tuple[Run, Run]) -> None:
    found = pair_tensors(*runs, {"block_*:output": "net/block_*/Relu:0"})
    assert [pair[0] for pair in found.pairs] == ["block_2:output", "block_3:output"]
    comparison = diff(
        *runs, mapping={"block_*:output": "net/block_*/Relu:0", ":output": "net/out:0"}
    )
    assert len(comparison.tensors) == 3
    assert comparison.mapped
    # What a mapping leaves out is reported and does not count.
    assert comparison.only_in_a == ("block_1:output",)
    assert not comparison.beyond


def test_several_stars_are_distinguished_by_their_order(tmp_path: Path) -> None:
    a = made_run(tmp_path / "a", {"a/b/c:1": np.float32([1])})
    b = made_run(tmp_path / "b", {"x/a/b-y-c/0:1": np.float32([1])})
    assert pair_tensors(a, b, {"*/c:*": "x/*-y-c/0:*"}).pairs == (("a/b/c:1", "x/a/b-y-c/0:1"),)


def test_an_address_counts_before_a_pattern_and_the_first_pattern_before_others(
    runs: tuple[Run, Run],
) -> None:
    mapping = {
        "block_*:output": "net/block_*/Relu:0",
        "*_3:output": "net/*_4/Relu:0",
        "block_2:output": "net/block_4/Relu:0",
    }
    mapping["*_1:output"] = "net/*_4/Relu:0"
    assert dict(pair_tensors(*runs, mapping).pairs) == {
        "block_1:output": "net/block_4/Relu:0",
        "block_2:output": "net/block_4/Relu:0",
        "block_3:output": "net/block_3/Relu:0",
    }


def test_a_star_may_be_part_of_an_address(tmp_path: Path) -> None:
    a = made_run(tmp_path / "a", {"x*y:0": np.float32([1]), "xzy:0": np.float32([1])})
    assert pair_tensors(a, a, {"x*y:0": "xzy:0"}).pairs == (("x*y:0", "xzy:0"),)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (
            {"block_9:output": "net/out:0"},
            r"'block_9:output' is not a tensor of .*a\. .*'block_1:o",
        ),
        (
            {":output": "net/block_9/Relu:0"},
            r"'net/block_9/Relu:0' is not a tensor of .*b\. .*block_2",
        ),
        (
            {"blok_*:output": "net/block_*/Relu:0"},
            r"'blok_\*:output' matches no tensor of .*'block_1:o",
        ),
        (
            {"block_*:output": "net/block_*/Conv:0"},
            r"'block_1:output' would be 'net/block_1/Conv:0', which is not a tensor of .*2/Relu",
        ),
    ],
)
def test_what_names_no_tensor_is_one_error_that_names_the_nearest(
    runs: tuple[Run, Run], mapping: dict[str, str], message: str
) -> None:
    ((left, right),) = mapping.items()
    with pytest.raises(SelectionError, match=message) as caught:
        diff(*runs, mapping=mapping)
    assert str(caught.value).startswith(f"mapping {left!r}: {right!r}: ")


def test_an_entry_of_a_file_is_reported_with_its_line(runs: tuple[Run, Run]) -> None:
    entries = {":output": "net/out:0", "block_9:output": "net/out:0", "x_*": "net/*"}
    mapping = FileMapping(entries, "map.yaml", {":output": 1, "block_9:output": 3})
    with pytest.raises(SelectionError, match=r"^map.yaml, line 3: 'block_9:output': 'net/out:0': "):
        pair_tensors(*runs, mapping)
    del mapping["block_9:output"]
    with pytest.raises(
        SelectionError, match=r"^map.yaml: 'x_\*': 'net/\*': 'x_\*' matches no tensor"
    ):
        pair_tensors(*runs, mapping)


def test_stars_have_to_be_as_many_on_both_sides(runs: tuple[Run, Run]) -> None:
    with pytest.raises(ConfigError, match=r"1 and 0 times '\*'"):
        pair_tensors(*runs, {"block_*:output": "net/out:0"})


def test_globs_leave_out_what_is_not_asked_for(runs: tuple[Run, Run]) -> None:
    found = pair_tensors(runs[0], runs[0], only=["block_[12]*", ":out*"])
    assert [pair[0] for pair in found.pairs] == ["block_1:output", "block_2:output", ":output"]
    assert found.only_in_a == ()


def test_every_glob_has_to_fit_a_tensor_of_either_run(runs: tuple[Run, Run]) -> None:
    found = pair_tensors(*runs, only=["block_1*", "net/out*"])
    assert (found.only_in_a, found.only_in_b) == (("block_1:output",), ("net/out:0",))
    with pytest.raises(
        SelectionError, match=r"^only='blok_\*' matches no tensor of .*'block_1:output'"
    ):
        pair_tensors(*runs, only=["block_1*", "blok_*"])
