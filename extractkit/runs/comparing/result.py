"""What a comparison of two runs found, as plain data: its fields are the `--json` document."""

import math
from dataclasses import dataclass
from enum import StrEnum
from numbers import Real

from extractkit.errors import ConfigError
from extractkit.runs.schema import plain

SCHEMA = 3
"""Version of the document's fields; to be raised with every change of them."""


class Verdict(StrEnum):
    """How far one tensor of a run is from its counterpart."""

    EQUAL = "equal"  # the same type and, in every sample, the same bits
    WITHIN = "within"  # every element is within the tolerance
    BEYOND = "beyond"  # at least one element is not
    INCOMPARABLE = "not comparable"  # see the reason


@dataclass(frozen=True)
class Tolerance:
    """How far apart two numbers may be: |a − b| ≤ atol + rtol · max(|a|, |b|).

    It does not matter which run comes first. Integers may differ by `atol` alone, however large
    they are: one token more is not one token within 1e-5. Booleans and texts have to be equal, and
    so have infinities; NaN is within the tolerance of NaN and of nothing else.

    Attributes:
        rtol, atol: relative and absolute; 0 and 0: equal numbers alone are within.

    Raises:
        ConfigError: a tolerance that is no finite number of 0 or more.
    """

    rtol: float = 1e-5
    atol: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("rtol", "atol"):
            value = getattr(self, name)
            number = isinstance(value, Real) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or value < 0:
                raise ConfigError(f"{name}={value!r} is not a finite number of 0 or more")
            if not isinstance(value, int | float):  # NumPy's, say
                object.__setattr__(self, name, float(value))


@dataclass(frozen=True)
class Counts:
    """How many elements of one tensor were compared, and what was counted among them.

    Attributes:
        elements: all.
        unequal: those whose bits differ; between two types (float16 and float32) those whose
            values do.
        beyond: those that are not within the tolerance.
        nan: those that are NaN in both runs, and so within it.
        lone: those that are NaN or infinite in one run alone, or infinities of opposite sign.
    """

    elements: int
    unequal: int
    beyond: int
    nan: int
    lone: int


@dataclass(frozen=True)
class Errors:
    """How far apart the numbers of one tensor are, over all pairs of finite numbers.

    All sums are of 64-bit floats. Complex numbers are pairs of real ones in the last three.

    Attributes:
        max_abs, mean_abs: of |a − b|.
        max_rel, mean_rel: of |a − b| / max(|a|, |b|), 0 where both are 0: from 0 to 2, and the same
            whichever run comes first.
        relative_l2: ‖a − b‖ / ‖a‖, the first run being the reference; None where that is all zero.
        cosine: of the angle between a and b; None where one of them is all zero.
        correlation: Pearson's; None where one of them is constant.
    """

    max_abs: float
    mean_abs: float
    max_rel: float
    mean_rel: float
    relative_l2: float | None
    cosine: float | None
    correlation: float | None


@dataclass(frozen=True)
class Place:
    """One sample: its id in the first run, and its number in each."""

    id: str
    a: int
    b: int


@dataclass(frozen=True)
class TensorComparison:
    """One tensor of the first run and its counterpart.

    Attributes:
        a, b: their keys.
        verdict: how far they are apart.
        reason: why they cannot be compared; None where they can.
        counts: None where they cannot be compared.
        errors: None for texts, too, and where no pair of numbers is finite.
        first_unequal, first_beyond: the first sample, in the first run's order, with such an
            element; None where there is none, and for constants, which have no samples.
        worst: the sample with the largest |a − b|, a lone NaN or infinity being larger than all
            else; None where all are equal, and for constants and texts.
        checkpoint, checkpoint_b: its label in the first run and in the other; None where the runs
            have none.
    """

    a: str
    b: str
    verdict: Verdict
    reason: str | None = None
    counts: Counts | None = None
    errors: Errors | None = None
    first_unequal: Place | None = None
    first_beyond: Place | None = None
    worst: Place | None = None
    checkpoint: str | None = None
    checkpoint_b: str | None = None


@dataclass(frozen=True)
class OneSided:
    """Samples of which something holds in one run alone: how many, and the first few ids."""

    count: int = 0
    first: tuple[str, ...] = ()


@dataclass(frozen=True)
class SampleComparison:
    """Which samples were compared.

    Attributes:
        aligned_by: "id" where the ids of both runs are unique, else "number".
        compared: how many stand in both runs and have values in both.
        skipped: how many both runs skipped; they are left out.
        skipped_in_a, skipped_in_b: those that stand in both and were skipped by one run alone.
        only_in_a, only_in_b: those of one run alone.
    """

    aligned_by: str
    compared: int
    skipped: int = 0
    skipped_in_a: OneSided = OneSided()
    skipped_in_b: OneSided = OneSided()
    only_in_a: OneSided = OneSided()
    only_in_b: OneSided = OneSided()

    @property
    def one_sided(self) -> int:
        """How many have values in one run alone, or stand there alone."""
        sides = (self.skipped_in_a, self.skipped_in_b, self.only_in_a, self.only_in_b)
        return sum(side.count for side in sides)


@dataclass(frozen=True)
class Circumstance:
    """Something that may explain a difference: what it is, and its value in each run."""

    key: str
    a: object
    b: object


@dataclass(frozen=True)
class Comparison:
    """What was found.

    Attributes:
        a, b: the run directories.
        tolerance: what was tolerated.
        mapped: whether a mapping said which tensors belong together.
        samples: which samples were compared.
        tensors: those of both runs, in the first run's order.
        only_in_a, only_in_b: keys that were not compared, since they have no counterpart.
        checkpoints_only_in_a, checkpoints_only_in_b: labels of those in one run alone.
        circumstances: what differs between the runs besides their values.
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
        """Whether the runs are not the same within the tolerance: exit code 1.

        So it is where a tensor is beyond the tolerance or cannot be compared, where samples or
        checkpoints stand in one run alone, where samples were skipped by one alone, and where
        tensors stand in one alone; but a mapping names all tensors that are wanted.
        """
        apart = (Verdict.BEYOND, Verdict.INCOMPARABLE)
        one_sided = not self.mapped and (self.only_in_a or self.only_in_b)
        one_sided = one_sided or self.checkpoints_only_in_a or self.checkpoints_only_in_b
        tensors = any(one.verdict in apart for one in self.tensors)
        return bool(one_sided or self.samples.one_sided or tensors)

    def to_json(self) -> dict[str, object]:
        """The document that `extractkit diff --json` prints."""
        document: dict[str, object] = plain(self)
        return {"schema": SCHEMA, "beyond": self.beyond, **document}
