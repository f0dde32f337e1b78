"""Runs of gradients: resumed, recomputed, with transforms and statistics, and their identity."""

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import extractkit
from extractkit import cli
from extractkit.core.values import Array
from extractkit.errors import SelectionError, UnknownTensorError
from tests.advised import ask, refused
from tests.engine.examples import Collected

ROWS = np.random.default_rng(0).normal(size=(11, 4)).astype("float32")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    keras.utils.set_random_seed(0)
    given = keras.Input((4,), name="x")
    hidden = layers.Dense(5, activation="silu", name="hidden")(given)
    path = tmp_path_factory.mktemp("model") / "net.keras"
    keras.Model(given, layers.Dense(3, name="head")(hidden)).save(path)
    return path


def extracted(
    file: Path, directory: Path, *given: str, of: object = "argmax", **selector: object
) -> extractkit.Run:
    return extractkit.extract(
        ["model=keras", f"model.path={file}", "selectors=none", "runtime.shard_size=4", *given],
        inputs=ROWS,
        selectors={"g": {"path": "hidden:output", "gradient": {"of": of}, **selector}},
        run_dir=directory,
    )


def shards(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((directory / "shards").iterdir())}


def test_a_resumed_run_has_the_same_bits_and_can_be_recomputed(file: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    extracted(file, whole)
    extracted(file, cut)
    for shard in sorted((cut / "shards").iterdir())[1:]:
        shard.unlink()
    extractkit.resume(cut, inputs=ROWS)
    assert shards(whole) == shards(cut)
    found = extractkit.verify(cut, recompute=3, inputs=ROWS)
    assert not found.failed, [str(one) for one in found.findings]
    assert "3 of 3 shards, bit for bit" in str([one.detail for one in found.checks])


def test_the_target_is_part_of_the_identity(file: Path, tmp_path: Path) -> None:
    one, same, other = (
        extracted(file, tmp_path / str(at), of=of)
        for at, of in enumerate(["argmax", {"tensor": ":output", "index": "argmax"}, {"index": 0}])
    )
    assert one.manifest.identity is not None
    assert one.manifest.identity == same.manifest.identity != other.manifest.identity
    key = "hidden:output@grad"
    assert other[key].gradient == {"tensor": ":output", "index": [0]}
    (equal,), (apart,) = (extractkit.diff(one, run).tensors for run in (same, other))
    assert equal.verdict == "equal"
    assert (apart.verdict, apart.reason) == (
        "not comparable",
        "it is the gradient of :output[argmax] in A and the gradient of :output[0] in B",
    )


def test_gradients_are_not_found_under_the_address_of_the_values(
    file: Path, tmp_path: Path
) -> None:
    run = extracted(file, tmp_path / "run")
    with pytest.raises(UnknownTensorError, match="It is stored as 'hidden:output@grad'"):
        _ = run["hidden:output"]


def test_values_and_statistics_of_other_targets_are_incomparable(
    file: Path, tmp_path: Path
) -> None:
    key = "hidden:output@grad"
    given = ["+selectors.v.path=hidden:output"]
    one = extracted(file, tmp_path / "one", *given)
    (found,) = extractkit.diff(one, one, mapping={key: "hidden:output"}).tensors
    assert found.reason == "it is the gradient of :output[argmax] in A and the value in B"
    first, second = (
        extracted(file, tmp_path / str(index), of={"index": index}, statistics=["moments"])
        for index in (0, 1)
    )
    reasons = {one.reason for one in extractkit.diff(first, second).tensors}
    assert reasons == {"it is the gradient of :output[0] in A and the gradient of :output[1] in B"}


def test_a_mapping_compares_targets_of_other_names(file: Path, tmp_path: Path) -> None:
    key = "hidden:output@grad"
    named, outputs = (
        extracted(file, tmp_path / str(number), of={"tensor": tensor, "index": 0})
        for number, tensor in enumerate(("head:output", ":output"))
    )
    (apart,) = extractkit.diff(named, outputs).tensors
    assert apart.verdict == "not comparable"
    (same,) = extractkit.diff(named, outputs, mapping={key: key}).tensors
    assert same.verdict == "equal"


def test_show_names_the_target(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extracted(file, tmp_path / "values", of={"index": 2, "minus": "argmax"})
    extracted(file, tmp_path / "moments", statistics=["moments"])
    assert cli.execute(["show", str(tmp_path / "values")]) == 0
    shown = "sample × 5, gradient of :output[2] - :output[argmax]"
    assert shown in capsys.readouterr().out
    assert cli.execute(["show", str(tmp_path / "moments")]) == 0
    assert "sample × 5, gradient of :output[argmax]" in capsys.readouterr().out


@pytest.mark.parametrize("order", ["vg", "gv"])
def test_values_and_gradients_of_a_weight_are_stored_in_either_order(
    order: str, file: Path, tmp_path: Path
) -> None:
    given = {"v": {}, "g": {"gradient": {"of": "argmax"}}}
    listener = Collected()
    run = extractkit.extract(
        ["model=keras", f"model.path={file}", "selectors=none"],
        inputs=ROWS[:3],
        selectors={name: {"path": "head:kernel", **given[name]} for name in order},
        run_dir=tmp_path / "run",
        listener=listener,
    )
    assert run["head:kernel@grad"].shape == (3, 5, 3)
    assert run["head:kernel"].shape == (5, 3)
    assert (
        "'head:kernel' has no gradient per sample in a batch: it has no axis of samples, and in a "
        "batch its gradient is that of all samples, so the model is run on one sample per call"
    ) in listener.notes


def test_statistics_are_those_of_the_gradients(file: Path, tmp_path: Path) -> None:
    rows = np.asarray(extracted(file, tmp_path / "rows")["hidden:output@grad"])
    run = extracted(file, tmp_path / "moments", statistics=["moments"])
    assert run.manifest.statistics[0].request["gradient"] == {
        "tensor": ":output",
        "index": "argmax",
    }
    found = run.statistics["hidden:output@grad"].moments
    np.testing.assert_allclose(found.mean, rows.astype(np.float64).mean(0), rtol=1e-6)


def test_transforms_apply_to_gradients(file: Path, tmp_path: Path) -> None:
    rows: Array = np.asarray(extracted(file, tmp_path / "rows")["hidden:output@grad"])
    run = extracted(file, tmp_path / "norm", reduce="norm")
    wanted = np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(run["hidden:output@grad"], wanted, rtol=1e-6)


def test_the_ready_selector_takes_real_inputs(file: Path, tmp_path: Path) -> None:
    run = extractkit.extract(
        ["model=keras", f"model.path={file}", "selectors=gradients"],
        inputs=ROWS,
        run_dir=tmp_path / "run",
    )
    assert list(run) == [":input.x@grad"]
    model = keras.models.load_model(file)
    step = np.float32(1e-2)
    for axis in range(4):
        moved = np.zeros(4, np.float32)
        moved[axis] = step
        up, down = (model(ROWS + sign * moved).numpy() for sign in (1, -1))
        chosen = model(ROWS).numpy().argmax(1)
        differences = (up - down)[np.arange(11), chosen] / (2 * step)
        np.testing.assert_allclose(run[":input.x@grad"][:, axis], differences, atol=2e-3)


def test_gradients_are_projected_onto_components_of_gradients_of_their_target(
    file: Path, tmp_path: Path
) -> None:
    rows = np.asarray(extracted(file, tmp_path / "rows")["hidden:output@grad"], np.float64)
    found = extracted(file, tmp_path / "pca", statistics=["pca"]).statistics
    pca = found["hidden:output@grad"].pca
    step = {"project": {"run": str(tmp_path / "pca"), "to": 2}}
    run = extracted(file, tmp_path / "run", do=[step])
    wanted = (rows - rows.mean(0)) @ np.asarray(pca.components)[:2].T
    np.testing.assert_allclose(run["hidden:output@grad"], wanted, atol=1e-6)
    before = shards(tmp_path / "run")
    sorted((tmp_path / "run" / "shards").iterdir())[-1].unlink()
    shutil.rmtree(tmp_path / "pca")
    extractkit.resume(tmp_path / "run", inputs=ROWS)
    assert shards(tmp_path / "run") == before


VALUES, ARGMAX, FIRST = None, {"of": "argmax"}, {"of": {"tensor": ":output", "index": 0}}
OF_ARGMAX = "gradients of {'tensor': ':output', 'index': 'argmax'}"
OF_FIRST = "gradients of {'tensor': ':output', 'index': [0]}"


@pytest.mark.parametrize(
    ("theirs", "own", "key", "difference"),
    [
        (ARGMAX, VALUES, "hidden:output@grad", (OF_ARGMAX, "values")),
        (VALUES, ARGMAX, "hidden:output", ("values", OF_ARGMAX)),
        (ARGMAX, FIRST, "hidden:output@grad", (OF_ARGMAX, OF_FIRST)),
    ],
    ids=["values onto gradients", "gradients onto values", "another target"],
)
def test_components_of_something_else_have_to_be_named(
    theirs: object,
    own: object,
    key: str,
    difference: tuple[str, str],
    file: Path,
    tmp_path: Path,
) -> None:
    def run(name: str, gradient: object, **selector: object) -> extractkit.Run:
        given = {"path": "hidden:output", "gradient": gradient, **selector}
        return extractkit.extract(
            ["model=keras", f"model.path={file}", "selectors=none"],
            inputs=ROWS,
            selectors={"s": given},
            run_dir=tmp_path / name,
        )

    run("pca", theirs, statistics=["pca"])
    step = {"run": str(tmp_path / "pca"), "to": 2}
    with pytest.raises(SelectionError) as caught:
        run("run", own, do=[{"project": step}])
    at = "selectors.s.do.0.project"
    assert str(caught.value) == (
        f"{at}: {tmp_path / 'pca'} has principal components of {key!r} ({difference[0]}), and this "
        f"projection is of {difference[1]} of 'hidden:output'. Compute those of the same in "
        f"another run, or use the components all the same: {at}.tensor={key!r}"
    )
    named = run("named", own, do=[{"project": {**step, "tensor": key}}])
    assert named.manifest.components[0].tensor == key


def test_advised_targets_compose(tmp_path: Path) -> None:
    given = keras.Input((4,), name="x")
    outputs = {name: layers.Dense(3, name=name)(given) for name in ("first", "second")}
    keras.Model(given, outputs).save(tmp_path / "two.keras")
    np.save(tmp_path / "x.npy", ROWS)
    job = ["model=keras", f"model.path={tmp_path / 'two.keras'}"]
    job += ["inputs=arrays", f"inputs.path={tmp_path / 'x.npy'}", f"run_dir={tmp_path / 'run'}"]

    def followed(*words: str) -> dict[str, object]:
        """Follow the advice of the refusal, and return the target that is planned."""
        advice = refused("plan", *job, *words)
        assert "gradient.of=" in advice.message
        plan = ask("plan", *job, *words, *advice.overrides[-1:], "--json")
        assert plan.code == 0, plan.message
        return dict(json.loads(plan.out)["tensors"][0]["request"]["gradient"])

    address = followed("selectors=gradients")["tensor"]
    of = f"selectors.gradients.gradient.of={{tensor: '{address}', index: [0, 0]}}"
    assert followed("selectors=gradients", of) == {"tensor": address, "index": [0]}
    text = f"selectors.gradients.gradient.of='{address}'"
    assert followed("selectors=gradients", text) == {"tensor": address, "index": [0]}
