"""What a refusal proposes is accepted."""

import re

import pytest
import yaml

from extractkit.core.spec import Dim, TensorSpec
from extractkit.core.statistics.registry import Asked
from extractkit.core.transforms.pipeline import Pipeline
from extractkit.errors import SelectionError


def refusal(asked: Asked, do: list[object], features: int) -> str | None:
    """The message with which a statistic of so many features is refused; None if it is not."""
    spec = TensorSpec("float32", (Dim.along("sample"), Dim(size=features)))
    bound = Pipeline.parse({"do": do}, "selectors.s").bind("a:b", spec)[""]
    try:
        for statistic in asked.single:
            statistic.check(bound.result)
    except SelectionError as error:
        return str(error)
    return None


@pytest.mark.parametrize("features", [6_000, 100_000, 2_000_000, 40_000_000])
@pytest.mark.parametrize(
    "name", ["covariance", "pca", "coactivation", "sparsity", "moments", "top"]
)
def test_a_narrower_axis_or_another_option_is_accepted(name: str, features: int) -> None:
    message = refusal(Asked.parse([name], "at"), [], features)
    if message is None:
        return
    if found := re.search(r"do: (\[.*\])$", message):
        narrowed: list[object] = yaml.safe_load(found[1])
        assert refusal(Asked.parse([name], "at"), narrowed, features) is None, message
        return
    found = re.search(rf"at\.0\.{name}\.(\w+)=(\w+)", message)
    assert found is not None, message
    options = {name: {found[1]: yaml.safe_load(found[2])}}
    assert refusal(Asked.parse([options], "at"), [], features) is None, message


@pytest.mark.parametrize("features", [1, 700, 50_000, 9_000_000, 40_000_000])
@pytest.mark.parametrize("per", ["feature", "all"])
@pytest.mark.parametrize("name", ["histogram", "quantiles"])
def test_fewer_intervals_or_all_elements_are_accepted(name: str, per: str, features: int) -> None:
    given = {"per": per} | ({"bins": 50_000_000} if name == "histogram" else {})
    message = refusal(Asked.parse([{name: given}], "at"), [], features)
    if message is None:
        return
    found = re.search(rf"at\.0\.{name}\.(\w+)=(\w+)", message)
    assert found is not None, message
    changed = {**given, found[1]: yaml.safe_load(found[2])}
    if found[1] == "per":
        changed.pop("bins", None)
    assert refusal(Asked.parse([{name: changed}], "at"), [], features) is None, message
