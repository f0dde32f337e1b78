"""Files that are what was written, and values in them that are not what a run should hold."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import extractkit
from extractkit.core.digests import Digest
from extractkit.core.shards import CONSTANTS_SHARD, Shard
from extractkit.core.spec import TensorSpec
from extractkit.core.transforms import registry
from extractkit.core.value_checks import EXAMINATION, ValueChecks
from extractkit.core.values import Dense, Ragged, Values, without
from extractkit.runs import JOURNAL, journal
from extractkit.runs import manifest as manifests
from extractkit.runs.checking import Finding, Verification
from extractkit.runs.checking.verification import verify
from extractkit.runs.journal import Entry
from extractkit.runs.recorder import Recorder
from extractkit.runs.shards import ShardValues
from extractkit.testing.reference import ReferenceModel
from tests.runs.examples import (
    ATTENTION,
    HIDDEN,
    KERNEL,
    LENGTHS,
    POOLED,
    SHARDS,
    SINKS,
    STEPS,
    TENSORS,
    manifest,
    sample_values,
    shard_values,
)

FIRST = SHARDS[0]

Change = Callable[[dict[str, Any]], object]


def nothing(values: dict[str, Any]) -> None:
    """Values as they should be."""


def stats_of(values: Mapping[str, Values], shard: Shard) -> dict[str, ValueChecks]:
    return {key: EXAMINATION.of((value, shard.start)) for key, value in values.items()}


def written(
    path: Path,
    change: Change = nothing,
    *,
    sinks: Sequence[str] = ("hdf5", "npz"),
    missing: Mapping[int, str] | None = None,
    rows: Mapping[int, Mapping[str, object]] | None = None,
    **recorded: object,
) -> Path:
    """A finished run in whose first shard the values are changed before they are stored."""
    path.mkdir()
    recorder = Recorder.start(path, manifest(sinks, **recorded), {n: SINKS[n] for n in sinks})
    recorder.add_samples(
        {"index": at, "id": str(at), "length": length} | dict((rows or {}).get(at, {}))
        for at, length in enumerate(LENGTHS)
    )
    recorder.freeze(recorder.manifest)
    recorder.commit(
        ShardValues(CONSTANTS_SHARD, {KERNEL: Dense(np.arange(6, dtype="float32").reshape(2, 3))})
    )
    samples = sample_values()
    for shard in SHARDS:
        values: dict[str, Any] = shard_values(samples, shard)
        own = {at: why for at, why in (missing or {}).items() if shard.start <= at < shard.stop}
        if shard == FIRST:
            change(values)
        recorder.commit(ShardValues(shard, values, stats=stats_of(values, shard), missing=own))
    recorder.finish()
    return path


def rewritten(path: Path, **fields: object) -> None:
    """The first shard's entry with other fields; the line is whole, and so are the sums."""
    entries = journal.read(path / JOURNAL).entries
    changed = [
        replace(entry, **fields) if entry.shard == FIRST.key else entry  # type: ignore[arg-type]
        for entry in entries
    ]
    lines = [entry.to_line() for entry in changed]
    (path / JOURNAL).write_text("".join(f"{line}\n" for line in lines))


def first_entry(path: Path) -> Entry:
    return journal.read(path / JOURNAL).by_shard()[FIRST]


def of_values(verification: Verification) -> list[Finding]:
    (check,) = (check for check in verification.checks if check.name == "values")
    return list(check.findings)


def only(verification: Verification, tensor: str | None, reported: str) -> None:
    """Both files of the shard, and nothing else, are reported of."""
    findings = of_values(verification)
    assert [finding.file for finding in findings] == [
        f"shards/{FIRST.key}.h5",
        f"shards/{FIRST.key}.npz",
    ]
    for finding in findings:
        assert finding.shard == FIRST.key
        assert finding.tensor == tensor
        assert finding.message.startswith(f"{verification.run}/{finding.file}")
        assert reported in finding.message
        assert tensor is None or repr(tensor) in finding.message


def test_true_values_are_found_to_be_so(tmp_path: Path) -> None:
    assert not verify(written(tmp_path / "run")).failed


def test_values_of_another_digest_are_reported(tmp_path: Path) -> None:
    path = written(tmp_path / "run")
    rewritten(path, values=Digest("sha256:" + "0" * 64))
    only(verify(path), None, "the digest of its values is not the recorded one")


