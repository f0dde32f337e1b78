"""Covariance of features, and their principal components."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from extractkit.core.statistics import (
    FEATURE,
    OTHER,
    Array,
    Arrays,
    Block,
    features,
    fits,
    merged_means,
    span,
)
from extractkit.core.statistics.products import about_means
from extractkit.core.transforms import Operand, as_options, no_options, one_thread, whole_number
from extractkit.errors import SelectionError


def _covariance(partial: Arrays) -> Array:
    count = int(partial["count"])
    return partial["products"] / count if count else np.full_like(partial["products"], np.nan)


_PAIRS = (FEATURE, f"{OTHER}{FEATURE}")


class _Products:
    """The base of statistics that need the products of all pairs of features."""

    at: str

    def check(self, operand: Operand) -> None:
        """Check that the matrix fits into memory."""
        fits(self.partial_bytes(operand), operand, self.at)

    def partial_bytes(self, operand: Operand) -> int:
        """Return the size of the matrix, the mean and the count."""
        width = features(operand, self.at)
        return 8 * (width * width + width + 1)

    def of(self, block: Block) -> Arrays:
        """Return count, mean and the sum of products of distances from the mean."""
        rows = block.rows()
        mean, (products,) = about_means([rows], [(slice(None), slice(None))])
        return {"count": np.asarray(len(rows), np.int64), "mean": mean, "products": products}

    def merge(self, one: Arrays, other: Arrays) -> Arrays:
        """Combine both by the counts."""
        return merged_means(one, other, "products", lambda moved: np.outer(moved, moved))


@dataclass(frozen=True)
class Covariance(_Products):
    """The covariance of all pairs of features, exact.

    covariance

    Results: `count` int64, `mean` float64 (features,), `covariance` float64 (features, features):
    the mean product of distances from the mean. NaN in a value makes its features' results NaN.
    """

    name: ClassVar[str] = "covariance"
    at: str

    @classmethod
    def parse(cls, options: object, at: str) -> "Covariance":
        """Take no options."""
        no_options(options, at)
        return cls(at)

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        """The features, twice in pairs."""
        return {"count": (), "mean": (FEATURE,), "covariance": _PAIRS}

    def summary(self, results: Arrays) -> str:
        """Return the range of variances and of covariances."""
        matrix = results["covariance"]
        apart = matrix[~np.eye(len(matrix), dtype=bool)]
        return (
            f"variances from {span(np.diagonal(matrix))}, covariances from {span(apart)}; "
            f"{results['count']:,} rows"
        )

    def finish(self, partial: Arrays) -> Arrays:
        """Divide by the count."""
        found = {name: partial[name] for name in ("count", "mean")}
        return {**found, "covariance": _covariance(partial)}


COMPONENT = "component"

_FEW = 5
"""Components whose shares a summary lists."""

_COMPONENTS = 16
"""Components of a `pca` without options, if there are as many features."""


@dataclass(frozen=True)
class PCA(_Products):
    """Principal components: directions of the largest variance.

    pca                         # 16 components, or as many as there are features
    pca: {components: 2}

    Results: `count` int64, `mean` float64 (features,), `components` float64 (components, features)
    of length 1, largest variance first, each with its largest element (in absolute value) positive;
    `explained_variance` (components,) and `explained_variance_ratio` (components,), its share of
    the variance of all features. A row is projected by `(row - mean) @ components.T`.
    """

    name: ClassVar[str] = "pca"
    components: int | None
    at: str

    @classmethod
    def parse(cls, options: object, at: str) -> "PCA":
        """Parse the number of components."""
        given = as_options(options, at, ("components",), "{components: 16}")
        if (components := given.get("components")) is not None:
            components = whole_number(components, f"{at}.components")
        return cls(components, at)

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        """The components, and the features."""
        explained = ("explained_variance", "explained_variance_ratio")
        of_features = {"mean": (FEATURE,), "components": (COMPONENT, FEATURE)}
        return {"count": (), **of_features, **dict.fromkeys(explained, (COMPONENT,))}

    def summary(self, results: Arrays) -> str:
        """Return the share of the variance that the components explain."""
        ratio = results["explained_variance_ratio"]
        each = ", ".join(f"{share:.1%}" for share in ratio[:_FEW])
        more = ", …" if len(ratio) > _FEW else ""
        return (
            f"{len(ratio)} components explain {ratio.sum():.1%} of the variance: {each}{more}; "
            f"{results['count']:,} rows"
        )

    def check(self, operand: Operand) -> None:
        """Check that there are enough features, and that the matrix fits into memory."""
        width = features(operand, self.at)
        if self.components is not None and self.components > width:
            raise SelectionError(
                f"{self.at}.components={self.components} is more than the {width} features of "
                f"{operand.source!r}"
            )
        super().check(operand)

    def finish(self, partial: Arrays) -> Arrays:
        """Decompose the covariance once."""
        covariance = _covariance(partial)
        width = len(covariance)
        if not np.isfinite(covariance).all():
            variance = np.full(width, np.nan)
            vectors = np.full((width, width), np.nan)
        else:
            with one_thread():
                variance, vectors = np.linalg.eigh(covariance)
        count = _COMPONENTS if self.components is None else self.components
        order = np.arange(width)[::-1][:count]
        components = vectors[:, order].T
        largest = np.abs(components).argmax(1)
        signs = np.sign(components[np.arange(len(order)), largest])
        explained = np.maximum(variance[order], 0)
        total = np.trace(covariance)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = explained / total
        return {
            "count": partial["count"],
            "mean": partial["mean"],
            "components": components * signs[:, None],
            "explained_variance": explained,
            "explained_variance_ratio": ratio,
        }
