"""Shards of real runs computed again: what is the same, what is not, and what may not be."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest

from extractkit.core.catalog import Catalog, Kind
from extractkit.core.digests import PREFERRED, digest
from extractkit.core.job import Job
from extractkit.core.requests import Value
from extractkit.core.shards import CONSTANTS_SHARD, Shard
from extractkit.core.values import Array, Dense, Values
from extractkit.engine import Silent
from extractkit.engine import recompute as recomputing
from extractkit.engine.execute import execute
from extractkit.engine.recompute import recompute
from extractkit.errors import JobError, ModelError, SampleError
from extractkit.models import Compilation, Fetch, OwnCall
from extractkit.runs import JOURNAL, SAMPLES, journal
from extractkit.runs import manifest as manifests
from extractkit.runs.checking import Check, Outcome
from extractkit.runs.checking.verification import verify
from extractkit.runs.files import StoredFile
from extractkit.runs.manifest import Manifest
from extractkit.runs.shards import state_of, to_bytes
from extractkit.sinks.npz import NpzSink
from extractkit.testing.reference import ReferenceModel
from tests.engine.carrying_examples import carrying
from tests.engine.examples import EVERYTHING, MODEL, TEXTS, job

SHARD_SIZE = 6
SHARDS = [CONSTANTS_SHARD, *(Shard(at, min(at + SHARD_SIZE, 20)) for at in range(0, 20, 6))]
EVERY = len(SHARDS)
ODD = [*TEXTS[:-1], "elevenchars"]
SAME, AGAIN, OUTPUTS = "same job", "recomputed", "outputs"


def whole_job(**changes: object) -> Job:
    """Everything of the reference model, in five shards, the constants one of them."""
    settings: dict[str, object] = {"shard_size": SHARD_SIZE, "batch_size": 4, **changes}
    return job(EVERYTHING, **settings)  # type: ignore[arg-type]


def made(path: Path, of: Job) -> Path:
    execute(of, path, hydra_files={}, listener=Silent())
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("recompute") / "run", whole_job())


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def again(path: Path, of: Job, shards: int = EVERY, seed: int | None = 0) -> dict[str, Check]:
    """What computing again found, by the checks' names."""
    found = verify(path, recompute=lambda sound: recompute(of, sound, shards, seed))
    checks = {check.name: check for check in found.checks}
    return {name: checks[name] for name in (SAME, AGAIN, OUTPUTS)}


def outcomes(checks: Mapping[str, Check]) -> list[Outcome]:
    return [check.outcome for check in checks.values()]


def reported(check: Check) -> list[str]:
    return [finding.message for finding in check.findings]


def change(path: Path, **fields: object) -> None:
    manifests.write(path, replace(manifests.read(path), **fields))  # type: ignore[arg-type]


def stored_otherwise(path: Path, shard: Shard, key: str, error: float) -> None:
    """One shard with another value of one tensor, as if it had been committed so."""
    entries = journal.read(path / JOURNAL).by_shard()
    sink = NpzSink()
    name = entries[shard].files["npz"].name
    values: dict[str, Values] = {}
    for tensor in manifests.read(path).tensors:
        if tensor.stored.constant != (not len(shard)):
            continue
        if tensor.stored.constant:
            values[tensor.key] = Dense(sink.read_constant(path / name, tensor.key))
        else:
            values[tensor.key] = sink.read(path / name, tensor.key, 0, len(shard))
    changed = values[key].values.copy()
    changed.reshape(-1)[0] += error
    values[key] = replace(values[key], values=changed)
    (path / name).write_bytes(sink.serialize(values))
    entries[shard] = replace(
        entries[shard],
        files={"npz": StoredFile.on_disk(path, name, by=PREFERRED)},
        values=digest(values.items(), PREFERRED),
    )
    lines = [entry.to_line() for entry in entries.values()]
    (path / JOURNAL).write_text("".join(f"{line}\n" for line in lines))


# ---- nothing has changed


def test_every_shard_comes_out_bit_for_bit(finished: Path) -> None:
    checks = again(finished, whole_job())
    assert outcomes(checks) == [Outcome.OK] * 3
    assert checks[SAME].notes == ()
    assert checks[AGAIN].detail == "5 of 5 shards, bit for bit"
    assert checks[AGAIN].notes == ()
    assert checks[OUTPUTS].detail.startswith(
        "1 output for 4 samples against the same object (its weights are not checked), "
        "to 1e-05 + 0.0001 of"
    )
    assert checks[OUTPUTS].notes == ("the largest difference is 0",)


