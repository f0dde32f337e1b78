"""Records and plans to show."""

from extractkit.core.catalog import Catalog, Kind, Scope, TensorRecord
from extractkit.core.plan import PlannedTensor, plan_tensors
from extractkit.core.selectors import parse_selector
from extractkit.core.spec import TensorSpec
from extractkit.testing.reference import ReferenceModel

EVIL = "a\x1b[31m[bold]b\u202e\n"
"""A layer's name that would colour, embolden, reverse and break a line."""

SHOWN_EVIL = "a\\x1b[31m[bold]b\\u202e\\n"

CATALOG = ReferenceModel().catalog


def evil_catalog() -> Catalog:
    """A model, layer, type, dim and reason with that name."""
    scopes = (Scope("", EVIL), Scope(EVIL, EVIL))
    record = TensorRecord(
        f"{EVIL}:{EVIL}",
        Kind.LAYER_OUTPUT,
        TensorSpec.of("float32", ("sample", EVIL), (None, None)),
        scopes,
        reason=EVIL,
    )
    return Catalog([record], EVIL)


def planned(**mapping: object) -> tuple[PlannedTensor, ...]:
    """What a selector `mine` with these keys plans of the reference model."""
    return plan_tensors(CATALOG, [parse_selector("mine", mapping)])
