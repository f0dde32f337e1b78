"""The typed, frozen description of a job. Pure Python: nothing here knows YAML or Hydra."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from extractkit.component import Component
from extractkit.errors import ConfigError, choices
from extractkit.selectors import Selector

# NumPy's generators take 32 bits.
_LARGEST_SEED = 2**32 - 1

COMPILE_MODES = ("graph", "xla")

BAD_CHECKPOINTS = ("fail", "skip")
"""What may be done where a checkpoint is damaged, or of another architecture."""

BAD_SAMPLES = ("fail", "skip")
"""What may be done where a sample cannot be read, does not fit the model, or makes it fail."""

NON_FINITE = ("warn", "fail", "skip")
"""What may be done where a NaN or an infinity would be stored."""


@dataclass(frozen=True)
class Runtime:
    """How a job runs (the `runtime` group).

    Attributes:
        batch_size: most samples in a batch.
        batch_tokens: most padded elements along the free axes of a batch; None: no limit.
        shard_size: samples in a shard; None: as many as keep it well below 128 MB ("auto").
        compile: "graph" (a TensorFlow graph) or "xla".
        device: TensorFlow's name of the device ("/CPU:0"); None leaves the choice to TensorFlow.
        seed: of every random generator.
        deterministic: whether operations without a deterministic kernel are refused.
        threads: most threads that one operation, and that independent operations, run on; None:
            as many as there are processors.
        bad_samples: "fail", or "skip" what cannot be read, encoded or computed.
        bad_checkpoints: "fail", or "skip" what is damaged or of another architecture.
        non_finite: "warn" of NaN and infinite values, "fail", or "skip" samples that have some.
        reuse_from: a directory that is searched for a finished run of the same identity; None:
            everything is computed.
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
    reuse_from: str | None = None

    @classmethod
    def parse(cls, entries: Mapping[str, object]) -> "Runtime":
        """From configuration, where `shard_size` may be "auto".

        Raises:
            ConfigError: an unknown key or a value that does not fit.
        """
        known = [item.name for item in fields(cls)]
        for key in entries:
            if key not in known:
                raise ConfigError(f"runtime.{key} does not exist. {choices(key, known)}")
        values = {key: _plain(key, value) for key, value in entries.items()}
        if values.get("shard_size") == "auto":
            values["shard_size"] = None
        for key in ("batch_size", "batch_tokens", "shard_size", "threads"):
            _check_whole(key, values.get(key, 1), least=1, optional=key != "batch_size")
        _check_whole("seed", values.get("seed", 0), least=0, optional=False)
        if int(values.get("seed", 0)) > _LARGEST_SEED:
            raise ConfigError(f"runtime.seed={values['seed']} is larger than {_LARGEST_SEED}")
        for key, options in _CHOICES.items():
            if key in values and values[key] not in options:
                given = str(values[key])
                raise ConfigError(
                    f"runtime.{key}={given!r} does not exist. {choices(given, options)}"
                )
        for key, example in (("device", "/CPU:0"), ("reuse_from", "outputs")):
            if not isinstance(values.get(key), str | None):
                raise ConfigError(
                    f"runtime.{key}={values[key]!r} is not a text, such as {example!r}"
                )
        if values.get("reuse_from") == "":
            raise ConfigError("runtime.reuse_from is empty. Give a directory of runs, or null")
        if not isinstance(values.get("deterministic", True), bool):
            raise ConfigError(
                f"runtime.deterministic={values['deterministic']!r} is not true or false"
            )
        return cls(**values)


_CHOICES = {
    "compile": COMPILE_MODES,
    "bad_samples": BAD_SAMPLES,
    "bad_checkpoints": BAD_CHECKPOINTS,
    "non_finite": NON_FINITE,
}


def _plain(key: str, value: object) -> Any:
    if isinstance(value, Mapping | list | tuple):
        raise ConfigError(f"runtime.{key}={value!r} is not a single value")
    return value


def _check_whole(key: str, value: object, least: int, optional: bool) -> None:
    if value is None and optional:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        also = " or 'auto'" if key == "shard_size" else ""
        raise ConfigError(f"runtime.{key}={value!r} is not a whole number of {least} or more{also}")


@dataclass(frozen=True)
class Job:
    """Everything that decides what a run holds.

    Attributes:
        model, inputs: components.
        model_name: the chosen entry of the `model` group, for messages.
        selectors: in the order of the configuration.
        sinks: by name; the first one is what the reader reads.
        runtime: how it runs.
        given: the overrides as they were typed.
        resolved: the whole configuration after composition, as plain data.
    """

    model: Component
    inputs: Component
    selectors: tuple[Selector, ...]
    sinks: Mapping[str, Component]
    runtime: Runtime
    model_name: str
    given: tuple[str, ...] = ()
    resolved: Mapping[str, object] = field(default_factory=dict)
