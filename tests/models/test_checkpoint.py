"""`model=checkpoint`: weights alone behind the protocol of every model."""

import json
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import pytest

import extractkit
from extractkit.core.catalog import Kind
from extractkit.core.plan import plan_tensors
from extractkit.core.requests import Value
from extractkit.core.selectors import parse_selector
from extractkit.engine.stream import fetches
from extractkit.errors import ConfigError, JobError
from extractkit.models import Compilation, Fetch, Model
from extractkit.models.checkpoint import Checkpoint, load
from extractkit.testing.models import WeightsContract
from tests.models.weight_files import examples

Program = Callable[..., subprocess.CompletedProcess[str]]


class TestCheckpoint(WeightsContract):
    @pytest.fixture(autouse=True, params=["safetensors", "hdf5", "keras", "tensorflow"])
    def _written(self, request: pytest.FixtureRequest, tmp_path: Path) -> None:
        self.file = tmp_path / request.param
        if request.param == "safetensors":
            examples.safetensors(self.file)
        elif request.param == "hdf5":
            examples.legacy_hdf5(self.file)
        elif request.param == "keras":
            examples.trained_model("bfloat16").save(self.file.with_suffix(".keras"))
            self.file = self.file.with_suffix(".keras")
        else:
            examples.graph_checkpoint(self.file)

    def model(self) -> Model:
        return load(str(self.file))


@pytest.fixture
def model(tmp_path: Path) -> Checkpoint:
    examples.safetensors(tmp_path / "m.safetensors")
    return load(str(tmp_path / "m.safetensors"))


def test_addresses_and_names(tmp_path: Path) -> None:
    examples.graph_checkpoint(tmp_path / "saved")
    catalog = load(str(tmp_path / "saved")).catalog
    slot = catalog["conv:kernel@Adam_1"]
    assert (slot.kind, slot.name, slot.spec.shape, slot.spec.labels) == (
        Kind.OPTIMIZER, "conv/kernel/Adam_1", (3, 4), (None, None),
    )  # fmt: skip
    assert catalog["conv/kernel/Adam_1"] is slot
    assert catalog["conv:kernel"].kind is Kind.WEIGHT
    assert catalog[":global_step"].kind is Kind.OPTIMIZER
    assert catalog["second/conv:kernel@Momentum"].kind is Kind.OPTIMIZER


def test_keys_that_an_address_could_not_hold_are_escaped(tmp_path: Path) -> None:
    examples.save_file({"a:b/c@d/e.f": np.ones(1)}, tmp_path / "m.safetensors")
    assert list(load(str(tmp_path / "m.safetensors")).catalog) == ["a%3Ab/c%40d:e.f"]


