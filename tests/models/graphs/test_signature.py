"""From declared inputs to a signature: sample axes, free axes, calls of one sample."""

import pytest

from extractkit.errors import ConfigError, ModelError
from extractkit.inputs import InputSpec, Signature
from extractkit.models.signature import Declared, InputSetting, chosen, signature_of


def signature(*inputs: Declared, **settings: tuple[str | int | None, ...]) -> Signature:
    given = {name: InputSetting(dims) for name, dims in settings.items()}
    return signature_of("m", inputs, given)


def test_samples_lie_along_the_first_axis() -> None:
    found = signature(Declared("x", "float32", (None, 4, 5)))
    assert found.specs == (InputSpec("x", "float32", (4, 5), (None, None)),)
    assert found.batch is None


def test_one_row_of_whole_numbers_is_a_text() -> None:
    (spec,) = signature(Declared("ids", "int32", (None, None))).specs
    assert spec.dims == ("token",)


def test_free_axes_of_several_inputs_have_names_of_their_own() -> None:
    found = signature(Declared("a", "float32", (None, None)), Declared("b", "int32", (None, None)))
    assert [spec.dims for spec in found.specs] == [("a.axis1",), ("b.axis1",)]


def test_settings_name_axes_and_place_the_samples() -> None:
    found = signature(
        Declared("x", "float32", (None, None, 80)),
        Declared("state", "float32", (1, None, 896)),
        x=("time", "sample", None),
        state=(None, "sample", None),
    )
    assert found.specs == (
        InputSpec("x", "float32", (None, 80), ("time", None), sample_axis=1),
        InputSpec("state", "float32", (1, 896), (None, None), sample_axis=1),
    )


def test_where_no_first_axis_is_open_a_call_is_one_sample() -> None:
    found = signature(Declared("image", "float32", (1, 8, 8, 3)))
    assert found.batch == 1
    assert found.specs == (InputSpec("image", "float32", (8, 8, 3), (None,) * 3),)


def test_several_rows_in_each_call_are_one_sample_together() -> None:
    found = signature(Declared("x", "float32", (4, 8)), Declared("scale", "float32", ()))
    assert found.batch == 1
    assert [(spec.shape, spec.sample_axis) for spec in found.specs] == [((4, 8), None), ((), None)]


def test_a_single_text_is_taken_as_text() -> None:
    assert signature(Declared("content", "string", (None,))).takes_text
    assert not signature(Declared("words", "string", (None, 5))).takes_text


def test_a_function_of_nothing_takes_nothing() -> None:
    assert signature() == Signature("m", ())


def test_inputs_can_be_chosen() -> None:
    x, y = Declared("x", "float32", (None,)), Declared("y", "float32", (None,))
    assert chosen([x, y], None) == [x, y]
    assert chosen([x, y], {"y": InputSetting()}) == [y]
    with pytest.raises(
        ConfigError, match=r"model\.input_axes: 'z' is not an input\. Available: 'x', 'y'"
    ):
        chosen([x, y], {"z": InputSetting()})


def test_without_settings_what_declares_too_little_is_left_out() -> None:
    x, switch = Declared("x", "float32", (None,)), Declared("switch", "bool", ())
    unknown, fixed = Declared("u", "float32", None), Declared("state", "float32", (1, 4))
    assert chosen([x, switch, unknown, fixed], None) == [x]
    assert chosen([switch, unknown, fixed], None) == [switch, fixed]


def test_a_scalar_beside_samples_is_a_constant() -> None:
    with pytest.raises(ModelError) as caught:
        signature(Declared("x", "float32", (None, 4)), Declared("keep_prob", "float32", ()))
    assert str(caught.value) == (
        "input 'keep_prob' of model 'm' has the axes [], none of them for the samples that "
        "'x' takes. Give it one value for all of them: 'model.constants={keep_prob: VALUE}'"
    )


def test_an_input_of_unknown_rank_needs_its_axes() -> None:
    with pytest.raises(ModelError, match=r"'model\.input_axes=\{x: \[sample, 4\]\}'"):
        signature(Declared("x", "float32", None))
    (spec,) = signature(Declared("x", "float32", None), x=("sample", "time", 4)).specs
    assert (spec.shape, spec.dims) == ((None, 4), ("time", None))


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        (("sample",), "has 1 axis, the input 2: [None, 4]"),
        (("sample", 5), "an axis of 5 where the input has 4"),
        (("sample", "width"), "'width' is a free axis, where the input has 4"),
    ],
)
def test_settings_that_do_not_fit(dims: tuple[str | int | None, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        signature(Declared("x", "float32", (None, 4)), x=dims)
    assert message in str(caught.value)