def test_other_statistics_are_reported(tmp_path: Path) -> None:
    path = written(tmp_path / "run")
    stats = dict(first_entry(path).stats)
    stats[POOLED] = replace(stats[POOLED], nan=1)
    rewritten(path, stats=stats)
    only(verify(path), POOLED, "records other findings in it")


def test_checks_of_other_tensors_are_reported(tmp_path: Path) -> None:
    path = written(tmp_path / "run")
    stats = dict(first_entry(path).stats)
    stats["other:output"] = stats.pop(POOLED)
    rewritten(path, stats=stats)
    only(verify(path), None, f"checks of other tensors: other:output, {POOLED}")


def lose(values: dict[str, Any]) -> None:
    del values[HIDDEN]


def retype(values: dict[str, Any]) -> None:
    values[HIDDEN] = replace(values[HIDDEN], values=values[HIDDEN].values.astype("float64"))


def widen(values: dict[str, Any]) -> None:
    values[POOLED] = Dense(np.zeros((len(FIRST), 5)))


def thin(values: dict[str, Any]) -> None:
    values[HIDDEN] = replace(values[HIDDEN], values=values[HIDDEN].values[:, :2].copy())


def pad(values: dict[str, Any]) -> None:
    values[STEPS] = Dense(np.zeros((len(FIRST), 3), np.int64))


def flatten(values: dict[str, Any]) -> None:
    values[POOLED] = Ragged(values[POOLED].values.reshape(-1), np.arange(0, 17, 4))


def drop_a_sample(values: dict[str, Any]) -> None:
    values[POOLED] = Dense(values[POOLED].values[:-1])


def move_a_token(values: dict[str, Any]) -> None:
    """The second sample gets a token of the first; all counts stay."""
    offsets = values[STEPS].offsets.copy()
    offsets[1] -= 1
    values[STEPS] = replace(values[STEPS], offsets=offsets)


def reshape_attention(values: dict[str, Any]) -> None:
    shapes = values[ATTENTION].shapes.copy()
    shapes[0] = [2, 9, 1]
    values[ATTENTION] = replace(values[ATTENTION], shapes=shapes)


@pytest.mark.parametrize(
    ("change", "tensor", "reported"),
    [
        (retype, HIDDEN, "its type is float64, not float32"),
        (widen, POOLED, "sample 0 has shape [5]: its axis 0 is not as long as recorded"),
        (thin, HIDDEN, "sample 0 has shape [3, 2]: its axis 1 is not as long as recorded"),
        (pad, STEPS, "it is stored padded"),
        (flatten, POOLED, "it is stored ragged"),
        (move_a_token, STEPS, "sample 0 has shape [2]: its axis 0 is not as long as recorded"),
    ],
)
def test_values_of_another_form_are_reported(
    tmp_path: Path, change: Change, tensor: str, reported: str
) -> None:
    only(verify(written(tmp_path / "run", change, sinks=("npz", "hdf5")[::-1])), tensor, reported)


def test_a_shape_that_no_length_explains_is_reported(tmp_path: Path) -> None:
    path = written(tmp_path / "run", reshape_attention, sinks=("npz",))
    first, second = of_values(verify(path))
    assert "sample 0 has shape [2, 9, 1]: its axis 1" in first.message
    assert "sample 0 has shape [2, 9, 1]: its axis 2" in second.message


@pytest.mark.parametrize(
    ("change", "tensor", "reported"),
    [
        (lose, HIDDEN, f"holds no tensor {HIDDEN!r}"),
        (drop_a_sample, POOLED, "it cannot be read: samples 0 … 4"),
    ],
)
def test_tensors_that_cannot_be_read_are_reported_and_the_others_read(
    tmp_path: Path, change: Change, tensor: str, reported: str
) -> None:
    path = written(tmp_path / "run", change, sinks=("npz",))
    stats = {tensor: ValueChecks()} | dict(first_entry(path).stats)
    stats[STEPS] = ValueChecks()
    rewritten(path, stats=stats)
    findings = of_values(verify(path))
    assert [finding.tensor for finding in findings] == [tensor, STEPS]
    assert reported in findings[0].message


