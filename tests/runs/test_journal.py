"""The journal."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extractkit.core.digests import Algorithm, Digest
from extractkit.core.shards import Shard
from extractkit.core.value_checks import ValueChecks
from extractkit.errors import RunDirectoryError
from extractkit.runs import journal
from extractkit.runs.files import StoredFile
from extractkit.runs.journal import Entry

TEXTS = st.text(max_size=8)
COUNTS = st.integers(0, 10**12)
NUMBERS = st.none() | st.floats(allow_nan=False, allow_infinity=False)
STATS = st.builds(
    ValueChecks,
    COUNTS,
    COUNTS,
    COUNTS,
    st.dictionaries(TEXTS, st.tuples(COUNTS, COUNTS), max_size=2),
    NUMBERS,
    NUMBERS,
    st.none() | TEXTS,
    COUNTS,
)
DIGESTS = st.builds(
    lambda algorithm, content: Digest(f"{algorithm}:{content.hex()}"),
    st.sampled_from(Algorithm),
    st.binary(min_size=32, max_size=32),
)
ENTRIES = st.builds(
    Entry,
    TEXTS,
    st.integers(0, 10**12),
    st.integers(0, 10**12),
    st.dictionaries(TEXTS, st.builds(StoredFile, TEXTS, DIGESTS, st.integers(0)), max_size=2),
    DIGESTS,
    st.dictionaries(TEXTS, STATS, max_size=2),
    st.dictionaries(TEXTS, TEXTS, max_size=2),
    st.dictionaries(TEXTS, st.floats(0, 1e9), max_size=2),
)


def entry(start: int, stop: int) -> Entry:
    shard = Shard(start, stop)
    file = StoredFile(f"shards/{shard.key}.h5", Digest("sha256:" + "a" * 64), 10)
    stats = {"a:output": ValueChecks(1, 0, 1, {str(start): (1, 0)}, -1.0, 2.5, None, 4)}
    missing = {str(start): "too long"}
    values = Digest("sha256:" + "b" * 64)
    return Entry(shard.key, start, stop, {"hdf5": file}, values, stats, missing, {"run": 1.5})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal of two shards."""
    journal.append(tmp_path / "journal.jsonl", entry(0, 4))
    journal.append(tmp_path / "journal.jsonl", entry(4, 8))
    return tmp_path / "journal.jsonl"


def test_entries_come_back_in_order(path: Path) -> None:
    found = journal.read(path)
    assert found.entries == (entry(0, 4), entry(4, 8))
    assert found.torn is None
    assert found.size == path.stat().st_size
    assert list(found.by_shard()) == [Shard(0, 4), Shard(4, 8)]


# Speed depends on the disk and on what else the machine does.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ENTRIES)
def test_any_entry_survives_its_line(tmp_path_factory: pytest.TempPathFactory, one: Entry) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    path.write_text(f"{one.to_line()}\n", newline="\n")
    assert journal.read(path).entries == (one,)
    assert one.to_line() == json.dumps(
        json.loads(one.to_line()), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )


def test_a_run_without_a_journal_has_no_shards(tmp_path: Path) -> None:
    assert journal.read(tmp_path / "journal.jsonl").entries == ()


def test_a_last_line_cut_anywhere_is_dropped_and_reported(path: Path) -> None:
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first + 1, len(whole)):
        path.write_bytes(whole[:cut])
        found = journal.read(path)
        assert found.entries == (entry(0, 4),)
        assert found.torn == whole[first:cut].decode()
        assert found.size == first


