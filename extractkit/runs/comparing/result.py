"""The result of a comparison, as plain data. Its fields are those of the `--json` document."""

import math
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from numbers import Real

from extractkit.core.notebook import Shown
from extractkit.errors import ConfigError, counted
from extractkit.runs.schema import plain

SCHEMA = 5
"""Version of the document's fields. Raise it with every change of them."""


class Verdict(StrEnum):
    """The difference between one tensor of a run and its counterpart."""

    EQUAL = "equal"  # the same type and, in every sample, the same bits
    WITHIN = "within"  # every element is within the tolerance
    BEYOND = "beyond"  # at least one element is not
    INCOMPARABLE = "not comparable"  # see the reason


@dataclass(frozen=True)
class Tolerance:
    """How far two numbers may differ: |a − b| ≤ atol + rtol · max(|a|, |b|).

    The order of the runs does not matter. Integers may differ by `atol` only, however large they
    are: a relative tolerance would hide a difference of one token. Booleans, texts and infinities
    must be equal. NaN is within the tolerance of NaN and of nothing else.

    Attributes:
        rtol, atol: relative and absolute tolerance. With 0 and 0, numbers must be equal.

    Raises:
        ConfigError: a tolerance is not a finite number of 0 or more.
    """

    rtol: float = 1e-5
    atol: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("rtol", "atol"):
            value = getattr(self, name)
            number = isinstance(value, Real) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or value < 0:
                raise ConfigError(f"{name}={value!r} is not a finite number of 0 or more")
            if not isinstance(value, int | float):  # a NumPy scalar, for example
                object.__setattr__(self, name, float(value))


@dataclass(frozen=True)
class Counts:
    """Numbers of compared elements of one tensor.

    Attributes:
        elements: all elements.
        unequal: elements whose bits differ, or whose values differ if the types do (float16 and
            float32).
        beyond: elements beyond the tolerance.
        nan: elements that are NaN in both runs, and so within the tolerance.
        lone: elements that are NaN or infinite in one run only, or infinite with opposite signs.
    """

    elements: int
    unequal: int
    beyond: int
    nan: int
    lone: int


@dataclass(frozen=True)
class Errors:
    """Differences between the numbers of one tensor, over all pairs of finite numbers.

    All sums are of 64-bit floats. Complex numbers count as pairs of real ones in the last three.

    Attributes:
        max_abs, mean_abs: of |a − b|.
        max_rel, mean_rel: of |a − b| / max(|a|, |b|), 0 where both are 0. They range from 0 to 2,
            and do not depend on the order of the runs.
        relative_l2: ‖a − b‖ / ‖a‖, with the first run as reference; None if that is all zero.
        cosine: cosine of the angle between a and b; None if one of them is all zero.
        correlation: Pearson correlation; None if one of them is constant.
    """

    max_abs: float
    mean_abs: float
    max_rel: float
    mean_rel: float
    relative_l2: float | None
    cosine: float | None
    correlation: float | None


@dataclass(frozen=True)
class SamplePair:
    """One sample: its id in the first run and its number in each."""

    id: str
    a: int
    b: int


@dataclass(frozen=True)
class TensorComparison:
    """One tensor of the first run and its counterpart.

    Attributes:
        a, b: their keys. The result of a statistic is called "KEY STATISTIC.RESULT".
        verdict: the result.
        reason: why they cannot be compared; None if they can.
        counts: None if they cannot be compared.
        errors: None for texts, and if no pair of numbers is finite.
        first_unequal, first_beyond: the first sample, in the first run's order, with such an
            element; None if there is none, and for constants, which have no samples.
        worst: the sample with the largest |a − b|, where a lone NaN or infinity counts as largest;
            None if all are equal, and for constants and texts.
        checkpoint, checkpoint_b: the checkpoint's label in the first run and in the second; None if
            the runs have none.
        result: the result of a statistic, as "STATISTIC.RESULT"; None if values were compared.
    """

    a: str
    b: str
    verdict: Verdict
    reason: str | None = None
    counts: Counts | None = None
    errors: Errors | None = None
    first_unequal: SamplePair | None = None
    first_beyond: SamplePair | None = None
    worst: SamplePair | None = None
    checkpoint: str | None = None
    checkpoint_b: str | None = None
    result: str | None = None


