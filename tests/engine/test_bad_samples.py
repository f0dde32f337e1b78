"""Samples that cannot be read, encoded, sliced or computed, and what `runtime.bad_samples` says."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import extractkit
from extractkit.core.component import Component
from extractkit.core.digests import PREFERRED, digest
from extractkit.core.plan import PlannedTensor, plan_tensors
from extractkit.core.selectors import parse_selector
from extractkit.core.shards import Shard
from extractkit.core.values import Array, Dense, Ragged
from extractkit.engine.batches import BatchRules, read_batch
from extractkit.engine.failing_samples import run_isolated, try_out
from extractkit.engine.measure import measure_axes
from extractkit.engine.samples import WAY_OUT, SampleRow, first_usable, recorded_survey, survey
from extractkit.engine.stream import Stream, fetches
from extractkit.errors import BadSampleError, InputError, JobError, SampleError, SelectionError
from extractkit.inputs import InputSpec, Sample, Signature, Source
from extractkit.inputs.dataset import Dataset
from extractkit.inputs.in_memory import LiveArrays
from extractkit.inputs.texts import Texts
from extractkit.models import Compilation, Encoded, Fetch, Program
from extractkit.runs.shards import ShardValues
from extractkit.testing.reference import ReferenceModel
from tests.engine.carrying_examples import CarryingReference
from tests.engine.examples import EVERYTHING, MODEL, TEXTS, executed, job, source, tokens

NO_TEXT, NO_CODE = 7, "é?"
"""What a source cannot give, and what `Choosy` cannot encode."""

BOMB = "zz"
"""A text at which the model fails."""


class Choosy(ReferenceModel):
    """A model that refuses some texts, with all the others that it is given."""

    def encode(self, samples: Sequence[Sample]) -> list[Encoded]:
        for sample in samples:
            if sample.data == NO_CODE:
                raise InputError(f"sample {sample.id!r} has no code")
        return super().encode(samples)


CHOOSY = Choosy()


def planned(**selector: object) -> tuple[PlannedTensor, ...]:
    chosen = parse_selector("mine", selector or {"not": {"kind": "weight"}})
    wanted = plan_tensors(MODEL.catalog, [chosen])
    return measure_axes(MODEL, source(), wanted, Compilation()).tensors


TENSORS = planned()
PROGRAM = MODEL.program(fetches(TENSORS), Compilation())


def explosive(program: Program) -> Program:
    """The program, failing on a batch with BOMB in it."""
    bomb = tokens(BOMB)

    def run(features: Mapping[str, Array], lengths: Mapping[str, Array]) -> Sequence[Array]:
        for row, size in zip(features["tokens"], lengths["token"], strict=True):
            if np.array_equal(row[:size], bomb):
                raise SampleError("the model blew up")
        return program(features, lengths)

    return run


def surveyed(
    texts: Sequence[object], tensors: Sequence[PlannedTensor] = (), policy: str = "skip"
) -> tuple[Mapping[int, str], list[SampleRow], list[int]]:
    rows: list[SampleRow] = []
    found = survey(CHOOSY, source(texts), rows.extend, policy, tensors)  # type: ignore[arg-type]
    return found.missing, rows, found.lengths.axes["token"].tolist()


class TestSurvey:
    TEXTS = ("ab", NO_TEXT, NO_CODE, "abc")

    def test_what_fails_alone_is_reported_with_its_reason_and_keeps_its_place(self) -> None:
        missing, rows, lengths = surveyed(self.TEXTS)
        assert missing == {1: "inputs[1] is int, not a text: 7", 2: "sample '2' has no code"}
        assert lengths == [2, 0, 0, 3]
        assert rows[1] == {
            "index": 1, "id": "1", "source": "memory", "length": 0, "truncated": False,
            "tokens": None, "missing": "inputs[1] is int, not a text: 7",
        }  # fmt: skip
        assert rows[2] == {
            "index": 2, "id": "2", "source": "memory", "length": 0, "truncated": False,
            "tokens": None, "missing": "sample '2' has no code", "text": NO_CODE,
        }  # fmt: skip
        assert [row["index"] for row in rows] == [0, 1, 2, 3]

    @pytest.mark.parametrize("bad", [NO_TEXT, NO_CODE])
    def test_the_same_samples_fail_a_job_that_does_not_skip(self, bad: object) -> None:
        with pytest.raises(InputError, match=r"not a text|no code"):
            surveyed(["ab", bad, "abc"], policy="fail")

    @pytest.mark.parametrize(
        ("bad", "reason"),
        [(NO_TEXT, "inputs[1] is int, not a text: 7"), (NO_CODE, "sample '1' has no code")],
    )
    def test_the_first_of_them_is_named_with_the_way_out(self, bad: object, reason: str) -> None:
        with pytest.raises(InputError) as caught:
            surveyed(["ab", bad, "abc", NO_CODE], policy="fail")
        assert str(caught.value) == (
            f"sample '1' (number 1): {reason}. To leave such samples out: runtime.bad_samples=skip"
        )

    def test_what_is_wrong_with_all_of_them_is_no_fault_of_one(self) -> None:
        with pytest.raises(InputError) as caught:
            surveyed([NO_CODE, NO_CODE], policy="fail")
        assert str(caught.value) == "sample '0' has no code"

    def test_what_fails_only_together_is_no_fault_of_one(self) -> None:
        class Crowded(ReferenceModel):
            def encode(self, samples: Sequence[Sample]) -> list[Encoded]:
                if len(samples) > 1:
                    raise InputError("too many")
                return super().encode(samples)

        with pytest.raises(InputError, match=r"^too many$"):
            survey(Crowded(), source(), lambda rows: None)

    def test_a_line_that_cannot_be_read_keeps_its_name(self, tmp_path: Path) -> None:
        path = tmp_path / "t.jsonl"
        path.write_text('{"text": "a"}\n\n{\n{"text": "b"}\n')
        texts = Texts(path).bind(CHOOSY.signature)
        rows: list[SampleRow] = []
        survey(CHOOSY, texts, rows.extend, "skip")
        names = [(row["id"], row["source"], "missing" in row) for row in rows]
        assert names == [
            ("t.jsonl:1", "t.jsonl", False),
            ("t.jsonl:3", "t.jsonl", True),
            ("t.jsonl:4", "t.jsonl", False),
        ]
        with pytest.raises(InputError) as caught:
            survey(CHOOSY, texts, lambda rows: None)
        reported = str(caught.value)
        assert reported.startswith(
            f"sample 't.jsonl:3' (number 1): inputs.path={str(path)!r}, line 3 "
        )
        assert reported.endswith(" needs another ending. " + WAY_OUT)

    def test_where_nothing_is_left_the_first_reason_is_reported(self) -> None:
        with pytest.raises(InputError) as caught:
            surveyed([NO_CODE, NO_CODE])
        assert str(caught.value) == (
            "runtime.bad_samples=skip would leave nothing: none of 2 samples can be used. "
            "The first: sample '0' has no code"
        )

    def test_too_short_for_a_slice_is_skipped_as_well(self) -> None:
        sliced = planned(path="attention:output", slice={"token": 2})
        missing, _, lengths = surveyed(["ab", "abcd", "abc"], sliced)
        assert missing == {
            0: "it has 2 along 'token', and selectors.mine.slice takes element 2 along it in "
            "'attention:output'"
        }
        assert lengths == [0, 4, 3]
        with pytest.raises(SelectionError, match="but 1 of 3 samples are shorter, first sample 0"):
            surveyed(["ab", "abcd", "abc"], sliced, policy="fail")

    def test_samples_of_fixed_shape_are_encoded_only_to_be_skipped(self) -> None:
        class Fixed(ReferenceModel):
            signature = Signature("fixed", (InputSpec("x", "float32", (2,), (None,)),))  # type: ignore[assignment]

            def encode(self, samples: Sequence[Sample]) -> list[Encoded]:
                for sample in samples:
                    if sample.data["x"][0] == 2:  # type: ignore[index]
                        raise InputError("two")
                return [Encoded({}, {}) for _ in samples]

        arrays = LiveArrays(np.arange(8, dtype="float32").reshape(4, 2)).bind(Fixed().signature)
        rows: list[SampleRow] = []
        assert survey(Fixed(), arrays, rows.extend, "skip").missing == {1: "two"}
        assert rows[1] == {"index": 1, "id": "1", "source": "memory", "missing": "two"}
        assert survey(Fixed(), arrays, rows.extend).missing == {}

    def test_a_label_is_not_taken_for_the_reason_why_a_sample_is_missing(self) -> None:
        signature = Signature("fixed", (InputSpec("x", "float32", (2,), (None,)),))

        class Fixed(ReferenceModel):
            def encode(self, samples: Sequence[Sample]) -> list[Encoded]:
                return [Encoded({}, {}) for _ in samples]

        Fixed.signature = signature  # type: ignore[assignment,misc]
        made = "tests.inputs.made_datasets.with_reserved_labels"
        dataset = Dataset(Component("inputs.dataset", made, {})).bind(signature)
        rows: list[SampleRow] = []
        assert survey(Fixed(), dataset, rows.extend, "skip").missing == {}
        assert recorded_survey(signature, rows, 2).missing == {}
        assert [(row["missing_"], row["skipped_"]) for row in rows] == [(False, "never")] * 2

    @given(st.lists(st.sampled_from(["a", "abc", NO_TEXT, NO_CODE]), max_size=600, min_size=1))
    @settings(max_examples=20)
    def test_each_sample_is_judged_alone(self, texts: list[object]) -> None:
        bad = [at for at, text in enumerate(texts) if text in (NO_TEXT, NO_CODE)]
        if len(bad) == len(texts):
            return
        missing, rows, lengths = surveyed(texts)
        assert list(missing) == bad
        assert [row["index"] for row in rows if "missing" in row] == bad
        assert [n > 0 for n in lengths] == [at not in bad for at in range(len(texts))]


class TestUsable:
    def test_a_model_is_tried_on_samples_that_can_be_used(self) -> None:
        texts = source([NO_CODE, NO_TEXT, "ab", NO_CODE, "abc", "d"])  # type: ignore[list-item]
        found = first_usable(CHOOSY, texts, most=2)
        assert [sample.data for sample in found.read(0, len(found))] == ["ab", "abc"]
        assert [sample.index for sample in found.read(1, 2)] == [4]
        assert (found.digest, found.notes) == (texts.digest, texts.notes)

    def test_they_are_long_enough_for_every_slice(self) -> None:
        sliced = planned(path="attention:output", slice={"token": 2})
        found = first_usable(CHOOSY, source(["ab", "abcd"]), sliced)
        assert [sample.data for sample in found.read(0, len(found))] == ["abcd"]

    def test_there_has_to_be_one(self) -> None:
        with pytest.raises(InputError, match="none of 2 samples can be used"):
            first_usable(CHOOSY, source([NO_CODE, NO_CODE]))


class TestTrial:
    def run(self, texts: Sequence[str], policy: str) -> Sequence[object]:
        def attempt(samples: Source) -> Sequence[object]:
            batch = read_batch(CHOOSY, samples, range(min(2, len(samples))))
            explosive(PROGRAM)(batch.features, batch.lengths)
            return [sample.data for sample in samples.read(0, len(batch))]

        return try_out(CHOOSY, source(texts), policy, attempt)

    def test_it_passes_over_samples_at_which_the_model_fails(self) -> None:
        texts = ["a", BOMB, NO_CODE, BOMB, "ab", NO_CODE, "abc"]
        assert self.run(texts, "skip") == ["ab", "abc"]
        assert self.run(["a", "b", BOMB], "fail") == ["a", "b"]

    @pytest.mark.parametrize("policy", ["fail", "skip"])
    def test_a_model_that_always_fails_says_so(self, policy: str) -> None:
        with pytest.raises(JobError, match="the model blew up"):
            self.run([BOMB, BOMB], policy)

    def test_a_model_that_fails_on_the_first_tells_on_which(self) -> None:
        with pytest.raises(SampleError) as caught:
            self.run([BOMB, "a"], "fail")
        assert str(caught.value) == (
            f"the model blew up. It was tried on the first samples, from '0' (number 0) on. "
            f"{WAY_OUT}"
        )

    def test_a_model_that_carries_state_can_leave_none_out(self) -> None:
        def attempt(samples: Source) -> None:
            raise SampleError("the model blew up")

        with pytest.raises(SampleError) as caught:
            try_out(CarryingReference(), source(["a", "b"]), "fail", attempt)
        assert not isinstance(caught.value, BadSampleError)
        assert str(caught.value) == (
            "the model blew up. It was tried on the first samples, from '0' (number 0) on"
        )

    def test_a_first_sample_that_is_no_good_is_named(self) -> None:
        with pytest.raises(InputError) as caught:
            self.run([NO_CODE, "ab"], "fail")
        assert str(caught.value) == f"sample '0' (number 0): sample '0' has no code. {WAY_OUT}"

    def test_the_first_sample_has_to_do_where_none_is_skipped(self) -> None:
        with pytest.raises(InputError, match="no code"):
            self.run([NO_CODE, "ab"], "fail")


def stream(
    texts: Source,
    rules: BatchRules,
    program: Program | None = None,
    bad_samples: str = "skip",
) -> Stream:
    found = survey(CHOOSY, texts, lambda rows: None, bad_samples)
    return Stream(
        CHOOSY, texts, program or explosive(PROGRAM), TENSORS, found.lengths, rules,
        missing=found.missing, bad_samples=bad_samples,
    )  # fmt: skip


ANY_TEXT = st.sampled_from(["a", "abc", "b" * 9, "", BOMB, NO_TEXT, NO_CODE])
ANY_RULES = st.builds(BatchRules, st.integers(1, 9), st.none() | st.integers(1, 200), st.booleans())


class TestStream:
    @settings(max_examples=60)
    @given(st.lists(ANY_TEXT, min_size=1, max_size=20), ANY_RULES, st.integers(1, 20))
    def test_a_shard_is_a_function_of_its_range_whatever_is_skipped(
        self, texts: list[object], rules: BatchRules, size: int
    ) -> None:
        texts = ["a", *texts]
        whole = stream(source(texts), rules)  # type: ignore[arg-type]
        shards = [Shard(at, min(at + size, len(texts))) for at in range(0, len(texts), size)]
        together = list(whole.shards(shards))
        for one in together:
            self.check(one, texts)
        for shard, one in zip(reversed(shards), reversed(together), strict=True):
            (alone,) = whole.shards([shard])
            assert digest(alone.values.items(), PREFERRED) == digest(one.values.items(), PREFERRED)
            assert (alone.missing, alone.stats) == (one.missing, one.stats)

    def check(self, one: ShardValues, texts: Sequence[object]) -> None:
        bad = {at for at in range(one.shard.start, one.shard.stop) if self.bad(texts[at])}
        assert list(one.missing) == sorted(bad)
        assert list(one.values) == list(one.stats) == [tensor.key for tensor in TENSORS]
        for key, values in one.values.items():
            assert values.absent == tuple(at - one.shard.start for at in sorted(bad))
            assert one.stats[key].examined == len(one.shard) - len(bad)
            for at in range(one.shard.start, one.shard.stop):
                found = values.sample(at - one.shard.start)
                if at not in bad:
                    expected = MODEL.forward(tokens(str(texts[at])))[key]
                    np.testing.assert_array_equal(found, expected)
                elif isinstance(values, Dense):
                    assert np.isnan(found).all()
                else:
                    assert found.size == 0

    def bad(self, text: object) -> bool:
        return text in (NO_TEXT, NO_CODE, BOMB)

    def test_why_each_is_skipped_is_reported(self) -> None:
        texts = source(["a", BOMB, NO_TEXT, NO_CODE])  # type: ignore[list-item]
        (one,) = stream(texts, BatchRules(4, None, True)).shards([Shard(0, 4)])
        assert one.missing == {
            1: "the model blew up",
            2: "inputs[2] is int, not a text: 7",
            3: "sample '3' has no code",
        }

    def test_a_model_that_fails_fails_the_job_that_does_not_skip(self) -> None:
        failing = stream(source(["a", BOMB]), BatchRules(4, None, True), bad_samples="fail")
        with pytest.raises(JobError, match="the model blew up"):
            list(failing.shards([Shard(0, 2)]))

    @pytest.mark.parametrize("batch_size", [1, 2, 4, 9])
    @pytest.mark.parametrize("by_length", [True, False])
    def test_the_first_sample_of_a_batch_that_fails_is_named(
        self, batch_size: int, by_length: bool
    ) -> None:
        texts = source(["b" * 9, "a", "abc", "d", BOMB, "ab"])
        rules = BatchRules(batch_size, None, by_length)
        with pytest.raises(SampleError) as caught:
            list(stream(texts, rules, bad_samples="fail").shards([Shard(2, 6)]))
        assert str(caught.value) == f"sample '4' (number 4): the model blew up. {WAY_OUT}"

    def test_where_only_all_together_fail_none_is_named(self) -> None:
        def crowded(features: Mapping[str, Array], lengths: Mapping[str, Array]) -> object:
            if len(features["tokens"]) > 1:
                raise SampleError("too many at once")
            return PROGRAM(features, lengths)

        rules = BatchRules(4, None, True)
        failing = stream(source(["a", "b"]), rules, crowded, "fail")  # type: ignore[arg-type]
        with pytest.raises(SampleError, match=r"^too many at once$"):
            list(failing.shards([Shard(0, 2)]))

    def test_what_no_sample_can_cause_is_reported_as_it_is(self) -> None:
        def lost(features: object, lengths: object) -> list[Array]:
            raise JobError("the device is lost")

        failing = stream(source(["a", "b"]), BatchRules(4, None, True), lost, "fail")
        with pytest.raises(JobError, match=r"^the device is lost$"):
            list(failing.shards([Shard(0, 2)]))

    def test_a_shard_of_nothing_but_bad_samples_has_its_place(self) -> None:
        whole = stream(source(["a", BOMB, BOMB]), BatchRules(1, None, True))
        good, bad = whole.shards([Shard(0, 1), Shard(1, 3)])
        assert (list(good.missing), list(bad.missing)) == ([], [1, 2])
        assert isinstance(bad.values["attention:op/Softmax"], Ragged)
        assert len(bad.values["attention:op/Softmax"]) == 2


class TestIsolation:
    BATCH = read_batch(MODEL, source(["a", BOMB, "abc", BOMB]), [0, 1, 2, 3])

    def test_the_others_run_together_again(self) -> None:
        sizes: list[int] = []
        program = explosive(PROGRAM)

        def counting(features: Mapping[str, Array], lengths: Mapping[str, Array]) -> object:
            sizes.append(len(features["tokens"]))
            return program(features, lengths)

        outcome = run_isolated(counting, self.BATCH, MODEL.signature)  # type: ignore[arg-type]
        # The bad ones, which are shorter than a batch, are run without its padding as well.
        assert sizes == [4, 1, 1, 1, 1, 1, 1, 2]
        assert outcome.rows == [0, 2]
        assert outcome.failed == {1: "the model blew up", 3: "the model blew up"}
        assert {len(value) for value in outcome.values} == {2}

    def test_a_sample_alone_is_not_run_again(self) -> None:
        outcome = run_isolated(
            explosive(PROGRAM), self.BATCH.take([1]).trimmed(MODEL.signature), MODEL.signature
        )
        assert (outcome.rows, outcome.values) == ((), ())
        assert outcome.failed == {0: "the model blew up"}

    def test_where_only_all_together_fail_none_is_to_blame(self) -> None:
        def crowded(features: Mapping[str, Array], lengths: Mapping[str, Array]) -> list[Array]:
            if len(features["tokens"]) > 1:
                raise SampleError("too many")
            return []

        with pytest.raises(SampleError, match="too many"):
            run_isolated(crowded, self.BATCH, MODEL.signature)

    @pytest.mark.parametrize("error", [OSError, MemoryError, JobError])
    def test_other_errors_are_not_the_samples(self, error: type[Exception]) -> None:
        sizes = []

        def broken(features: Mapping[str, Array], lengths: object) -> list[Array]:
            sizes.append(len(features["tokens"]))
            raise error("the machine broke")

        with pytest.raises(error, match="the machine broke"):
            run_isolated(broken, self.BATCH, MODEL.signature)
        assert sizes == [4]


class TestRun:
    """Whole jobs: what they leave behind, and what a reader says of it."""

    TEXTS = ("a", NO_TEXT, "abc", BOMB, "b" * 9, NO_CODE, "ab")
    BAD = (1, 3, 5)

    class Explosive(Choosy):
        def program(self, fetches: Sequence[Fetch], compilation: Compilation) -> Program:
            return explosive(super().program(fetches, compilation))

    @pytest.mark.parametrize("sink", ["npz", "hdf5"])
    def test_every_good_sample_has_its_value_and_every_other_its_reason(
        self, tmp_path: Path, sink: str
    ) -> None:
        wanted = job(
            {"not": {"kind": "weight"}}, model=self.Explosive(), inputs=self.TEXTS, sinks=[sink],
            bad_samples="skip", shard_size=3, batch_size=2,
        )  # fmt: skip
        run = executed(tmp_path / "run", wanted)
        assert run.missing == {
            1: "inputs[1] is int, not a text: 7",
            3: "the model blew up",
            5: "sample '5' has no code",
        }
        assert [row["index"] for row in run.samples] == list(range(len(self.TEXTS)))
        assert ["missing" in row for row in run.samples] == [at in (1, 5) for at in range(7)]
        for key in run:
            for at, text in enumerate(self.TEXTS):
                found = run[key].sample(at)
                if at not in self.BAD:
                    expected = MODEL.forward(tokens(str(text)))[key]
                    np.testing.assert_array_equal(found, expected)
                else:
                    assert found.size == 0 or np.isnan(found).all()

    @pytest.mark.parametrize("bad", [NO_TEXT, NO_CODE])
    def test_without_skipping_a_bad_sample_leaves_nothing(
        self, tmp_path: Path, bad: object
    ) -> None:
        with pytest.raises(InputError):
            executed(tmp_path / "run", job(EVERYTHING, model=CHOOSY, inputs=["a", bad]))
        assert not (tmp_path / "run").exists()

    def test_shards_and_batches_do_not_show(self, tmp_path: Path) -> None:
        found = []
        for size in (1, 2, 7):
            wanted = job(
                {"not": {"kind": "weight"}}, model=self.Explosive(), inputs=self.TEXTS,
                bad_samples="skip", shard_size=size, batch_size=size,
            )  # fmt: skip
            run = executed(tmp_path / str(size), wanted)
            # With one sample per call, what belongs to a batch as a whole is stored too.
            keys = [key for key in run if key != "attention:op/Count"]
            values = {k: [run[k].sample(at) for at in range(7)] for k in keys}
            found.append((run.missing, values))
        for missing, values in found[1:]:
            assert missing == found[0][0]
            np.testing.assert_equal(values, found[0][1])

    def test_a_token_outside_of_a_keras_models_vocabulary_is_skipped(self, tmp_path: Path) -> None:
        keras = pytest.importorskip("keras")
        layers = [keras.Input((2,), dtype="int32"), keras.layers.Embedding(10, 4)]
        model = keras.Sequential(layers)
        ids = np.array([[1, 2], [3, 99], [4, 5], [88, 1]], "int32")
        settings = ["selectors=layers", "runtime.bad_samples=skip", f"hydra.run.dir={tmp_path}/run"]
        run = extractkit.extract(settings, model=model, inputs=ids)
        assert list(run.missing) == [1, 3]
        assert "99 is not in [0, 10)" in run.missing[1]
        table = model.layers[0].get_weights()[0]
        for at in (0, 2):
            np.testing.assert_array_equal(run["embedding:output"].sample(at), table[ids[at]])
        assert np.isnan(run["embedding:output"].sample(3)).all()


def test_texts_of_the_other_tests_are_all_good() -> None:
    found = survey(CHOOSY, source(TEXTS), lambda rows: None, "skip")
    assert found.missing == {}


def test_a_machine_that_fails_is_no_reason_to_skip(tmp_path: Path) -> None:
    """Whatever it is at: the trial, or a later batch."""

    class Exhausted(ReferenceModel):
        def forward(self, tokens: Array) -> dict[str, Array]:
            if len(tokens) == 2:
                raise JobError("no memory is left")
            return super().forward(tokens)

    for number, texts in enumerate((["ab", "c"], ["c", "ab"])):
        wanted = job(
            {"path": "pool:*"}, model=Exhausted(), inputs=texts, bad_samples="skip", batch_size=1
        )
        with pytest.raises(JobError, match="no memory is left"):
            executed(tmp_path / str(number), wanted)


@pytest.mark.parametrize("first", [BOMB, NO_TEXT, NO_CODE])
def test_a_bad_first_sample_is_no_reason_to_fail(tmp_path: Path, first: object) -> None:
    wanted = job(
        {"path": "pool:*"}, model=TestRun.Explosive(), inputs=[first, "a"], bad_samples="skip"
    )
    assert list(executed(tmp_path / "run", wanted).missing) == [0]
