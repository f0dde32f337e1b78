"""Samples that are in memory already."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from extractkit.errors import InputError
from extractkit.inputs import Inputs, InputSpec, Signature
from extractkit.inputs.in_memory import LiveArrays, LiveRows, LiveTexts
from extractkit.testing.inputs import SourceContract, assert_same, read_all

ONE = Signature("m", (InputSpec("x", "float32", (2,), (None,)),))
IDS = InputSpec("ids", "int32", (None,), ("token",))
MASK = InputSpec("mask", "bool", (None,), ("token",))
TWO = Signature("bert", (IDS, MASK), takes_text=True)


def refusal(inputs: Inputs, signature: Signature) -> str:
    with pytest.raises(InputError) as caught:
        read_all(inputs, signature)
    return str(caught.value)


class TestLiveArrays(SourceContract):
    def inputs(self, folder: Path) -> Inputs:
        ids = np.arange(12).reshape(3, 4)
        return LiveArrays({"mask": ids > 3, "ids": ids})

    def signature(self) -> Signature:
        return TWO


class TestLiveTexts(SourceContract):
    def inputs(self, folder: Path) -> Inputs:
        return LiveTexts(["one", "", "two\nlines", "one"])

    def signature(self) -> Signature:
        return TWO


class TestLiveRows(SourceContract):
    def inputs(self, folder: Path) -> Inputs:
        rows = [np.arange(length) for length in (3, 1, 2)]
        return LiveRows([{"ids": row, "mask": row > 0, "label": 7} for row in rows])

    def signature(self) -> Signature:
        return TWO


class TestSamplesOfDifferentLengths:
    ONE_OPEN = Signature("m", (IDS,))

    def test_another_name_is_reported_as_such(self) -> None:
        given = {"id": [np.array([1, 2, 3]), np.array([4])]}
        message = refusal(LiveArrays(given), self.ONE_OPEN)
        assert "'ids' is missing; 'id' is not an input of it (Available: 'ids')" in message

    @pytest.mark.parametrize("kind", [list, tuple])
    def test_arrays_of_one_input_are_read_one_by_one(self, kind: type) -> None:
        given = [np.array([1, 2, 3]), np.array([4])]
        samples = read_all(LiveArrays(kind(given)), self.ONE_OPEN)
        for sample, wanted in zip(samples, given, strict=True):
            np.testing.assert_array_equal(sample.data["ids"], wanted)

    def test_what_else_is_in_a_row_is_kept(self) -> None:
        assert read_all(LiveRows([{"ids": [1], "label": 3}]), self.ONE_OPEN)[0].extra == {
            "label": 3
        }

    def test_a_row_that_does_not_fit_is_named(self) -> None:
        rows = LiveRows([{"ids": [1]}, {"ids": [[1, 2]]}])
        assert "inputs, sample '1': 'ids' has shape (1, 1, 2)" in refusal(rows, self.ONE_OPEN)


class TestArrays:
    @pytest.mark.parametrize(
        "given",
        [
            np.array([[1.0, 2.0], [3.0, 4.0]]),
            {"x": [[1.0, 2.0], [3.0, 4.0]]},
            [np.array([[1.0, 2.0], [3.0, 4.0]])],
            [[1.0, 2.0], [3.0, 4.0]],
            [np.array([1.0, 2.0]), np.array([3.0, 4.0])],
        ],
        ids=["array", "mapping", "keras", "numbers", "samples"],
    )
    def test_one_input_may_be_given_in_any_of_these_ways(self, given: object) -> None:
        source = LiveArrays(given).bind(ONE)  # type: ignore[arg-type]
        expected = LiveArrays(np.array([[1, 2], [3, 4]], "float32")).bind(ONE)
        assert_same(source.read(0, 2), expected.read(0, 2))
        assert source.digest == expected.digest

    def test_a_list_of_one_sample_is_one_sample(self) -> None:
        assert len(LiveArrays([np.array([1.0, 2.0])]).bind(ONE)) == 1

    def test_several_inputs_may_be_given_in_the_models_order(self) -> None:
        ids = np.arange(12).reshape(3, 4)
        in_order = LiveArrays([ids, ids > 3]).bind(TWO)
        by_name = LiveArrays({"ids": ids, "mask": ids > 3}).bind(TWO)
        assert_same(in_order.read(0, 3), by_name.read(0, 3))

    @pytest.mark.parametrize("kind", [list, tuple])
    def test_tuples_are_samples(self, kind: type) -> None:
        ids = np.arange(12).reshape(3, 4)
        rows = kind((row, row > 3) for row in ids)
        by_name = LiveArrays({"ids": ids, "mask": ids > 3}).bind(TWO)
        assert_same(LiveArrays(rows).bind(TWO).read(0, 3), by_name.read(0, 3))

    def test_as_many_tuples_as_inputs_are_refused(self) -> None:
        ids = np.arange(8).reshape(2, 4)
        rows = [(row, row > 3) for row in ids]
        assert refusal(LiveArrays(rows), TWO) == (
            "inputs: 2 tuples of 2 may be the inputs or the samples of model 'bert', which takes "
            "ids: int32 (samples, token), mask: bool (samples, token). Give the inputs by name: "
            "inputs={'ids': array, 'mask': array}; or the samples: "
            "inputs=[{'ids': value, 'mask': value}, …]"
        )

    def test_longer_tuples_are_the_inputs(self) -> None:
        columns = [([1], [2], [3]), ([True], [False], [True])]
        assert len(LiveArrays(columns).bind(TWO)) == 3

    def test_a_list_of_arrays_takes_little_memory(self) -> None:
        rows = list(np.random.default_rng(0).normal(size=(50, 20_000)).astype("f4"))
        signature = Signature("m", (InputSpec("x", "float32", (None,), ("time",)),))
        tracemalloc.start()
        try:
            LiveArrays(rows).bind(signature)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 5 * sum(row.nbytes for row in rows)

    def test_samples_are_named_by_their_numbers(self) -> None:
        sample = LiveArrays(np.zeros((3, 2))).bind(ONE).read(2, 3)[0]
        assert (sample.id, sample.source) == ("2", "memory")

    @pytest.mark.parametrize(("given", "count"), [(np.zeros((3, 4)), 1), ([[1], [2], [3]], 3)])
    def test_too_few_or_too_many_for_the_inputs_are_refused(
        self, given: object, count: int
    ) -> None:
        assert refusal(LiveArrays(given), TWO) == (  # type: ignore[arg-type]
            f"inputs: {count} given without names, model 'bert' takes ids: int32 (samples, token), "
            f"mask: bool (samples, token). Give a mapping from their names to arrays"
        )

    def test_messages_name_the_argument_rather_than_a_key(self) -> None:
        text = "inputs: 'x' has shape (3, 4); model 'm' takes it as (samples, 2)"
        assert refusal(LiveArrays(np.zeros((3, 4))), ONE) == text

    def test_wrong_names_are_refused(self) -> None:
        message = refusal(LiveArrays({"y": np.zeros((3, 2))}), ONE)
        assert message.startswith("inputs does not match model 'm': 'x' is missing")

    def test_samples_of_different_lengths(self) -> None:
        ids = InputSpec("ids", "int32", (None,), ("token",))
        source = LiveArrays([[1], [2, 3], []]).bind(Signature("m", (ids,)))
        rows = [np.asarray(one.data["ids"]).tolist() for one in source.read(0, 3)]  # type: ignore[index]
        assert rows == [[1], [2, 3], []]
        assert "inputs: 'x' cannot be converted to an array" in refusal(
            LiveArrays([[1], [2, 3]]), ONE
        )

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ([[1, None]], "Python objects (None, int), model 'm' takes int64. Fill in what is "
             "missing and convert the rest, in NumPy: array.astype('int64')"),
            ([[1, 2]], "Python objects (int), model 'm' takes int64. Convert them, in NumPy: "
             "array.astype('int64')"),
            ([[None, None]], "Python objects (None), model 'm' takes int64. Give numbers"),
            ([[b"a", "b"]], "Python objects (bytes, texts), model 'm' takes int64. Give numbers"),
            ([[1, 2**70]], "1180591620717411303424, which int64, the type that the model takes, "
             "cannot hold"),
        ],
    )  # fmt: skip
    def test_python_objects_are_refused(self, given: object, message: str) -> None:
        whole = Signature("m", (InputSpec("x", "int64", (2,), (None,)),))
        array = np.array(given, object)
        assert refusal(LiveArrays(array), whole) == f"inputs: 'x' holds {message}"
        if "astype" in message:  # the advice works
            array[array == None] = 0  # noqa: E711
            samples = read_all(LiveArrays(array.astype("int64")), whole)
            assert samples[0].data["x"].tolist() == array[0].tolist()  # type: ignore[index]

    def test_masked_elements_are_refused(self) -> None:
        masked = np.ma.array([[1.0, 2.0], [3.0, 4.0]], mask=[[0, 0], [0, 1]])
        advice = ". Fill it in, in NumPy: array.filled(VALUE), or leave the samples out"
        wanted = f"inputs: 'x' is missing (masked) at [1][1]{advice}"
        for given in (masked, list(masked), {"x": masked}, ([1.0, 2.0], masked[1])):
            assert refusal(LiveArrays(given), ONE) == wanted
        assert refusal(LiveRows([{"x": masked[1]}]), ONE).endswith(
            f"missing (masked) at [1]{advice}"
        )
        every = np.ma.array(np.zeros((9, 2)), mask=True)
        assert "at [0][0], [0][1], [1][0], …. Fill" in refusal(LiveArrays(every), ONE)
        for given in (masked.filled(5.0), masked[:1]):
            assert len(read_all(LiveArrays(given), ONE)) == len(given)

    @pytest.mark.parametrize("given", [[], ()])
    def test_no_samples_are_refused(self, given: object) -> None:
        message = "inputs holds no sample. Give at least one"
        assert refusal(LiveArrays(given), ONE) == message  # type: ignore[arg-type]

    def test_what_is_only_read_in_turn_is_refused(self) -> None:
        rows = np.ones((3, 2))
        for given in (iter(rows), (row for row in rows), dict(enumerate(rows)).values()):
            message = refusal(LiveArrays(given), ONE)  # type: ignore[arg-type]
            assert message == (
                f"inputs is {type(given).__name__}, whose samples can only be read in turn. Give a "
                f"list of them: list(…); or a function that returns it, with inputs=dataset "
                f"inputs.dataset._target_=package.module.function"
            )
        assert refusal(LiveArrays({"x": iter(rows)}), ONE).startswith("inputs: 'x' is ")
        assert len(read_all(LiveArrays(list(iter(rows))), ONE)) == 3


class TestRows:
    def test_advice_on_a_missing_input_names_no_setting_of_a_configuration(self) -> None:
        optional = Signature("m", (IDS, MASK), optional=frozenset({"mask"}))
        message = refusal(LiveRows([{"ids": [1], "other": 2}]), optional)
        assert message == (
            "inputs, sample 0 has no column 'mask' for input 'mask' of model 'm'. Available: "
            "'ids', 'other'. Give it in every sample"
        )
        assert "model.input_axes" not in refusal(LiveArrays({"ids": [[1]]}), optional)


class TestTexts:
    def test_samples_are_named_by_their_numbers(self) -> None:
        sample = LiveTexts(["one", "two"]).bind(TWO).read(1, 2)[0]
        assert (sample.id, sample.source, sample.data) == ("1", "memory", "two")

    def test_where_one_text_ends_is_part_of_the_digest(self) -> None:
        prints = {LiveTexts(t).bind(TWO).digest for t in (["ab", "c"], ["a", "bc"], ["abc"])}
        assert len(prints) == 3

    def test_a_model_of_numbers_is_refused(self) -> None:
        assert refusal(LiveTexts(["one"]), ONE) == (
            "model 'm' takes numbers (x: float32 (samples, 2)), inputs gives text. "
            "Give arrays: inputs={NAME: array, …}"
        )

    def test_one_text_alone_is_refused(self) -> None:
        text = "inputs: one text, 'hello'. Give a list: inputs=[text]"
        assert refusal(LiveTexts("hello"), TWO) == text

    def test_no_text_is_refused(self) -> None:
        assert refusal(LiveTexts([]), TWO) == "inputs holds no sample. Give at least one text"

    def test_what_is_no_text_is_named(self) -> None:
        texts = ["one", 7]
        assert refusal(LiveTexts(texts), TWO) == "inputs[1] is int, not a text: 7"  # type: ignore[arg-type]

    def test_half_a_surrogate_pair_is_refused(self) -> None:
        assert r"inputs[0] holds '\ud800'" in refusal(LiveTexts(["a\ud800"]), TWO)