def test_the_drawing_is_reported_and_can_be_repeated(finished: Path) -> None:
    one = again(finished, whole_job(), shards=2, seed=None)[AGAIN]
    assert one.detail == "2 of 5 shards, bit for bit"
    (note,) = one.notes
    _, seed, _, *keys = note.replace(",", "").split()
    assert set(keys) < {shard.key for shard in SHARDS}
    assert again(finished, whole_job(), shards=2, seed=int(seed))[AGAIN].notes == one.notes


def test_different_seeds_draw_different_shards(finished: Path) -> None:
    drawn = {again(finished, whole_job(), shards=1, seed=seed)[AGAIN].notes[0].split()[-1]
             for seed in range(12)}  # fmt: skip
    assert len(drawn) > 2


def test_missing_samples_are_missing_again(tmp_path: Path) -> None:
    of = whole_job(model=Infinite(), non_finite="skip")
    path = made(tmp_path / "run", of)
    missing = [entry.missing for entry in journal.read(path / JOURNAL).entries]
    assert sum(map(len, missing)) == 5
    assert outcomes(again(path, of)) == [Outcome.OK] * 3

    entries = journal.read(path / JOURNAL).by_shard()
    first = SHARDS[1]
    entries[first] = replace(entries[first], missing={"0": "because", **entries[first].missing})
    lines = [entry.to_line() for entry in entries.values()]
    (path / JOURNAL).write_text("".join(f"{line}\n" for line in lines))
    message = "sample 0 was missing, and is not missing when computed again"
    assert reported(again(path, of)[AGAIN]) == [message]


def test_an_unfinished_run_is_computed_again_as_far_as_it_got(tmp_path: Path) -> None:
    with pytest.raises(JobError):
        made(tmp_path / "run", whole_job(model=Failing(), inputs=ODD))
    committed = len(journal.read(tmp_path / "run" / JOURNAL).entries)
    assert 1 <= committed < EVERY
    checks = again(tmp_path / "run", whole_job(inputs=ODD))
    assert outcomes(checks)[:2] == [Outcome.OK] * 2
    assert checks[AGAIN].detail == f"{committed} of {committed} shards, bit for bit"


def test_weights_alone_need_no_samples(tmp_path: Path) -> None:
    of = job({"kind": "weight"})
    checks = again(made(tmp_path / "run", of), of)
    assert outcomes(checks) == [Outcome.OK, Outcome.OK, Outcome.NOT_CHECKED]
    assert checks[OUTPUTS].detail == "no extracted tensor depends on the samples"


# ---- something has


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"model": ReferenceModel(seed=1)}, "the model's weights"),
        ({"model": ReferenceModel(longest=63)}, "what the model computes"),
        ({"inputs": [*TEXTS[:-1], "other"]}, "the inputs"),
    ],
)
def test_another_job_is_reported_and_not_run(
    finished: Path, changed: Mapping[str, object], what: str
) -> None:
    checks = again(finished, whole_job(**changed))
    assert outcomes(checks) == [Outcome.FAILED, Outcome.NOT_CHECKED, Outcome.NOT_CHECKED]
    (message,) = reported(checks[SAME])
    assert message.startswith(what)


