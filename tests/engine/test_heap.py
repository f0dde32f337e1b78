"""The heap of Python while a model is loaded."""

import gc
import weakref
from collections.abc import Callable, Iterator

import pytest

from extractkit.models.process import collecting, without_collections


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


def _cycle() -> object:
    made: list[object] = [_Made()]
    made.append(made)
    return made[0]


@pytest.mark.usefixtures("collector")
def test_garbage_of_a_block_is_freed_at_its_end_without_a_visit_to_older_objects() -> None:
    gc.disable()
    before = weakref.ref(_cycle())
    with collecting():
        within = weakref.ref(_cycle())
        assert within() is not None
    assert within() is None
    assert before() is not None
    assert not gc.get_freeze_count()
    gc.collect()
    assert before() is None


@pytest.mark.usefixtures("collector")
def test_a_block_frees_what_it_made_beside_objects_that_the_caller_froze() -> None:
    gc.freeze()
    count = gc.get_freeze_count()
    with collecting():
        within = weakref.ref(_cycle())
    assert within() is None
    assert gc.get_freeze_count() >= count - 10
