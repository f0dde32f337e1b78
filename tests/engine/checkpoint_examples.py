"""Files of weights for the reference model, and jobs over several of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
from safetensors.numpy import save_file

from extractkit.core.job import Job
from extractkit.core.values import Array
from extractkit.runs.reader import Run
from extractkit.testing.reference import ReferenceModel
from tests.engine.examples import EVERYTHING, TEXTS, job

Weights = Mapping[str, Array]


def drawn(seed: int) -> dict[str, Array]:
    """Weights for the reference model."""
    draw = np.random.default_rng(seed)
    return {
        "embeddings": draw.normal(size=(50, 4)).astype(np.float32),
        "kernel": draw.normal(size=(4, 4)).astype(np.float32),
    }


def written(path: Path, weights: Weights) -> str:
    """A file of these weights: HDF5, or safetensors, for which no child process is started."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(dict(weights), path)
        return str(path)
    with h5py.File(path, "w") as file:
        for name, value in weights.items():
            file[name] = value
    return str(path)


def files(folder: Path, seeds: Iterable[int] = range(3), ending: str = ".safetensors") -> list[str]:
    """A file for each seed, `step_SEED`."""
    return [written(folder / f"step_{seed}{ending}", drawn(seed)) for seed in seeds]


def holding(weights: Weights, model: type[ReferenceModel] = ReferenceModel) -> ReferenceModel:
    """The model with these weights alone, without an axis."""
    one = model()
    vars(one)["weights"] = {
        "embedding:embeddings": weights["embeddings"],
        "attention:kernel": weights["kernel"],
    }
    return one


def over(
    checkpoints: Sequence[str],
    *selectors: Mapping[str, object],
    model: Callable[..., ReferenceModel] = ReferenceModel,
    inputs: object = TEXTS,
    **settings: object,
) -> Job:
    """A job on a new model with these checkpoints; everything of it, if nothing is selected."""
    return job(
        *(selectors or (EVERYTHING,)),
        model=model(checkpoints=list(checkpoints)),
        inputs=inputs,
        **settings,  # type: ignore[arg-type]
    )


def digests(run: Run) -> dict[str, str]:
    """The journal's digest of each shard's values, by the shard's key."""
    return {entry.shard: entry.values for entry in run.journal.entries}


def of_checkpoint(place: int, shard: str) -> str:
    """The key of a shard of one checkpoint, from that of a run without."""
    return f"checkpoint-{place:06d}-{shard}"
