"""Variables of the process that may change bits."""

import os
from collections.abc import Iterator

import pytest

from extractkit.errors import RunDirectoryError
from extractkit.models import process
from extractkit.models.process import environment, impose

INTRA, INTER = "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"
FLAGS = ("TF_ENABLE_ONEDNN_OPTS", "XLA_FLAGS", "TF_XLA_FLAGS", "TF_DETERMINISTIC_OPS")
LIMITS = (
    *("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE"),
    "NVIDIA_TF32_OVERRIDE",
)


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """None of the variables is set; afterwards they are as they were, whatever was imposed."""
    # Other tests of this process may have had TensorFlow start.
    monkeypatch.setattr(process, "effective_variables", dict)
    monkeypatch.setattr(process, "record_if_started", lambda: None)
    before = dict(os.environ)
    for name in (INTRA, INTER, *FLAGS, *LIMITS):
        os.environ.pop(name, None)
    yield
    for name in (INTRA, INTER, *FLAGS, *LIMITS):
        os.environ.pop(name, None)
        if name in before:
            os.environ[name] = before[name]


def test_a_new_job_has_as_many_threads_as_it_asks_for() -> None:
    assert environment(3) == {INTRA: "3", INTER: "3"}


def test_or_as_are_set_or_as_there_are_processors() -> None:
    processors = str(len(os.sched_getaffinity(0)))
    assert environment(None) == {INTRA: processors, INTER: processors}
    os.environ[INTRA] = "7"
    assert environment(None) == {INTRA: "7", INTER: processors}
    assert environment(1) == {INTRA: "1", INTER: "1"}
    os.environ[INTRA] = ""
    assert environment(None)[INTRA] == processors


def test_without_affinity_all_processors_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert environment(None) == {INTRA: "6", INTER: "6"}


@pytest.mark.parametrize("flag", [*FLAGS, *LIMITS])
def test_flags_are_recorded_as_they_are_set(flag: str) -> None:
    os.environ[flag] = "0"
    assert environment(2) == {flag: "0", INTRA: "2", INTER: "2"}


def test_what_was_recorded_is_imposed_and_others_of_its_kind_are_unset() -> None:
    os.environ["TF_DETERMINISTIC_OPS"] = "1"
    os.environ["HOME"] = before = os.environ.get("HOME", "/")
    recorded = {"TF_ENABLE_ONEDNN_OPTS": "0", INTRA: "2", INTER: "4"}
    impose(recorded)
    assert environment(None) == recorded
    assert "TF_DETERMINISTIC_OPS" not in os.environ
    assert os.environ["HOME"] == before


def test_of_a_hostile_record_no_flag_is_imposed_that_could_name_a_file() -> None:
    os.environ["XLA_FLAGS"] = "--fast"
    impose({"XLA_FLAGS": "--xla_dump_to=/tmp/evil", "TF_XLA_FLAGS": "--dump", INTRA: "1"})
    assert os.environ["XLA_FLAGS"] == "--fast"
    assert "TF_XLA_FLAGS" not in os.environ


@pytest.mark.parametrize("value", ["", "two", "-1", "1; ls", "²"])
def test_a_record_that_is_no_setting_is_refused(value: str) -> None:
    with pytest.raises(RunDirectoryError, match=f"^the run records {INTRA}="):
        impose({INTRA: value})


@pytest.mark.parametrize("value", ["99999999", "9" * 5000, "1025"])
def test_more_threads_than_there_may_be_are_refused(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extractkit.models.process.MOST_THREADS", 1024)
    with pytest.raises(RunDirectoryError) as caught:
        impose({INTRA: "1", INTER: value})
    assert str(caught.value) == (
        f"the run records {INTER}={value}: that is too many, 1,024 at most"
    )
    impose({INTRA: "001024", INTER: "0"})


def test_limits_of_kernels_are_not_imposed() -> None:
    os.environ["DNNL_MAX_CPU_ISA"] = "AVX2"
    impose({"ONEDNN_MAX_CPU_ISA": "SSE41", INTRA: "1"})
    assert environment(1) == {"DNNL_MAX_CPU_ISA": "AVX2", INTRA: "1", INTER: "1"}


def test_what_tensorflow_runs_with_is_recorded_where_nothing_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "effective_variables", lambda: {INTRA: "9", INTER: "8"})
    assert environment(None) == {INTRA: "9", INTER: "8"}
    assert environment(5) == {INTRA: "5", INTER: "5"}


def test_of_a_hostile_record_nothing_else_is_imposed() -> None:
    impose({"LD_PRELOAD": "/tmp/evil.so", "PATH": "/tmp", INTRA: "1"})
    assert "evil" not in os.environ.get("LD_PRELOAD", "")
    assert os.environ["PATH"] != "/tmp"
