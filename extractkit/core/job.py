"""The typed, frozen description of a job. Pure Python, independent of YAML and Hydra."""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from extractkit.advice import renamed_key
from extractkit.core.component import Component
from extractkit.core.plan import Part
from extractkit.core.selectors import Selector
from extractkit.errors import ConfigError, choices

# NumPy's generators take 32 bits.
_LARGEST_SEED = 2**32 - 1

MOST_THREADS = max(1024, os.cpu_count() or 1)
"""Most threads. TensorFlow starts all of them at once, and hangs if there are many more."""

COMPILE_MODES = ("graph", "xla")

BAD_CHECKPOINTS = ("fail", "skip")
"""Options for a checkpoint that is damaged or of another architecture."""

BAD_SAMPLES = ("fail", "skip")
"""Options for a sample that cannot be read, does not fit the model, or makes it fail."""

NON_FINITE = ("warn", "fail", "skip")
"""Options for NaN and infinite values."""

ENGINES = ("local", "processes", "ray")
"""Where shards are computed: in this process, in others on this machine, or on a Ray cluster."""


@dataclass(frozen=True)
class Runtime:
    """How a job runs (the `runtime` group).

    Attributes:
        batch_size: most samples in a batch.
        batch_tokens: most padded elements along the free axes of a batch; None: no limit.
        shard_size: samples in a shard; None ("auto"): as many as keep it well below 128 MB.
        compile: "graph" (a TensorFlow graph) or "xla".
        device: TensorFlow's name of the device ("/CPU:0"); None leaves the choice to TensorFlow.
        seed: seed of every random generator.
        deterministic: refuse operations without a deterministic kernel.
        threads: most threads within an operation, and between independent ones; None: the number
            of processors.
        bad_samples: "fail", or "skip" samples that cannot be read, encoded or computed.
        bad_checkpoints: "fail", or "skip" those that are damaged or of another architecture.
        non_finite: "warn" of NaN and infinite values, "fail", or "skip" samples with such values.
        self_check: compare the model's outputs for the first batch with its own call.
        reuse_from: a directory to search for a finished run of the same identity; None: compute
            everything.
        engine: where shards are computed: "local", "processes" or "ray".
        workers: number of workers; None: two if the engine has workers.
        shard_timeout: most seconds that a worker may take for a shard; None: no limit.
        ray_address: "auto" or host:port of a cluster; None: start one on this machine.
        worker_cpus, worker_gpus: what a worker reserves in a Ray cluster; None: 1 and 0.
        part: the part of the job to run, such as "2/4"; None: the whole job.
    """

    batch_size: int = 32
    batch_tokens: int | None = None
    shard_size: int | None = None
    compile: str = "graph"
    device: str | None = None
    seed: int = 0
    deterministic: bool = True
    threads: int | None = None
    bad_samples: str = "fail"
    bad_checkpoints: str = "fail"
    non_finite: str = "warn"
    self_check: bool = True
    reuse_from: str | None = None
    engine: str = "local"
    workers: int | None = None
    shard_timeout: float | None = None
    ray_address: str | None = None
    worker_cpus: float | None = None
    worker_gpus: float | None = None
    part: Part | None = None

    @classmethod
    def parse(cls, entries: Mapping[str, object]) -> "Runtime":
        """Parse configuration, in which `shard_size` may be "auto".

        Raises:
            ConfigError: an unknown key or an invalid value.
        """
        known = [item.name for item in fields(cls)]
        for key, value in entries.items():
            if (message := renamed_key(f"runtime.{key}", value)) is not None:
                raise ConfigError(message)
            if key not in known:
                raise ConfigError(f"runtime.{key} does not exist. {choices(key, known)}")
        values = {key: _plain(key, value) for key, value in entries.items()}
        if values.get("shard_size") == "auto":
            values["shard_size"] = None
        for key in ("batch_size", "batch_tokens", "shard_size", "threads", "workers"):
            _check_whole(key, values.get(key, 1), least=1, optional=key != "batch_size")
        if int(values.get("threads") or 0) > MOST_THREADS:
            raise ConfigError(
                f"runtime.threads={values['threads']} is too many: {MOST_THREADS:,} at most"
            )
        _check_whole("seed", values.get("seed", 0), least=0, optional=False)
        if int(values.get("seed", 0)) > _LARGEST_SEED:
            raise ConfigError(f"runtime.seed={values['seed']} is larger than {_LARGEST_SEED}")
        for key, options in _CHOICES.items():
            if key in values and values[key] not in options:
                given = str(values[key])
                raise ConfigError(
                    f"runtime.{key}={given!r} does not exist. {choices(given, options)}"
                )
        for key, example in _TEXTS.items():
            if not isinstance(values.get(key), str | None):
                raise ConfigError(
                    f"runtime.{key}={values[key]!r} is not a text, such as {example!r}"
                )
        if values.get("reuse_from") == "":
            raise ConfigError("runtime.reuse_from is empty. Give a directory of runs, or null")
        for key in ("deterministic", "self_check"):
            if not isinstance(values.get(key, True), bool):
                raise ConfigError(f"runtime.{key}={values[key]!r} is not true or false")
        for key in ("shard_timeout", "worker_cpus", "worker_gpus"):
            _check_number(key, values.get(key))
        if values.get("part") is not None:
            values["part"] = _part(values["part"])
        runtime = cls(**values)
        runtime._check_engine()
        runtime._check_part()
        return runtime

    def _check_engine(self) -> None:
        """Refuse settings that the chosen engine does not use."""
        for key, engines in _NEEDS.items():
            value = getattr(self, key)
            if value is not None and self.engine not in engines:
                raise ConfigError(
                    f"runtime.{key}={value} has no effect with runtime.engine={self.engine}. Add "
                    f"{' or '.join(f'runtime.engine={engine}' for engine in engines)}, or leave "
                    f"it out"
                )
        if self.shard_timeout == 0:
            raise ConfigError("runtime.shard_timeout=0 leaves no time. Give seconds, or null")
        if self.ray_address is not None and not _ADDRESS.fullmatch(self.ray_address):
            raise ConfigError(
                f"runtime.ray_address={self.ray_address!r} is not the address of a Ray cluster. "
                f"Give that of its head, as in 10.0.0.1:6379, or auto, or null to start one here"
            )

    def _check_part(self) -> None:
        if self.part is not None and self.reuse_from is not None:
            raise ConfigError(
                f"runtime.part={self.part} and runtime.reuse_from={self.reuse_from} do not go "
                f"together: what is reused is a whole run. Leave one of them out"
            )


