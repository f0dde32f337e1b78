"""The heap of Python while a model is loaded."""

import gc
from collections.abc import Callable, Iterator

import pytest

from extractkit.models.process import without_collections


class _Made:
    """An object that the collector tracks, and that can be distinguished from others."""


def _oldest(one: object) -> bool:
    return any(one is other for other in gc.get_objects(generation=2))


@pytest.fixture
def collector(
    frozen_objects_counted_once: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """The collector on, and nothing frozen."""
    monkeypatch.setattr(gc, "get_freeze_count", frozen_objects_counted_once)
    gc.enable()
    gc.unfreeze()
    yield
    gc.freeze()  # as it was: the other tests do without the old objects
    gc.enable()


@pytest.mark.usefixtures("collector")
def test_what_a_model_makes_counts_as_old_after_it_is_loaded() -> None:
    with without_collections():
        assert not gc.isenabled()
        made = _Made()
        assert not _oldest(made)

    assert gc.isenabled()
    assert _oldest(made)


@pytest.mark.usefixtures("collector")
def test_the_collector_still_finds_what_a_model_made() -> None:
    with without_collections():
        made: list[object] = [_Made()]
        made.append(made)
        size = sum(isinstance(one, _Made) for one in gc.get_objects())
        del made

    gc.collect()
    assert sum(isinstance(one, _Made) for one in gc.get_objects()) == size - 1


@pytest.mark.usefixtures("collector")
def test_what_the_caller_froze_stays_frozen() -> None:
    gc.freeze()
    count = gc.get_freeze_count()

    with without_collections():
        made = _Made()

    assert gc.get_freeze_count() >= count - 10
    assert not _oldest(made)
