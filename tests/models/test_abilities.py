"""Abilities of models, sources and sinks are declared protocols, never looked up by name."""

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extractkit import inputs, models, sinks
from extractkit.inputs.in_memory import LiveTextSource
from extractkit.models import (
    CarriesState,
    ChecksSizes,
    ConvertsArguments,
    DecidesTogether,
    HasCheckpoints,
    HasOwnCall,
    checkpoint_axis_of,
    lacking,
)
from extractkit.models.checkpoint import Checkpoint
from extractkit.models.keras_models.carrying import CarryingModel
from extractkit.models.keras_models.model import KerasModel
from extractkit.models.litert.model import CarryingTFLiteModel, TFLiteModel
from extractkit.models.sessions import SessionModel
from extractkit.testing.reference import ReferenceModel

ALL = {*(HasOwnCall, HasCheckpoints, CarriesState, ConvertsArguments, ChecksSizes, DecidesTogether)}
PACKAGE = Path(models.__file__).parents[1]


@pytest.mark.parametrize(
    ("adapter", "abilities"),
    [
        (KerasModel, ALL - {CarriesState}),
        (CarryingModel, ALL),
        (SessionModel, {HasOwnCall, HasCheckpoints, ChecksSizes, DecidesTogether}),
        (TFLiteModel, {HasOwnCall}),
        (CarryingTFLiteModel, {HasOwnCall, CarriesState}),
        (Checkpoint, {HasCheckpoints}),
    ],
)
def test_an_adapter_declares_its_abilities_as_bases(adapter: type, abilities: set[Any]) -> None:
    """So that a type checker compares their signatures."""
    assert {one for one in ALL if one in adapter.__mro__} == abilities


def test_the_members_alone_are_enough() -> None:
    """A plugin need not import the protocols, and a subclass may withdraw an ability."""
    assert {one for one in ALL if isinstance(ReferenceModel(), one)} == {
        HasOwnCall,
        HasCheckpoints,
    }
    withdrawn = type("Withdrawn", (ReferenceModel,), {"own_call": None})
    assert not isinstance(withdrawn(), HasOwnCall)


class Delayed:
    """A model whose catalog needs weights that are chosen later."""

    @property
    def catalog(self) -> None:
        raise AssertionError("evaluated")


def test_what_a_model_lacks_is_found_without_evaluating_it() -> None:
    assert lacking(ReferenceModel()) == ()
    members = {"name", "signature", "encode", "configure", "program", "constants"}
    members |= {"weights_digest", "definition_digest", "describe"}
    assert set(lacking(Delayed())) == members
    assert set(lacking(np.zeros(3))) == members | {"catalog"}


def test_a_model_without_the_ability_has_one_set_of_weights() -> None:
    assert checkpoint_axis_of(ReferenceModel()) is None
    assert checkpoint_axis_of(Delayed()) is None  # type: ignore[arg-type]


def test_a_source_that_cannot_identify_a_sample_gives_its_number() -> None:
    source = LiveTextSource(("a", "b"), "digest")
    assert inputs.identity(source, 1) == inputs.Identity("1", "memory")

    class Plain:
        pass

    assert inputs.identity(Plain(), 1) == inputs.Identity("1")  # type: ignore[arg-type]


def members() -> set[str]:
    """The names that the protocols of models, sources and sinks declare."""
    protocols = [
        one
        for room in (models, inputs, sinks)
        for one in vars(room).values()
        if isinstance(one, type) and getattr(one, "_is_protocol", False)
    ]
    declared = {name for one in protocols for name in vars(one)}
    return {name for name in declared if not name.startswith("_")} - {"name", "read"}


def looked_up(source: str) -> set[str]:
    """The names that code looks up by `getattr` or `hasattr`."""
    return {
        node.args[1].value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("getattr", "hasattr")
        and isinstance(node.args[1], ast.Constant)
        and isinstance(node.args[1].value, str)
    }


def test_none_is_looked_up_by_name() -> None:
    declared = members()
    assert {"own_call", "checkpoints", "to_tensors", "identify", "bind", "serialize"} <= declared
    found = {
        str(file.relative_to(PACKAGE)): names
        for file in PACKAGE.rglob("*.py")
        if (names := looked_up(file.read_text("utf-8")) & declared)
    }
    assert found == {}
    assert looked_up("getattr(model, 'checkpoints', None) or hasattr(x, 'bind')") <= declared
