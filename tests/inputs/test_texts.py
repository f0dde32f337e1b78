"""Texts from files."""

import json
import os
import re
import shlex
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extractkit.advice import override
from extractkit.errors import InputError, JobError
from extractkit.inputs import Inputs, InputSpec, Signature
from extractkit.inputs.parquet import Parquet
from extractkit.inputs.texts import PACKAGED, Texts, TextSource
from extractkit.testing.inputs import SourceContract, assert_same, read_all
from extractkit.testing.reference import ReferenceModel

TOKENS = InputSpec("token_ids", "int32", (None,), ("token",))
READER = Signature("bert", (TOKENS,), takes_text=True)
NUMBERS = Signature("mnist", (InputSpec("x", "float32", (28, None), (None, "width")),))


def bound(path: object, **arguments: object) -> TextSource:
    return Texts(path, **arguments).bind(READER)  # type: ignore[arg-type]


def rows(source: TextSource) -> list[tuple[str, object]]:
    return [(sample.id, sample.data) for sample in source.read(0, len(source))]


def refusal(path: object, **arguments: object) -> str:
    with pytest.raises(InputError) as caught:
        read_all(Texts(path, **arguments), READER)  # type: ignore[arg-type]
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, so that messages hold short paths."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestPlainText(SourceContract):
    def inputs(self, folder: Path) -> Inputs:
        (folder / "a.txt").write_bytes("one\n\ntwo  words\r\nthé end".encode())
        (folder / "b.txt").write_bytes(b"three\nfour\n")
        return Texts([str(folder / "a.txt"), str(folder / "b.txt")])

    def signature(self) -> Signature:
        return READER


class TestJsonLines(SourceContract):
    def inputs(self, folder: Path) -> Inputs:
        (folder / "a.jsonl").write_text('{"body": "one\\ntwo"}\n\n{"body": "", "n": 1}\n')
        return Texts(str(folder / "a.jsonl"), column="body")

    def signature(self) -> Signature:
        return READER


