"""Rows of samples."""

import hashlib
from pathlib import Path

import pytest

from extractkit.core.digests import Algorithm, Digest
from extractkit.errors import RunDirectoryError
from extractkit.runs.files import StoredFile
from extractkit.runs.samples import SCHEMA, Samples, SamplesWriter

ROWS = [{"index": i, "id": f"é{i}", "text": "a\nb" * i} for i in range(50)]


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    """The rows above, written in two goes."""
    writer = SamplesWriter(tmp_path / "samples.jsonl", Algorithm.SHA256)
    writer.extend(ROWS[:20])
    writer.extend(iter(ROWS[20:]))
    assert [path.name for path in tmp_path.iterdir()] == ["samples.jsonl.tmp"]
    writer.publish()
    return Samples(tmp_path / "samples.jsonl")


def test_samples_are_like_a_list(samples: Samples) -> None:
    assert len(samples) == 50
    assert list(samples) == ROWS
    assert [samples[index] for index in (0, 7, -1)] == [ROWS[0], ROWS[7], ROWS[-1]]
    assert samples[3:9:2] == ROWS[3:9:2]
    with pytest.raises(IndexError):
        samples[50]


def test_every_row_of_a_file_of_several_blocks_is_found(tmp_path: Path) -> None:
    writer = SamplesWriter(tmp_path / "samples.jsonl", Algorithm.SHA256)
    rows = [{"id": str(index), "index": index, "text": "x" * 999} for index in range(3000)]
    writer.extend(iter(rows))
    writer.publish()
    found = Samples(tmp_path / "samples.jsonl")  # 3 MB
    assert list(found) == rows
    assert [found[index] for index in (1040, 1060, -1)] == [rows[1040], rows[1060], rows[-1]]


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"samples.jsonl is missing"):
        len(Samples(tmp_path / "samples.jsonl"))


@pytest.mark.parametrize(
    "row", [b"{", b"[]", b'{"id":"a"}', b'{"index":0}', b'{"id":"a","index":true}']
)
def test_a_damaged_row_is_an_error(row: bytes, tmp_path: Path) -> None:
    (tmp_path / "samples.jsonl").write_bytes(row + b"\n")
    with pytest.raises(RunDirectoryError, match=r"samples.jsonl is damaged"):
        Samples(tmp_path / "samples.jsonl")[0]


def test_rows_of_a_newer_extractkit_are_refused(tmp_path: Path) -> None:
    newer = "samples.jsonl was written by a newer extractkit: its schema of the samples has version"
    with pytest.raises(
        RunDirectoryError, match=rf"{newer} 3, and this extractkit reads versions 1"
    ):
        Samples(tmp_path / "samples.jsonl", schema=SCHEMA + 1)


def test_the_record_is_that_of_the_file(tmp_path: Path) -> None:
    writer = SamplesWriter(tmp_path / "samples.jsonl", Algorithm.SHA256)
    writer.extend(ROWS)
    texts = [r"a\nb" * i for i in range(50)]
    rows = [f'{{"id":"é{i}","index":{i},"text":"{text}"}}\n' for i, text in enumerate(texts)]
    content = "".join(rows).encode()
    digest = Digest(f"sha256:{hashlib.sha256(content).hexdigest()}")
    assert writer.publish() == StoredFile("samples.jsonl", digest, len(content))
    assert (tmp_path / "samples.jsonl").read_bytes() == content


def test_rows_given_up_leave_nothing(tmp_path: Path) -> None:
    writer = SamplesWriter(tmp_path / "samples.jsonl", Algorithm.SHA256)
    writer.extend(ROWS)
    writer.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_no_utf8_comes_back(tmp_path: Path) -> None:
    writer = SamplesWriter(tmp_path / "samples.jsonl", Algorithm.SHA256)
    writer.extend([{"id": "a\udcff.png", "index": 0}])
    writer.publish()
    assert list(Samples(tmp_path / "samples.jsonl")) == [{"id": "a\udcff.png", "index": 0}]
