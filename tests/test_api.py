"""The library without the command line."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import extractkit
from extractkit import cli, errors
from extractkit.core.digests import Algorithm
from extractkit.core.values import Array
from extractkit.errors import ConfigError, FinalError, JobError, RunDirectoryError, SelectionError
from extractkit.runs import HYDRA
from extractkit.runs.checking import Outcome
from extractkit.runs.manifest import Status
from extractkit.testing.reference import ReferenceModel
from tests.engine.examples import Collected, with_sha256

MODEL = ReferenceModel()
HIDDEN = "+selectors.mine.path=embedding:output"
SMALL = ["runtime.batch_size=1", "runtime.shard_size=2"]


TEXTS = ["abc", "z", "de", "fgh"]


class Unsteady(ReferenceModel):
    """Fails at the third text, while it is ill."""

    ill: ClassVar[bool] = False

    def forward(self, tokens: Array) -> dict[str, Array]:
        if self.ill and tokens[0] == ord("d") % 50:
            raise JobError("the power has gone")
        return super().forward(tokens)


@pytest.fixture
def unfinished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of a live model that stopped after two of four shards; the model is well again."""
    monkeypatch.setattr(Unsteady, "ill", True)
    path = tmp_path / "unfinished"
    shards = ["runtime.shard_size=1", "runtime.batch_size=1"]
    with pytest.raises(JobError, match="the power has gone"):
        extractkit.extract([HIDDEN, *shards], model=Unsteady(), inputs=TEXTS, run_dir=path)
    monkeypatch.setattr(Unsteady, "ill", False)
    return path


