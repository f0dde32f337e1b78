"""Files of each version of the schema, as they will be found on disks: read and written for ever.

The files were written by hand from the schema, not by extractkit. A change of the fields that
breaks these tests needs a new version, and new files beside these.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from extractkit.core.catalog import Kind, Scope, TensorRecord
from extractkit.core.checkpoints import AXIS, Checkpoint, ExcludedCheckpoint
from extractkit.core.digests import Algorithm, Digest
from extractkit.core.shards import Position, Shard
from extractkit.core.spec import TensorSpec
from extractkit.core.value_checks import ValueChecks
from extractkit.errors import RunDirectoryError
from extractkit.runs import MANIFEST, journal
from extractkit.runs import manifest as manifests
from extractkit.runs.environment import GitState, Resumed, SelfCheck, SharingMeasurement, Volatile
from extractkit.runs.files import Origin, StoredFile
from extractkit.runs.journal import Entry
from extractkit.runs.manifest import (
    SCHEMA,
    Actual,
    Manifest,
    RunComponents,
    RunInputs,
    RunPlan,
    RunTensor,
    Status,
    Unextractable,
)
from extractkit.sinks import StoredTensor

GOLDEN = Path(__file__).parent

STATS = ValueChecks(1, 2, 1, {"1": (1, 2)}, -1.5, 2.0, same=None, examined=2, elements=6)


def digest(digit: str, algorithm: Algorithm = Algorithm.BLAKE3) -> Digest:
    return Digest(f"{algorithm}:{digit * 64}")


EXPECTED = Manifest(
    volatile=Volatile(
        started="2026-11-22T15:04:05+00:00",
        finished="2026-11-22T15:05:00+00:00",
        host={"name": "a", "processors": 2},
        working_directory="/home/é",
        timings={"load": 0.5, "extract": 2.0},
        resumed=(Resumed("2026-11-22T15:04:30+00:00", {"name": "b"}),),
        log=StoredFile("extractkit.log", digest("1"), 120),
        workers=({"name": "c"},),
        self_check=(
            SelfCheck("epoch_1", "keras", (":output",), 2, 1e-07, 5e-08, "1e-05"),
            SelfCheck("last", not_applicable="the model's own call fails: é"),
        ),
        sharing=SharingMeasurement(9, {"token": 40}, "a:output", 3e-07, 4e-06, "é"),
    ),
    schema=14,
    status=Status.FINISHED,
    job_given=("model=mine", "+selectors.mine.path=é"),
    job_resolved={"sinks": {"npz": {"_target_": "extractkit.sinks.npz.NpzSink"}}},
    model_name="mine",
    model={"name": "mine", "weights": "2" * 64, "definition": None},
    inputs=RunInputs("3" * 64, 3, ("a note",), truncated=1),
    tensors=(
        RunTensor(
            StoredTensor(
                "a:output",
                TensorSpec.of("float32", ("sample", "token", None), (None, None, 4)),
                False,
            ),
            TensorRecord(
                "a:output",
                Kind.LAYER_OUTPUT,
                TensorSpec.of("float32", ("sample", "token", None), (None, None, 4)),
                (Scope("", "Functional", ("Model",)),),
                name="my_a:output",
            ),
            ("mine",),
            transforms=({"mean": 2}, "é"),
            result="count",
            request={"gradient": {"tensor": ":output", "index": [-1]}},
        ),
    ),
    components=(
        RunComponents(
            "selectors.mine.do.0.project", "/runs/é", "d" * 64, "a:b@pca", "a:b", "e" * 64
        ),
    ),
    unextractable=(Unextractable("b:op/MatMul", "made inside a loop"),),
    plan=RunPlan(96, True, ((1, 2), (1, 1))),
    actual=Actual(samples=3, shards=2, bytes=800, missing=1, values={"a:output": STATS}),
    checkpoints=(
        Checkpoint("epoch_1", 1, "/models/epoch_1.h5", "8" * 64, 500),
        Checkpoint("last", None, "/models/last.h5", "9" * 64, 501),
    ),
    excluded=(ExcludedCheckpoint("epoch_2", "/models/epoch_2.h5", "damaged"),),
    training="epoch",
    origins=(Origin("model.path", "/models/mine.keras", "4" * 64, 1000),),
    digests=Algorithm.BLAKE3,
    files=(StoredFile("samples.jsonl", digest("5"), 90),),
    environment={"TF_NUM_INTRAOP_THREADS": "2"},
    settings={"batch_size": 32, "device": None, "deterministic": True},
    seeds={"runtime": 0},
    versions={"python": "3.11.7", "numpy": "2.4.0"},
    plugins=("numpy",),
    values_version=1,
    identity="6" * 64,
    git=GitState("c0ffee", dirty=True),
    part="2/4",
)

BEFORE_ALGORITHMS = replace(
    EXPECTED,
    digests=Algorithm.SHA256,
    files=(StoredFile("samples.jsonl", digest("5", Algorithm.SHA256), 90),),
    volatile=replace(
        EXPECTED.volatile, log=StoredFile("extractkit.log", digest("1", Algorithm.SHA256), 120)
    ),
)
BEFORE_TRAINING = replace(BEFORE_ALGORITHMS, training=None)
BEFORE_GRADIENTS = replace(
    BEFORE_TRAINING, tensors=tuple(replace(one, request={}) for one in EXPECTED.tensors)
)
BEFORE_TRANSFORMS = replace(
    BEFORE_GRADIENTS,
    # Unknown, as this configuration has no selectors.
    tensors=tuple(replace(one, transforms=None, result="") for one in BEFORE_GRADIENTS.tensors),
    components=(),
    plugins=(),
    volatile=replace(BEFORE_ALGORITHMS.volatile, sharing=None),
)
BEFORE_ROWS = replace(BEFORE_TRANSFORMS, samples_schema=1)
BEFORE_COUNTING = replace(BEFORE_ROWS, values_version=0)
EARLIER = {
    3: replace(
        BEFORE_COUNTING, volatile=replace(BEFORE_ALGORITHMS.volatile, self_check=(), sharing=None)
    ),
    4: BEFORE_COUNTING,
    5: BEFORE_COUNTING,
    6: BEFORE_ROWS,
    **dict.fromkeys((7, 8, 9), BEFORE_TRANSFORMS),
    10: BEFORE_GRADIENTS,
    11: BEFORE_TRAINING,
    12: BEFORE_ALGORITHMS,
    13: BEFORE_ALGORITHMS,
}
"""What older manifests are read as: fields that they lack have the value that was right then."""


def entry(shard: Shard, values: str, by: Algorithm, **more: object) -> Entry:
    """An entry of the golden journal."""
    file = StoredFile(f"shards/{shard.key}.npz", digest("7", by), 400)
    common = (shard.key, shard.start, shard.stop, {"npz": file}, digest(values, by))
    timings = {"compute": 0.25}
    return Entry(*common, timings=timings, checkpoint=shard.along(AXIS), **more)  # type: ignore[arg-type]


def entries(by: Algorithm) -> tuple[Entry, ...]:
    state = StoredFile("shards/000000000-000000002.state.npz", digest("8", by), 300)
    missing = {"0": "é is too long"}
    return (
        entry(Shard(0, 0), "a", by),
        entry(Shard(0, 2), "b", by, stats={"a:output": STATS}, missing=missing, state=state),
        entry(Shard(2, 3, (Position(AXIS, 1),)), "c", by),
    )


ENTRIES = entries(Algorithm.BLAKE3)
BEFORE_ALGORITHM = entries(Algorithm.SHA256)
BEFORE_STATES = tuple(replace(one, state=None) for one in BEFORE_ALGORITHM)
LINES = {
    3: BEFORE_STATES,
    **dict.fromkeys((4, 5, 6, 7), BEFORE_ALGORITHM),
    journal.SCHEMA: ENTRIES,
}
"""What journals with lines of each version are read as."""


def test_the_current_version_has_its_files() -> None:
    assert (GOLDEN / f"manifest-{SCHEMA}.json").exists()
    assert (GOLDEN / f"lines-{journal.SCHEMA}.jsonl").exists()


@pytest.mark.parametrize("version", [*EARLIER, SCHEMA])
def test_manifests_of_every_version_are_read_as_these(version: int, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes((GOLDEN / f"manifest-{version}.json").read_bytes())
    assert manifests.read(tmp_path) == EARLIER.get(version, EXPECTED)


def test_the_last_manifests_of_version_10_have_the_targets_of_gradients(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes((GOLDEN / "manifest-10-gradient.json").read_bytes())
    assert manifests.read(tmp_path) == BEFORE_TRAINING


def test_the_checksum_of_an_older_manifest_is_verified_before_it_is_upgraded(
    tmp_path: Path,
) -> None:
    content = (GOLDEN / "manifest-3.json").read_bytes()
    (tmp_path / MANIFEST).write_bytes(content.replace(b"c0ffee", b"c0ffef"))
    with pytest.raises(RunDirectoryError, match="is damaged: its checksum does not match"):
        manifests.read(tmp_path)


def test_a_field_of_a_newer_version_is_refused_in_an_older_manifest(tmp_path: Path) -> None:
    """It would be overwritten by what the upgrade says of it."""
    fields = json.loads((GOLDEN / "manifest-4.json").read_bytes())
    del fields["checksum"]
    (tmp_path / MANIFEST).write_bytes(manifests.with_checksum({**fields, "schema": 3}))
    with pytest.raises(
        RunDirectoryError, match="it holds 'self_check', which schema version 3 does not have"
    ):
        manifests.read(tmp_path)


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ([[0, 2], [1, 3]], r"plan\.shards\[1\] is \[1, 3\]\. It must begin at 2"),
        ([[1, 3]], r"plan\.shards\[0\] is \[1, 3\]\. It must begin at 0"),
        ([[0, 2], [2]], r"plan\.shards\[1\] is \[2\], which is not a range"),
        ([[0, 2], [2, 2], [2, 3]], r"plan\.sizes\[1\] is \[1, 0\]"),
        ([[0, 2]], r"the shards of plan\.sizes hold 2 of 3 samples"),
    ],
)
def test_an_older_plan_holds_every_sample_once(
    ranges: list[list[int]], message: str, tmp_path: Path
) -> None:
    fields = json.loads((GOLDEN / "manifest-13.json").read_bytes())
    del fields["checksum"]
    fields["plan"]["shards"] = ranges
    (tmp_path / MANIFEST).write_bytes(manifests.with_checksum(fields))
    with pytest.raises(RunDirectoryError, match=message):
        manifests.read(tmp_path)


def test_an_older_manifest_of_a_part_has_the_current_key(tmp_path: Path) -> None:
    fields = json.loads((GOLDEN / "manifest-6.json").read_bytes())
    del fields["checksum"]
    fields["job_given"] = ["model=mine", "runtime.shards=2/4", "+runtime.shards=2/4", "a=runtime"]
    fields["job_resolved"]["runtime"] = {"seed": 0, "shards": "2/4"}
    (tmp_path / MANIFEST).write_bytes(manifests.with_checksum(fields))
    found = manifests.read(tmp_path)
    assert found.job_given == ("model=mine", "runtime.part=2/4", "+runtime.part=2/4", "a=runtime")
    assert found.job_resolved["runtime"] == {"seed": 0, "part": "2/4"}
    assert found.job_resolved["sinks"] == EXPECTED.job_resolved["sinks"]
    fields["job_resolved"]["runtime"]["part"] = "2/4"
    (tmp_path / MANIFEST).write_bytes(manifests.with_checksum(fields))
    with pytest.raises(
        RunDirectoryError, match="it holds 'part', which schema version 6 does not have"
    ):
        manifests.read(tmp_path)


def test_this_is_written_as_the_manifest(tmp_path: Path) -> None:
    manifests.write(tmp_path, EXPECTED)
    assert (tmp_path / MANIFEST).read_bytes() == (GOLDEN / f"manifest-{SCHEMA}.json").read_bytes()


@pytest.mark.parametrize("version", LINES)
def test_lines_of_the_journal_are_read_as_these(version: int) -> None:
    found = journal.read(GOLDEN / f"lines-{version}.jsonl")
    assert found.entries == LINES[version]
    assert found.torn is None


def test_lines_of_several_versions_make_one_journal(tmp_path: Path) -> None:
    """A resumed run appends lines of the current version to those that are there."""
    path = tmp_path / "journal.jsonl"
    path.write_bytes((GOLDEN / "lines-4.jsonl").read_bytes())
    added = entry(Shard(3, 4), "d", Algorithm.SHA256)
    journal.append(path, added)
    assert journal.read(path).entries == (*BEFORE_ALGORITHM, added)


def test_this_is_written_as_the_journal(tmp_path: Path) -> None:
    for one in ENTRIES:
        journal.append(tmp_path / "journal.jsonl", one)
    expected = (GOLDEN / f"lines-{journal.SCHEMA}.jsonl").read_bytes()
    assert (tmp_path / "journal.jsonl").read_bytes() == expected


def test_lines_end_as_on_every_system() -> None:
    for path in (*GOLDEN.glob("*.json"), *GOLDEN.glob("*.jsonl")):
        assert b"\r" not in path.read_bytes(), path
