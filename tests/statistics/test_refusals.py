"""Options and tensors that a statistic does not take."""

import re

import numpy as np
import pytest
import yaml

from extractkit.core.spec import Dim, TensorSpec
from extractkit.core.statistics import Block, Statistic
from extractkit.core.statistics.registry import Asked
from extractkit.core.transforms import Operand
from extractkit.core.transforms.pipeline import Pipeline
from extractkit.core.values import Dense
from extractkit.errors import ConfigError, SelectionError
from tests.statistics.examples import one, operand, statistics


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["momens"], "s.0: 'momens' is not a statistic. Nearest: 'moments'"),
        ([["moments"]], "s.0=['moments'] is not one statistic. Write its name, or a mapping"),
        ([], "s=[] is not a list of statistics, as in [moments]"),
        (["moments", {"moments": {"per": "all"}}], "s.1: 'moments' is given twice"),
        ([{"top": {"k": 0}}], "s.0.top.k=0 is not a whole number from 1 to"),
        ([{"top": {"smallest": 1}}], "s.0.top.smallest=1 is neither true nor false"),
        *(
            ([{name: options}], f"s.0.{name}={options!r} is not a mapping of options, as in")
            for name in ("moments", "quantiles", "pca", "top", "histogram")
            for options in (0, False, [], "")
        ),
        *(
            ([{name: options}], f"s.0.{name} takes no options, given {options!r}")
            for name in ("covariance", "sparsity", "coactivation")
            for options in (0, False, [], "")
        ),
        ([{"histogram": {"bins": 1}}], "s.0.histogram.bins=1 is not a whole number from 2 to"),
        (
            [{"histogram": {"edges": [0, 1], "bins": 2}}],
            "s.0.histogram takes edges, or bins and range. Write for example {bins",
        ),
        ([{"sparsity": 3}], "s.0.sparsity takes no options, given 3"),
        ([{"moments": {"per": "token"}}], "s.0.moments.per='token' is not known."),
        ([{"quantiles": {"q": 0.5}}], "s.0.quantiles.q=0.5 is not a list of quantiles"),
        ([{"pca": {"components": "all"}}], "s.0.pca.components='all' is not a whole number"),
    ],
)
def test_options_are_checked(asked: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Asked.parse(asked, "s")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("options", "tensor", "message"),
    [
        ("moments", operand("string"), "s.0.moments needs numbers, but 'a:b' holds texts"),
        (
            "moments",
            operand("float32", Dim.along("token")),
            "s.0.moments treats the last axis as features, and that of 'a:b'",
        ),
        (
            "covariance",
            operand("float32", Dim(size=100_000)),
            "s.0.covariance of 'a:b' would hold 80,000,800,008 bytes for each shard",
        ),
        (
            {"pca": {"components": 9}},
            operand("float32", Dim(size=4)),
            "s.0.pca.components=9 is more than the 4 features of 'a:b'",
        ),
    ],
)
def test_what_is_not_defined_is_refused(options: object, tensor: Operand, message: str) -> None:
    with pytest.raises(SelectionError) as caught:
        one(options).check(tensor)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("statistic", statistics())
def test_an_axis_without_elements_has_no_features(statistic: Statistic) -> None:
    for dims in [(0,), (3, 0), (0, 3)]:
        tensor = operand("float32", *(Dim(size=size) for size in dims))
        by_feature = any("feature" in axis for axes in statistic.dims.values() for axis in axes)
        if by_feature and dims[-1] == 0:
            with pytest.raises(SelectionError) as caught:
                statistic.check(tensor)
            assert str(caught.value) == (
                f"{statistic.at} treats the last axis as features, and that of 'a:b' with dims "
                f"{list(tensor.titles)} has size 0. Omit the tensor with not: {{path: 'a:b'}}"
            )
            continue
        statistic.check(tensor)
        nothing = Block(Dense(np.zeros((5, *dims), np.float32)), np.arange(5), dims[-1])
        assert statistic.summary(statistic.finish(statistic.of(nothing)))


@pytest.mark.parametrize(
    "dims",
    [
        ("sample", "token"),
        ("sample", "height", "width"),
        ("sample", None, "token", "token"),
        ("sample", "f(height,width)"),
    ],
)
def test_advice_for_a_last_axis_of_many_sizes_can_be_followed(dims: tuple[str | None, ...]) -> None:
    spec = TensorSpec.of("float32", dims, tuple(2 if dim is None else None for dim in dims))
    asked = one("moments")
    with pytest.raises(SelectionError) as caught:
        asked.check(Pipeline().bind("a:b", spec)[""].result)
    advised = re.search(r"do: (\[\{.*?\}\])", str(caught.value))
    assert advised is not None
    pipeline = Pipeline.parse({"do": yaml.safe_load(advised[1])}, "s")
    asked.check(pipeline.bind("a:b", spec)[""].result)