class TestWhatIsASample:
    def test_a_line_is_a_sample_named_by_file_and_line(self, folder: Path) -> None:
        Path("a.txt").write_bytes(b"one\ntwo\n")
        assert rows(bound("a.txt")) == [("a.txt:1", "one"), ("a.txt:2", "two")]
        assert bound("a.txt").read(1, 2)[0].source == "a.txt"

    def test_a_last_line_without_an_end_counts(self, folder: Path) -> None:
        Path("a.txt").write_bytes(b"one\ntwo")
        assert [text for _, text in rows(bound("a.txt"))] == ["one", "two"]

    def test_blank_lines_are_skipped_noted_and_keep_their_numbers(self, folder: Path) -> None:
        Path("a.txt").write_bytes("\none\n \t\n\u00a0\r\ntwo\n\n".encode())
        source = bound("a.txt")
        assert rows(source) == [("a.txt:2", "one"), ("a.txt:5", "two")]
        assert source.notes == ("a.txt: ignored 4 blank lines",)

    def test_one_blank_line_is_noted_in_the_singular(self, folder: Path) -> None:
        Path("a.txt").write_bytes(b"one\n\n")
        assert bound("a.txt").notes == ("a.txt: ignored 1 blank line",)

    def test_windows_line_ends_go_and_other_white_space_stays(self, folder: Path) -> None:
        Path("a.txt").write_bytes(b"  one \r\ntwo\r\r\n")
        assert [text for _, text in rows(bound("a.txt"))] == ["  one ", "two\r"]

    @pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x0b", "\x0c", "\x85", "\r"])
    def test_only_a_line_feed_ends_a_line(self, folder: Path, separator: str) -> None:
        Path("a.txt").write_bytes(f"one{separator}two\nthree\n".encode())
        assert [text for _, text in rows(bound("a.txt"))] == [f"one{separator}two", "three"]

    def test_a_byte_order_mark_at_the_start_is_dropped(self, folder: Path) -> None:
        Path("a.txt").write_bytes(b"\xef\xbb\xbfone\ntwo\n")
        assert [text for _, text in rows(bound("a.txt"))] == ["one", "two"]

    def test_a_file_of_nothing_but_a_byte_order_mark_is_empty(self, folder: Path) -> None:
        Path("a.txt").write_bytes(b"\xef\xbb\xbf")
        assert "holds no text" in refusal("a.txt")

    @pytest.mark.parametrize("ending", ["jsonl", "ndjson", "json", "JSONL"])
    def test_json_lines_give_their_text_column(self, folder: Path, ending: str) -> None:
        Path(f"a.{ending}").write_text('{"text": "one\\ntwo", "n": 1}\n\n{"text": ""}\n')
        assert rows(bound(f"a.{ending}")) == [(f"a.{ending}:1", "one\ntwo"), (f"a.{ending}:3", "")]

    def test_another_column_may_be_chosen(self, folder: Path) -> None:
        Path("a.jsonl").write_text('{"text": "one", "body": "two"}\n')
        assert rows(bound("a.jsonl", column="body")) == [("a.jsonl:1", "two")]

    @settings(max_examples=60, deadline=None)
    @given(
        texts=st.lists(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=9),
            min_size=1,
        ),
        ends=st.sampled_from(["\n", "\r\n"]),
        cuts=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    )
    def test_reading_any_range_equals_splitting_the_whole_file(
        self, tmp_path_factory: pytest.TempPathFactory, texts: list[str], ends: str,
        cuts: tuple[int, int],
    ) -> None:  # fmt: skip
        path = tmp_path_factory.mktemp("texts") / "a.txt"
        content = ends.join(texts)
        path.write_bytes(content.encode())
        lines = content.encode().removeprefix(b"\xef\xbb\xbf").decode().split("\n")
        # The last line has no end, so that a carriage return there is its own.
        lines = [line.removesuffix("\r") for line in lines[:-1]] + lines[-1:]
        expected = [(f"a.txt:{n}", t) for n, t in enumerate(lines, start=1) if t.strip()]
        if not expected:
            with pytest.raises(InputError, match="holds no text"):
                bound(str(path))
            return
        source = bound(str(path))
        assert rows(source) == expected
        start, stop = sorted(min(cut, len(source)) for cut in cuts)
        assert_same(source.read(start, stop), source.read(0, len(source))[start:stop])


class TestWhichFiles:
    def test_without_a_path_the_packaged_texts_are_read(self) -> None:
        source = bound(None)
        assert len(source) == len(PACKAGED.read_text(encoding="utf-8").split("\n")) - 1
        assert source.read(0, 1)[0].id == "sample.txt:1"

    def test_several_files_follow_each_other_as_listed(self, folder: Path) -> None:
        Path("b.txt").write_text("one\n")
        Path("a.jsonl").write_text('{"text": "two"}\n')
        source = bound(["b.txt", "a.jsonl"])
        assert rows(source) == [("b.txt:1", "one"), ("a.jsonl:1", "two")]

    def test_a_glob_is_sorted_and_leaves_folders_out(self, folder: Path) -> None:
        for name in "cab":
            Path(f"{name}.txt").write_text(name)
        Path("d.txt").mkdir()
        assert [text for _, text in rows(bound("*.txt"))] == ["a", "b", "c"]
        assert [text for _, text in rows(bound(str(folder / "[ab].txt")))] == ["a", "b"]

    def test_a_glob_may_cross_folders(self, folder: Path) -> None:
        Path("x/y").mkdir(parents=True)
        Path("x/y/a.txt").write_text("deep")
        assert [text for _, text in rows(bound("**/*.txt"))] == ["deep"]

    def test_a_file_named_like_a_pattern_is_that_file(self, folder: Path) -> None:
        Path("a[1].txt").write_text("bracket")
        Path("a1.txt").write_text("plain")
        assert rows(bound("a[1].txt")) == [("a[1].txt:1", "bracket")]

    def test_a_file_named_twice_is_read_once(self, folder: Path) -> None:
        Path("a.txt").write_text("a")
        Path("b.txt").write_text("b")
        assert [text for _, text in rows(bound(["b.txt", "./a.txt", "*.txt"]))] == ["b", "a"]

    def test_files_of_one_name_are_distinguished_by_their_folders(self, folder: Path) -> None:
        for name in ("p/x/a.txt", "q/x/a.txt", "r/b.txt"):
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text(name)
        ids = [name for name, _ in rows(bound("**/*.txt"))]
        assert ids == ["p/x/a.txt:1", "q/x/a.txt:1", "b.txt:1"]

    def test_a_link_is_named_as_it_was_given(self, folder: Path) -> None:
        Path("a.txt").write_text("a")
        Path("link.txt").symlink_to("a.txt")
        assert rows(bound("link.txt")) == [("link.txt:1", "a")]

    def test_a_name_that_is_no_utf8_still_gives_ids_that_are(self, folder: Path) -> None:
        Path(os.fsdecode(b"\xff.txt")).write_text("a")
        assert rows(bound("*.txt")) == [("\\xff.txt:1", "a")]

    def test_a_tilde_is_the_home_directory(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(folder))
        Path("a.txt").write_text("a")
        assert rows(bound("~/a.txt")) == rows(bound("~/*.txt")) == [("a.txt:1", "a")]

    def test_a_path_object_is_welcome(self, folder: Path) -> None:
        Path("a.txt").write_text("a")
        assert rows(bound(Path("a.txt"))) == [("a.txt:1", "a")]

    def test_an_empty_file_among_others_is_noted(self, folder: Path) -> None:
        Path("a.txt").write_text("a")
        Path("b.txt").write_text("\n")
        assert bound("*.txt").notes == ("b.txt holds no text",)


