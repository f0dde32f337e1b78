"""Plain values compose to the same job with and without Hydra."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extractkit.config.compose import compose
from extractkit.config.plain_data import compose_values, from_values
from extractkit.core.component import Component
from extractkit.errors import ConfigError

MODEL = Component("model", "extractkit.testing.reference.ReferenceModel")
INPUTS = Component("inputs", "extractkit.inputs.random.Random")
LIVE = {"model": MODEL, "inputs": INPUTS}
MINE = {"path": "*:output", "slice": {"token": "-4:", 1: 0}, "cast": "float16"}

GIVEN: list[dict[str, Any]] = [
    {},
    {"selectors": "attention"},
    {"selectors": ["weights", "layers", "none"], "sinks": ["npz", "hdf5"]},
    {"selectors": {"b": MINE, "a": {"any": ({"kind": "op"}, {"depth": np.int64(2)})}}},
    {"selectors": {"a": {"path": "${oc.env:HOME}\\'\""}}, "runtime": "default"},
    {"runtime": {"batch_size": np.int32(3), "shard_size": "auto", "shard_timeout": None}},
    {"runtime": {"engine": "processes", "shard_timeout": 1e-5, "deterministic": False}},
    {"sinks": {"mine": {"_target_": "extractkit.sinks.npz.NpzSink"}, "hdf5": {"index": True}}},
    {"sinks": {"hdf5": None}},
    {"selectors": {"a": {"path": "*", "slice": {"1": 0, "token": 0}}}},
]
WRONG: list[dict[str, Any]] = [
    {"selectors": "attentoin"},
    {"selectors": ["layers", "nothing"]},
    {"selectors": {"a": None}},
    {"selectors": {"a": {"paht": "*"}}},
    {"selectors": {"a": {"path": object()}}},
    {"sinks": []},
    {"sinks": {"hdf": {}}},
    {"sinks": {"hdf5": {"compresion": "gzip"}}},
    {"sinks": {"hdf5": 3}},
    {"sinks": {"mine": {"_target_": "os.system"}}},
    {"runtime": "fast"},
    {"runtime": {"batchsize": 3}},
    {"runtime": {"shards": "1/2"}},
    {"runtime": {"engine": "ray", "ray_address": "auto"}},
    {"runtime": 3},
]


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("live", [LIVE, {"model": MODEL}])
def test_the_job_is_the_one_that_hydra_composes(
    given: dict[str, Any], live: dict[str, Component]
) -> None:
    composed = compose([], live, values=from_values([], given))
    plain = compose_values(given, live)
    assert plain.job == composed.job
    assert list(plain.job.sinks) == list(composed.job.sinks)


@pytest.mark.parametrize("given", WRONG)
def test_a_mistake_has_the_same_message(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as composed:
        compose([], LIVE, values=from_values([], given))
    with pytest.raises(ConfigError) as plain:
        compose_values(given, LIVE)
    # Which of Hydra's own keys exist, and how an advised override is quoted, may differ.
    said, expected = (
        re.split(r"Available: |Write: ", str(one.value))[0] for one in (plain, composed)
    )
    assert said == expected


def test_a_live_model_needs_no_hydra(tmp_path: Path) -> None:
    code = """
        import sys
        class Refusing:
            def find_spec(self, name, *_):
                if name.partition(".")[0] in ("hydra", "omegaconf"):
                    raise ImportError(f"{name} is not to be imported")
        sys.meta_path.insert(0, Refusing())
        import extractkit, keras, numpy
        model = keras.Sequential([keras.Input([4]), keras.layers.Dense(3, name="dense")])
        inputs = numpy.ones([5, 4], "float32")
        given = dict(model=model, inputs=inputs, selectors={"mine": {"path": "dense:output"}})
        extractkit.plan(**given)
        run = extractkit.extract(**given, runtime={"shard_size": 2}, run_dir="run")
        numpy.testing.assert_allclose(run["dense:output"], model(inputs), rtol=1e-6)
        extractkit.resume("run", model=model, inputs=inputs)
        extractkit.rerun("run", "again", model=model, inputs=inputs)
        assert not extractkit.verify("again").failed
        """
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(line[8:] for line in code.splitlines())],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