def test_keys_that_differ_in_what_is_left_out_keep_all_of_it(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as opened:
        opened["layers/dense/vars/0"] = np.ones(2)
        opened["dense/vars/0"] = np.zeros(2)
    model = load(str(tmp_path / "m.h5"))
    assert list(model.catalog) == [":dense%2Fvars%2F0", ":layers%2Fdense%2Fvars%2F0"]
    assert model.catalog["dense/vars/0"].address == ":dense%2Fvars%2F0"


def test_types_that_numpy_lacks_are_widened(tmp_path: Path) -> None:
    arrays = {
        "half": np.array([1.5, -2.0]).astype(ml_dtypes.bfloat16),
        "eighth": np.array([0.5, 448.0]).astype(ml_dtypes.float8_e4m3fn),
    }
    examples.save_file(arrays, tmp_path / "m.safetensors")
    model = load(str(tmp_path / "m.safetensors"))
    eighth, half = model.constants([Fetch(Value(":eighth")), Fetch(Value(":half"))])
    assert (eighth.dtype, half.dtype) == (np.float32, np.float32)
    np.testing.assert_array_equal(eighth, [0.5, 448.0])
    np.testing.assert_array_equal(half, [1.5, -2.0])
    assert [record.spec.dtype for record in model.catalog.records] == ["float32", "bfloat16"]


def test_what_numpy_has_no_type_for_is_listed_with_the_reason(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as opened:
        opened["odd"] = np.zeros(2, "V7")
        opened["even"] = np.zeros(2)
    model = load(str(tmp_path / "m.h5"))
    assert model.catalog[":odd"].reason == "NumPy has no type for its elements (|V7)"
    assert model.weights_digest()


def test_transforms(model: Checkpoint) -> None:
    entries = {"path": "*:weight", "slice": {0: "1:4"}, "reduce": {1: "mean"}, "cast": "float16"}
    (planned,) = plan_tensors(model.catalog, (parse_selector("mine", entries),))
    (value,) = model.constants(fetches([planned]))
    whole = examples.named_arrays()["encoder.layer.0.query.weight"]
    expected = whole[1:4].astype(np.float64).mean(axis=1).astype(np.float16)
    np.testing.assert_array_equal(value, expected, strict=True)


@pytest.mark.parametrize("name", ["m.safetensors", "m.h5"])
def test_one_array_at_a_time_is_in_memory(name: str, tmp_path: Path) -> None:
    arrays = {f"layer{n}.kernel": np.full((1 << 18, 4), n, np.float32) for n in range(16)}
    if name == "m.h5":
        with h5py.File(tmp_path / name, "w") as opened:
            for key, array in arrays.items():
                opened[key] = array
    else:
        examples.save_file(arrays, tmp_path / name)
    one = arrays.popitem()[1].nbytes
    model = load(str(tmp_path / name))
    entries = {"path": "*", "slice": {0: 0}}
    planned = plan_tensors(model.catalog, (parse_selector("mine", entries),))
    tracemalloc.start()
    model.weights_digest()
    values = model.constants(fetches(planned))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [value.tolist() for value in values] == [[float(n)] * 4 for n in range(16)]
    assert peak < 2.5 * one


def test_the_digest_follows_the_content_not_the_file(tmp_path: Path) -> None:
    digests = {}
    for name, seed in {"one": 0, "two": 0, "three": 1}.items():
        examples.safetensors(tmp_path / f"{name}.safetensors", seed)
        digests[name] = load(str(tmp_path / f"{name}.safetensors")).weights_digest()
    assert digests["one"] == digests["two"] != digests["three"]


def test_nothing_runs(model: Checkpoint) -> None:
    with pytest.raises(JobError, match="holds only weights, so there is nothing to run"):
        model.program([], Compilation())
    with pytest.raises(ConfigError) as caught:
        model.configure(0, True, "/CPU:0")
    assert str(caught.value) == (
        "runtime.device='/CPU:0': model=checkpoint reads weights from files, which no device "
        "computes. Leave it out"
    )


@pytest.fixture
def program(tmp_path: Path, preloaded: Path) -> Program:
    """The program, called in the test's folder."""

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [preloaded / "extractkit", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    return call


def test_from_the_command_line(tmp_path: Path, program: Program) -> None:
    held = examples.graph_checkpoint(tmp_path / "saved")
    model = ("model=checkpoint", "model.path=saved")
    listed = program("tensors", *model, "--json")
    assert listed.returncode == 0, listed.stderr
    assert {record["name"] for record in json.loads(listed.stdout)["tensors"]} == set(held)
    arguments = (
        "selectors=weights",
        "+selectors.slots.kind=[optimizer,moving_average]",
        "hydra.run.dir=r",
    )
    done = program(*model, *arguments)
    assert done.returncode == 0, done.stderr
    run = extractkit.open(tmp_path / "r")
    assert len(run) == len(held)
    np.testing.assert_array_equal(np.asarray(run["conv:kernel"]), held["conv/kernel"])
    np.testing.assert_array_equal(np.asarray(run["conv:kernel@Adam"]), held["conv/kernel/Adam"])
    assert np.asarray(run[":global_step"]) == held["global_step"]


def test_a_damaged_file_ends_with_one_message_and_leaves_nothing(
    tmp_path: Path, program: Program
) -> None:
    examples.graph_checkpoint(tmp_path / "saved")
    data = tmp_path / "saved" / "model.ckpt-7.data-00000-of-00001"
    data.write_bytes(bytes(reversed(data.read_bytes())))
    arguments = ("model=checkpoint", "model.path=saved", "selectors=weights", "hydra.run.dir=r")
    done = program(*arguments)
    assert done.returncode == 2
    assert "model.path='saved'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "r").exists()
