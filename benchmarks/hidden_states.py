"""Inner values of a BERT to disk: extractkit, the bare forward pass, and a loop written by hand.

All three read the same texts and run the same weights in one process, in turn. extractkit's clock
runs from the frozen plan to the finished run. The bare pass is extractkit's own program, called on
the same batches, which are in memory already, and its results are discarded. What the loop by hand
does is in `handwritten`. Loading and compiling are left out everywhere; tokenising is included in
the loop and excluded from the bare pass, and extractkit tokenises once within its clock.

`python -m benchmarks hidden_states_stages` prints the processor time of each stage of such a job,
by both compilers.
"""

import pkgutil
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import extractkit
from benchmarks import handwritten
from extractkit.api import live_inputs
from extractkit.config.compose import compose
from extractkit.config.plain_data import from_values
from extractkit.core.plan import held_per_sample
from extractkit.engine import Silent
from extractkit.engine.batches import Batch
from extractkit.engine.prepare import Prepared, prepare
from extractkit.engine.samples import survey
from tests.corpus import stdlib_docstrings

TEXTS = 512
ROUNDS = 5
MODEL = ("model=bert",)
LAYERS = {"regex": "^transformer_layer_[0-9]+:output"}
WORKS: Mapping[str, Mapping[str, object]] = {
    "six hidden states": LAYERS,
    "attention": {"layer_type": "Softmax", "kind": "layer_output"},
    "means": {**LAYERS, "do": [{"mean": "token"}]},
    "first layer": {"regex": "^transformer_layer_0:output"},
}
BY_HAND: Mapping[str, Callable[..., None]] = {
    "six hidden states": handwritten.hidden_states,
    "attention": handwritten.attention,
    "means": handwritten.means,
    "first layer": handwritten.first_layer,
}

Spent = tuple[float, float]
"""Seconds, and seconds of all processors."""


