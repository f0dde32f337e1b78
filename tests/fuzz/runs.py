"""Mutated manifests and journals whose checksums hold, as only somebody makes them who means harm:
every verb on runs, and the reader, answers or refuses and touches nothing else."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np

import extractkit
from extractkit.runs import JOURNAL, MANIFEST, journal, manifest
from tests.fuzz import configs
from tests.fuzz.mutation import HOSTILE, mutated_document
from tests.fuzz.outcomes import outcome
from tests.fuzz.program import Case, Ended, call

_RUN, _OTHER, _AGAIN = "out/run", "out/other", "out/again"
_CALLS: tuple[tuple[str, ...], ...] = (
    ("show", _RUN),
    ("show", _RUN, "--json"),
    ("verify", _RUN),
    ("verify", _RUN, "--recompute", "1", "--json"),
    ("diff", _RUN, _OTHER),
    ("diff", _OTHER, _RUN, "--json"),
    ("similarity", _RUN, _OTHER),
    ("resume", _RUN),
    ("resume", _RUN),
    ("rerun", _RUN, f"hydra.run.dir={_AGAIN}"),
    ("open", _RUN),
)
"""What is called on a run; `open` stands for the reader in Python."""


def prepare(place: Path) -> None:
    """A finished run, and a second one of the same job, by the program itself.

    Raises:
        RuntimeError: it failed.
    """
    configs.prepare(place)
    (place / "out").mkdir()
    for run in (_RUN, _OTHER):
        overrides = ["experiment=mine", "runtime.shard_size=2", f"hydra.run.dir={run}"]
        ended = call(["run", *overrides, "--config-dir", "my"], place, [place / run])
        if ended.code or ended.wrong:
            raise RuntimeError(f"{ended}")


def cases(scratch: Path) -> Case:
    """Each case in a copy of one place that is prepared first."""
    template, place = scratch / "template", scratch / "case"
    prepare(template)

    def case(seed: int) -> tuple[str, str | None]:
        shutil.copytree(template, place)
        arguments = mutated(place / _RUN, seed)
        if arguments[0] == "open":
            ended = _opened(place / _RUN)
        else:
            may = {"resume": [place / _RUN], "rerun": [place / _AGAIN]}
            ended = call(arguments, place, may.get(arguments[0], []))
        shutil.rmtree(place)
        return f"{arguments[0]}: exit code {ended.code}", ended.fault(arguments)

    return case


def mutated(directory: Path, seed: int) -> list[str]:
    """Mutate a run; what to call on it."""
    draw = random.Random(f"runs {seed}")
    if draw.random() < 0.3:
        _stop(directory, draw)
    if draw.random() < 0.6:
        _mutate_manifest(directory, draw)
    else:
        _mutate_journal(directory, draw)
    return list(draw.choice(_CALLS))


def _stop(directory: Path, draw: random.Random) -> None:
    """Make the run one that was interrupted: some of its shards are not listed."""
    path = directory / JOURNAL
    lines = path.read_text("utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[: draw.randrange(len(lines))]), "utf-8")
    data = _unsealed(directory)
    data |= {"status": draw.choice(("started", "failed", "interrupted")), "actual": None}
    (directory / MANIFEST).write_bytes(manifest.with_checksum(data))


def _mutate_manifest(directory: Path, draw: random.Random) -> None:
    data = _unsealed(directory)
    if draw.random() < 0.2:
        components = [data["job_resolved"]["model"], *data["job_resolved"]["sinks"].values()]
        draw.choice(components)["_target_"] = draw.choice(HOSTILE)
    else:
        # Most of a manifest is lists of tensors and versions: every field has its turn.
        field = draw.choice(sorted(data))
        data |= mutated_document({field: data.pop(field)}, draw)
    (directory / MANIFEST).write_bytes(manifest.with_checksum(data))


def _mutate_journal(directory: Path, draw: random.Random) -> None:
    path = directory / JOURNAL
    records = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    records = mutated_document(records, draw)
    path.write_text("".join(map(_line, records)), "utf-8", errors="surrogatepass")


def _line(record: Any) -> str:
    """A line whose checksum holds, if it can have one."""
    if not isinstance(record, dict):
        return f"{json.dumps(record)}\n"
    record.pop("checksum", None)
    return f"{journal.line_of(record)}\n"


def _unsealed(directory: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((directory / MANIFEST).read_bytes())
    del data["checksum"]
    return data


def _opened(directory: Path) -> Ended:
    how, words = outcome(lambda: _read(directory))
    return Ended(0 if how.allowed else -1, words, () if how.allowed else (f"{how}: {words}",))


def _read(directory: Path) -> None:
    """Everything that the run says to hold."""
    found = extractkit.open(directory)
    list(found.samples)
    for view in found.values():
        if view.constant:
            np.asarray(view)
        else:
            list(view)
    for named in found.statistics.values():
        for name in named:
            dict(named[name].items())