@dataclass(frozen=True)
class OneSided:
    """Samples for which something holds in one run only: their number and the first few ids."""

    count: int = 0
    first: tuple[str, ...] = ()


@dataclass(frozen=True)
class SampleComparison:
    """The samples that were compared.

    Attributes:
        aligned_by: "id" if the ids of both runs are unique, else "number".
        compared: number of samples with values in both runs.
        missing: number of samples that are missing from both runs.
        missing_in_a, missing_in_b: samples of both runs that are missing from one alone.
        only_in_a, only_in_b: samples of one run only.
    """

    aligned_by: str
    compared: int
    missing: int = 0
    missing_in_a: OneSided = OneSided()
    missing_in_b: OneSided = OneSided()
    only_in_a: OneSided = OneSided()
    only_in_b: OneSided = OneSided()

    @property
    def one_sided(self) -> int:
        """Number of samples that exist, or have values, in one run only."""
        sides = (self.missing_in_a, self.missing_in_b, self.only_in_a, self.only_in_b)
        return sum(side.count for side in sides)


@dataclass(frozen=True)
class Circumstance:
    """Something that may explain a difference: its name, and its value in each run."""

    key: str
    a: object
    b: object


@dataclass(frozen=True)
class Comparison(Shown):
    """The result of a comparison.

    Attributes:
        a, b: the run directories.
        tolerance: the tolerance that was applied.
        mapped: whether a mapping paired the tensors.
        samples: the samples that were compared.
        tensors: the tensors of both runs, in the first run's order.
        only_in_a, only_in_b: keys without a counterpart, which were not compared. A statistic is
            listed as "KEY STATISTIC", and a single result of it as "KEY STATISTIC.RESULT".
        checkpoints_only_in_a, checkpoints_only_in_b: labels of the checkpoints in one run only.
        circumstances: other differences between the runs.
    """

    a: str
    b: str
    tolerance: Tolerance
    mapped: bool
    samples: SampleComparison
    tensors: tuple[TensorComparison, ...]
    only_in_a: tuple[str, ...] = ()
    only_in_b: tuple[str, ...] = ()
    checkpoints_only_in_a: tuple[str, ...] = ()
    checkpoints_only_in_b: tuple[str, ...] = ()
    circumstances: tuple[Circumstance, ...] = ()

    @property
    def beyond(self) -> bool:
        """Whether the runs differ by more than the tolerance (exit code 1).

        They do if a tensor is beyond the tolerance or cannot be compared, if samples or checkpoints
        exist in one run only, if only one run lacks a sample's values, or if tensors exist in one
        run only. The last does not count with a mapping, which names all tensors of interest.
        """
        apart = (Verdict.BEYOND, Verdict.INCOMPARABLE)
        one_sided = not self.mapped and (self.only_in_a or self.only_in_b)
        one_sided = one_sided or self.checkpoints_only_in_a or self.checkpoints_only_in_b
        tensors = any(one.verdict in apart for one in self.tensors)
        return bool(one_sided or self.samples.one_sided or tensors)

    def __repr__(self) -> str:
        verdicts = Counter(one.verdict for one in self.tensors)
        found = ", ".join(f"{verdicts[one]:,} {one}" for one in Verdict if verdicts[one])
        size = f"{counted(len(self.tensors), 'tensor')}{found and f': {found}'}"
        return f"<Comparison of {self.a} and {self.b}: {size}>"

    def to_json(self) -> dict[str, object]:
        """Return the document that `extractkit diff --json` prints."""
        document: dict[str, object] = plain(self)
        return {"schema": SCHEMA, "beyond": self.beyond, **document}
