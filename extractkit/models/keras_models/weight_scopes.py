"""A model's weights in a file where they stand under another scope.

The part that two models share has another path in each: `tf_bert_model/bert/…` in one without a
head, `tf_bert_for_sequence_classification/bert/…` in one with a head, `bert/…` in a file that
leaves the model's own name out. Pure Python.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from extractkit.errors import ModelError


@dataclass(frozen=True)
class Scope:
    """The scope of a file in which all of a model's weights are.

    Attributes:
        keys: for each path of the model, in order, the key in the file.
        outside: keys of the file for which the model has no place.
    """

    keys: tuple[str, ...]
    outside: tuple[str, ...]


def find_scope(
    paths: Sequence[str],
    names: Mapping[str, str],
    at: str,
    may_be_left: Callable[[str], bool] = lambda key: False,
    *,
    droppable: int,
) -> Scope | None:
    """Return the one scope of a file that holds all of a model's weights; None if there is none.

    The paths may lose the model's own name, and gain what all names in the scope begin with.
    Nothing in the scope may be left over.

    Args:
        paths: Of the model's weights.
        names: Path of each weight in the file, by its key.
        at: How messages name the file.
        may_be_left: Whether a key may be left over all the same.
        droppable: How many of the parts that all paths begin with are names of the model. Names of
            layers stay: without them the weights could be those of another layer.

    Raises:
        ModelError: Several scopes hold them, so that any of them might be meant.
    """
    keys = {name: key for key, name in reversed(tuple(names.items()))}
    shared = _shared(paths)
    for depth in range(min(len(shared), droppable) + 1):
        rests = ["/".join(path.split("/")[depth:]) for path in paths]
        if not any("/" in rest for rest in rests):
            break  # `kernel` and `bias` alone are those of any layer
        ending = [name for name in dict.fromkeys(names.values()) if _ends(name, rests[0])]
        prefixes = [name.removesuffix(rests[0]) for name in ending]
        inside = "".join(f"{part}/" for part in shared[depth:])
        found = [
            (prefix, scope)
            for prefix in prefixes
            if (scope := _scope(prefix, rests, keys, names)) is not None
            and not any(
                names[key].startswith(prefix + inside) and not may_be_left(key)
                for key in scope.outside
            )
        ]
        if len(found) > 1:
            several = " and ".join(repr(f"{prefix}{inside}") for prefix, _ in found[:2])
            raise ModelError(
                f"{at} holds the weights of the model more than once: under {several}. "
                f"Give a file with one of them"
            )
        if found:
            return found[0][1]
    return None


def _scope(
    prefix: str, rests: Sequence[str], keys: Mapping[str, str], names: Mapping[str, str]
) -> Scope | None:
    wanted = {prefix + rest: None for rest in rests}
    if not all(name in keys for name in wanted):
        return None
    left = tuple(key for key, name in names.items() if name not in wanted)
    return Scope(tuple(keys[name] for name in wanted), left)


def _shared(paths: Sequence[str]) -> list[str]:
    """The parts that all paths begin with; the last part of a path is never among them."""
    shared: list[str] = []
    for parts in zip(*(path.split("/")[:-1] for path in paths), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return shared


def _ends(name: str, rest: str) -> bool:
    return name == rest or name.endswith(f"/{rest}")
