"""`python -m benchmarks.start_up [--models NAME …]`: what commands on one sample spend, by stage.

A stage's number is the least of the processor seconds, of all threads, that it took in any round.
Rounds are interleaved. Processor seconds vary little with what else the machine does.
"""

import argparse
import builtins
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, wraps
from operator import attrgetter
from pathlib import Path
from typing import Any

PACKAGES = ("tensorflow", "keras_hub")
IMPORTS = tuple(f"import {name}" for name in PACKAGES)
STAGES: Mapping[str, Mapping[str, str]] = {
    "extractkit.engine.catalog_files": {
        "CatalogFile.of": "find the list",
        "CatalogFile.read": "read the list",
        "CatalogFile.write": "keep the list",
    },
    "extractkit.engine.model_cache": {"_built": "load"},
    "extractkit.engine.loading": {"_chosen": "plan", "Opened.measured": "plan"},
    "extractkit.engine.preview": {"open_job": "survey", "compiled": "compile"},
    "extractkit.engine.prepare": {
        "open_job": "survey",
        "program_of": "compile",
        "_tried": "first call",
        "sharing_of": "survey",
    },
    "extractkit.engine.execute": {
        "self_check": "self-check",
        "described": "digests",
        "Execution._commit": "run",
        "Execution.finish": "commit",
    },
    "extractkit.engine.self_check": {
        "_Comparison._own_call": "self-check: load",
        "_Comparison._own_outputs": "self-check: call",
    },
    "extractkit.models.keras_models.model": {"KerasModel._trace": "trace"},
    "extractkit.models.graphs.model": {"GraphModel._records": "list"},
    "extractkit.models.litert.model": {"TFLiteModel.catalog": "list"},
    "extractkit.runs.recorder": {"Recorder.commit": "commit", "Recorder._write": "commit"},
    "extractkit.display": {"write_rendered": "print"},
}
"""Stages by the functions that begin them. A stage inside another counts for itself alone."""

OTHER = "command line"
ORDER = (
    *(*IMPORTS, OTHER, "load", "trace", "list"),
    *("find the list", "read the list", "keep the list"),
    *("plan", "survey", "compile", "first call", "digests", "self-check", "self-check: load"),
    *("self-check: call", "run", "commit", "print"),
)


