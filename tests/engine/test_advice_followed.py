"""The engine's messages: what each advises is done, and then the job succeeds."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extractkit.core.job import Job
from extractkit.core.values import Array, State
from extractkit.engine.execute import execute, resume
from extractkit.engine.preview import preview
from extractkit.errors import BadSampleError, ConfigError, ExtractkitError, InputError, JobError
from extractkit.models import CarryingProgram, Compilation, Fetch, Program
from extractkit.runs.environment import host
from extractkit.runs.manifest import Status
from extractkit.testing.reference import ReferenceModel
from tests.engine.carrying_examples import CARRIED, CarryingReference, carrying
from tests.engine.examples import EVERYTHING, TEXTS, Collected, executed, job, tokens

HIDDEN = {"path": "attention:output"}


def refused(directory: Path, wanted: Any) -> ExtractkitError:
    with pytest.raises(ExtractkitError) as error:
        execute(wanted, directory, hydra_files={}, listener=Collected())
    return error.value


@pytest.mark.parametrize(
    ("given", "advised"),
    [
        ({"engine": "processes", "workers": 2}, "Use runtime.engine=local"),
        ({"part": "1/2"}, "Leave runtime.part out"),
        ({"bad_samples": "skip"}, "Use runtime.bad_samples=fail"),
        ({"non_finite": "skip"}, "Use runtime.non_finite=fail"),
        ({"batch_size": 4}, "Leave runtime.batch_size out"),
        ({"batch_tokens": 64}, "Leave runtime.batch_tokens out"),
    ],
)
def test_settings_that_would_break_the_order(
    tmp_path: Path, given: dict[str, object], advised: str
) -> None:
    error = refused(tmp_path / "refused", carrying(**given))
    assert isinstance(error, ConfigError)
    assert str(error).endswith(advised)
    for change in re.findall(r"runtime\.(\w+)=(\w+)$", advised):
        given |= dict([change])
    for name in re.findall(r"Leave runtime\.(\w+) out", advised):
        del given[name]
    if given.get("engine") == "local":
        del given["workers"]
    assert executed(tmp_path / "run", carrying(**given)).status is Status.FINISHED


def test_samples_that_cannot_be_left_out_are_not_advised_to_be(tmp_path: Path) -> None:
    """With carried state, the setting would be refused."""
    texts = [*TEXTS[:3], 7, *TEXTS[4:6]]
    plain = refused(tmp_path / "plain", job(HIDDEN, inputs=texts))
    carried = refused(tmp_path / "carried", carrying(texts))  # type: ignore[arg-type]
    assert isinstance(plain, InputError)
    assert str(plain) == f"{carried}. To leave such samples out: runtime.bad_samples=skip"
    run = executed(tmp_path / "run", job(HIDDEN, inputs=texts, bad_samples="skip"))
    assert len(run.missing) == 1
    assert not isinstance(carried, BadSampleError)


class _Infinite(CarryingReference):
    """Its states are infinite from the second sample on."""

    def carrying_program(
        self, fetches: Sequence[Fetch], compilation: Compilation
    ) -> CarryingProgram:
        right = super().carrying_program(fetches, compilation)

        def call(
            features: Mapping[str, Array], lengths: Mapping[str, Array], state: State
        ) -> tuple[Sequence[Array], State]:
            values, (after,) = right.call(features, lengths, state)
            return values, (np.full_like(after, np.inf),)

        return replace(right, call=call)


def test_values_that_are_not_finite_are_skipped_only_where_that_is_possible(
    tmp_path: Path,
) -> None:
    def wanted(policy: str) -> Job:
        return job(
            *CARRIED, model=_Infinite(), inputs=TEXTS[:3], non_finite=policy, self_check=False
        )

    error = refused(tmp_path / "refused", wanted("fail"))
    assert str(error).endswith(
        "To store them: runtime.non_finite=warn. That takes a new run, as this one keeps its "
        "settings"
    )
    assert executed(tmp_path / "run", wanted("warn")).status is Status.FINISHED


def test_another_processor_is_noted_when_a_run_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = job(EVERYTHING, shard_size=5)
    executed(tmp_path / "run", wanted)
    min((tmp_path / "run" / "shards").glob("0*")).unlink()
    here = host()
    monkeypatch.setattr("extractkit.engine.execute.host", lambda: {**here, "processor": "another"})
    collected = Collected()
    resume(wanted, tmp_path / "run", listener=collected)
    assert (
        "This machine has another processor than the one on which the run began: the last bits of "
        "values may differ from there on"
    ) in collected.notes


def test_an_object_that_is_no_adapter(tmp_path: Path) -> None:
    wanted = job(EVERYTHING, model=np.zeros(3))
    error = refused(tmp_path / "run", wanted)
    assert re.fullmatch(
        r"model\._target_='extractkit\.api\.given' returns a ndarray, which is not a model: it "
        r"lacks \w+(, \w+)*\. Give a callable that returns an adapter: see "
        r"extractkit/models/__init__\.py",
        str(error),
    )
    named = str(error).rpartition("see ")[2]
    text = (Path(__file__).parents[2] / named).read_text("utf-8")
    assert "class Model(" in text


class _Disturbed(ReferenceModel):
    """Fails, or computes other values, depending on what shares a batch."""

    def __init__(self, how: str) -> None:
        super().__init__()
        object.__setattr__(self, "how", how)

    def program(self, fetches: Sequence[Fetch], compilation: Compilation) -> Program:
        right = super().program(fetches, compilation)

        def run(features: Mapping[str, Array], lengths: Mapping[str, Array]) -> Sequence[Array]:
            count, longest = features["tokens"].shape[:2]
            padded = bool((lengths["token"] < longest).any())
            if (count > 1 and self.how == "fails together") or (
                padded and self.how == "fails padded"
            ):
                raise JobError("not like this")
            together, beside = (
                self.how == "other values together",
                self.how == "other values padded",
            )
            change = np.float32((together and count > 1) or (beside and padded))
            return [value + change for value in right(features, lengths)]

        return run


@pytest.mark.parametrize(
    ("how", "sharing", "reason"),
    [
        (
            "fails together",
            "one sample",
            "the model fails on several samples together that it takes alone",
        ),
        (
            "other values together",
            "one sample",
            "several samples together give other values of 'pool:output' than each alone",
        ),
        (
            "fails padded",
            "samples of equal lengths",
            "the model does not take samples that are padded",
        ),
        (
            "other values padded",
            "samples of equal lengths",
            "padding changes values of 'pool:output'",
        ),
    ],
)
def test_why_samples_do_not_share_a_batch(
    tmp_path: Path, how: str, sharing: str, reason: str
) -> None:
    wanted = job({"path": "pool:output"}, model=_Disturbed(how))
    plan = preview(wanted, tmp_path).to_json()
    assert (plan["sharing"], plan["sharing_reason"]) == (sharing, reason)
    collected = Collected()
    run = executed(tmp_path / "run", wanted, collected)
    notes = [f"{reason}, so the model is run on one sample per call"]
    assert [note for note in collected.notes if reason in note] == (
        notes if sharing == "one sample" else []
    )
    for position, text in enumerate(TEXTS):
        right = ReferenceModel().forward(tokens(text))["pool:output"]
        np.testing.assert_array_equal(run["pool:output"].sample(position), right)