@pytest.fixture
def sink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A sink of somebody else, in a module on the path: its dotted path."""
    source = (
        "from extractkit.sinks.npz import NpzSink\n\n"
        "class Sink(NpzSink):\n"
        "    suffix = '.theirs.npz'\n"
    )
    (tmp_path / "their_sinks.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "their_sinks", raising=False)
    return "their_sinks.Sink"


def hidden(run: extractkit.Run) -> list[Array]:
    return list(run["embedding:output"])


def expected(texts: list[str]) -> list[Array]:
    table = MODEL.weights["embedding:embeddings"]
    return [table[[ord(char) % 50 for char in text]] for text in texts]


def assert_equal(found: list[Array], wanted: list[Array]) -> None:
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def modules_after(code: str) -> set[str]:
    """Top-level modules that a new Python has imported once it has run this."""
    show = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_all_is_what_the_package_exposes() -> None:
    functions = {
        "catalog", "crate", "diff", "export", "extract", "join", "open", "plan", "report", "rerun",
        "resume", "sign", "similarity", "verify",
    }  # fmt: skip
    types = {
        "Callback", "Catalog", "Comparison", "Labelled", "Preview", "Run", "SimilarityMatrix",
        "Sweep", "TensorRecord", "TensorView", "Verification",
    }  # fmt: skip
    raised = {name for name in dir(errors) if name.endswith("Error")}
    names = sorted({*functions, *types, *raised, "__version__"})
    assert extractkit.__all__ == names == dir(extractkit)
    for name in extractkit.__all__:
        assert getattr(extractkit, name).__doc__
    with pytest.raises(AttributeError, match=r"^module 'extractkit' has no attribute 'extarct'$"):
        _ = extractkit.extarct  # type: ignore[attr-defined]


def test_former_names_are_answered_with_the_new_ones() -> None:
    for former, new in {"finalize": "join", "open_sweep": "open"}.items():
        with pytest.raises(
            AttributeError, match=rf"^extractkit\.{former} is now extractkit\.{new}"
        ):
            getattr(extractkit, former)


def test_plain_values_do_what_overrides_do(tmp_path: Path) -> None:
    typed = [
        "selectors=[weights]",
        HIDDEN,
        "+selectors.mine.slice.token='0:2'",
        *SMALL,
        "sinks=npz",
    ]
    plain = {
        "selectors": {
            "weights": {"kind": "weight"},
            "mine": {"path": "embedding:output", "slice": {"token": "0:2"}},
        },
        "runtime": {"batch_size": np.int64(1), "shard_size": 2, "device": None},
        "sinks": {"npz": {}},
    }
    first = extractkit.extract(typed, model=MODEL, inputs=TEXTS, run_dir=tmp_path / "a")
    second = extractkit.extract(model=MODEL, inputs=TEXTS, run_dir=tmp_path / "b", **plain)
    assert list(second.manifest.sinks) == ["npz"]
    assert second.journal.digests() == first.journal.digests()
    found = extractkit.plan(model=MODEL, inputs=TEXTS, **plain)
    assert [one.key for one in found.tensors] == list(second)


def test_a_catalog_lists_what_selectors_match() -> None:
    assert list(extractkit.catalog(model=MODEL)) == list(MODEL.catalog)
    matched = extractkit.catalog(model=MODEL, selectors={"mine": {"path": "embedding:*"}})
    assert list(matched) == ["embedding:output", "embedding:embeddings"]
    named = extractkit.catalog(model=MODEL, selectors=["weights", "outputs"])
    assert list(named) == [":output", "embedding:embeddings", "attention:kernel"]


AWKWARD = "a${x} \\\\${oc.env:HOME} \"q\\\" 'r', {b}: [c]=é\\"


def test_text_is_taken_as_it_is() -> None:
    with pytest.raises(SelectionError) as caught:
        extractkit.catalog(model=MODEL, selectors={"mine": {"path": AWKWARD}})
    assert str(caught.value).startswith(f"selectors.mine.path={AWKWARD!r} matched 0 of ")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"selectors": {"m": {"pth": "x"}}}, "selectors.m.pth does not exist. Nearest: 'path'"),
        ({"selectors": {"a.b": {}}}, "selectors: 'a.b' is not a name of letters, digits"),
        ({"selectors": {"m": {"path": b"x"}}}, "selectors.m.path=b'x' is bytes. Give a string, a "),
        ({"selectors": {"m": {"slice": {"a,b": 1}}}}, "selectors.m.slice: key 'a,b' has other"),
        (
            {"selectors": {"m": {"slice": {"null": 1}}}},
            "selectors.m.slice: key 'null' would be read as a truth value, null or a number. "
            "Rename it, or write the mapping in a YAML file, with the key in quotes",
        ),
        ({"selectors": {"m": {"true": 1}}}, "selectors.m: key 'true' would be read as a truth "),
        ({"sinks": {"npz": {"a": {"1_0": 1}}}}, "sinks.npz.a: key '1_0' would be read as a "),
        ({"selectors": 3}, "selectors=3 is int, not a name, a list of names or a mapping"),
        ({"runtime": ["x"]}, "runtime=['x'] is list, not a name or a mapping"),
        ({"runtime": {"bach_size": 1}}, "runtime.bach_size does not exist. Nearest: 'batch_size'"),
        ({"sinks": {"npz": 3}}, "sinks.npz=3 is int, not a mapping of settings"),
        ({"sinks": "hdf6"}, "sinks=hdf6 does not exist. Available: 'hdf5', 'npz'"),
        (
            {"overrides": ["runtime.batch_size=1"], "runtime": {"batch_size": 1}},
            "runtime.batch_size is given twice: as an override and as runtime=. Leave one of ",
        ),
    ],
)
def test_a_plain_value_that_does_not_fit_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        extractkit.plan(model=MODEL, inputs=TEXTS, **given)
    assert str(caught.value).startswith(message)


def test_code_that_a_plain_value_names_needs_trust(sink: str, tmp_path: Path) -> None:
    given = {"selectors": "outputs", "sinks": {"mine": {"_target_": sink}}}
    with pytest.raises(ConfigError, match="trust"):
        extractkit.plan(model=MODEL, inputs=TEXTS, **given)
    module = sink.partition(".")[0]
    run = extractkit.extract(
        model=MODEL, inputs=TEXTS, run_dir=tmp_path / "run", trust=[module], **given
    )
    assert list(run.manifest.sinks) == ["mine"]


def test_neither_importing_nor_opening_a_run_needs_tensorflow_or_hydra(tmp_path: Path) -> None:
    extractkit.extract([HIDDEN], model=MODEL, inputs=["ab"], run_dir=tmp_path / "run")
    reading = f"extractkit.open({str(tmp_path / 'run')!r})['embedding:output'].sample(0)"
    for code in ("", f"print({reading}.shape)"):
        imported = modules_after(f"import extractkit\n{code}")
        assert not imported & {"tensorflow", "keras", "hydra", "omegaconf"}


def test_a_live_model_and_texts(tmp_path: Path) -> None:
    run = extractkit.extract([HIDDEN], model=MODEL, inputs=["abc", "z"], run_dir=tmp_path / "run")
    assert isinstance(run, extractkit.Run)
    assert (run.status, run.path) == (Status.FINISHED, tmp_path / "run")
    np.testing.assert_array_equal(
        run["embedding:output"].sample(1), MODEL.weights["embedding:embeddings"][[ord("z") % 50]]
    )
    assert run.manifest.job_given == (HIDDEN,)
    assert {path.name for path in (tmp_path / "run" / HYDRA).iterdir()} == {
        "config.yaml", "hydra.yaml", "overrides.yaml",
    }  # fmt: skip


@pytest.mark.parametrize("named", [False, True])
def test_live_arrays(tmp_path: Path, named: bool) -> None:
    tokens = np.arange(6, dtype=np.int32).reshape(2, 3)
    inputs = {"tokens": tokens} if named else tokens
    run = extractkit.extract([HIDDEN], model=MODEL, inputs=inputs, run_dir=tmp_path / "run")
    np.testing.assert_array_equal(
        np.asarray(run["embedding:output"]), MODEL.weights["embedding:embeddings"][tokens]
    )


def test_configured_inputs_for_a_live_model(tmp_path: Path) -> None:
    overrides = [HIDDEN, "inputs=random", "inputs.samples=3", "inputs.length=5"]
    run = extractkit.extract(overrides, model=MODEL, run_dir=tmp_path / "run")
    assert run["embedding:output"].shape == (3, 5, 4)


def test_the_directory_may_be_composed_too(tmp_path: Path) -> None:
    overrides = [HIDDEN, f"hydra.run.dir={tmp_path}/here"]
    assert extractkit.extract(overrides, model=MODEL, inputs=["a"]).path == tmp_path / "here"


def test_a_directory_that_holds_a_run_is_left_alone(tmp_path: Path) -> None:
    def extract() -> None:
        extractkit.extract([HIDDEN], model=MODEL, inputs=["a"], run_dir=tmp_path / "run")

    extract()
    with pytest.raises(RunDirectoryError, match=r"run holds a finished run of .* \(1 sample, 1 t"):
        extract()


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (
            ["+selectors.mine.pth=x"],
            ConfigError,
            "selectors.mine.pth does not exist. Nearest: 'path', 'depth', 'port'.",
        ),
        (
            [HIDDEN, "runtime.batch_size=0"],
            ConfigError,
            "runtime.batch_size=0 is not a whole number of 1 or more or 'auto'",
        ),
        (
            ["+selectors.mine.path=embeding:output"],
            SelectionError,
            "selectors.mine.path='embeding:output' matched 0 of 11 tensors of model 'reference'. "
            "Nearest: 'embedding:output', 'attention:output', ':output'. "
            "List them: list(extractkit.catalog(model=model))",
        ),
    ],
)
def test_a_mistake_is_reported_as_on_the_command_line_and_leaves_nothing(
    tmp_path: Path, overrides: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        extractkit.extract(overrides, model=MODEL, inputs=["ab"], run_dir=tmp_path / "run")
    assert str(caught.value) == message
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("override", "more"),
    [
        ("model.path=net.keras", ""),
        ("model=bert", ""),
        (
            "model.state=carry",
            " Of a Keras model: model=extractkit.models.in_memory.live_model(model, state='carry')",
        ),
    ],
)
def test_an_object_takes_no_settings(tmp_path: Path, override: str, more: str) -> None:
    with pytest.raises(ConfigError) as raised:
        extractkit.extract([override, "selectors=none"], model=MODEL, run_dir=tmp_path / "run")
    assert str(raised.value) == (
        f"{override!r}: model is given as an object, which takes no settings from the "
        f"configuration. Leave one of the two out.{more}"
    )
    assert not (tmp_path / "run").exists()


def test_a_model_that_is_not_given_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model"):
        extractkit.extract([HIDDEN], run_dir=tmp_path / "run")


# ------------------------------------------------------------------- resume, rerun and verify


def test_live_objects_are_given_again_to_go_on(unfinished: Path) -> None:
    run = extractkit.resume(unfinished, model=Unsteady(), inputs=TEXTS)
    assert run.status is Status.FINISHED
    assert_equal(hidden(run), expected(TEXTS))
    reported = Collected()
    assert_equal(hidden(extractkit.resume(unfinished, listener=reported)), expected(TEXTS))
    assert reported.notes == [f"{unfinished} is finished, and nothing of it is damaged"]


def test_other_live_objects_are_refused(unfinished: Path) -> None:
    with pytest.raises(RunDirectoryError, match="inputs"):
        extractkit.resume(unfinished, model=Unsteady(), inputs=["abc", "z", "de", "fgX"])
    with pytest.raises(RunDirectoryError, match="weights"):
        extractkit.resume(unfinished, model=Unsteady(seed=1), inputs=TEXTS)
    with pytest.raises(
        RunDirectoryError, match="model and inputs of the run existed only in memory"
    ):
        extractkit.resume(unfinished)
    assert extractkit.open(unfinished).status is Status.FAILED


def test_a_run_with_older_digests_is_repeated_and_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, again = tmp_path / "run", tmp_path / "again"
    with monkeypatch.context() as before:
        with_sha256(before)
        extractkit.extract([HIDDEN], model=MODEL, inputs=TEXTS, run_dir=first)
    reported = Collected()
    run = extractkit.rerun(first, again, model=MODEL, inputs=TEXTS, listener=reported)
    digests = [extractkit.open(path).journal.entries[0].values for path in (first, again)]
    assert [one.algorithm for one in digests] == [Algorithm.SHA256, Algorithm.BLAKE3]
    assert reported.notes[-2:] == [
        f"the values are read once more, to compare them: {first} has digests by SHA-256, {again} "
        f"by BLAKE3",
        f"the values are those of {first}, to the bit",
    ]
    assert {one.verdict.value for one in extractkit.diff(first, run).tensors} == {"equal"}
    assert not extractkit.verify(first, recompute=1, model=MODEL, inputs=TEXTS).failed


def test_a_live_run_is_repeated_and_verified(tmp_path: Path) -> None:
    first, again = tmp_path / "run", tmp_path / "again"
    extractkit.extract([HIDDEN], model=MODEL, inputs=TEXTS, run_dir=first)
    reported = Collected()
    run = extractkit.rerun(first, again, model=MODEL, inputs=TEXTS, listener=reported)
    assert (run.path, run.status) == (again, Status.FINISHED)
    assert_equal(hidden(run), expected(TEXTS))
    assert f"the values are those of {first}, to the bit" in reported.notes
    assert not any("read once more" in note for note in reported.notes)
    assert not extractkit.diff(extractkit.open(first), run).beyond
    for a, b in ((str(first), again), (first, run)):
        assert not extractkit.diff(a, b, rtol=np.float32(0.5), atol=np.int64(0)).beyond
    assert not extractkit.verify(first).failed
    found = extractkit.verify(again, recompute=1, model=MODEL, inputs=TEXTS)
    assert not found.failed
    with pytest.raises(RunDirectoryError, match="weights"):
        extractkit.rerun(first, tmp_path / "third", model=ReferenceModel(seed=1), inputs=TEXTS)
    assert not (tmp_path / "third").exists()


def test_what_stood_in_memory_is_not_computed_again_and_the_rest_is_checked(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    extractkit.extract([HIDDEN], model=MODEL, inputs=TEXTS, run_dir=run)
    found = extractkit.verify(run, recompute=2, inputs=TEXTS)
    assert not found.failed
    assert {check.detail for check in found.checks if check.outcome is Outcome.NOT_CHECKED} == {
        "model existed only in memory. In Python: extractkit.verify(…, recompute=2, model=…)"
    }
    assert [check.name for check in found.checks[-3:]] == ["same job", "recomputed", "outputs"]
    (run / "samples.jsonl").unlink()
    assert extractkit.verify(run, recompute=2).failed


@pytest.mark.parametrize(
    "given",
    [
        {"recompute": -1},
        {"recompute": 1.5},
        {"recompute": True},
        {"recompute": 1, "seed": -1},
        {"recompute": 1, "seed": "a"},
    ],
)
def test_what_is_no_number_of_shards_or_no_seed_is_refused(given: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        extractkit.verify(tmp_path, **given)
    name = list(given)[-1]
    assert str(caught.value) == f"{name}={given[name]!r} is not a whole number of 0 or more"


def test_a_run_is_repeated_from_its_manifest_alone(tmp_path: Path) -> None:
    first, reported = tmp_path / "run", Collected()
    extractkit.extract([HIDDEN], model=MODEL, inputs=TEXTS, run_dir=first)
    for name in ("config.yaml", "hydra.yaml"):
        (first / HYDRA / name).unlink()
    (first / HYDRA / "overrides.yaml").write_text("damaged", encoding="utf-8")
    (first / "journal.jsonl").unlink()
    again = tmp_path / "again"
    run = extractkit.rerun(first, again, model=MODEL, inputs=TEXTS, listener=reported)
    assert_equal(hidden(run), expected(TEXTS))
    assert not extractkit.verify(again).failed
    left_out = [
        note
        for note in reported.notes
        if note.startswith("ignored, since the run does not need it: ")
    ]
    assert len(left_out) == 3
    assert reported.notes[-1] == (
        f"{first} lists no shard, so its values cannot be compared with those of {again}"
    )


def test_a_journal_that_cannot_be_read_keeps_nothing_from_being_repeated(tmp_path: Path) -> None:
    first, reported = tmp_path / "run", Collected()
    extractkit.extract([HIDDEN], model=MODEL, inputs=TEXTS, run_dir=first)
    (first / "journal.jsonl").unlink()
    (first / "journal.jsonl").mkdir()
    extractkit.rerun(first, tmp_path / "again", model=MODEL, inputs=TEXTS, listener=reported)
    assert (
        f"{first}/journal.jsonl is not a regular file: it may lead out of its run" in reported.notes
    )


def test_an_unfinished_run_is_repeated_and_what_it_holds_is_compared(
    unfinished: Path, tmp_path: Path
) -> None:
    reported, into = Collected(), tmp_path / "again"
    run = extractkit.rerun(unfinished, into, model=Unsteady(), inputs=TEXTS, listener=reported)
    assert run.status is Status.FINISHED
    assert_equal(hidden(run), expected(TEXTS))
    assert f"the values of its 2 shards are those of {unfinished}, to the bit" in reported.notes
    assert extractkit.open(unfinished).status is Status.FAILED


def test_a_sink_of_somebody_else_has_to_be_trusted_wherever_the_run_is_opened(
    sink: str, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    job = [HIDDEN, "sinks=[]", f"+sinks.mine._target_={sink}"]
    run = extractkit.extract(job, model=MODEL, inputs=TEXTS, run_dir=path)
    assert_equal(hidden(run), expected(TEXTS))
    assert list((path / "shards").glob("*.theirs.npz"))
    live = {"model": MODEL, "inputs": TEXTS}
    trusted = {"trust": ["their_sinks"]}
    for again in (
        lambda **given: extractkit.open(path, **given),
        lambda **given: extractkit.resume(path, **live, **given),
        lambda **given: extractkit.rerun(path, tmp_path / "again", **live, **given),
        lambda **given: extractkit.verify(path, recompute=1, **live, **given),
    ):
        with pytest.raises(ConfigError, match=r"sinks\.mine.*--trust their_sinks$"):
            again()
        found = again(**trusted)
        if isinstance(found, extractkit.Run):
            assert_equal(hidden(found), expected(TEXTS))
        else:
            assert not found.failed


def test_what_hydra_composed_cannot_be_made_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    extractkit.extract([HIDDEN], model=MODEL, inputs=TEXTS, run_dir=run)
    (run / HYDRA / "config.yaml").write_text("damaged: true\n", encoding="utf-8")
    with pytest.raises(JobError) as caught:
        extractkit.resume(run, model=MODEL, inputs=TEXTS)
    assert isinstance(caught.value, FinalError)
    assert str(caught.value).startswith(
        f"the values of {run} are whole and can be used, but some of its files cannot be made "
        f"again: "
    )
    assert str(caught.value).endswith(f". For a run that lacks nothing: extractkit rerun {run}")
    assert f"{HYDRA}/config.yaml" in str(caught.value)
    assert cli.report(caught.value) == cli.FAILED == 1
    assert_equal(hidden(extractkit.open(run)), expected(TEXTS))


@pytest.mark.parametrize(
    ("called", "argument"),
    [
        (lambda: extractkit.open(3), "path=3"),  # type: ignore[arg-type]
        (lambda: extractkit.diff(4, 5), "path=4"),  # type: ignore[arg-type]
        (lambda: extractkit.report("run", 5), "output=5"),  # type: ignore[arg-type]
        (lambda: extractkit.report("run", figures=5), "figures=5"),  # type: ignore[arg-type]
        (lambda: extractkit.verify(3), "run=3"),  # type: ignore[arg-type]
        (lambda: extractkit.resume(4), "run=4"),  # type: ignore[arg-type]
        (lambda: extractkit.rerun(None), "run=None"),  # type: ignore[arg-type]
        (lambda: extractkit.sign(b"run", "key"), "run=b'run'"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_path_is_refused(called: Callable[[], object], argument: str) -> None:
    with pytest.raises(ConfigError) as caught:
        called()
    assert str(caught.value) == f"{argument} is not a path. Give a text or a pathlib.Path"