class TestLimit:
    def test_it_takes_the_first_samples_over_all_files(self, folder: Path) -> None:
        Path("a.txt").write_text("1\n\n2\n")
        Path("b.txt").write_text("3\n4\n")
        for limit, expected in [(1, "1"), (2, "12"), (3, "123"), (4, "1234"), (99, "1234")]:
            source = bound(["a.txt", "b.txt"], limit=limit)
            assert "".join(str(text) for _, text in rows(source)) == expected

    def test_what_follows_is_not_looked_at(self, folder: Path) -> None:
        Path("a.txt").write_bytes(b"one\n\xff\n")
        assert len(bound("a.txt", limit=1)) == 1

    @pytest.mark.parametrize("limit", [0, -1, 1.5, "3", True])
    def test_less_than_one_is_refused(self, limit: object) -> None:
        text = f"inputs.limit={limit!r} is not a whole number of 1 or more"
        assert refusal(None, limit=limit) == text


class TestFingerprint:
    def test_it_follows_what_is_read(self, folder: Path) -> None:
        Path("a.txt").write_bytes(b"one\ntwo\n")
        before = bound("a.txt").digest
        assert re.fullmatch("[0-9a-f]{64}", before)
        assert bound("a.txt", limit=1).digest != before
        assert bound("a.txt", limit=9).digest == before
        Path("a.txt").write_bytes(b"one\r\ntwo")
        assert bound("a.txt").digest == before
        Path("a.txt").write_bytes(b"one\n\ntwo\n")
        assert bound("a.txt").digest != before

    def test_another_column_is_another_digest(self, folder: Path) -> None:
        Path("a.jsonl").write_text('{"text": "one", "body": "two"}\n')
        assert bound("a.jsonl").digest != bound("a.jsonl", column="body").digest


