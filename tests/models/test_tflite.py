"""`model=tflite`: every kind of file behind the contract of every adapter, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from extractkit.api import extract
from extractkit.core.catalog import Kind
from extractkit.core.requests import Value
from extractkit.core.values import Array
from extractkit.errors import ConfigError, InputError, JobError, MissingExtraError, ModelError
from extractkit.inputs import InputSpec, Quantized, Signature
from extractkit.inputs.in_memory import LiveArrays
from extractkit.inputs.pictures import Pixels
from extractkit.models import Compilation, Fetch, Model, isolation
from extractkit.models.litert.model import TFLiteModel
from extractkit.models.process import intra_op_threads
from extractkit.models.tflite import load
from extractkit.runs.comparing import diff
from extractkit.testing.models import ModelContract, drawn
from tests.models.tflite_zoo import (
    KERNEL,
    MODELS,
    changed,
    content,
    images,
    lacking_weights,
    recurrent_weights,
    written,
)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tflite")


@pytest.mark.parametrize("name", MODELS)
class TestTFLiteModel(ModelContract):
    @pytest.fixture(autouse=True)
    def _file(self, name: str, folder: Path) -> None:
        self.path = written(name, folder)

    def model(self) -> Model:
        return load(str(self.path))


def run(model: TFLiteModel, addresses: list[str], *samples: dict[str, Array]) -> list[Array]:
    """Values of the tensors for samples of one length, through a program."""
    features = {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}
    lengths = {
        dim: np.full(len(samples), features[spec.name].shape[axis], np.int32)
        for spec in model.signature.specs
        for axis, dim in enumerate(spec.dims, start=1)
        if dim
    }
    program = model.program([Fetch(Value(address)) for address in addresses], Compilation())
    return list(program(features, lengths))


def test_a_signature_is_chosen_by_name(folder: Path) -> None:
    model = load(str(written("two", folder)), signature="dense")
    x = np.array([1.0, 2, 3], np.float32)
    (value,) = run(model, [":output.y"], {"x": x})
    np.testing.assert_allclose(value[0], np.maximum(x @ KERNEL, 0), rtol=1e-6)
    assert model.describe()["signature"] == "dense"


def test_inputs_without_a_sample_axis_are_one_sample_as_they_are(folder: Path) -> None:
    model = load(str(written("two", folder)), signature="arithmetic")
    assert {spec.name: spec.shape for spec in model.signature.specs} == {"a": (2,), "b": ()}
    given = {"a": np.array([2, 3], np.float32), "b": np.array(4, np.float32)}
    total, product = run(model, [":output.sum", ":output.product"], given, given)
    assert total.tolist() == [[6, 7]] * 2
    assert product.tolist() == [[8, 12]] * 2


def test_a_free_axis_takes_samples_of_any_length(folder: Path) -> None:
    model = load(str(written("attention", folder)))
    assert model.catalog["Softmax:0"].spec.undescribed.labels == ("sample", "axis1", "axis1")
    for length in (1, 6, 3):
        x = np.random.default_rng(length).normal(size=(length, 3)).astype(np.float32)
        hidden = np.maximum(x @ (KERNEL / 10), 0)
        scores = np.exp(hidden @ hidden.T)
        weights, positive = run(model, ["Softmax:0", ":output.positive"], {"x": x})
        np.testing.assert_allclose(
            weights[0], scores / scores.sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-6
        )
        assert positive[0].tolist() == np.flatnonzero(x.reshape(-1) > 0).tolist()


def test_a_length_that_the_values_decide_is_reported_as_such(folder: Path) -> None:
    record = load(str(written("attention", folder))).catalog[":output.positive"]
    assert record.spec.undescribed.labels == ("sample", "f(values)")


def test_such_lengths_are_stored_as_each_sample_has_them(folder: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(6, 5, 3)).astype(np.float32)
    model = load(str(written("attention", folder)))
    stored = extract(["selectors=outputs"], model=model, inputs={"x": x}, run_dir=tmp_path / "run")
    view = stored[":output.positive"]
    for position, sample in enumerate(x):
        positive = np.flatnonzero(sample.reshape(-1) > 0)
        assert view.sample(position).tolist() == positive.tolist()


@pytest.mark.parametrize("xnnpack", [True, False])
def test_tensors_without_axes_and_without_elements(folder: Path, xnnpack: bool) -> None:
    model = load(str(written("scalars", folder)), xnnpack=xnnpack)
    reasons = {record.reason for record in model.catalog.records} - {None}
    assert all("inside a loop or branch" in reason for reason in reasons)
    draw = np.random.default_rng(0)
    for x in (draw.normal(size=5) + 1, draw.normal(size=7) - 1):
        given = x.astype(np.float32)
        mean = np.abs(given).mean()
        expected = {
            "scaled": np.maximum(given, 0) / (mean + 1),
            "first": given * given[0],
            "by_length": given / len(given),
            "empty": np.zeros(0, np.float32),
            "branch": given * 2 if given.sum() > 0 else given - 3,
            "mean": mean,
        }
        for name, right in expected.items():
            (value,) = run(model, [f":output.{name}"], {"x": given})
            np.testing.assert_allclose(value[0], right, rtol=1e-5, atol=1e-6, err_msg=name)
            assert value[0].shape == right.shape


def test_every_sample_starts_from_the_initial_state(folder: Path) -> None:
    model = load(str(written("total", folder)))
    ones = {"x": np.ones(3, np.float32)}
    (together,) = run(model, [":output.total"], ones, ones, ones)
    assert together.tolist() == [[1.0, 1, 1]] * 3


def test_variable_tensors_are_reset_before_every_sample(folder: Path) -> None:
    model = load(str(written("recurrent", folder)))
    samples = np.random.default_rng(0).normal(size=(3, 5, 3)).astype(np.float32)
    weights = recurrent_weights()
    outputs, states = run(model, ["y:0", "state:0"], *({"x": x} for x in samples))
    for x, output, last in zip(samples, outputs, states, strict=True):
        state = np.zeros(4, np.float32)
        for step, given in zip(output, x, strict=True):
            recurrent = weights["recurrent_kernel"] @ state
            state = np.tanh(weights["kernel"] @ given + recurrent + weights["bias"])
            np.testing.assert_allclose(step, state, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(last, state, rtol=1e-4, atol=1e-6)


def test_what_follows_random_numbers_is_refused_and_the_rest_is_not(folder: Path) -> None:
    catalog = load(str(written("noise", folder))).catalog
    assert "random" in (catalog[":output.noisy"].reason or "")
    assert catalog[":output.plain"].extractable


def test_random_numbers_in_the_body_of_a_loop_are_found_too(folder: Path) -> None:
    catalog = load(str(written("noise_loop", folder))).catalog
    assert "random" in (catalog[":output.noisy"].reason or "")
    assert catalog[":output.plain"].extractable


def test_bodies_of_loops_are_listed_with_their_constants(folder: Path) -> None:
    model = load(str(written("loop", folder)))
    inside = [r for r in model.catalog.records if r.address.startswith("while_body/")]
    assert {r.kind: r.extractable for r in inside} == {Kind.WEIGHT: True, Kind.OP: False}
    added = [r.address for r in inside if r.kind is Kind.WEIGHT and r.spec.shape == (3,)]
    assert model.constants([Fetch(Value(added[0]))])[0].tolist() == [1, 2, 3]
    x = y = np.array([1, -2, 3], np.float32)
    y = np.abs(y) + 1
    while y.sum() < 100:
        y = y * 2 + [1, 2, 3]
    assert run(model, [":output.y"], {"x": x})[0].tolist() == [y.tolist()]


def test_resources_are_left_out(folder: Path) -> None:
    """Reading one ends the process."""
    model = load(str(written("total", folder)))
    handles = [t.name for t in model.entry.subgraph.tensors if t.type == "RESOURCE"]
    assert handles
    assert not {record.name for record in model.catalog.records}.intersection(handles)


def test_dequantised_weights_that_xnnpack_never_computes_have_their_values(folder: Path) -> None:
    half, whole = (load(str(written(name, folder))) for name in ("float16", "float32"))
    assert half.probed.unwritten
    computed = [r for r in half.catalog.records if r.op_type == "DEQUANTIZE"]
    assert computed
    assert not any(record.depends_on_inputs for record in computed)
    values = half.constants([Fetch(Value(record.address)) for record in computed])
    weights = [record for record in whole.catalog.records if record.kind is Kind.WEIGHT]
    exact = whole.constants([Fetch(Value(record.address)) for record in weights])
    for value in values:
        twins = [w for w in exact if w.shape == value.shape and w.dtype == value.dtype]
        assert any(np.allclose(value, twin, rtol=1e-3, atol=1e-4) for twin in twins)


def test_quantised_tensors_are_had_raw_and_as_real_numbers(folder: Path) -> None:
    model, exact = (load(str(written(name, folder))) for name in ("int8", "float32"))
    parameters = model.entry.subgraph.tensors
    (output,) = model.entry.outputs.values()
    quantization = parameters[output].quantization
    assert quantization is not None
    given = images(20)
    spec = parameters[model.entry.inputs["x"]].quantization
    assert spec is not None
    q = np.clip(np.round(given / spec.scales + spec.zero_points), -128, 127).astype(np.int8)
    raw, real = run(model, [":output.y", ":output.y.dequantized"], *({"x": image} for image in q))
    assert raw.dtype == np.int8
    by_hand = (raw.astype(np.float32) - quantization.zero_points) * quantization.scales
    np.testing.assert_array_equal(real, by_hand.astype(np.float32))
    (floats,) = run(exact, [":output.y"], *({"x": image} for image in given))
    assert np.abs(real - floats).max() < 0.05 * np.abs(floats).max()


def test_raw_integers_are_compared_with_floats_by_their_recorded_scale(
    folder: Path, tmp_path: Path
) -> None:
    given = images(20)
    np.save(tmp_path / "float32.npy", given)
    parameters = load(str(written("int8", folder))).entry
    spec = parameters.subgraph.tensors[parameters.inputs["x"]].quantization
    assert spec is not None
    q = np.clip(np.round(given / spec.scales + spec.zero_points), -128, 127).astype(np.int8)
    np.save(tmp_path / "int8.npy", q)
    runs = {
        name: extract(
            [
                *("model=tflite", f"model.path={written(name, folder)}", "selectors=none"),
                *("inputs=arrays", f"inputs.path={tmp_path / f'{name}.npy'}"),
                "+selectors.y={path: ':output.*'}",
            ],
            run_dir=tmp_path / name,
        )
        for name in ("int8", "float32")
    }
    (found,) = diff(*runs.values(), only=":output.y").tensors
    real = np.asarray(runs["int8"][":output.y.dequantized"], np.float64)
    expected = np.abs(real - np.asarray(runs["float32"][":output.y"])).max()
    assert found.errors is not None
    assert found.errors.max_abs == pytest.approx(expected, rel=1e-6)


def test_what_is_advised_for_real_numbers_quantises_them_as_the_file_does(folder: Path) -> None:
    path = str(written("int8", folder))
    model = load(path)
    given = images(5)
    with pytest.raises(InputError) as refused:
        LiveArrays({"x": given}).bind(model.signature)
    advised = str(refused.value).rpartition("in NumPy: ")[2]
    q = eval(advised, {"np": np, "array": given})
    interpreter = Interpreter(path)
    interpreter.allocate_tensors()
    (taken,) = interpreter.get_input_details()
    scale, zero_point = taken["quantization"]
    assert q.dtype == taken["dtype"]
    real = (q.astype(np.float64) - zero_point) * scale
    inside = (np.array([-128, 127]) - zero_point) * scale
    assert np.abs(real - np.clip(given, *inside)).max() <= scale * 0.501
    by_file = []
    for one in q:
        interpreter.set_tensor(taken["index"], one[np.newaxis])
        interpreter.invoke()
        by_file.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0])
    (raw,) = run(model, [":output.y"], *({"x": one} for one in q))
    np.testing.assert_array_equal(raw, by_file)


@pytest.mark.parametrize(
    ("dtype", "zero_point", "advised"),
    [
        ("int8", -128, "np.clip(np.round(array / 0.5) - 128, -128, 127).astype('int8')"),
        ("uint8", 3, "np.clip(np.round(array / 0.5) + 3, 0, 255).astype('uint8')"),
        ("int16", 0, "np.clip(np.round(array / 0.5), -32768, 32767).astype('int16')"),
    ],
)
def test_each_quantised_type_has_its_own_advice(dtype: str, zero_point: int, advised: str) -> None:
    quantized = Quantized(0.5, zero_point)
    spec = InputSpec("x", dtype, (8, 8, 3), (None, None, None), quantized=quantized)
    signature = Signature("m", (spec,))
    with pytest.raises(InputError) as refused:
        LiveArrays({"x": np.ones((2, 8, 8, 3), np.float32)}).bind(signature)
    assert str(refused.value).endswith(f"in NumPy: {advised}")
    with pytest.raises(InputError) as narrow:
        LiveArrays({"x": np.ones((2, 8, 8, 3), np.float16)}).bind(signature)
    assert advised.replace("array", "array.astype('float32')") in str(narrow.value)
    if dtype == "int8":
        with pytest.raises(InputError) as pictures:
            Pixels.of(spec, signature)
        assert str(pictures.value) == (
            "input 'x' of model 'm' takes int8, quantised with scale 0.5 and zero point -128, for "
            "which pixels from 0 to 255 have no usual form. If the model was trained on pixels "
            "from 0 to 1: inputs.scale=unit; from -1 to 1: inputs.scale=signed; otherwise, give "
            f"arrays, inputs=arrays, quantised, in NumPy: {advised.replace('array', 'pixels')}"
        )


def test_quantised_weights_stand_for_the_float_model_s(folder: Path) -> None:
    model, exact = (load(str(written(name, folder))) for name in ("int8", "float32"))

    def kernels(one: TFLiteModel, port: str) -> Array:
        (record,) = (
            r
            for r in one.catalog.records
            if r.kind is Kind.WEIGHT and r.spec.shape == (4, 3, 3, 2) and r.port == port
        )
        return one.constants([Fetch(Value(record.address))])[0]

    real, true = kernels(model, "dequantized"), kernels(exact, "0")
    scale = np.abs(true).max(axis=(1, 2, 3), keepdims=True) / 127
    assert (np.abs(real - true) <= scale * 0.51).all()


def test_without_xnnpack_plain_kernels_compute_the_same(folder: Path) -> None:
    fast, plain = (load(str(written("float32", folder)), xnnpack=on) for on in (True, False))
    addresses = [r.address for r in fast.catalog.records if r.depends_on_inputs and r.extractable]
    batch = drawn(fast, 2).features
    samples = [{"x": batch["x"][i]} for i in range(2)]
    for one, other in zip(
        run(fast, addresses, *samples), run(plain, addresses, *samples), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert not plain.probed.unwritten


def reasons(model: TFLiteModel) -> dict[str, str]:
    """Why tensors of the called subgraph cannot be extracted, by address."""
    return {r.address: r.reason for r in model.catalog.records if r.reason is not None}


def test_what_an_operation_that_litert_lacks_does_not_need_is_had(folder: Path) -> None:
    model = load(str(written("flex", folder)))
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    weights = lacking_weights()
    hidden, beside = run(model, [":output.hidden", ":output.beside"], *({"x": row} for row in x))
    np.testing.assert_allclose(hidden, np.maximum(x @ weights, 0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(beside, hidden + np.arange(1, 4), rtol=1e-6)
    kernels = [r.address for r in model.catalog.records if r.kind is Kind.WEIGHT and r.spec.shape]
    stored = model.constants([Fetch(Value(address)) for address in kernels])
    assert any(np.array_equal(value.reshape(3, 4), weights.T) for value in stored if value.size > 3)
    assert ":output.after" in reasons(model)
    assert set(reasons(model).values()) == {
        "it needs FlexErf (operation 1), TensorFlow's own operation Erf: LiteRT's Python package "
        "runs none of those (SELECT_TF_OPS, Flex). Extract from the model that was converted, such "
        "as a SavedModel"
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            b"edgetpu-custom-op",
            "a program for an Edge TPU. Extract from the file that the Edge TPU",
        ),
        (b"TransformLandmarks", "MediaPipe's own operation, which only MediaPipe has"),
        (b"Blur", "a custom operation, which LiteRT does not have"),
    ],
)
def test_custom_operations_are_named(tmp_path: Path, name: bytes, words: str) -> None:
    def rename(file: Any) -> None:
        (code,) = [one for one in file.operatorCodes if one.customCode == b"FlexErf"]
        code.customCode = name

    path = tmp_path / "custom.tflite"
    path.write_bytes(changed("flex", rename))
    model = load(str(path))
    assert f"it needs {name.decode()} (operation 1), {words}" in reasons(model)[":output.after"]
    assert model.catalog[":output.beside"].extractable


def test_an_operation_that_is_lacking_in_a_loop_is_named(folder: Path) -> None:
    model = load(str(written("flex_loop", folder)))
    assert "WHILE (operation" in reasons(model)[":output.y"]
    assert "which runs FlexErf, TensorFlow's own operation Erf" in reasons(model)[":output.y"]
    x = np.array([1.0, -2, 3], np.float32)
    assert run(model, [":output.twice"], {"x": x})[0].tolist() == [[2, -4, 6]]


def newer(file: Any) -> None:
    """Make fully connected layers of a version that no LiteRT has yet."""
    for code in file.operatorCodes:
        if code.builtinCode == 9:
            code.version = 99


def test_a_version_that_litert_lacks_is_named(tmp_path: Path) -> None:
    path = tmp_path / "newer.tflite"
    path.write_bytes(changed("two", newer))
    model = load(str(path), signature="dense")
    assert reasons(model)[":output.y"] == (
        "it needs FULLY_CONNECTED (operation 0), of which LiteRT has no version 99"
    )
    # The other signature does not call it.
    other = load(str(path), signature="arithmetic")
    given = {"a": np.array([2, 3], np.float32), "b": np.array(4, np.float32)}
    assert run(other, [":output.sum"], given)[0].tolist() == [[6, 7]]


def test_what_comes_after_a_state_that_is_not_written_is_refused(tmp_path: Path) -> None:
    """The state would be read as it was before."""

    def rename(file: Any) -> None:
        for code in file.operatorCodes:
            if code.builtinCode == 0:  # the sum that is written
                code.version = 99

    path = tmp_path / "total.tflite"
    path.write_bytes(changed("total", rename))
    model = load(str(path))
    assert "it needs ADD" in reasons(model)[":output.total"]
    assert model.catalog[":output.double"].extractable


def test_a_file_that_litert_cannot_run_at_all_is_listed(tmp_path: Path) -> None:
    """Its weights need no run."""

    def misfit(file: Any) -> None:
        file.subgraphs[0].tensors[0].type = 1  # float16, which no plain kernel multiplies

    path = tmp_path / "misfit.tflite"
    path.write_bytes(changed("float32", misfit))
    model = load(str(path))
    assert "which LiteRT cannot run: RuntimeError" in reasons(model)[":output.y"]
    exact = load(str(written("float32", tmp_path)))
    assert model.weights_digest() == exact.weights_digest()


def test_a_device_or_compiler_of_tensorflow_s_is_refused(folder: Path) -> None:
    model = load(str(written("float32", folder)))
    with pytest.raises(ConfigError, match=r"runtime\.device='/GPU:0'.*only on the CPU"):
        model.configure(0, True, "/GPU:0")
    assert model.configure(0, True, None)["threads"] == intra_op_threads()
    with pytest.raises(ConfigError, match=r"runtime\.compile='xla'.*compiles nothing"):
        model.program([Fetch(Value(":output.y"))], Compilation("xla"))


def test_a_sample_that_litert_cannot_compute_fails_the_job(folder: Path) -> None:
    model = load(str(written("float32", folder)))
    with pytest.raises(JobError, match="failed on a sample"):
        run(model, [":output.y"], {"x": np.zeros((1, 1, 1), np.float32)})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is an empty file"),
        (b"some text, nothing else", "is not a TFLite file"),
        (b"\0\0\0\0TFL3", "is damaged"),
        (b"\x1c\0\0\0TFL3" + bytes(1000), "is damaged|cannot be run"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "bad.tflite"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=message):
        load(str(path))


def test_a_file_that_is_missing_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "there.tflite").touch()
    with pytest.raises(ModelError, match=r"does not exist.*'there\.tflite'"):
        load(str(tmp_path / "their.tflite"))


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a folder; model=tflite takes one file"):
        load(str(tmp_path))


def test_an_unknown_signature_names_those_that_exist(folder: Path) -> None:
    with pytest.raises(
        ModelError, match=r"model\.signature='dens'.* Available: 'arithmetic', 'dense'"
    ):
        load(str(written("two", folder)), signature="dens")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"threads": 0}, r"model\.threads=0"), ({"xnnpack": "no"}, r"model\.xnnpack='no'")],
)
def test_settings_that_are_none(folder: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(str(written("float32", folder)), **settings)


def test_litert_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'extractkit\[tflite\]'"):
        load(str(written("float32", folder)))


def test_a_run_imports_no_tensorflow(folder: Path, tmp_path: Path) -> None:
    arguments = [
        "model=tflite", f"model.path={written('float32', folder)}", "inputs=random",
        "inputs.samples=3", "selectors=[outputs,weights,ops]", f"hydra.run.dir={tmp_path / 'run'}",
    ]  # fmt: skip
    code = (
        "import json, sys\nfrom extractkit.cli import execute\n"
        "code = execute(json.loads(sys.argv[1]))\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)\nsys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(arguments)], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / "run")
    assert "XNNPACK" not in done.stderr


def mutants(name: str, count: int) -> list[bytes]:
    """Copies of a model with one bit changed, and every fifth one cut off."""
    draw = np.random.default_rng(7)
    changed = []
    for number in range(count):
        data = bytearray(content(name))
        place = int(draw.integers(len(data)))
        if number % 5:
            data[place] ^= 1 << int(draw.integers(8))
        else:
            del data[place:]
        changed.append(bytes(data))
    return changed


@pytest.mark.parametrize("name", ["attention", "int8"])
def test_damage_is_reported_or_does_no_harm(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "SECONDS", 30)
    path = tmp_path / "damaged.tflite"
    sound = []
    for data in mutants(name, 15):
        path.write_bytes(data)
        try:
            model = load(str(path))
        except ModelError:
            continue
        sound.append(model)
        records = [record for record in model.catalog.records if record.extractable]
        model.constants([Fetch(Value(r.address)) for r in records if not r.depends_on_inputs])
        try:
            batch = drawn(model, 1)
        except InputError:  # the damage has turned its input into one of strings, for example
            continue
        fetches = [Fetch(Value(r.address)) for r in records if r.depends_on_inputs]
        model.program(fetches, Compilation())(batch.features, batch.lengths)
    assert len(sound) < 15
