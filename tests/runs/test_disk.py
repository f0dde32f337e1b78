"""Room on the disk."""

import shutil
from pathlib import Path

import pytest

from extractkit.errors import DiskSpaceError
from extractkit.runs.directory import check_space, human_bytes


def test_enough_room_is_fine_and_too_little_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9e9, 8e9, 1e9))
    check_space(tmp_path / "missing" / "run", 10**9)
    with pytest.raises(DiskSpaceError) as caught:
        check_space(tmp_path / "missing" / "run", 35 * 10**12)
    message = str(caught.value)
    assert f"needs 35.0 TB, but {tmp_path} has 1.0 GB free" in message
    for remedy in ("inputs.limit", "reduce", "cast", "run_dir"):
        assert remedy in message


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (128_000_000, "128 MB"),
        (999_600, "1.0 MB"),
        (6_520_000_000, "6.5 GB"),
        (10**16, "10000 TB"),
    ],
)
def test_bytes_are_shown_in_the_unit_that_fits(count: int, text: str) -> None:
    assert human_bytes(count) == text
