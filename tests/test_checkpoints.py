"""Which checkpoints a configuration names, what they are called, and in which order they stand."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractkit.core.checkpoints import Named, find_checkpoints
from extractkit.errors import ConfigError, ModelError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def labels(found: tuple[Named, ...]) -> list[str]:
    return [one.label for one in found]


def refused(kind: type[Exception], given: object, step: object = None) -> str:
    with pytest.raises(kind) as caught:
        find_checkpoints(given, step)
    return str(caught.value)


def test_a_glob_is_in_natural_order_and_a_list_in_its_own(tmp_path: Path) -> None:
    touch(tmp_path, "epoch_10.h5", "epoch_2.h5", "epoch_1.h5")
    found = find_checkpoints(f"{tmp_path}/*.h5")
    assert found == tuple(Named(f"epoch_{n}", None, f"{tmp_path}/epoch_{n}.h5") for n in (1, 2, 10))
    listed = [f"{tmp_path}/epoch_{n}.h5" for n in (10, 1)]
    assert labels(find_checkpoints(listed)) == ["epoch_10", "epoch_1"]
    both = find_checkpoints([listed[0], f"{tmp_path}/*.h5"])
    assert labels(both) == ["epoch_10", "epoch_1", "epoch_2"]


def test_one_path_is_an_axis_of_one_whether_it_is_there_or_not(tmp_path: Path) -> None:
    assert find_checkpoints(f"{tmp_path}/no.h5") == (Named("no", None, f"{tmp_path}/no.h5"),)


def test_what_is_named_twice_counts_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.h5", "b.h5")
    assert labels(find_checkpoints([f"{tmp_path}/b.h5", f"{tmp_path}/./b.h5"])) == ["b"]


def test_relative_paths_and_home_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "run/a.h5", "run/b.h5")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = [f"{tmp_path}/run/{name}.h5" for name in "ab"]
    for given_text in ("run/*.h5", "~/run/*.h5", "**/*.h5"):
        assert [one.path for one in find_checkpoints(given_text)] == paths


@pytest.mark.parametrize("name", ["a[1].h5", "what?.h5", "st*r.h5"])
def test_a_file_whose_name_looks_like_a_glob_is_itself(name: str, tmp_path: Path) -> None:
    touch(tmp_path, name, "a1.h5", "whats.h5", "star.h5")
    assert [one.path for one in find_checkpoints(f"{tmp_path}/{name}")] == [f"{tmp_path}/{name}"]


def test_a_working_directory_whose_name_looks_like_a_glob_is_no_glob(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "run[1]/a.h5", "run1/b.h5")
    monkeypatch.chdir(tmp_path / "run[1]")
    assert [one.path for one in find_checkpoints("*.h5")] == [f"{tmp_path}/run[1]/a.h5"]


def test_what_a_saver_writes_is_one_checkpoint(tmp_path: Path) -> None:
    parts = ("index", "meta", "data-00000-of-00002", "data-00001-of-00002")
    touch(tmp_path, "checkpoint", *(f"ckpt-{n}.{part}" for n in (10, 9) for part in parts))
    found = find_checkpoints(f"{tmp_path}/*")
    assert [one.path for one in found] == [f"{tmp_path}/ckpt-9", f"{tmp_path}/ckpt-10"]
    assert labels(found) == ["ckpt-9", "ckpt-10"]
    assert find_checkpoints(f"{tmp_path}/*.index") == found


def test_a_part_without_its_index_is_what_it_is(tmp_path: Path) -> None:
    touch(tmp_path, "x.meta", "y.data-00000-of-00001")
    assert labels(find_checkpoints(f"{tmp_path}/*")) == ["x.meta", "y.data-00000-of-00001"]


def test_labels_go_back_to_the_first_folder_that_tells_them_apart(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{run}/weights/last.h5" for run in ("a", "b")), "c/weights/first.h5")
    found = find_checkpoints(f"{tmp_path}/*/weights/*.h5")
    assert labels(found) == ["a/weights/last", "b/weights/last", "c/weights/first"]


def test_endings_stay_where_they_are_what_differs(tmp_path: Path) -> None:
    touch(tmp_path, "a.h5", "a.keras", "b.weights.h5")
    assert labels(find_checkpoints(f"{tmp_path}/*")) == ["a.h5", "a.keras", "b.weights.h5"]


@pytest.mark.parametrize(
    "name", ["m.weights.h5", "m.h5", "m.hdf5", "m.keras", "m.safetensors", "m"]
)
def test_endings_of_formats_are_no_part_of_a_label(name: str, tmp_path: Path) -> None:
    assert labels(find_checkpoints(str(tmp_path / name))) == ["m"]


NAMES = st.text("ab1/", min_size=1, max_size=6).map(lambda text: f"/{text.strip('/') or 'x'}")
ENDINGS = st.sampled_from([".h5", ".weights.h5", ".keras", ""])


@given(st.lists(st.tuples(NAMES, ENDINGS).map("".join), min_size=1, max_size=8))
def test_no_two_have_one_label(paths: list[str]) -> None:
    found = find_checkpoints(paths)
    assert len(set(labels(found))) == len(found) == len({str(Path(path)) for path in paths})


# ---- steps


def test_steps_are_numbers_and_decide_the_order(tmp_path: Path) -> None:
    paths = [f"{tmp_path}/s{text}_x.h5" for text in ("300", "0020", "1")]
    found = find_checkpoints(paths, r"s(\d+)_")
    assert [one.step for one in found] == [1, 20, 300]
    assert labels(found) == ["s1_x", "s0020_x", "s300_x"]


def test_without_a_group_all_that_matches_is_the_number() -> None:
    found = find_checkpoints(["/run/b-7.h5", "/run/a-5.h5"], r"\d+(?=\.)")
    assert [(one.step, one.label) for one in found] == [(5, "a-5"), (7, "b-7")]


def test_the_whole_path_is_searched() -> None:
    found = find_checkpoints(["/run/step_20/w.h5", "/run/step_3/w.h5"], r"step_(\d+)")
    assert [(one.step, one.label) for one in found] == [(3, "step_3/w"), (20, "step_20/w")]


# ---- mistakes


@pytest.mark.parametrize(
    "given_value", [[], "", 3, {"a": "b"}, ["a", ""], ["a", None], "a\0b", [["a"]]]
)
def test_what_is_no_path_is_refused(given_value: object) -> None:
    assert refused(ConfigError, given_value) == (
        f"model.checkpoints={given_value!r} is not a path, a glob or a list of them. Give one: "
        f"model.checkpoints='checkpoints/*.weights.h5'"
    )


def test_a_glob_that_matches_nothing_tells_what_is_there(tmp_path: Path) -> None:
    touch(tmp_path, "epoch_1.h5", ".hidden")
    text = f"{tmp_path}/epch_*.h5"
    assert refused(ModelError, text) == (
        f"model.checkpoints={text!r} matches nothing. In {str(tmp_path)!r}: "
        f"Available: 'epoch_1.h5'."
    )
    deeper = f"{tmp_path}/none/*/x.h5"
    assert f"matches nothing. In {str(tmp_path)!r}: " in refused(ModelError, deeper)


def test_a_glob_for_the_prefix_of_a_checkpoint_is_answered_with_its_index(tmp_path: Path) -> None:
    for step in ("run_1", "run_2"):
        (tmp_path / step).mkdir()
        touch(tmp_path / step, "ck-1.index", "ck-1.data-00000-of-00001")
    text = f"{tmp_path}/run_*/ck"
    assert refused(ModelError, text) == (
        f"model.checkpoints={text!r} matches nothing. A glob matches whole names, so give the "
        f"index files': 'model.checkpoints=\"{text}*.index\"'"
    )
    found = find_checkpoints(f"{text}*.index")
    assert [one.path for one in found] == [f"{tmp_path}/run_{step}/ck-1" for step in (1, 2)]


def test_a_state_file_alone_is_no_checkpoint(tmp_path: Path) -> None:
    touch(tmp_path, "checkpoint")
    assert "matches nothing" in refused(ModelError, f"{tmp_path}/*")


@pytest.mark.parametrize("step", ["", 3, ["a"], True])
def test_a_step_that_is_no_text_is_refused(step: object) -> None:
    assert refused(ConfigError, "/a", step) == (
        f"model.checkpoint_step={step!r} is not a regular expression. Give one with the number in "
        f"a group: 'model.checkpoint_step=\"step_(\\d+)\"'"
    )


def test_a_malformed_expression_is_refused() -> None:
    assert refused(ConfigError, "/a", "(") == (
        "model.checkpoint_step='(' is not a regular expression: missing ), unterminated subpattern "
        "at position 0"
    )


def test_a_step_that_is_not_there_is_refused() -> None:
    assert refused(ConfigError, ["/r/s1.h5", "/r/x.h5"], r"s(\d)") == (
        r"model.checkpoint_step='s(\\d)' does not occur in '/r/x.h5'. It is searched in the whole "
        r"path of every checkpoint"
    )


@pytest.mark.parametrize(
    ("step", "found"), [("s(.)", "'x'"), ("(9)?s", "None"), ("s(.?)(1)?$", "''"), ("sx", "'sx'")]
)
def test_a_step_that_is_no_number_is_refused(step: str, found: str) -> None:
    path = "/r/s" if found == "''" else "/r/sx"
    assert refused(ConfigError, path, step) == (
        f"model.checkpoint_step={step!r} finds {found} in {path!r}, which is not a whole number. "
        f"Put the number in a group: 'model.checkpoint_step=\"step_(\\d+)\"'"
    )


def test_figures_of_other_scripts_are_no_numbers() -> None:
    assert "which is not a whole number" in refused(ConfigError, "/r/s٣", r"s(\d)")


def test_two_of_one_step_are_refused() -> None:
    assert refused(ConfigError, ["/r/s1.h5", "/r/s01.h5"], r"s(\d+)") == (
        r"model.checkpoint_step='s(\\d+)' finds step 1 in '/r/s1.h5' and in '/r/s01.h5'. Give an "
        r"expression that distinguishes them"
    )


@given(st.permutations([f"/r/e{n}.h5" for n in (1, 2, 10, 20)]))
def test_steps_do_not_depend_on_the_order_in_which_paths_are_given(paths: list[str]) -> None:
    found = find_checkpoints(paths, r"e(\d+)")
    assert [one.step for one in found] == [1, 2, 10, 20]
    assert all(a.path != b.path for a, b in itertools.pairwise(found))