_CHOICES = {
    "compile": COMPILE_MODES,
    "bad_samples": BAD_SAMPLES,
    "bad_checkpoints": BAD_CHECKPOINTS,
    "non_finite": NON_FINITE,
    "engine": ENGINES,
}

_TEXTS = {
    "device": "/CPU:0",
    "reuse_from": "outputs",
    "ray_address": "10.0.0.1:6379",
    "part": "1/4",
}
"""Keys that take a text or null, each with an example."""

_NEEDS = {
    "workers": ("processes", "ray"),
    "shard_timeout": ("processes", "ray"),
    "ray_address": ("ray",),
    "worker_cpus": ("ray",),
    "worker_gpus": ("ray",),
}
"""Keys that only some engines use."""

WHERE_IT_RUNS = ("engine", *_NEEDS, "part", "self_check")
"""Keys that decide where a job runs and whether it is checked, and change no byte of the run."""

_ADDRESS = re.compile(r"auto|[^\s:/]+:[0-9]{1,5}|\[[0-9A-Fa-f:]+\]:[0-9]{1,5}")


def moved(recorded: Mapping[str, object], where: Mapping[str, object]) -> dict[str, object]:
    """Return settings of `runtime` with those of where it runs replaced.

    Settings that the new engine does not use are reset, unless given.
    """
    engine = where.get("engine", recorded.get("engine", "local"))
    unused = [key for key, engines in _NEEDS.items() if engine not in engines]
    return {**recorded, **dict.fromkeys(unused), **where}


def _plain(key: str, value: object) -> Any:
    if isinstance(value, Mapping | list | tuple):
        raise ConfigError(f"runtime.{key}={value!r} is not a single value")
    return value


def _part(text: str) -> Part:
    part = Part.parse(text)
    if part is None:
        raise ConfigError(
            f"runtime.part={text!r} is not a part of a job. Give i/n, i from 1 to n: the parts of "
            f"four are 1/4, 2/4, 3/4 and 4/4"
        )
    return part


def _check_whole(key: str, value: object, least: int, optional: bool) -> None:
    if value is None and optional:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        also = " or 'auto'" if key == "shard_size" else ""
        raise ConfigError(f"runtime.{key}={value!r} is not a whole number of {least} or more{also}")


def _check_number(key: str, value: object) -> None:
    if value is None:
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= float(str(value)) < math.inf:
        raise ConfigError(f"runtime.{key}={value!r} is not a number of 0 or more")


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
