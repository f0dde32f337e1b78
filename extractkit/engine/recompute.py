"""`verify --recompute`: shards of a run computed again, and the model's own outputs beside them."""

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest

from extractkit.core.digests import digest
from extractkit.core.job import Job
from extractkit.core.plan import SampleLengths
from extractkit.core.shards import Shard
from extractkit.core.spec import BFLOAT16
from extractkit.core.values import Array, State, from_stored
from extractkit.engine.identity import described
from extractkit.engine.prepare import Prepared, prepare
from extractkit.engine.samples import Survey, recorded_survey
from extractkit.engine.self_check import self_check
from extractkit.engine.stream import Stream
from extractkit.errors import ExtractkitError, counted
from extractkit.runs import SAMPLES
from extractkit.runs.checking import Check, Finding
from extractkit.runs.checking.verification import IntactRun, read_whole
from extractkit.runs.comparing.measures import TOLERATED, compare_arrays, compare_values
from extractkit.runs.environment import host
from extractkit.runs.files import StoredFile
from extractkit.runs.journal import Entry
from extractkit.runs.manifest import Manifest
from extractkit.runs.same_job import job_differences, surrounding_differences
from extractkit.runs.samples import Samples
from extractkit.runs.shards import ShardValues, state_before, state_of, to_bytes
from extractkit.runs.statistics import parsed, serialized

_SURROUNDINGS, _SHARDS, _OUTPUTS = "same job", "recomputed", "outputs"


def recompute(
    job: Job, sound: IntactRun, shards: int, seed: int | None = None
) -> tuple[Check, ...]:
    """Compute some shards of a run again and compare them with the stored ones.

    The comparison is bitwise in the environment of the run. If only versions, settings or the
    processor differ, it uses a tolerance, which it reports. Then, on one batch, the model's
    outputs are compared with those of its own call.

    Args:
        job: the run's own, made from its manifest; `impose` its environment before the job's
            callables are imported.
        sound: the undamaged parts of the run.
        shards: number of shards to draw at random, or all if there are fewer. The constants count
            as one.
        seed: seed of the drawing, which is reported; None: choose one.
    """
    if sound.manifest.plan is None:
        return not_recomputed("the run has no plan yet")
    try:
        prepared = prepare(job, sound.manifest.settings)
        now = described(sound.manifest, prepared)
    except ExtractkitError as error:
        why = "the job cannot be prepared any more"
        return Check.of(_SURROUNDINGS, why, [Finding(None, str(error))]), *_not_made(why)
    return _Recomputation(sound, prepared, now).checks(shards, seed)


def not_recomputed(why: str) -> tuple[Check, ...]:
    """Return the same checks, marked as not made."""
    return Check.not_made(_SURROUNDINGS, why), *_not_made(why)


