"""Samples from any Python callable."""

import errno
import gc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from extractkit.core.component import Component
from extractkit.core.values import Array
from extractkit.errors import ConfigError, DiskSpaceError, InputError
from extractkit.inputs import Inputs, InputSpec, Signature
from extractkit.inputs.dataset import Dataset
from extractkit.inputs.records import RecordSource, Spool
from extractkit.testing.inputs import SourceContract, read_all
from tests.inputs.made_datasets import IMAGES

ONE = Signature("m", (InputSpec("x", "float32", (2, 3), (None, None)),))
IDS = InputSpec("ids", "int32", (None,), ("token",))
MASK = InputSpec("mask", "bool", (None,), ("token",))
TWO = Signature("m", (IDS, MASK))
BERT = Signature("bert", (IDS, MASK), takes_text=True)
STRING = Signature("s", (InputSpec("x", "string", (), ()),), takes_text=True)


def made(name: str, arguments: dict[str, object] | None = None, **settings: object) -> Dataset:
    target = f"tests.inputs.made_datasets.{name}"
    return Dataset(Component("inputs.dataset", target, arguments or {}), **settings)  # type: ignore[arg-type]


def values(source: RecordSource, name: str = "x") -> list[Array]:
    return [sample.data[name] for sample in source.read(0, len(source))]  # type: ignore[index, misc]


def refusal(name: str, signature: Signature = ONE, **settings: object) -> str:
    with pytest.raises(InputError) as caught:
        read_all(made(name, **settings), signature)  # type: ignore[arg-type]
    return str(caught.value).replace("tests.inputs.made_datasets.", "")


class TestSequence(SourceContract):
    def inputs(self, folder: Path) -> Inputs:
        return made("dicts")

    def signature(self) -> Signature:
        return ONE


class TestGenerator(SourceContract):
    def inputs(self, folder: Path) -> Inputs:
        return made("ragged")

    def signature(self) -> Signature:
        return TWO


class TestTensorFlow(SourceContract):
    def inputs(self, folder: Path) -> Inputs:
        return made("tf_dataset", {"batch": 2}, batched=True)

    def signature(self) -> Signature:
        return ONE


class TestTexts(SourceContract):
    def inputs(self, folder: Path) -> Inputs:
        return made("texts")

    def signature(self) -> Signature:
        return BERT


