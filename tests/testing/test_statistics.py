"""Every statistic behind the contract, and statistics with a defect, which the contract finds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from extractkit.core.statistics import Arrays, Block, Statistic, features, registry
from extractkit.core.transforms import Operand, no_options
from extractkit.testing.statistics import StatisticContract

OPTIONS: Mapping[str, Sequence[object]] = {
    "moments": [{}, {"per": "all"}],
    "total": [{}],
    "histogram": [{}, {"bins": 4, "range": [-2, 2]}, {"edges": [-1, 0, 3], "per": "all"}],
    "quantiles": [{}, {"q": [0.5], "per": "feature"}],
    "covariance": [{}],
    "pca": [{}],
    "top": [{"k": 3, "smallest": True}],
    "coactivation": [{}],
    "sparsity": [{}],
}


def test_every_statistic_of_one_tensor_is_tested() -> None:
    assert {*OPTIONS, "similarity"} == set(registry.names())


@pytest.mark.parametrize("name", sorted(OPTIONS))
class TestStatistics(StatisticContract):
    @pytest.fixture(autouse=True)
    def _named(self, name: str) -> None:
        self.name = name

    def statistic(self) -> type[Statistic]:
        found = registry.own(self.name)
        assert found is not None
        return found  # type: ignore[return-value]

    def options(self) -> Sequence[object]:
        return OPTIONS[self.name]

    def free(self) -> Sequence[str]:
        # Directions of equal variance have no order.
        return ("components",) if self.name == "pca" else ()


@dataclass(frozen=True)
class Largest:
    """The largest value of each feature: right in every respect."""

    name: ClassVar[str] = "largest"
    at: str

    @classmethod
    def parse(cls, options: object, at: str) -> "Largest":
        no_options(options, at)
        return cls(at)

    def check(self, operand: Operand) -> None:
        features(operand, self.at)

    def partial_bytes(self, operand: Operand) -> int:
        return 8 * features(operand, self.at)

    def of(self, block: Block) -> Arrays:
        rows = block.rows().astype(np.float64)
        return {"largest": rows.max(0, initial=-np.inf)}

    def merge(self, one: Arrays, other: Arrays) -> Arrays:
        return {"largest": np.maximum(one["largest"], other["largest"])}

    def finish(self, partial: Arrays) -> Arrays:
        return dict(partial)

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        return {"largest": ("feature",)}

    def summary(self, results: Arrays) -> str:
        return f"up to {results['largest'].max(initial=-np.inf):.4g}"


class TestLargest(StatisticContract):
    def statistic(self) -> type[Statistic]:
        return Largest


class OtherBytes(Largest):
    def partial_bytes(self, operand: Operand) -> int:
        return 4 * features(operand, self.at)


class ForgetsTheFirst(Largest):
    def merge(self, one: Arrays, other: Arrays) -> Arrays:
        return other


class CountsShards(Largest):
    def merge(self, one: Arrays, other: Arrays) -> Arrays:
        return {"largest": one["largest"] + other["largest"]}


class MergesInPlace(Largest):
    def merge(self, one: Arrays, other: Arrays) -> Arrays:
        np.maximum(one["largest"], other["largest"], out=one["largest"])
        one["largest"][...] += 0
        other["largest"][...] = np.inf
        return {"largest": one["largest"]}


class FailsWithoutSamples(Largest):
    def of(self, block: Block) -> Arrays:
        rows = block.rows().astype(np.float64)
        return {"largest": rows.max(0, initial=-np.inf) if len(rows) else np.zeros(rows.shape[1])}


class OtherDtypeWithoutSamples(Largest):
    def finish(self, partial: Arrays) -> Arrays:
        whole = partial["largest"]
        return {"largest": whole if np.isfinite(whole).all() else whole.astype(np.float32)}


class OtherDims(Largest):
    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        return {"largest": ()}


class LongSummary(Largest):
    def summary(self, results: Arrays) -> str:
        return "one\nper feature"


class NamedAsAnother(Largest):
    name = "moments"


@pytest.mark.parametrize(
    ("defective", "test"),
    [
        (OtherBytes, "test_partial_results_have_the_predicted_size"),
        (ForgetsTheFirst, "test_shards_change_nothing_beyond_rounding"),
        (CountsShards, "test_shards_change_nothing_beyond_rounding"),
        (MergesInPlace, "test_it_keeps_the_values_and_partial_results_it_is_given"),
        (FailsWithoutSamples, "test_a_partial_result_of_no_samples_changes_nothing"),
        (OtherDtypeWithoutSamples, "test_no_samples_at_all_have_a_result"),
        (OtherDims, "test_axes_are_named_and_results_summed_up_in_a_line"),
        (LongSummary, "test_axes_are_named_and_results_summed_up_in_a_line"),
        (NamedAsAnother, "test_its_name_is_its_own"),
    ],
)
def test_a_defect_is_found(defective: type[Statistic], test: str) -> None:
    class Contract(StatisticContract):
        def statistic(self) -> type[Statistic]:
            return defective

    with pytest.raises(AssertionError):
        getattr(Contract(), test)()