@dataclass(frozen=True, eq=False)
class _Recomputation:
    sound: IntactRun
    prepared: Prepared
    now: Manifest

    def checks(self, shards: int, seed: int | None) -> tuple[Check, ...]:
        same = Check.of(
            _SURROUNDINGS,
            "model, inputs and tensors are the recorded ones",
            [Finding(None, message) for message in self._other_job],
            self._other_surroundings,
        )
        if self._other_job:
            same = replace(same, detail="it is not the recorded job any more")
            return same, *_not_made("another job has other values")
        if self.prepared.program is not None and not self.sound.samples:
            return same, *_not_made(f"{SAMPLES} is damaged or missing")
        return same, self._recomputed(shards, seed), self._outputs()

    @cached_property
    def _other_job(self) -> list[str]:
        """Return the differences that make values incomparable."""
        recorded = self.sound.manifest
        found = job_differences(recorded, self.now)
        # Other versions of libraries may build different graphs that compute the same.
        same_code = recorded.versions == self.now.versions and (
            recorded.values_version == self.now.values_version
        )
        if same_code and recorded.model.get("definition") != self.now.model.get("definition"):
            found.append("what the model computes is not what was recorded")
        return found

    @cached_property
    def _other_surroundings(self) -> list[str]:
        """Return the differences that may change the last bits of values."""
        recorded = self.sound.manifest
        found = surrounding_differences(recorded, self.now)
        volatile = recorded.volatile
        hosts = [volatile.host, *(one.host for one in volatile.resumed), *volatile.workers]
        here = host().get("processor")
        others = dict.fromkeys(one.get("processor") for one in hosts if one)
        found += [
            f"the processor: {one} was recorded, {here} is found" for one in others if one != here
        ]
        return found

    @cached_property
    def _stream(self) -> Stream:
        if self.prepared.program is None:
            return self.prepared.stream(Survey(SampleLengths(0, {}), {}))
        recorded = self.sound.manifest
        rows = Samples(self.sound.directory / SAMPLES, schema=recorded.samples_schema)
        signature = self.prepared.opened.model.signature
        found = recorded_survey(signature, rows, recorded.samples)
        return self.prepared.stream(found, state_before=self._state_before, from_stored=True)

    def _state_before(self, shard: Shard) -> State:
        return state_before(self.sound.directory, self.sound.entries, shard)

    # ---- shards

    def _recomputed(self, count: int, seed: int | None) -> Check:
        entries = self.sound.entries
        if not entries:
            return Check.not_made(_SHARDS, "no shard is committed and whole")
        seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
        chosen = _drawn(entries, count, seed)
        exactly = not self._other_surroundings
        how = "bit for bit" if exactly else f"to {TOLERATED}, as other things differ"
        detail = f"{len(chosen)} of {counted(len(entries), 'shard')}, {how}"
        notes = []
        if len(chosen) < len(entries):
            notes.append(f"seed {seed} drew {', '.join(shard.key for shard in chosen)}")
        found: list[Finding] = []
        largest = 0.0
        done: set[Shard] = set()
        try:
            for one in self._computed(chosen):
                wrong, error = self._held(one, entries[one.shard], exactly)
                found += wrong
                largest = max(largest, error)
                done.add(one.shard)
                del one
        except ExtractkitError as error_found:
            left = [shard.key for shard in chosen if shard not in done]
            several = f"{len(left)} shards ({', '.join(left[:1])} first)"
            which = left[0] if len(left) == 1 else several
            found.append(Finding(None, f"{which} cannot be computed: {error_found}"))
        if not exactly:
            notes.append(f"the largest difference is {largest:.2g}")
            if self.sound.manifest.statistics:
                notes.append(
                    "counts and positions in partial results of statistics are not compared"
                )
        return Check.of(_SHARDS, detail, found, notes)

    def _computed(self, chosen: Sequence[Shard]) -> Iterator[ShardValues]:
        # The comparison with stored values takes the place of the spot check, which may have been
        # off for the run.
        stream = replace(self._stream, spot_check=None)
        with closing(stream.shards(chosen)) as computed:
            yield from computed

    def _held(self, one: ShardValues, entry: Entry, exactly: bool) -> tuple[list[Finding], float]:
        """Compare a shard with the stored one; return the findings and the largest difference."""
        found = self._missing(one, entry)
        largest = 0.0
        if exactly:
            found += self._beside(entry, entry.state, one.state and to_bytes(one.state))
            found += self._beside(
                entry, entry.statistics, one.statistics and serialized(one.statistics)
            )
        else:
            wrong, largest = self._near(entry, one)
            found += wrong
        if digest(one.values.items(), entry.values.algorithm) == entry.values:
            return found, largest
        name, file = next(iter(entry.files.items()))
        path = self.sound.directory / file.name
        for tensor in self.sound.manifest.tensors:
            if tensor.key not in one.values:
                continue
            stored = read_whole(self.sound.sinks[name], path, one.shard, tensor.stored)
            dtype = tensor.stored.spec.dtype
            again = from_stored(one.values[tensor.key], dtype)
            apart = compare_values(again, from_stored(stored, dtype), coarse=dtype == BFLOAT16)
            largest = max(largest, apart.error)
            if apart.unequal if exactly else apart.beyond:
                message = f"{path}, {tensor.key!r}: it differs when computed again: {apart}"
                found.append(Finding(file.name, message, entry.shard, tensor.key))
        if exactly and not found:
            found.append(Finding(file.name, f"{path}: it differs when computed again", entry.shard))
        return found, largest

    def _beside(self, entry: Entry, stored: StoredFile | None, again: object) -> list[Finding]:
        """Compare a file beside the values with its bytes computed again, if both exist."""
        if stored is None or not isinstance(again, bytes):
            return []
        if StoredFile.of(stored.name, again, by=stored.digest.algorithm) == stored:
            return []
        path = self.sound.directory / stored.name
        return [Finding(stored.name, f"{path}: it differs when computed again", entry.shard)]

    def _near(self, entry: Entry, one: ShardValues) -> tuple[list[Finding], float]:
        """Compare real numbers of the arrays beside the values to the tolerance.

        Counts and positions of statistics are not compared: the last bits of a value may move it to
        another bin.
        """
        found, largest = [], 0.0
        for file, tensor, name, again, stored in self._arrays_beside(entry, one):
            what = f"{self.sound.directory / file.name}, {name}"
            if stored is None:
                found.append(Finding(file.name, f"{what} is missing", entry.shard, tensor))
                continue
            apart = compare_arrays(again, stored)
            largest = max(largest, apart.error)
            if apart.beyond:
                message = f"{what}: it differs when computed again: {apart}"
                found.append(Finding(file.name, message, entry.shard, tensor))
        return found, largest

    def _arrays_beside(
        self, entry: Entry, one: ShardValues
    ) -> Iterator[tuple[StoredFile, str | None, str, Array, Array | None]]:
        """Yield file, tensor, name, value and stored value of each array to compare."""
        directory = self.sound.directory
        if entry.state is not None and one.state is not None:
            before = state_of(directory, entry.state)
            for at, (again, stored) in enumerate(zip_longest(one.state, before)):
                if again is not None:
                    yield entry.state, None, f"state {at}", again, stored
        if entry.statistics is None or not one.statistics:
            return
        file = entry.statistics
        known = parsed(file.content(directory), directory / file.name)
        for (key, statistic), arrays in one.statistics.items():
            for name, again in arrays.items():
                if again.dtype.kind == "f":
                    stored = known.get((key, statistic), {}).get(name)
                    yield file, key, f"{statistic}.{name} of {key!r}", again, stored

    def _missing(self, one: ShardValues, entry: Entry) -> list[Finding]:
        again = {str(index) for index in one.missing}
        return [
            Finding(
                None,
                f"sample {index} was {'missing' if index in entry.missing else 'stored'}, and is "
                f"{'missing' if index in again else 'not missing'} when computed again",
                entry.shard,
            )
            for index in sorted(again ^ set(entry.missing), key=int)
        ]

    # ---- outputs

    def _outputs(self) -> Check:
        """Compare the outputs beside everything extracted with the model's own, on one batch."""
        try:
            checked = self_check(self.prepared, self._committed_stream, list(self.sound.entries))
        except ExtractkitError as error:
            return Check.of(_OUTPUTS, "one batch", [Finding(None, str(error))])
        compared = [one for one in checked.records if one.not_applicable is None]
        if not compared:
            return Check.not_made(_OUTPUTS, str(checked.records[0].not_applicable))
        first = compared[0]
        findings = [Finding(None, str(one), tensor=one.address) for one in checked.differences]
        if not any(one.outputs for one in compared):  # the own call fails
            return Check.of(_OUTPUTS, counted(first.samples, "sample"), findings, checked.notes)
        detail = (
            f"{counted(len(first.outputs), 'output')} for {counted(first.samples, 'sample')} "
            f"against {first.loaded_by}, to {first.tolerance}"
        )
        largest = max(one.largest_difference for one in compared)
        notes = [*checked.notes, f"the largest difference is {largest:.2g}"]
        return Check.of(_OUTPUTS, detail, findings, notes)

    @cached_property
    def _committed_stream(self) -> Stream:
        """Return the stream without the samples that are missing from the run."""
        if self.prepared.program is None:
            return self._stream
        missing = {
            int(index): reason
            for entry in self.sound.entries.values()
            for index, reason in entry.missing.items()
        }
        return replace(self._stream, missing=missing)


def _not_made(why: str) -> tuple[Check, Check]:
    return Check.not_made(_SHARDS, why), Check.not_made(_OUTPUTS, why)


def _drawn(entries: Iterable[Shard], count: int, seed: int) -> list[Shard]:
    """Return this many random shards, in order."""
    shards = sorted(entries, key=lambda shard: shard.order)
    chosen = random.Random(seed).sample(shards, min(count, len(shards)))
    return sorted(chosen, key=lambda shard: shard.order)