FORMS = {
    "rows": made("rows"),
    "arrays": made("arrays"),
    "pair": made("pair"),
    "dicts": made("dicts"),
    "generator": made("generator"),
    "keras_style": made("keras_style"),
    "tf_dataset": made("tf_dataset"),
    "batched": made("tf_dataset", {"batch": 2}, batched=True),
    "sequence of batches": made("KerasSequence", batched=True),
    "hugging_face": made("hugging_face"),
    "endless": made("tf_dataset", {"repeat": True}, limit=5),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_samples(form: str) -> None:
    source = FORMS[form].bind(ONE)
    np.testing.assert_array_equal(values(source), IMAGES)
    assert [sample.id for sample in source.read(0, 5)] == ["0", "1", "2", "3", "4"]
    assert source.read(3, 4)[0].source.startswith("tests.inputs.made_datasets.")


@pytest.mark.parametrize(
    ("form", "extra"),
    [("rows", {}), ("arrays", {"label": 3}), ("pair", {"1": 3}), ("dicts", {"label": "class 3"}),
     ("keras_style", {"1": 3}), ("tf_dataset", {"1": 3}), ("batched", {"1": 3}),
     ("hugging_face", {"label": 3})],
)  # fmt: skip
def test_single_values_that_are_no_input_are_kept_beside_it(
    form: str, extra: dict[str, object]
) -> None:
    assert FORMS[form].bind(ONE).read(3, 4)[0].extra == extra


def test_what_can_be_gone_through_once_is_kept_on_disk_which_is_noted() -> None:
    note = "inputs.dataset gives its samples in turn; they were kept in a temporary file"
    assert FORMS["generator"].bind(ONE).notes == (note,)
    assert FORMS["dicts"].bind(ONE).notes == ()
    assert FORMS["generator"].bind(ONE).digest == FORMS["dicts"].bind(ONE).digest


@pytest.mark.parametrize("form", ["rows", "generator", "endless"])
def test_the_limit_takes_the_first_samples(form: str) -> None:
    assert len(made(form, limit=2).bind(ONE)) == 2


def test_tuples_are_in_the_order_of_the_inputs_unless_columns_say_otherwise() -> None:
    source = made("in_order").bind(TWO)
    assert [v.tolist() for v in values(source, "ids")] == [[0, 1], [0, 1, 2]]
    assert [v.tolist() for v in values(source, "mask")] == [[True, True], [False, False, False]]
    swapped = Signature("m", (MASK, IDS))
    by_position = made("in_order", columns={"ids": 0, "mask": 1}).bind(swapped)
    assert [v.tolist() for v in values(by_position, "ids")] == [[0, 1], [0, 1, 2]]


def test_columns_name_the_values() -> None:
    signature = Signature("m", (InputSpec("y", "int64", (), ()),))
    source = made("arrays", columns={"y": "label"}).bind(signature)
    assert [int(v) for v in values(source, "y")] == [0, 1, 2, 3, 4]


def test_texts_with_what_stands_beside_them() -> None:
    samples = made("labelled_texts").bind(BERT).read(0, 2)
    assert [(s.data, s.extra) for s in samples] == [
        ("one", {"label": 1, "weight": 0.5}),
        ("two", {"label": 0}),
    ]


def test_an_input_that_is_a_text_is_read_as_one() -> None:
    assert [s.data for s in made("texts").bind(STRING).read(0, 3)] == ["one", "", "two"]
    named = made("labelled_texts", columns={"x": "text"}).bind(STRING)
    assert [v.item() for v in values(named)] == ["one", b"two"]


class TestRefused:
    def test_no_target(self) -> None:
        with pytest.raises(InputError) as caught:
            Dataset(None).bind(ONE)
        assert str(caught.value) == (
            "inputs.dataset._target_ is missing. Give the dotted path of a callable that returns "
            "samples: inputs.dataset._target_=package.module.function"
        )

    def test_a_target_that_is_not_there_or_gets_wrong_arguments(self) -> None:
        with pytest.raises(ConfigError, match=r"inputs\.dataset\._target_='.*nope' cannot be imp"):
            made("nope").bind(ONE)
        with pytest.raises(ConfigError, match=r"inputs\.dataset\.cout does not exist\. Available"):
            made("rows", {"cout": 3}).bind(ONE)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("raising", " failed: RuntimeError: no connection"),
            ("raising_later", ", sample 1 cannot be read: RuntimeError: no connection"),
            ("Torchlike", ", sample 1 cannot be read: OSError: file is gone"),
            ("empty", " holds no sample. Give at least one"),
            ("number", " returns int, which holds no samples: give a sequence, a mapping of "
             "arrays, a tf.data.Dataset or an iterable"),
            ("unequal", ": the values differ in their number of samples: 'x' has 5, "
             "'label' has 2"),
            ("Augmented", ": sample '0' differs from one reading to the next. Samples are read "
             "more than once: make them without random steps"),
        ],
    )  # fmt: skip
    def test_what_gives_no_samples(self, name: str, message: str) -> None:
        assert refusal(name) == f"inputs.dataset._target_='{name}'{message}"

    def test_a_function_in_place_of_what_it_returns(self) -> None:
        component = Component("inputs.dataset", "tests.inputs.made_datasets.rows", {}, partial=True)
        with pytest.raises(InputError, match=r"returns function, .*\. Remove _partial_$"):
            Dataset(component).bind(ONE)

    def test_no_end(self) -> None:
        assert refusal("tf_dataset", arguments={"repeat": True}) == (
            "inputs.dataset._target_='tf_dataset' returns a dataset without an end. "
            "Set inputs.limit"
        )

    def test_wrong_keys(self) -> None:
        other = Signature("m", (InputSpec("pixels", "float32", (2, 3), (None, None)),))
        for name in ("dicts", "generator"):
            assert refusal(name, other) == (
                f"inputs.dataset._target_='{name}', sample 0 has no column 'pixels' for input "
                f"'pixels' of model 'm'. Available: 'label', 'skipped', 'x'. "
                f"Name it: 'inputs.columns={{pixels: COLUMN}}'"
            )
        assert refusal("dicts", BERT).startswith(
            "inputs.dataset._target_='dicts', sample 0 has no column 'text'. Available: "
        )

    def test_one_value_for_two_inputs(self) -> None:
        assert refusal("rows", TWO) == (
            "inputs.dataset._target_='rows', sample 0 is one value, ndarray, and model 'm' takes "
            "ids: int32 (samples, token), mask: bool (samples, token). "
            "Give a mapping from their names, or a tuple in their order"
        )

    def test_values_that_do_not_fit(self) -> None:
        wide = Signature("m", (InputSpec("x", "float32", (2, 4), (None, None)),))
        assert refusal("rows", wide) == (
            "inputs.dataset._target_='rows', sample '0': 'x' has shape (1, 2, 3); "
            "model 'm' takes it as (samples, 2, 4)"
        )

    def test_texts_for_numbers(self) -> None:
        message = refusal("texts")
        assert "'x' is text, model 'm' takes float32" in message
        assert message.endswith(
            "If it holds the digits of numbers, in NumPy: array.astype('float32')"
        )

    def test_numbers_for_texts(self) -> None:
        assert refusal("rows", BERT).startswith(
            "inputs.dataset._target_='rows', sample 0 is ndarray, not a text: "
        )

    def test_batches_that_were_not_said_to_be_some(self) -> None:
        assert "'x' has shape (1, 3, 2, 3)" in refusal("KerasSequence")

    @pytest.mark.parametrize("value", [1, "yes"])
    def test_batched_is_true_or_false(self, value: object) -> None:
        with pytest.raises(InputError, match=r"inputs\.batched=.* is not true or false"):
            made("rows", batched=value)


def test_a_full_disk_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("extractkit.inputs.records.pickle.dump", full)
    with pytest.raises(DiskSpaceError, match=r"No space left .* or give another folder: TMPDIR=…"):
        made("generator").bind(ONE)


def test_the_temporary_file_goes_with_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    source = made("generator").bind(ONE)
    assert isinstance(source.records, Spool)
    assert not list(tmp_path.iterdir())  # it never has a name
    assert len(open_below(tmp_path)) == 1
    del source
    gc.collect()
    assert open_below(tmp_path) == []


def open_below(folder: Path) -> list[str]:
    """Return the files below a folder that this process has open, deleted ones too."""
    links = []
    for one in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            links.append(str(one.readlink()))
    return [link for link in links if link.startswith(f"{folder}/")]
