"""`model.input_axes`: what it may say, and what it refuses."""

import pytest

from extractkit.errors import ConfigError
from extractkit.models.signature import InputSetting, parse_input_axes


@pytest.mark.parametrize(
    ("value", "parsed"),
    [
        (None, None),
        (["x", "y"], {"x": InputSetting(), "y": InputSetting()}),
        ({"x": None}, {"x": InputSetting()}),
        ({"x": ["time", "sample", 80]}, {"x": InputSetting(("time", "sample", 80))}),
        ({"x": {"dims": ["sample", None]}}, {"x": InputSetting(("sample", None))}),
        ({"x": {"dtype": "int32"}}, {"x": InputSetting(None, "int32")}),
    ],
)
def test_it_reads(value: object, parsed: object) -> None:
    assert parse_input_axes(value) == parsed


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "model.input_axes=3 is neither a list of names nor a mapping of names to axes."),
        ([1], "model.input_axes=[1] is neither a list of names nor a mapping of names to axes."),
        ({"x": 3}, "model.input_axes.x=3 is not a list of axes, such as [sample, token, 4]"),
        ({"x": {"dim": []}}, "model.input_axes.x.dim does not exist. Available: 'dims', 'dtype'."),
        ({"x": {"dims": 3}}, "model.input_axes.x.dims=3 is not a list of axes"),
        (
            {"x": {"dtype": 3}},
            "model.input_axes.x.dtype=3 is not the name of a type, such as float32",
        ),
        ({"x": ["sample", 0]}, "model.input_axes.x: 0 is not an axis. Give 'sample', a name"),
        ({"x": ["a*b"]}, "model.input_axes.x: 'a*b' is not an axis."),
        ({"x": [True]}, "model.input_axes.x: True is not an axis."),
        ({"x": ["sample", "sample"]}, "has more than one sample axis"),
    ],
)
def test_it_refuses(value: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_input_axes(value)
    assert message in str(caught.value)