class TestMistakes:
    def test_a_model_of_numbers_names_what_it_takes(self) -> None:
        with pytest.raises(InputError) as caught:
            Texts().bind(NUMBERS)
        assert str(caught.value) == (
            "model 'mnist' takes numbers (x: float32 (samples, 28, width)), inputs=texts gives "
            "text. Try inputs=random, or inputs=arrays inputs.path=FILE.npz"
        )

    def test_a_missing_file_names_its_neighbours(self, folder: Path) -> None:
        Path("data").mkdir()
        Path("data/reviews.txt").touch()
        assert refusal("data/review.txt") == (
            "inputs.path='data/review.txt' does not exist: no 'review.txt' in 'data'. "
            "Available: 'reviews.txt'."
        )

    def test_among_many_neighbours_the_nearest_are_named(self, folder: Path) -> None:
        for number in range(20):
            Path(f"part{number:02}.txt").touch()
        assert "Nearest: 'part07.txt'" in refusal("part7.txt")

    def test_a_missing_folder_names_those_beside_it(self, folder: Path) -> None:
        Path("data").mkdir()
        assert refusal("dat/x/a.txt") == (
            "inputs.path='dat/x/a.txt' does not exist: no 'dat' in '.'. Available: 'data'."
        )

    def test_a_glob_that_matches_nothing_names_what_is_there(self, folder: Path) -> None:
        Path("a.text").touch()
        assert refusal("*.txt") == (
            "inputs.path='*.txt' matches no file: no '*.txt' in '.'. Available: 'a.text'."
        )
        assert "matches no file" in refusal(["a.text", "b*"])

    def test_a_directory_is_refused_with_what_it_holds(self, folder: Path) -> None:
        Path("data").mkdir()
        assert refusal("data") == (
            "inputs.path='data' is a directory. Give a file: inputs.path=data/FILE.txt"
        )
        Path("data/a.txt").touch()
        assert refusal("data") == (
            "inputs.path='data' is a directory. Available: 'a.txt'. "
            "Give a file: inputs.path=data/a.txt"
        )

    def test_a_pipe_is_refused(self, folder: Path) -> None:
        os.mkfifo("pipe")
        assert "inputs.path='pipe' is not a regular file" in refusal("pipe")

    def test_no_file_at_all_is_refused(self) -> None:
        assert refusal([]) == "inputs.path=[] names no file. Give one: inputs.path=FILE"

    @pytest.mark.parametrize("content", [b"", b"\n", b" \r\n\t\n"])
    def test_a_file_without_text_is_refused(self, folder: Path, content: bytes) -> None:
        Path("a.txt").write_bytes(content)
        assert refusal("a.txt") == (
            "inputs.path='a.txt' holds no text: all lines are blank. "
            "Give a file with one sample per line"
        )

    def test_another_encoding_is_refused_by_line_and_byte(self, folder: Path) -> None:
        Path("a.txt").write_bytes(b"one\n\ncaf\xe9 au lait\n")
        assert refusal("a.txt") == (
            "inputs.path='a.txt' is not UTF-8: line 3, byte 4 of that line is 0xe9. "
            "Convert it: iconv -f ENCODING -t UTF-8 a.txt > NEW"
        )

    def test_a_line_that_is_no_json_is_named(self, folder: Path) -> None:
        Path("a.jsonl").write_text('{"text": "one"}\ntwo\n')
        assert refusal("a.jsonl").startswith(
            "inputs.path='a.jsonl', line 2 is not JSON: Expecting value"
        )
        assert 'one object a line, as in {"text": "…"}' in refusal("a.jsonl")

    @pytest.mark.parametrize(
        ("line", "kind"),
        [("[1]", "a list"), ('"x"', "a text"), ("3", "a number"), ("null", "null")],
    )
    def test_json_that_is_no_object_is_named(self, folder: Path, line: str, kind: str) -> None:
        Path("a.jsonl").write_text(line)
        assert f"line 1 is JSON, but {kind}, not an object" in refusal("a.jsonl")

    def test_json_nested_beyond_reason_is_refused(self, folder: Path) -> None:
        Path("a.jsonl").write_text("[" * 200_000)
        assert "line 1 is not JSON" in refusal("a.jsonl")

    def test_a_missing_column_names_those_there_are(self, folder: Path) -> None:
        Path("a.jsonl").write_text('{"body": "one", "id": 7}\n')
        assert refusal("a.jsonl") == (
            "inputs.path='a.jsonl', line 1 has no 'text'. Available: 'body', 'id'. "
            "Try inputs.column=body"
        )

    def test_a_column_of_numbers_is_refused(self, folder: Path) -> None:
        Path("a.jsonl").write_text('{"text": 7, "body": "one"}\n')
        assert refusal("a.jsonl") == (
            "inputs.path='a.jsonl', line 1: inputs.column='text' is a number, not a text. "
            "Try inputs.column=body"
        )

    def test_half_a_surrogate_pair_is_refused(self, folder: Path) -> None:
        Path("a.jsonl").write_text(json.dumps({"text": "a\ud800"}))
        assert r"'text' holds '\ud800', half a surrogate pair" in refusal("a.jsonl")

    def test_a_column_of_plain_text_is_refused(self, folder: Path) -> None:
        Path("a.txt").write_text("review,stars\nfine,4\n")
        assert refusal("a.txt", column="review") == (
            "inputs.column='review' means nothing in 'a.txt', which is read as plain text, one "
            "sample per line. Columns are for .jsonl, .ndjson, .json"
        )

    @pytest.mark.parametrize(
        ("name", "table"),
        [
            ("it's a.csv", 'review,stars\n"good, ""very""",4\n"",2\n'),
            ("a.TSV", 'review\tstars\ngood, "very"\t4\n\t2\n'),
        ],
    )
    def test_a_table_is_refused_and_read_as_advised(
        self, folder: Path, name: str, table: str
    ) -> None:
        Path(name).write_text(table)
        reported = refusal(name)
        assert reported.startswith(f"inputs.path={name!r} is a table, and inputs=texts reads lines")
        convert = reported.partition("Convert it: ")[2].partition(", and read that: ")[0]
        _, *arguments = shlex.split(convert)
        subprocess.run([sys.executable, *arguments], check=True)
        (made,) = folder.glob("*.parquet")
        read = "inputs=parquet " + override("inputs.path", made.name)
        assert f"and read that: {read}. If each line" in reported
        texts = [sample.data for sample in read_all(Parquet(made, column="review"), READER)]
        assert texts == ['good, "very"', ""]


