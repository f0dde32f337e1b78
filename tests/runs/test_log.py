"""The run's own log."""

import logging
import os
import warnings
from pathlib import Path

import pytest

from extractkit.errors import JobError, RunDirectoryError
from extractkit.runs import LOG
from extractkit.runs.directory import run_log


def test_records_of_every_logger_and_warnings_are_kept(tmp_path: Path) -> None:
    with run_log(tmp_path, print):
        logging.getLogger("extractkit.any").debug("ours")
        logging.getLogger("other").error("theirs")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("python's", stacklevel=1)
    logging.getLogger("extractkit.any").error("too late")
    log = (tmp_path / LOG).read_text(encoding="utf-8")
    assert "DEBUG extractkit.any: ours" in log
    assert "ERROR other: theirs" in log
    assert "python's" in log
    assert "too late" not in log


def test_a_later_process_appends(tmp_path: Path) -> None:
    for text in ("first é", "second"):
        with run_log(tmp_path, print):
            logging.getLogger("extractkit").info(text)
    first, second = (tmp_path / LOG).read_text(encoding="utf-8").splitlines()
    assert first.endswith("INFO extractkit: first é")
    assert second.endswith("INFO extractkit: second")


def test_levels_and_handlers_are_as_before_afterwards(tmp_path: Path) -> None:
    own, root = logging.getLogger("extractkit"), logging.getLogger()
    before = (own.level, list(root.handlers))
    with pytest.raises(KeyError), run_log(tmp_path, print):
        raise KeyError
    assert (own.level, list(root.handlers)) == before


def test_a_log_that_cannot_be_opened_is_a_job_error(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"extractkit\.log could not be written"):
        run_log(tmp_path / "missing", print).__enter__()


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("mine")
    (tmp_path / LOG).symlink_to(tmp_path / "outside")
    with pytest.raises(RunDirectoryError, match=r"extractkit\.log is not a regular file"):
        run_log(tmp_path, print).__enter__()
    assert (tmp_path / "outside").read_text() == "mine"


def test_another_name_of_it_keeps_what_it_holds(tmp_path: Path) -> None:
    with run_log(tmp_path, print):
        logging.getLogger("extractkit").info("first")
    (tmp_path / "copy").hardlink_to(tmp_path / LOG)
    before = (tmp_path / "copy").read_text()
    with run_log(tmp_path, print):
        logging.getLogger("extractkit").info("second")
    assert (tmp_path / "copy").read_text() == before
    assert (tmp_path / LOG).read_text().startswith(before)
    assert "second" in (tmp_path / LOG).read_text()


def test_a_full_disk_ends_no_job_and_is_reported_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with run_log(tmp_path, print):
        (handler,) = (
            one
            for one in logging.getLogger().handlers
            if isinstance(one, logging.FileHandler) and one.baseFilename == str(tmp_path / LOG)
        )
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, handler.stream.fileno())
        os.close(full)
        for _ in range(2):
            logging.getLogger("extractkit").error("lost")
        os.dup2(os.open(os.devnull, os.O_WRONLY), handler.stream.fileno())
    reported = capsys.readouterr().err
    assert reported.count("extractkit.log could not be written: [Errno 28]") == 1


def test_our_own_warnings_are_passed_on_and_others_only_logged(tmp_path: Path) -> None:
    heard: list[str] = []
    with run_log(tmp_path, heard.append):
        logging.getLogger("extractkit.models.x").warning("layer %r keeps its old state", "norm")
        logging.getLogger("extractkit.engine").error("it failed")
        logging.getLogger("somebody.else").warning("deprecated")
    logging.getLogger("extractkit.models.x").warning("after the run")
    assert heard == ["layer 'norm' keeps its old state"]
    assert "deprecated" in (tmp_path / LOG).read_text()