ALONG_TOKENS: Mapping[str, object] = {
    "slice": {"token": "-2:"},
    **dict.fromkeys(("mean", "sum", "min", "max", "norm", "std", "var"), 2),
    **dict.fromkeys(("argmax", "argmin"), 2),
    "quantile": {"q": [0.5, 1.0], "axis": 2},
    "histogram": {"edges": [-1, 0, 1], "axis": 2},
    "topk": {"axis": "token", "k": 2},
    "flatten": ["token", 2],
    "channels_last": None,
    "abs": None,
    "softmax": "token",
    "normalize": "token",
    "pool": {"axis": "token", "window": 2},
    "project": {"axis": 2, "to": 2, "seed": 7},
    "threshold": 0.1,
    "sparsify": 3,
    "cast": "float16",
    "quantize": "int8",
}
"""For each transform, options with which a free axis remains."""


def test_a_run_with_any_transform_along_a_free_axis_is_intact(tmp_path: Path) -> None:
    assert set(ALONG_TOKENS) == set(registry.names())
    steps = {
        name: [name if options is None else {name: options}]
        for name, options in ALONG_TOKENS.items()
    }
    one_axis = {"few": [{"mean": 2}, {"sparsify": 2}], "joined": [{"mean": 2}, "flatten"]}
    extractkit.extract(
        model=ReferenceModel(),
        inputs=["one", "a", "seven letters", "at"],
        selectors={
            name: {"path": "embedding:output", "do": do} for name, do in (steps | one_axis).items()
        },
        run_dir=tmp_path / "run",
    )
    assert not verify(tmp_path / "run").findings


def ragged(lengths: Sequence[int]) -> Ragged:
    return Ragged(np.arange(sum(lengths)), np.cumsum([0, *lengths]))


OWN = LENGTHS[FIRST.start : FIRST.stop]