def test_a_job_that_cannot_be_prepared_is_reported(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(job: Job, settings: object) -> None:
        raise ModelError("model.path='weights.h5' does not exist")

    monkeypatch.setattr(recomputing, "prepare", gone)
    checks = again(finished, whole_job())
    assert outcomes(checks) == [Outcome.FAILED, Outcome.NOT_CHECKED, Outcome.NOT_CHECKED]
    assert reported(checks[SAME]) == ["model.path='weights.h5' does not exist"]


def test_damaged_rows_leave_nothing_to_compute_from(run: Path) -> None:
    (run / SAMPLES).write_text("")
    assert outcomes(again(run, whole_job())) == [Outcome.OK, *[Outcome.NOT_CHECKED] * 2]


@pytest.mark.parametrize("shard", SHARDS[:2])
def test_the_smallest_difference_is_reported(run: Path, shard: Shard) -> None:
    key = "attention:output" if len(shard) else "attention:kernel"
    stored_otherwise(run, shard, key, 1e-6)
    (finding,) = again(run, whole_job())[AGAIN].findings
    assert (finding.shard, finding.tensor) == (shard.key, key)
    assert finding.file == f"shards/{shard.key}.npz"
    assert finding.message.startswith(
        f"{run}/{finding.file}, {key!r}: it differs when computed again: 1 element apart, by "
    )


def elsewhere(manifest: Manifest) -> dict[str, object]:
    host = {**manifest.volatile.host, "processor": "Another"}
    return {"volatile": replace(manifest.volatile, host=host)}


def before(manifest: Manifest) -> dict[str, object]:
    return {"versions": {**manifest.versions, "numpy": "1.0"}}


@pytest.mark.parametrize(
    ("surroundings", "note"),
    [
        (elsewhere, "the processor: Another was recorded, "),
        (before, "the version of numpy: 1.0 was recorded, "),
    ],
)
def test_in_other_surroundings_values_agree_to_a_tolerance(
    run: Path, surroundings: object, note: str
) -> None:
    assert callable(surroundings)
    change(run, **surroundings(manifests.read(run)))
    stored_otherwise(run, SHARDS[1], "attention:output", 1e-6)
    checks = again(run, whole_job())
    assert outcomes(checks) == [Outcome.OK] * 3
    assert checks[SAME].notes[0].startswith(note)
    assert "to 1e-05 + 0.0001 of a tensor's largest value" in checks[AGAIN].detail
    (largest,) = checks[AGAIN].notes
    assert 5e-7 < float(largest.split()[-1]) < 2e-6

    stored_otherwise(run, SHARDS[1], "attention:output", 0.1)
    (finding,) = again(run, whole_job())[AGAIN].findings
    assert finding.tensor == "attention:output"


def test_in_other_surroundings_carried_states_agree_to_a_tolerance(tmp_path: Path) -> None:
    run = made(tmp_path / "run", carrying())
    change(run, **before(manifests.read(run)))
    for error, outcome in ((1e-6, Outcome.OK), (0.1, Outcome.FAILED)):
        *others, last = journal.read(run / JOURNAL).entries
        assert last.state is not None
        (state,) = state_of(run, last.state)
        written = to_bytes((state * np.float32(1 + error),))
        (run / last.state.name).write_bytes(written)
        other = replace(last, state=StoredFile.of(last.state.name, written, by=PREFERRED))
        journal.rewrite(run / JOURNAL, [*others, other])
        checks = again(run, carrying())
        assert checks[AGAIN].outcome is outcome
    (finding,) = checks[AGAIN].findings
    assert finding.message.startswith(
        f"{run / last.state.name}, state 0: it differs when computed again"
    )


def test_a_model_that_fails_now_is_reported(tmp_path: Path) -> None:
    checks = again(
        made(tmp_path / "run", whole_job(inputs=ODD)), whole_job(model=Failing(), inputs=ODD)
    )
    assert outcomes(checks) == [Outcome.OK, Outcome.FAILED, Outcome.OK]
    (message,) = reported(checks[AGAIN])
    assert message.endswith("cannot be computed: it fails")
    assert SHARDS[-1].key in message


# ---- the model's own outputs


def test_outputs_that_extraction_moves_are_reported(finished: Path) -> None:
    checks = again(finished, whole_job(model=Moved(by=0.01)))
    assert outcomes(checks) == [Outcome.OK, Outcome.OK, Outcome.FAILED]
    (finding,) = checks[OUTPUTS].findings
    assert finding.tensor == ":output"
    assert finding.message.startswith("':output' is not the model's own output: ")
    assert finding.message.endswith("1 element apart, by 0.01 at most")


@pytest.mark.parametrize("by", [np.nan, np.inf])
def test_a_nan_in_one_of_them_alone_is_reported_as_such(by: float, finished: Path) -> None:
    (finding,) = again(finished, whole_job(model=Moved(by=by)))[OUTPUTS].findings
    assert finding.message == (
        "':output' is not the model's own output: 1 element is NaN or infinite in one of them alone"
    )


def test_last_bits_of_outputs_may_move(finished: Path) -> None:
    checks = again(finished, whole_job(model=Moved(by=1e-6)))
    assert outcomes(checks) == [Outcome.OK] * 3
    (largest,) = checks[OUTPUTS].notes
    assert 5e-7 < float(largest.split()[-1]) < 2e-6


def test_padding_is_no_part_of_an_output(tmp_path: Path) -> None:
    of = whole_job(model=Padded(), inputs=["a", "abc", "abcdefg"] * 3)
    checks = again(made(tmp_path / "run", of), of)
    assert outcomes(checks) == [Outcome.OK] * 3


def test_an_adapter_need_not_know_the_models_own_outputs(finished: Path) -> None:
    checks = again(finished, whole_job(model=Plain()))
    assert checks[OUTPUTS].outcome is Outcome.NOT_CHECKED
    assert checks[OUTPUTS].detail == "model 'reference' has no call of its own"


def test_a_models_own_call_may_take_other_inputs(finished: Path) -> None:
    checks = again(finished, whole_job(model=Silenced()))
    assert checks[OUTPUTS].outcome is Outcome.NOT_CHECKED
    assert checks[OUTPUTS].detail == "the model's own call takes other inputs"


def test_an_own_call_that_fails_is_a_finding(finished: Path) -> None:
    checks = again(finished, whole_job(model=Raising()))
    assert checks[OUTPUTS].outcome is Outcome.FAILED
    assert "fails on 4 samples that extractkit computes: it takes one sample" in str(
        checks[OUTPUTS].findings[0]
    )


# ---- models


class Same(ReferenceModel):
    """The reference model by another name of its class."""

    def definition_digest(self) -> str:
        return MODEL.definition_digest()


class Infinite(Same):
    """Gives an infinity for texts of three characters."""

    def forward(self, tokens: Array) -> dict[str, Array]:
        found = super().forward(tokens)
        if len(tokens) == 3:
            found["pool:output"] = found["pool:output"] + np.float32(np.inf)
        return found


class Failing(Same):
    """Fails on a text of eleven characters."""

    def forward(self, tokens: Array) -> dict[str, Array]:
        if len(tokens) == 11:
            raise JobError("it fails")
        return super().forward(tokens)


class Otherwise(Same):
    """Its own call gives something else than its programs do."""

    def own_call(self, checkpoint: int | None = None) -> OwnCall:
        return replace(super().own_call(checkpoint), outputs=self.otherwise)

    def otherwise(
        self, features: Mapping[str, Array], lengths: Mapping[str, Array]
    ) -> dict[str, Array]:
        return dict(super().own_call().outputs(features, lengths))


@dataclass(frozen=True)
class Moved(Otherwise):
    """Calls itself otherwise than its programs do."""

    by: float = 0.0

    def otherwise(
        self, features: Mapping[str, Array], lengths: Mapping[str, Array]
    ) -> dict[str, Array]:
        own = super().otherwise(features, lengths)
        own[":output"][0, 0] += np.float32(self.by)
        return own


class Padded(Otherwise):
    """Fills the padding of an output otherwise than its programs do."""

    @cached_property
    def catalog(self) -> Catalog:
        records = list(super().catalog.records)
        at = next(n for n, one in enumerate(records) if one.address == "attention:output")
        records[at] = replace(records[at], kind=Kind.MODEL_OUTPUT)
        return Catalog(records, self.name)

    def otherwise(
        self, features: Mapping[str, Array], lengths: Mapping[str, Array]
    ) -> dict[str, Array]:
        address = "attention:output"
        (own,) = self.program([Fetch(Value(address))], Compilation())(features, lengths)
        own = np.array(own)
        for row, size in zip(own, lengths["token"], strict=True):
            row[size:] = 17
        assert (own == 17).any()
        return {address: own}


class Plain(Same):
    """An adapter that has no call of its own."""

    own_call = None  # type: ignore[assignment]


class Raising(Otherwise):
    """Its own call fails on what its programs compute."""

    def otherwise(
        self, features: Mapping[str, Array], lengths: Mapping[str, Array]
    ) -> dict[str, Array]:
        raise SampleError("it takes one sample")


class Silenced(Otherwise):
    """Its own call cannot be made with what its programs take."""

    def otherwise(
        self, features: Mapping[str, Array], lengths: Mapping[str, Array]
    ) -> dict[str, Array]:
        return {}