class Stages:
    """Processor seconds of the process by stage. Those of threads belong to the main thread's."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._stack = [OTHER]
        self._at = 0.0
        self._pending = dict(STAGES)

    def stop(self) -> None:
        now = time.process_time()
        self.seconds[self._stack[-1]] += now - self._at
        self._at = now

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def timing(*args: Any, **options: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                return function(*args, **options)
            self.stop()
            self._stack.append(stage)
            try:
                return function(*args, **options)
            finally:
                self.stop()
                self._stack.pop()

        return timing

    def watch(self) -> None:
        """Watch imports, and the functions of `STAGES` as soon as their modules are imported."""
        own = builtins.__import__
        packages = {name: self.timed(f"import {name}", own) for name in PACKAGES}

        def importing(name: str, *args: Any, **options: Any) -> Any:
            top = name.partition(".")[0]
            top = "tensorflow" if top in ("keras", "tf_keras") else top
            level = args[3] if len(args) > 3 else options.get("level", 0)
            known = level or top in sys.modules
            found = (own if known else packages.get(top, own))(name, *args, **options)
            for module in [one for one in self._pending if one in sys.modules]:
                self._replace(sys.modules[module], module)
            return found

        builtins.__import__ = importing

    def _replace(self, module: Any, name: str) -> None:
        try:
            for path in self._pending[name]:
                attrgetter(path)(module)
        except AttributeError:
            return  # it is still being imported
        for path, stage in self._pending.pop(name).items():
            *outer, last = path.split(".")
            owner = attrgetter(".".join(outer))(module) if outer else module
            value = vars(owner).get(last)
            if isinstance(value, cached_property):
                value.func = self.timed(stage, value.func)
            else:
                setattr(owner, last, self.timed(stage, getattr(owner, last)))


def child(target: Path, arguments: Sequence[str]) -> None:
    """Run a command in this process and write its stages to a file."""
    stages = Stages()
    stages.watch()
    cli = importlib.import_module("extractkit.cli")
    code = cli.execute(arguments)
    stages.stop()
    target.write_text(json.dumps(stages.seconds))
    sys.stdout.flush()
    os._exit(code)


def examples(folder: Path) -> dict[str, tuple[Sequence[str], Sequence[str]]]:
    """Return the arguments that name each model, and those that name a sample and tensors."""
    import keras
    import numpy as np

    from experiments.real_models.fetch import unpacked
    from tests.real_models import FOLDER

    keras.utils.set_random_seed(0)
    taken = keras.Input((None, 16), name="x")
    states = keras.layers.LSTM(128, return_sequences=True, name="lstm")(taken)
    keras.Model(taken, keras.layers.Dense(4, name="head")(states)).save(folder / "lstm.keras")
    (folder / "text.txt").write_text("One sample of text, of no great length.\n")
    draw = np.random.default_rng(0)
    sample = {
        "placeholder/inputs": np.eye(80, dtype="float32")[draw.integers(0, 80, (1, 9))],
        "placeholder/seq_lengths": np.array([9], "int32"),
        "placeholder/fw_state": draw.normal(size=(1, 1, 896)).astype("float32"),
    }
    np.savez(folder / "sample.npz", allow_pickle=False, **sample)
    pitch = unpacked("basic-pitch", FOLDER) / "basic_pitch/saved_models/icassp_2022"
    axes = (
        "placeholder/inputs: [time, sample, 80], placeholder/seq_lengths: [sample], "
        "placeholder/fw_state: [null, sample, null]"
    )
    frozen = (
        *("model=frozen_graph", f"model.path={unpacked('cutkum', FOLDER)}/cutkum/frozen_model.pb"),
        *(f"model.input_axes={{{axes}}}", "model.constants={placeholder/keep_prob: 1.0}"),
    )
    drawn = ("inputs=random", "inputs.samples=1")
    return {
        "MiniLM": (
            ["model=bert"],
            [f"inputs.path={folder / 'text.txt'}", "selectors=attention"],
        ),
        "ResNet50": (
            ["model=applications", "model.architecture=ResNet50"],
            [*drawn, "selectors=none", "+selectors.stages.path=conv?_block?_out:output"],
        ),
        "SavedModel": (
            ["model=saved_model", f"model.path={pitch / 'nmp'}"],
            [*drawn, "selectors=outputs"],
        ),
        "TFLite": (
            ["model=tflite", f"model.path={pitch / 'nmp.tflite'}"],
            [*drawn, "selectors=outputs"],
        ),
        "frozen graph": (
            frozen,
            ["inputs=arrays", f"inputs.path={folder / 'sample.npz'}", "selectors=outputs"],
        ),
        "LSTM": (
            ["model=keras", f"model.path={folder / 'lstm.keras'}"],
            [*drawn, "inputs.length=200", "selectors=layers"],
        ),
    }


MODELS = ("MiniLM", "ResNet50", "SavedModel", "TFLite", "frozen graph", "LSTM")
COMMANDS = ("tensors", "tensors again", "plan", "run")


def measured(
    folder: Path, command: str, model: Sequence[str], job: Sequence[str]
) -> dict[str, float]:
    """Run a command in a process of its own and return its stages."""
    target, run, cache = folder / "stages.json", folder / "run", folder / "cache"
    shutil.rmtree(run, ignore_errors=True)
    if command == "tensors":
        shutil.rmtree(cache, ignore_errors=True)
    arguments = {
        "plan": ["plan", *model, *job],
        "run": ["run", *model, *job, f"run_dir={run}"],
    }.get(command, ["tensors", *model])
    # As for a user, modules are compiled once.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.start_up", "--child", str(target), *arguments],
        env=environment | {"XDG_CACHE_HOME": str(cache), "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}:\n{done.stderr}")
    return dict(json.loads(target.read_text()))


def tables(least: Mapping[tuple[str, str], Mapping[str, float]]) -> Iterator[str]:
    """Yield two tables of a column for each model: all commands, and the stages of a job."""
    models = list(dict.fromkeys(model for model, _ in least))
    rows: dict[str, list[float | None]] = {}
    for command in dict.fromkeys(command for _, command in least):
        found = [least.get((model, command), {}) for model in models]
        rows[command] = [sum(one.values()) for one in found]
        rows[f"{command}, besides imports"] = [
            sum(seconds for stage, seconds in one.items() if stage not in IMPORTS) for one in found
        ]
    yield from _table("command", models, rows)
    yield ""
    jobs = [least.get((model, "run"), {}) for model in models]
    stages = [stage for stage in ORDER if any(stage in one for one in jobs)]
    yield from _table("stage of a job", models, {s: [one.get(s) for one in jobs] for s in stages})


def _table(
    what: str, models: Sequence[str], rows: Mapping[str, Sequence[float | None]]
) -> Iterator[str]:
    yield f"| {what} | {' | '.join(models)} |"
    yield f"|---|{'---|' * len(models)}"
    for name, row in rows.items():
        yield f"| {name} | {' | '.join('' if s is None else f'{s:.2f}' for s in row)} |"


def main() -> None:
    """Measure and print a table."""
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]), sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--commands", nargs="+", default=COMMANDS, choices=COMMANDS)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    least: dict[tuple[str, str], dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arguments = examples(folder)
        for _ in range(given.rounds):
            for model in given.models:
                for command in given.commands:
                    found = measured(folder, command, *arguments[model])
                    known = least.setdefault((model, command), dict(found))
                    for stage, seconds in found.items():
                        known[stage] = min(seconds, known.get(stage, seconds))
    print("\n".join(tables(least)))


if __name__ == "__main__":
    main()