def test_a_last_line_whose_checksum_does_not_hold_is_dropped(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"start":4', b'"start":5'))
    found = journal.read(path)
    assert found.entries == (entry(0, 4),)
    assert found.torn is not None


def test_a_damaged_line_in_between_is_an_error_that_names_it(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"stop":4', b'"stop":3'))
    with pytest.raises(RunDirectoryError, match=r"journal.jsonl, line 1 is damaged .*checksum"):
        journal.read(path)


def test_a_field_of_another_version_is_refused(path: Path) -> None:
    record = json.loads(entry(8, 9).to_line()) | {"colour": "red"}
    del record["checksum"]
    with path.open("a") as file:
        file.write(journal.line_of(record) + "\n")
    with pytest.raises(RunDirectoryError, match=r"line 3 holds 'colour', which does not exist"):
        journal.read(path)


def test_of_a_shard_committed_twice_the_later_entry_counts(path: Path) -> None:
    again = replace(entry(0, 4), values=Digest("sha256:" + "c" * 64))
    journal.append(path, again)
    found = journal.read(path)
    assert found.entries == (entry(0, 4), entry(4, 8), again)
    assert found.by_shard() == {Shard(0, 4): again, Shard(4, 8): entry(4, 8)}


@pytest.mark.parametrize(
    "spelling",
    [
        lambda line: line.replace(b",", b", ", 1),
        lambda line: line.replace(b"a:output", b"\\u0061:output"),
        lambda line: line.replace(b"{", b'{"values":"cc",', 1),
    ],
    ids=["space", "escape", "field given twice"],
)
def test_a_line_spelt_in_another_way_is_damaged(
    path: Path, spelling: Callable[[bytes], bytes]
) -> None:
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(spelling(first) + second)
    with pytest.raises(RunDirectoryError, match="line 1 is damaged"):
        journal.read(path)


@pytest.mark.parametrize("line", [b'{"a":' * 900 + b"1" + b"}" * 900, b'{"a":"\\ud800"}', b"1"])
def test_a_line_that_is_no_entry_is_damaged(path: Path, line: bytes) -> None:
    path.write_bytes(line + b"\n" + path.read_bytes())
    with pytest.raises(RunDirectoryError, match="line 1 is damaged"):
        journal.read(path)


def test_a_name_that_is_no_utf8_survives_its_line(tmp_path: Path) -> None:
    one = replace(entry(0, 4), missing={"0": "a\udcff.png cannot be read"})
    journal.append(tmp_path / "journal.jsonl", one)
    assert journal.read(tmp_path / "journal.jsonl").entries == (one,)


def test_a_brief_entry_lacks_what_grows_with_the_number_of_tensors(path: Path) -> None:
    found = journal.read(path, brief=True)
    assert found.entries == tuple(
        replace(one, stats={}, timings={}) for one in (entry(0, 4), entry(4, 8))
    )


def test_what_was_found_is_reported_over_the_committed_shards_alone(path: Path) -> None:
    replaced = replace(
        entry(0, 4), values=Digest("sha256:" + "c" * 64), stats={"a:output": ValueChecks(nan=7)}
    )
    path.write_bytes(
        f"{replaced.to_line()}\n".encode() + b"damaged\n" + path.read_bytes() + b'{"torn'
    )
    journal.append(path.with_name("other"), entry(4, 8))
    path.write_bytes(path.read_bytes()[: -len(b'{"torn')] + path.with_name("other").read_bytes())
    committed = journal.read(path, salvage=True, brief=True).by_shard()
    both = {"a:output": ValueChecks(2, 0, 2, {"0": (1, 0), "4": (1, 0)}, -1.0, 2.5, None, 8)}
    assert journal.value_stats(path, committed) == both
    first = {Shard(0, 4): committed[Shard(0, 4)]}
    assert journal.value_stats(path, first) == dict(entry(0, 4).stats)
    assert journal.value_stats(path.with_name("none"), {}) == {}


@pytest.mark.parametrize("salvage", [False, True])
def test_a_line_longer_than_any_is_not_read(
    salvage: bool, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extractkit.runs.files.LONGEST_LINE", 1 << 20)
    with path.open("r+b") as file:
        file.truncate(50 << 30)
    with pytest.raises(RunDirectoryError) as caught:
        journal.read(path, salvage=salvage)
    assert str(caught.value) == (
        f"{path} is damaged: its line 3 holds more than 1,048,576 bytes. Restore it, or run the "
        f"job again"
    )
