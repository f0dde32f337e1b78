"""A run's manifest from what has been loaded, and what of it a later process finds changed."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from extractkit.core.component import Component
from extractkit.core.spec import TensorSpec
from extractkit.engine.identity import described
from extractkit.engine.prepare import prepare
from extractkit.errors import RunDirectoryError
from extractkit.runs.environment import VALUES_VERSION, Volatile, package_versions
from extractkit.runs.manifest import Manifest, RunInputs, Unextractable
from extractkit.runs.same_job import check_repeats, check_same, differences
from extractkit.testing.reference import ReferenceModel
from tests.engine.examples import EVERYTHING, MODEL, TEXTS, job, source

STARTED = Manifest(volatile=Volatile("now"), job_given=("model=mine", "seed=1"), seeds={"a": 1})


@pytest.fixture(scope="module")
def known() -> Manifest:
    """A job as it is known before its samples are read."""
    return described(STARTED, prepare(job(EVERYTHING, batch_size=3, device="/CPU:0")))


def test_what_is_loaded_is_reported(known: Manifest) -> None:
    assert known.model == {
        **MODEL.describe(),
        "weights": MODEL.weights_digest(),
        "definition": MODEL.definition_digest(),
    }
    assert known.inputs == RunInputs(source().digest, len(TEXTS))
    assert {tensor.key for tensor in known.tensors} == {
        record.address for record in MODEL.catalog.records if record.extractable
    }
    for tensor in known.tensors:
        record = MODEL.catalog[tensor.key]
        assert replace(tensor.record, spec=record.spec) == record
        assert tensor.record.spec.known
        assert not record.spec.known or tensor.record.spec == record.spec
        assert tensor.selectors == ("s0",)
        assert tensor.stored.constant == (tensor.key in MODEL.weights)
    reason = MODEL.catalog["attention:op/Count"].reason
    assert known.unextractable == (Unextractable("attention:op/Count", reason or ""),)
    assert known.settings["batch_size"] == 3
    assert known.settings["device"] == "/CPU:0"


def test_what_was_known_before_stays(known: Manifest) -> None:
    before = replace(known.volatile, sharing=None)
    assert (before, known.job_given) == (STARTED.volatile, STARTED.job_given)


def test_the_seed_is_the_jobs(known: Manifest) -> None:
    """Whatever a manifest says: a run that is resumed is held against it."""
    assert STARTED.seeds != known.seeds == {"runtime": 0}


def test_versions_and_variables_are_those_of_this_process(known: Manifest) -> None:
    assert known.versions == package_versions()
    assert known.values_version == VALUES_VERSION
    assert known.environment["TF_NUM_INTRAOP_THREADS"]


def test_axes_that_running_tells_are_in_the_record_of_what_is_stored(known: Manifest) -> None:
    (pooled,) = [tensor for tensor in known.tensors if tensor.key == "pool:op/Max"]
    assert pooled.stored.spec.labels == ("sample", None)
    assert pooled.stored.spec.shape == (None, 4)
    assert pooled.record.spec == pooled.stored.spec


def test_other_axes_of_a_tensor_are_a_difference(known: Manifest) -> None:
    spec = TensorSpec.fixed("float32", (3, 4))
    tensors = tuple(
        replace(one, record=replace(one.record, spec=spec)) if one.key == "pool:op/Max" else one
        for one in known.tensors
    )
    (found,) = differences(replace(known, tensors=tensors), known)
    assert found.startswith("the tensors' records: ")


def test_names_of_axes_are_no_differences(known: Manifest) -> None:
    def named(spec: TensorSpec) -> TensorSpec:
        return replace(spec, dims=tuple(dim.named("feature") for dim in spec.axes))

    tensors = tuple(
        replace(
            one,
            record=replace(one.record, spec=named(one.record.spec)),
            stored=replace(one.stored, spec=named(one.stored.spec)),
        )
        for one in known.tensors
    )
    assert tensors != known.tensors
    assert differences(replace(known, tensors=tensors), known) == []


def test_weights_alone_have_no_inputs() -> None:
    only = described(STARTED, prepare(job({"kind": "weight"})))
    assert only.inputs is None


def test_files_that_the_job_names_are_reported(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("a\nb\n")
    arguments = {"path": str(tmp_path / "texts.txt")}
    texts = Component("inputs", "extractkit.inputs.texts.Texts", arguments)
    found = described(STARTED, prepare(replace(job({"path": "pool:output"}), inputs=texts)))
    assert [(one.key, one.path, one.bytes) for one in found.origins] == [
        ("inputs.path", str(tmp_path / "texts.txt"), 4)
    ]


def test_of_what_nobody_can_tell_there_is_no_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(MODEL), "definition_digest", lambda self: None)
    found = described(STARTED, prepare(job({"path": "pool:output"})))
    assert (found.model["definition"], found.identity) == (None, None)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"volatile": Volatile("later"), "job_given": ()}, []),
        ({"model": {"weights": "a"}}, ["the model's weights", "what the model computes"]),
        ({"inputs": None}, ["the inputs"]),
        ({"inputs": RunInputs("f", 2)}, ["the inputs"]),
        ({"inputs": RunInputs(source().digest, 20, ("note",), 3)}, []),
        ({"tensors": ()}, ["the tensors", "the tensors' records"]),
        ({"environment": {}}, ["the variable TF_NUM_INTEROP_THREADS", "the variable TF_NUM_INTRA"]),
        ({"settings": {}}, ["the setting 'batch_size'", "the setting 'batch_tokens'"]),
    ],
)
def test_differences_name_what_is_not_as_recorded(
    known: Manifest, changes: Mapping[str, object], expected: list[str]
) -> None:
    found = differences(known, replace(known, **changes))  # type: ignore[arg-type]
    if "settings" in changes:
        assert all(entry.startswith("the setting ") for entry in found)
        return
    assert len(found) == len(expected)
    for entry, beginning in zip(found, expected, strict=True):
        assert entry.startswith(beginning)
        assert " was recorded, " in entry
        assert entry.endswith(" is found")


def test_how_many_processors_there_are_is_no_difference(known: Manifest) -> None:
    more = replace(known, settings={**known.settings, "cpus": 99})
    assert differences(known, more) == []


def test_versions_of_packages_that_change_no_values_are_no_difference(known: Manifest) -> None:
    def with_version(name: str) -> Manifest:
        return replace(known, versions={**known.versions, name: "0.1"})

    assert differences(known, with_version("hydra-core")) == []
    assert differences(known, with_version("extractkit")) == []
    before = known.versions["numpy"]
    assert differences(known, with_version("numpy")) == [
        f"the version of numpy: {before} was recorded, 0.1 is found"
    ]


def test_another_values_version_is_a_difference(known: Manifest) -> None:
    assert differences(known, replace(known, values_version=VALUES_VERSION + 1)) == [
        f"extractkit's values version: {VALUES_VERSION} was recorded, {VALUES_VERSION + 1} is found"
    ]


def test_long_values_are_cut(known: Manifest) -> None:
    other = replace(known, environment={**known.environment, "XLA_FLAGS": "x" * 500})
    (entry,) = differences(known, other)
    assert entry == f"the variable XLA_FLAGS: None was recorded, {'x' * 57}… is found"


def test_one_message_tells_all_that_differs(known: Manifest) -> None:
    check_same(known, known, "run")
    other = replace(known, versions={**known.versions, "numpy": "0.1", "keras": "0.2"})
    with pytest.raises(RunDirectoryError) as caught:
        check_same(known, other, "run")
    numpy, keras = known.versions["numpy"], known.versions.get("keras")
    assert str(caught.value) == (
        f"run cannot be resumed: its values would not be those of one job. "
        f"the version of keras: {keras} was recorded, 0.2 is found; "
        f"the version of numpy: {numpy} was recorded, 0.1 is found. "
        f"Put back what was there, or run the job anew"
    )


def test_a_run_may_be_repeated_with_other_libraries_but_no_other_weights(known: Manifest) -> None:
    run = Path("a run").absolute()
    check_repeats(run, known, replace(known, versions={}, environment={}, settings={}))
    other = replace(known, model={**known.model, "weights": "aa"})
    with pytest.raises(RunDirectoryError) as caught:
        check_repeats(run, known, other)
    weights = MODEL.weights_digest()[:57]
    assert str(caught.value) == (
        f"the run cannot be repeated: the model's weights: {weights}… was recorded, aa is found. "
        f"Put back what was there, or run the job anew: extractkit model=mine seed=1 "
        f"'run_dir=\"{run}-2\"'"
    )


class Recording(ReferenceModel):
    """What it describes grows as it loads weights."""

    found: list[str] = ["first"]  # noqa: RUF012 - shared on purpose

    def describe(self) -> Mapping[str, object]:
        return {**super().describe(), "found": {"averages": self.found}}


def test_what_an_adapter_records_later_does_not_change_the_manifest() -> None:
    reported = described(STARTED, prepare(job({"path": "pool:output"}, model=Recording())))
    Recording.found.append("second")
    assert reported.model["found"] == {"averages": ["first"]}
