"""The jobs that a sweep will have, before the first of them begins."""

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from extractkit.config.nested import as_typed
from extractkit.config.values import values_of
from extractkit.runs.manifest import now
from extractkit.runs.sweeps.record import JobStatus, SweepJob


def planned_jobs(config: DictConfig) -> list[SweepJob]:
    """A record for each job, by number, that says that it has not begun.

    None where nobody can tell: another sweeper decides as it goes, and what `glob` finds, Hydra
    knows.
    """
    sweeper = config.hydra.sweeper
    if not str(sweeper.get("_target_")).endswith(f".{BasicSweeper.__name__}"):
        return []
    written = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    assert isinstance(written, list)
    always = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    try:
        overrides = OverridesParser.create().parse_overrides([*always, *map(str, written)])
        (together,) = BasicSweeper.split_arguments(overrides, None)
    except HydraException:
        return []  # where something is wrong with them, Hydra is about to tell
    return [
        _planned(number, tuple(map(as_typed, overrides)))
        for number, overrides in enumerate(together)
    ]


def _planned(number: int, overrides: tuple[str, ...]) -> SweepJob:
    return SweepJob(
        number=number,
        overrides=overrides,
        values=values_of(overrides),
        run=str(number),  # until it begins, and knows better
        attempt=1,
        status=JobStatus.SKIPPED,
        started=now(),
        error="not begun",
    )