def main() -> None:
    """Print the median rate of each way for each work, and ratios."""
    texts = stdlib_docstrings(TEXTS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path, _ = _extract(LAYERS, texts[:32], folder / "first")
        by_hand = handwritten.load(path)
        for work in WORKS:
            _measure(work, texts, by_hand, folder)


def _measure(
    work: str, texts: Sequence[str], by_hand: handwritten.HandwrittenModel, folder: Path
) -> None:
    """Run each way once so that kernels of all shapes exist, then in turn, and print the rates."""
    selector, loop = WORKS[work], BY_HAND[work]
    bare = Bare.of(selector, texts)
    file = folder / "by-hand.h5"
    ways: dict[str, Callable[[int], Spent]] = {
        "extractkit": lambda at: _extract(selector, texts, folder / f"{work}-{at}")[1],
        "bare": lambda at: bare.run(),
        "by hand": lambda at: _timed(partial(loop, by_hand, texts, file)),
    }
    for way in ways.values():
        way(-1)
    _compare(work, ways, bare)


def _compare(work: str, ways: Mapping[str, Callable[[int], Spent]], bare: "Bare") -> None:
    rounds: list[dict[str, Spent]] = []
    for at in range(ROUNDS):
        order = list(ways)[:: 1 if at % 2 == 0 else -1]
        rounds.append({way: ways[way](at) for way in order})
    print(f"  {work}: {len(bare.batches)} batches, {bare.padding:.1%} of their tokens are padding")
    for way in ways:
        seconds, busy = zip(*(one[way] for one in rounds), strict=True)
        print(
            f"    {way}: {TEXTS / median(seconds):.1f} texts/s, CPU {median(busy):.2f} s; ratio "
            f"to the bare pass {_ratio(rounds, 'bare', way, 0)}, CPU "
            f"{_ratio(rounds, 'bare', way, 1)}; to the loop by hand "
            f"{_ratio(rounds, 'by hand', way, 0)}"
        )


def _ratio(rounds: Sequence[Mapping[str, Spent]], base: str, way: str, of: int) -> str:
    """Return the median of one way's speed as a multiple of another's in the same round."""
    found = [one[base][of] / one[way][of] for one in rounds]
    return f"{median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


def _timed(act: Callable[[], object]) -> Spent:
    began, busy = time.perf_counter(), time.process_time()
    act()
    return time.perf_counter() - began, time.process_time() - busy


class _Clock(Silent):
    """Notes when the plan is frozen and when the run is complete."""

    def planned(self, *plan: object) -> None:
        self.began = (time.perf_counter(), time.process_time())

    def finished(self, summary: object) -> None:
        seconds, busy = self.began
        self.spent = (time.perf_counter() - seconds, time.process_time() - busy)


def _extract(
    selector: Mapping[str, object], texts: Sequence[str], run_dir: Path, **runtime: object
) -> tuple[Path, Spent]:
    """Return the folder of the model, and what was spent between the plan and the finished run."""
    clock = _Clock()
    run = extractkit.extract(
        MODEL,
        selectors={"s": selector},
        runtime={"self_check": False, **runtime},
        inputs=texts,
        run_dir=run_dir,
        listener=clock,
    )
    return Path(str(run.manifest.model["path"])), clock.spent


@dataclass(frozen=True)
class Bare:
    """The program of a job, and its batches."""

    prepared: Prepared
    batches: Sequence[Batch]

    @classmethod
    def of(cls, selector: Mapping[str, object], texts: Sequence[str], **runtime: object) -> "Bare":
        """Prepare the job that stores what a selector matches."""
        live = {"inputs": live_inputs(texts)}
        given = from_values(MODEL, {"selectors": {"s": selector}, "runtime": runtime})
        job = compose(MODEL, live, (), given).job
        prepared = prepare(job)
        opened = prepared.opened
        found = survey(opened.model, opened.source, lambda rows: None)
        held = held_per_sample(prepared.tensors, found.lengths)
        shards = opened.shards(found.lengths, held, None)
        stream = prepared.stream(found)
        return cls(prepared, [batch for batch, _ in stream.batches(shards)])

    @property
    def padding(self) -> float:
        """The share of the batches' tokens that is padding."""
        signature = self.prepared.opened.model.signature
        computed = sum(len(one) * one.sizes(signature)["token"] for one in self.batches)
        return 1 - sum(int(one.lengths["token"].sum()) for one in self.batches) / computed

    def run(self) -> Spent:
        """Call the program on every batch."""

        def act() -> None:
            assert self.prepared.program is not None
            for one in self.batches:
                self.prepared.program(one.features, one.lengths)

        return _timed(act)


STAGES = {
    "reading": "extractkit.engine.stream.Stream.read",
    "calls, own thread": "extractkit.engine.stream.run",
    "placing": "extractkit.engine.stream.put",
    "checks": "extractkit.engine.stream.Stream._examined",
    "spot checks": "extractkit.engine.stream.SpotCheck.effect",
    "serialising": "extractkit.runs.shards.serialized_by",
    "hash of values": "extractkit.runs.shards.digest",
    "hash of files": "extractkit.runs.files.StoredFile.of",
    "writing": "extractkit.runs.shards.write_durably",
}
"""The functions of a job's stages."""


def stages() -> None:
    """Print the processor time of the stages of each work: the least of the rounds, in seconds.

    "model" is what the calls of the program take with nothing else running, in all threads.
    """
    texts = stdlib_docstrings(TEXTS)
    with tempfile.TemporaryDirectory() as name:
        for work, selector in WORKS.items():
            for compiler in ("graph", "openvino") if find_spec("openvino") else ("graph",):
                bare = Bare.of(selector, texts, compile=compiler)
                asked = {"compile": compiler, "self_check": True}
                run_dir = Path(name) / f"{work}-{compiler}"
                extract = partial(_extract, selector, texts, run_dir, **asked)
                bare.run()
                extract()
                rounds = []
                for _ in range(ROUNDS):
                    shutil.rmtree(run_dir)
                    with measured() as found:
                        _, spent = extract()
                    rounds.append({**found, "model": bare.run()[1], "everything": spent[1]})
                least = {stage: min(one[stage] for one in rounds) for stage in rounds[0]}
                stated = ", ".join(f"{one} {busy:.2f}" for one, busy in least.items())
                print(f"  {work}, {compiler}: {stated}", flush=True)


@contextmanager
def measured() -> Iterator[Mapping[str, float]]:
    """Add up the processor time of the threads that run the functions of `STAGES`."""
    found = dict.fromkeys(STAGES, 0.0)
    lock = threading.Lock()

    def wrapped(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.thread_time()
            try:
                return function(*arguments, **named)
            finally:
                with lock:
                    found[stage] += time.thread_time() - began

        return timed

    with ExitStack() as patches:
        for stage, name in STAGES.items():
            patches.enter_context(mock.patch(name, wrapped(stage, pkgutil.resolve_name(name))))
        yield found
