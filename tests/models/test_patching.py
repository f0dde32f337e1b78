"""Methods are replaced for one thread and one block, and put back whatever happens."""

import inspect
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest

from extractkit.models.isolation import patched


class Base:
    def name(self, prefix: str = "") -> str:
        return prefix + "base"


class Inheriting(Base):
    pass


def louder(original: Callable[..., str]) -> Callable[..., str]:
    return lambda *args, **kwargs: original(*args, **kwargs) + "!"


def in_a_thread(action: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=action)
    thread.start()
    return thread


@pytest.mark.parametrize("owner", [Base, Inheriting])
def test_it_is_put_back_after_an_error(owner: type[Base]) -> None:
    before = dict(vars(owner))
    with suppress(KeyError), patched(owner, "name", louder):
        assert owner().name(prefix="a ") == "a base!"
        raise KeyError
    assert dict(vars(owner)) == before


def test_it_keeps_the_signature_and_nests() -> None:
    with patched(Base, "name", louder), patched(Base, "name", louder):
        assert Base().name() == "base!!"
        assert str(inspect.signature(Base().name)) == "(prefix: str = '') -> str"
    assert Base().name() == "base"


def test_other_threads_keep_the_original() -> None:
    heard: list[str] = []
    with patched(Base, "name", louder):
        in_a_thread(lambda: heard.append(Base().name())).join()
    assert heard == ["base"]


def test_two_threads_leave_the_original() -> None:
    """The second takes what is there only once the first has put it back."""
    original = vars(Base)["name"]
    taken = []
    begun = threading.Event()

    def taking(method: Callable[..., str]) -> Callable[..., str]:
        taken.append(method)
        return method

    def other() -> None:
        begun.set()
        with patched(Base, "name", taking):
            pass

    with patched(Base, "name", louder):
        thread = in_a_thread(other)
        begun.wait()
        assert not taken
    thread.join()
    assert taken == [original]
    assert vars(Base)["name"] is original