class TestAFileThatChanges:
    @pytest.fixture
    def source(self, folder: Path) -> TextSource:
        Path("a.txt").write_text("one\ntwo\n")
        return bound("a.txt")

    def test_another_size_fails_the_job(self, source: TextSource) -> None:
        Path("a.txt").write_text("one\ntwo\nthree\n")
        with pytest.raises(JobError, match=r"a\.txt changed while the job ran \(it had 8 bytes\)"):
            source.read(0, 1)

    def test_another_time_fails_the_job(self, source: TextSource) -> None:
        os.utime("a.txt", ns=(0, 0))
        with pytest.raises(JobError, match=r"a\.txt changed while the job ran .*resume the run"):
            source.read(0, 1)

    def test_a_file_that_is_gone_fails_the_job(self, source: TextSource) -> None:
        Path("a.txt").unlink()
        with pytest.raises(JobError, match=r"a\.txt can no longer be read: No such file"):
            source.read(0, 1)


def test_memory_stays_at_eight_bytes_a_line(folder: Path) -> None:
    count = 100_000
    with Path("a.txt").open("w") as file:
        file.writelines(f"{number:0100}\n" for number in range(count))
    tracemalloc.start()
    try:
        source = bound("a.txt")
        held, _ = tracemalloc.get_traced_memory()
        source.read(count - 10, count)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(source) == count
    assert held < 10 * count
    assert peak < 12 * count


def test_offsets_are_whole_numbers_of_64_bits(folder: Path) -> None:
    Path("a.txt").write_text("one\n\n")
    lines = bound("a.txt").files[0].lines
    assert lines.offsets.dtype == lines.blanks.dtype == np.int64


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"column": {"a": 1}}, "inputs.column={'a': 1} is not the name of a column"),
        ({"path": {"a": 1}}, "inputs.path={'a': 1} names no files. Give a name, a glob, or a list"),
        ({"path": [{}]}, "inputs.path=[{}] names no files. Give a name, a glob, or a list"),
    ],
)
def test_what_is_no_name_is_reported(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as caught:
        Texts(**arguments).bind(ReferenceModel().signature)  # type: ignore[arg-type]
    assert str(caught.value) == said


@pytest.mark.parametrize("path", ["n" * 300, ["n" * 300], "n" * 300 + "*"])
def test_a_name_that_is_too_long_is_refused(path: object) -> None:
    assert re.fullmatch(
        r"inputs\.path='n{300}\*?' cannot be looked up: File name too long", refusal(path)
    )