@pytest.mark.parametrize(
    ("transforms", "lengths"),
    [
        ((), OWN),
        (("abs", {"cast": "int64"}), OWN),
        (({"slice": {"token": "-2:"}},), [min(n, 2) for n in OWN]),
        (({"slice": {"token": "1:"}},), [max(n - 1, 0) for n in OWN]),
        (({"pool": {"axis": "token", "window": 3, "stride": 2}},), [(n + 1) // 2 for n in OWN]),
        (({"topk": {"axis": "token", "k": 2}},), [min(n, 2) for n in OWN]),
        (({"sparsify": 1},), [min(n, 1) for n in OWN]),
        (({"slice": {"token": "1:"}}, {"topk": {"axis": "token", "k": 1}}), [n > 1 for n in OWN]),
    ],
    ids=str,
)
def test_a_shortened_axis_has_the_length_that_its_transforms_leave(
    transforms: tuple[object, ...], lengths: Sequence[int], tmp_path: Path
) -> None:
    tensors = tuple(
        replace(one, transforms=transforms) if one.key == STEPS else one for one in TENSORS
    )

    def found(name: str, stored: Sequence[int]) -> list[Finding]:
        def change(values: dict[str, Any]) -> None:
            values[STEPS] = ragged(stored)

        path = written(tmp_path / name, change, sinks=("npz",), tensors=tensors)
        return [one for one in of_values(verify(path)) if one.shard == FIRST.key]

    assert found("right", lengths) == []
    longest = int(np.argmax(lengths))
    for name, by in (("long", 1), ("short", -1)):
        other = [n + by * (at == longest) for at, n in enumerate(lengths)]
        (finding,) = found(name, other)
        assert f"sample {longest} has shape [{other[longest]}]: its axis 0" in finding.message


def test_joined_axes_are_as_long_as_their_product(tmp_path: Path) -> None:
    flat = TensorSpec.of("float32", ("sample", "flat=token*3"), (None, None))
    tensors = tuple(
        replace(one, stored=replace(one.stored, spec=flat), transforms=("flatten",))
        if one.key == HIDDEN
        else one
        for one in TENSORS
    )

    def change(lengths: Sequence[int]) -> Change:
        def changed(values: dict[str, Any]) -> None:
            one = ragged(lengths)
            values[HIDDEN] = replace(one, values=one.values.astype("float32"))

        return changed

    whole = [3 * n for n in OWN]
    other = [*whole[:-1], whole[-1] + 1]
    for name, lengths, reported in (("right", whole, []), ("wrong", other, [HIDDEN])):
        path = written(tmp_path / name, change(lengths), sinks=("npz",), tensors=tensors)
        found = [one for one in of_values(verify(path)) if one.shard == FIRST.key]
        assert [one.tensor for one in found] == reported


def cut(values: dict[str, Any]) -> None:
    values[STEPS] = ragged([min(n, 2) for n in OWN])


@pytest.mark.parametrize("transforms", [("abs", {"of_a_plugin": 1}), None], ids=str)
def test_lengths_after_unknown_transforms_are_not_predicted(
    transforms: tuple[object, ...] | None, tmp_path: Path
) -> None:
    tensors = tuple(replace(one, transforms=transforms) for one in TENSORS)
    path = written(tmp_path / "run", cut, sinks=("npz",), tensors=tensors)
    (check,) = (check for check in verify(path).checks if check.name == "values")
    assert check.findings == ()
    assert check.detail.endswith("; lengths of 3 tensors not predicted")
    assert check.notes == (
        "lengths not predicted, as values or a plugin decide them, or the run does not record what "
        f"does: {', '.join(sorted(map(repr, (HIDDEN, STEPS, ATTENTION))))}",
    )


def test_the_lengths_of_all_tensors_of_a_plain_run_are_predicted(tmp_path: Path) -> None:
    (check,) = (one for one in verify(written(tmp_path / "run")).checks if one.name == "values")
    assert "predicted" not in check.detail
    assert check.notes == ()


@pytest.mark.parametrize(
    ("transforms", "result", "problem"),
    [
        ((["malformed"],), "", "transforms that it cannot have: "),
        (({"mean": "no such axis"},), "", "transforms that it cannot have: "),
        (({"cast": "int7"},), "", "'int7' is not a dtype"),
        (("abs",), "scale", "the result 'scale', which its transforms do not have"),
    ],
    ids=str,
)
def test_own_transforms_that_a_tensor_cannot_have_are_reported(
    transforms: tuple[object, ...], result: str, problem: str, tmp_path: Path
) -> None:
    tensors = tuple(
        replace(one, transforms=transforms, result=result) if one.key == STEPS else one
        for one in TENSORS
    )
    path = written(tmp_path / "run", sinks=("npz",), tensors=tensors)
    (finding,) = of_values(verify(path))
    assert (finding.file, finding.tensor) == ("manifest.json", STEPS)
    assert f"manifest.json, {STEPS!r}: it records" in finding.message
    assert problem in finding.message


# ---- samples without values


def skip_the_third(values: dict[str, Any]) -> None:
    for tensor in TENSORS:
        if not tensor.stored.constant:
            values[tensor.key] = without(values[tensor.key], [2], tensor.stored.spec.sample_shape)


WHY = {2: "it is no good"}


def test_missing_samples_have_no_values(tmp_path: Path) -> None:
    assert not verify(written(tmp_path / "run", skip_the_third, missing=WHY)).failed


def test_a_missing_sample_that_has_a_value_is_reported(tmp_path: Path) -> None:
    path = written(tmp_path / "run", sinks=("npz",), missing=WHY)
    reported = {f.tensor: f.message for f in of_values(verify(path)) if "has a value" in f.message}
    assert set(reported) == {POOLED}  # of the others the third has no elements anyway


def test_a_sample_that_was_missing_from_the_start_is_missing_from_its_shard(tmp_path: Path) -> None:
    rows = {2: {"length": 0, "missing": "it is no good"}}
    path = written(tmp_path / "run", skip_the_third, missing=WHY, rows=rows)
    assert not verify(path).failed
    path = written(tmp_path / "other", rows=rows)
    only(verify(path), None, "lacks missing samples, first 2")


@pytest.mark.parametrize("index", ["7", "-1", "x", ""])
def test_a_shard_skips_no_samples_of_others(tmp_path: Path, index: str) -> None:
    path = written(tmp_path / "run")
    rewritten(path, missing={index: "because"})
    only(verify(path), None, "records missing samples that are not in the shard")


def test_constants_are_held_against_the_manifest_too(tmp_path: Path) -> None:
    path = written(tmp_path / "run", sinks=("hdf5",))
    *others, kernel = manifests.read(path).tensors
    wider = replace(kernel, stored=replace(kernel.stored, spec=TensorSpec.fixed("float64", (2, 4))))
    manifests.write(path, replace(manifests.read(path), tensors=(*others, wider)))
    messages = [finding.message for finding in of_values(verify(path))]
    at = f"{path}/shards/constants.h5, {KERNEL!r}"
    assert messages == [
        f"{at}: its type is float32, not float64",
        f"{at}: its shape is [2, 3], not [2, 4]",
    ]
