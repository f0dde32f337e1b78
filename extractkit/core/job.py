"""The typed, frozen description of a job. Pure Python, independent of YAML and Hydra."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from extractkit.advice import renamed_key
from extractkit.core.component import Component
from extractkit.core.keys import Choice, Effect, Flag, Number, Text, Whole, settings_of
from extractkit.core.selectors import Selector
from extractkit.core.shards import Part
from extractkit.errors import ConfigError, choices

# NumPy's generators take 32 bits.
_LARGEST_SEED = 2**32 - 1

MOST_THREADS = max(1024, os.cpu_count() or 1)
"""Most threads. TensorFlow starts all of them at once, and hangs if there are many more."""

AUTO, GRAPH, XLA, OPENVINO = "auto", "graph", "xla", "openvino"
COMPILE_MODES = (AUTO, GRAPH, XLA, OPENVINO)

BATCH_SIZE = 32
"""The most samples in a batch, unless it is given."""

BAD_CHECKPOINTS = ("fail", "skip")
"""Options for a checkpoint that is damaged or of another architecture."""

BAD_SAMPLES = ("fail", "skip")
"""Options for a sample that cannot be read, does not fit the model, or makes it fail."""

NON_FINITE = ("warn", "fail", "skip")
"""Options for NaN and infinite values."""

ENGINES = ("local", "processes", "ray")
"""Where shards are computed: in this process, in others on this machine, or on a Ray cluster."""


_WORKERS = ("processes", "ray")
_RAY = ("ray",)


@dataclass(frozen=True)
class PartOfJob:
    """A part, such as 2/4."""

    type = "part i/n"

    def parse(self, key: str, value: object) -> Part:
        """Return the part."""
        text = Text("1/4").parse(key, value)
        part = Part.parse(text)
        if part is None:
            raise ConfigError(
                f"{key}={text!r} is not a part of a job. Give i/n, i from 1 to n: the parts of "
                f"four are 1/4, 2/4, 3/4 and 4/4"
            )
        return part


@dataclass(frozen=True)
class Runtime:
    """How a job runs: the `runtime` group. Each field declares a key (`keys.settings_of`)."""

    batch_size: Annotated[
        int | None,
        Whole(word="auto"),
        Effect.VALUES,
        "The most samples in a batch. auto: measured before the first shard, and then kept.",
    ] = BATCH_SIZE
    batch_tokens: Annotated[
        int | None,
        Whole(),
        Effect.VALUES,
        "The most elements, padding included, along the free axes of a batch. null: no limit.",
    ] = None
    shard_size: Annotated[
        int | None,
        Whole(word="auto"),
        Effect.LAYOUT,
        "The samples in a shard. auto: about 128 MB of values, 1,024 samples at most.",
    ] = None
    compile: Annotated[
        str,
        Choice(COMPILE_MODES),
        Effect.VALUES,
        "graph (a TensorFlow graph), xla, openvino, or auto: openvino where that pays, else graph.",
    ] = GRAPH
    device: Annotated[
        str | None,
        Text("/CPU:0"),
        Effect.VALUES,
        'TensorFlow\'s name of a device: "/CPU:0", "/GPU:1". null: TensorFlow chooses.',
    ] = None
    seed: Annotated[
        int,
        Whole(least=0, most=_LARGEST_SEED),
        Effect.VALUES,
        "The seed of every random generator, set before the model is loaded.",
    ] = 0
    deterministic: Annotated[
        bool, Flag(), Effect.VALUES, "Refuse operations that have no deterministic kernel."
    ] = True
    threads: Annotated[
        int | None,
        Whole(most=MOST_THREADS),
        Effect.RECORDED,
        "The most threads within an operation, and between operations. null: one per processor.",
    ] = None
    bad_samples: Annotated[
        str,
        Choice(BAD_SAMPLES),
        Effect.LAYOUT,
        "fail, or skip: record samples that cannot be read, encoded or computed as missing.",
    ] = "fail"
    bad_checkpoints: Annotated[
        str,
        Choice(BAD_CHECKPOINTS),
        Effect.RECORDED,
        "fail, or skip: exclude checkpoints that are damaged or of another architecture.",
    ] = "fail"
    non_finite: Annotated[
        str,
        Choice(NON_FINITE),
        Effect.LAYOUT,
        "warn of NaN and infinite values, fail, or skip the samples that have some.",
    ] = "warn"
    keep_texts: Annotated[
        bool,
        Flag(),
        Effect.LAYOUT,
        "Keep texts and tokens in samples.jsonl. false: the SHA-256 of each text instead.",
    ] = True
    reuse_from: Annotated[
        str | None,
        Text("outputs"),
        Effect.NONE,
        "A directory to search for a finished run of the same identity first. null: none.",
    ] = None
    engine: Annotated[
        str,
        Choice(ENGINES),
        Effect.WHERE,
        "Where to compute shards: local (this process), or workers: processes (here) or ray.",
    ] = "local"
    workers: Annotated[
        int | None, Whole(), Effect.WHERE, "The number of workers. null: two.", _WORKERS
    ] = None
    shard_timeout: Annotated[
        float | None,
        Number(),
        Effect.WHERE,
        "The most seconds for a shard before another worker gets it. null: no limit.",
        _WORKERS,
    ] = None
    ray_address: Annotated[
        str | None,
        Text("10.0.0.1:6379"),
        Effect.WHERE,
        "The host:port of a Ray cluster, or auto. null: start one on this machine.",
        _RAY,
    ] = None
    worker_cpus: Annotated[
        float | None,
        Number(),
        Effect.WHERE,
        "The processors that a Ray worker reserves. null: 1.",
        _RAY,
    ] = None
    worker_gpus: Annotated[
        float | None, Number(), Effect.WHERE, "The GPUs that a Ray worker reserves. null: 0.", _RAY
    ] = None
    self_check: Annotated[
        bool,
        Flag(),
        Effect.WHERE,
        "Compare first outputs with the model's own call, and a few samples in a batch and alone.",
    ] = True
    part: Annotated[
        Part | None,
        PartOfJob(),
        Effect.NONE,
        "The part of the job to run, such as 2/4; `extractkit join` joins all. null: the whole.",
    ] = None

    @classmethod
    def parse(cls, entries: Mapping[str, object]) -> "Runtime":
        """Parse configuration, in which `shard_size` and `batch_size` may be "auto".

        Raises:
            ConfigError: an unknown key or an invalid value.
        """
        declared = {setting.name: setting for setting in SETTINGS}
        for key, value in entries.items():
            if (message := renamed_key(f"runtime.{key}", value)) is not None:
                raise ConfigError(message)
            if key not in declared:
                raise ConfigError(f"runtime.{key} does not exist. {choices(key, declared)}")
        runtime = cls(**{key: declared[key].parse(value) for key, value in entries.items()})
        if runtime.reuse_from == "":
            raise ConfigError("runtime.reuse_from is empty. Give a directory of runs, or null")
        runtime._check_engine()
        runtime._check_part()
        return runtime

    def identifying(self) -> dict[str, object]:
        """Return the values of the keys that the identity holds, by name.

        Runs from before there was `keep_texts` keep theirs: its default is not in it.
        """
        found = {key.name: getattr(self, key.name) for key in SETTINGS if key.effect.identifies}
        if self.keep_texts:
            del found["keep_texts"]
        return found

    def computing(self) -> dict[str, object]:
        """Return the values of the keys that decide values, by name, without the seed.

        The manifest holds them as settings. It has another place for seeds.
        """
        names = settings_that(Effect.VALUES)
        return {name: getattr(self, name) for name in names if name != "seed"}

    def _check_engine(self) -> None:
        """Refuse settings that the chosen engine does not use."""
        for key in SETTINGS:
            value = getattr(self, key.name)
            if value is not None and not key.used_by(self.engine):
                raise ConfigError(
                    f"runtime.{key.name}={value} has no effect with runtime.engine={self.engine}. "
                    f"Add {' or '.join(f'runtime.engine={engine}' for engine in key.engines)}, or "
                    f"leave it out"
                )
        if self.shard_timeout == 0:
            raise ConfigError("runtime.shard_timeout=0 leaves no time. Give seconds, or null")
        if self.ray_address is not None and not _ADDRESS.fullmatch(self.ray_address):
            raise ConfigError(
                f"runtime.ray_address={self.ray_address!r} is not the address of a Ray cluster. "
                f"Give that of its head, as in 10.0.0.1:6379, or auto, or null to start one here"
            )

    def _check_part(self) -> None:
        if self.part is not None and self.batch_size is None:
            raise ConfigError(
                f"runtime.part={self.part} and runtime.batch_size=auto do not go together: each "
                f"part might measure another size. Give a number: runtime.batch_size={BATCH_SIZE}"
            )
        if self.part is not None and self.reuse_from is not None:
            raise ConfigError(
                f"runtime.part={self.part} and runtime.reuse_from={self.reuse_from} do not go "
                f"together: what is reused is a whole run. Leave one of them out"
            )


SETTINGS = settings_of(Runtime)
"""The declarations of all keys of `runtime`, in the order of the configuration."""


def settings_that(*effects: Effect) -> tuple[str, ...]:
    """Return the names of the keys of `runtime` with one of these effects."""
    return tuple(key.name for key in SETTINGS if key.effect in effects)


_ADDRESS = re.compile(r"auto|[^\s:/]+:[0-9]{1,5}|\[[0-9A-Fa-f:]+\]:[0-9]{1,5}")


def moved(recorded: Mapping[str, object], where: Mapping[str, object]) -> dict[str, object]:
    """Return settings of `runtime` with new values for where it runs.

    Settings that the new engine does not use are reset, unless given.
    """
    engine = where.get("engine", recorded.get("engine", "local"))
    unused = [key.name for key in SETTINGS if not key.used_by(str(engine))]
    return {**recorded, **dict.fromkeys(unused), **where}


@dataclass(frozen=True)
class Job:
    """Everything that decides what a run holds.

    Attributes:
        model, inputs: the components.
        model_name: the chosen entry of the `model` group, for messages.
        selectors: the selectors in the order of the configuration.
        sinks: the sinks by name. The reader uses the first.
        runtime: how the job runs.
        given: the overrides as typed.
        resolved: the whole composed configuration, as plain data.
        listing: a command, or Python code, that lists the model's tensors, for messages.
    """

    model: Component
    inputs: Component
    selectors: tuple[Selector, ...]
    sinks: Mapping[str, Component]
    runtime: Runtime
    model_name: str
    given: tuple[str, ...] = ()
    resolved: Mapping[str, object] = field(default_factory=dict)
    listing: str = ""
