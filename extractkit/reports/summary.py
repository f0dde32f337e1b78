"""What a report begins and ends with: what the run is, what may be wrong, and where it is from."""

import json
import shlex
from collections.abc import Iterator

import yaml  # type: ignore[import-untyped]

from extractkit.display import duration_text
from extractkit.errors import counted
from extractkit.reports import Block, Code, Facts, Header, Listing, Note, Section
from extractkit.reports.material import Material
from extractkit.runs.directory import human_bytes
from extractkit.runs.manifest import Status
from extractkit.runs.overview import Fact
from extractkit.runs.schema import plain

_IN_HEADER = {"run", "status", "started", "finished", "job"}
_MOST_REASONS = 200


_TONES = {Status.FINISHED: "good", Status.FAILED: "bad"}


def header(material: Material) -> Header:
    """Return what the page about a run begins with."""
    recorded = material.manifest
    numbers = [("samples", f"{recorded.samples:,}"), ("tensors", f"{len(recorded.tensors):,}")]
    if recorded.statistics:
        numbers.append(("with statistics", f"{len(recorded.statistics):,}"))
    if recorded.checkpoints:
        numbers.append(("checkpoints", f"{len(recorded.checkpoints):,}"))
    if recorded.actual is not None:
        numbers.append(("stored", human_bytes(recorded.actual.bytes)))
    numbers.append(("started", started_text(recorded.volatile.started)))
    return Header(
        material.overview.path.name,
        str(recorded.status),
        tone_of(recorded.status),
        shlex.join(recorded.job_given),
        tuple(numbers),
    )


def tone_of(status: Status) -> str:
    """Return the tone of a run's or a sweep's state."""
    return _TONES.get(status, "warn")


def started_text(time: str) -> str:
    """Return a recorded time to the minute."""
    return time[:16].replace("T", " ")


def summary(material: Material, room: int) -> Iterator[Section]:
    """Yield what the run is, with what may be a mistake in it."""
    overview = material.overview
    blocks: list[Block] = []
    if overview.status is not Status.FINISHED:
        blocks.append(
            Note(f"This run is {overview.status}: it holds only some of its samples.", warns=True)
        )
    if material.checkpoint is not None:
        blocks.append(Note(f"Values are those of the last checkpoint, {material.checkpoint}."))
    warnings = [finding for finding in overview.findings if finding.warns]
    if warnings:
        rows = tuple(
            (finding.label, finding.text, key, detail)
            for finding in warnings
            for key, detail in (finding.tensors or {"": ""}).items()
        )
        columns = ("finding", "what", "tensor", "detail")
        used = [at for at in range(len(columns)) if any(row[at] for row in rows)]
        blocks.append(
            Listing(
                tuple(columns[at] for at in used),
                tuple(tuple(row[at] for at in used) for row in rows[:_MOST_REASONS]),
            )
        )
    kept = [fact for fact in overview.facts if fact.label not in _IN_HEADER]
    labels = {finding.label for finding in warnings}
    blocks.append(Facts(tuple(fact for fact in kept if fact.label not in labels)))
    yield Section("overview", "Overview", "", tuple(blocks))


def absent(material: Material, room: int) -> Iterator[Section]:
    """Yield the samples, tensors and checkpoints that the run does not have, with the reasons."""
    manifest = material.manifest
    rows = [
        *(("tensor", one.address, one.reason) for one in manifest.unextractable),
        *(("checkpoint", one.label, one.reason) for one in manifest.excluded),
        *(("sample", str(index), reason) for index, reason in material.missing.items()),
    ]
    if not rows:
        return
    shown = tuple(rows[:_MOST_REASONS])
    notes = [Note(f"{counted(len(rows) - len(shown), 'row')} more are in the run.")]
    yield Section(
        "absent",
        "Not in the run",
        "Samples without values, tensors that cannot be extracted, and checkpoints that were "
        "excluded.",
        (Listing(("what", "which", "reason"), shown), *notes[: len(rows) > len(shown)]),
    )


def provenance(material: Material, room: int) -> Iterator[Section]:
    """Yield the configuration, the model, versions, machine and times."""
    manifest, volatile = material.manifest, material.manifest.volatile
    facts = [
        Fact("identity", manifest.identity or "unknown"),
        *(Fact(f"model {key}", _text(value)) for key, value in manifest.model.items()),
        Fact("inputs", f"SHA-256 {manifest.inputs.digest}" if manifest.inputs else "unknown"),
    ]
    if manifest.git is not None:
        dirty = ", with changes" if manifest.git.dirty else ""
        facts.append(Fact("git", f"{manifest.git.revision}{dirty}"))
    facts += [Fact(f"machine {key}", _text(value)) for key, value in volatile.host.items()]
    facts += [
        Fact(f"time for {stage}", duration_text(seconds))
        for stage, seconds in volatile.timings.items()
    ]
    facts += [Fact(f"seed {name}", str(seed)) for name, seed in manifest.seeds.items()]
    yield Section(
        "provenance",
        "Job and provenance",
        "What decided the values: enough to repeat the run.",
        (
            Code("Configuration", _yaml(plain(manifest.job_resolved)), folded=False),
            Facts(tuple(facts)),
            Listing(("package", "version"), tuple(manifest.versions.items())),
            Code("Settings", _yaml(plain(manifest.settings))),
        ),
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(plain(value), ensure_ascii=False)


def _yaml(value: object) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True)).rstrip()
