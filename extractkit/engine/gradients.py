"""Which gradients a model can compute of the targets that selectors name."""

from dataclasses import replace

from extractkit.core.catalog import Catalog
from extractkit.core.requests import (
    GRADIENT,
    BoundGradients,
    Differentiates,
    LacksGradients,
    Target,
    unsuited,
)
from extractkit.core.selectors import Selector
from extractkit.errors import SelectionError
from extractkit.models import CarriesState, Model


def offered(model: Model, catalog: Catalog, selector: Selector, *, alone: bool = False) -> Selector:
    """Return a selector with what the model can compute of the gradients that it asks for.

    Args:
        catalog: the tensors that it selects from.
        alone: whether each call of the model takes one sample.

    Raises:
        SelectionError: the model computes no gradients, or not of this target.
    """
    target = selector.gradient
    if not isinstance(target, Target):
        return selector
    if (reason := _none(model)) is not None:
        raise SelectionError(
            f"selectors.{selector.name}.{GRADIENT}: model {catalog.model!r} computes no gradients, "
            f"because {reason}. Leave {GRADIENT} out to store values"
        )
    assert isinstance(model, Differentiates)
    of = target.bound(catalog)
    matching = [one for one in selector.matching(catalog) if one.extractable]
    reasons = {one.address: unsuited(one, alone=alone) for one in matching}
    left = [address for address, reason in reasons.items() if reason is None]
    reasons |= model.without_gradient(of, left)
    found = {address: reason for address, reason in reasons.items() if reason is not None}
    return replace(selector, gradient=BoundGradients(of, found))


def _none(model: Model) -> str | None:
    """Return why a model computes no gradients at all, or None."""
    if isinstance(model, LacksGradients):
        return model.lacks_gradients
    if not isinstance(model, Differentiates):
        return "its adapter has no method for them"
    if isinstance(model, CarriesState):
        return "its state is carried from call to call (model.state=carry)"
    return None
