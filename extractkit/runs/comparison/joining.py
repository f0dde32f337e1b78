"""Which tensor of one run belongs to which of the other: equal keys, or what a mapping says."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from extractkit.errors import ConfigError, SelectionError, UnknownTensorError, choices
from extractkit.runs.reader import Run
from extractkit.selectors import parse_selector

ANY = "*"
"""In a mapping's address: any text, the same on both sides, the first for the first and so on."""


class WrittenMapping(dict[str, str]):
    """A mapping that was read from a file; what is said of an entry tells where it stands.

    Attributes:
        path: the file.
        lines: by address of the first run, the number of the line, from 1; not of every address,
            since YAML can merge mappings.
    """

    def __init__(self, entries: Mapping[str, str], path: str, lines: Mapping[str, int]) -> None:
        super().__init__(entries)
        self.path = path
        self.lines = lines


@dataclass(frozen=True)
class Join:
    """Keys of tensors that belong together, in the first run's order, and of all others."""

    pairs: tuple[tuple[str, str], ...]
    only_in_a: tuple[str, ...]
    only_in_b: tuple[str, ...]


def join(
    a: Run,
    b: Run,
    mapping: Mapping[str, str] | None = None,
    only: str | Sequence[str] | None = None,
) -> Join:
    """Find the counterpart of each tensor.

    Args:
        mapping: addresses of `a` to addresses of `b`, as lookups in a run take them: keys, and the
            layers' own names too. `*` stands for any text, `/` included: `block_*:output:
            net/block_*/Relu:0` joins all blocks that both runs have. The first entry that fits a
            tensor counts, one without `*` before all others. None: equal keys.
        only: globs; tensors whose address fits none of them are left out on both sides.

    Raises:
        ConfigError: an entry of the mapping has more of `*` on one side.
        SelectionError: an entry of the mapping, or a glob of `only`, fits no tensor.
    """
    found = {key: key for key in {*a} & {*b}} if mapping is None else _mapped(a, b, mapping)
    wanted_a, wanted_b = (_wanted(run, only) for run in (a, b))
    _check(only, a, b)
    pairs = tuple((key, found[key]) for key in a if key in found and key in wanted_a)
    joined = set(found.values())
    return Join(
        pairs,
        tuple(key for key in a if key in wanted_a and key not in found),
        tuple(key for key in b if key in wanted_b and key not in joined),
    )


def _wanted(run: Run, only: str | Sequence[str] | None) -> set[str]:
    if only is None:
        return set(run)
    globs = only if isinstance(only, str) else list(only)
    predicate = parse_selector("only", {"path": globs}).predicate
    return {key for key, view in run.items() if predicate.matches(view.record)}


def _check(only: str | Sequence[str] | None, a: Run, b: Run) -> None:
    """Refuse a glob that fits no tensor of either run: a misspelt one would be left out unseen."""
    globs = [only] if isinstance(only, str) else only or ()
    for glob in globs:
        if not _wanted(a, glob) and not _wanted(b, glob):
            raise SelectionError(
                f"only={glob!r} fits no tensor of {a.path} or {b.path}. "
                f"{choices(glob, dict.fromkeys((*a, *b)))}"
            )


def _mapped(a: Run, b: Run, mapping: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for left, right in mapping.items():
        if ANY not in left or left in a:
            at = _entry(mapping, left)
            key, counterpart = _key(a, left, at), _key(b, right, at)
            found.setdefault(key, counterpart)
    for left, right in mapping.items():
        if ANY in left and left not in a:
            for key, counterpart in _fitting(a, b, left, right, _entry(mapping, left)):
                found.setdefault(key, counterpart)
    return found


def _key(run: Run, address: str, at: str) -> str:
    try:
        return run[address].key
    except UnknownTensorError as error:
        raise SelectionError(f"{at}: {error}") from error


def _fitting(a: Run, b: Run, left: str, right: str, at: str) -> Iterator[tuple[str, str]]:
    """The tensors of both runs that an entry with `*` joins; there is at least one."""
    if left.count(ANY) != right.count(ANY):
        raise ConfigError(
            f"{at}: {left.count(ANY)} and {right.count(ANY)} times {ANY!r}; each "
            f"stands for the same text on both sides, so write as many on the right"
        )
    pattern = re.compile("(.*)".join(map(re.escape, left.split(ANY))), re.DOTALL)
    names_a, names_b = _names(a), _names(b)
    images = [
        (key, "".join(_alternate(right.split(ANY), fit.groups())))
        for name, key in names_a.items()
        if (fit := pattern.fullmatch(name))
    ]
    if not images:
        raise SelectionError(f"{at}: {left!r} fits no tensor of {a.path}. {choices(left, names_a)}")
    found = [(key, names_b[image]) for key, image in images if image in names_b]
    if not found:
        key, image = images[0]
        raise SelectionError(
            f"{at}: the counterpart of {key!r} would be {image!r}, which is no "
            f"tensor of {b.path}. {choices(image, names_b)}"
        )
    yield from found


def _names(run: Run) -> dict[str, str]:
    """Everything that one tensor alone is called, as a lookup takes it, and that tensor's key."""
    own = dict(zip(run, run, strict=True))
    called: dict[str, set[str]] = {}
    for key, view in run.items():
        for name in (view.record.address, view.record.name):
            called.setdefault(name, set()).add(key)
    others = {name: next(iter(keys)) for name, keys in called.items() if name and len(keys) == 1}
    return {**others, **own}


def _alternate(texts: Sequence[str], between: Sequence[str]) -> Iterator[str]:
    yield texts[0]
    for text, gap in zip(texts[1:], between, strict=True):
        yield gap
        yield text


def _entry(mapping: Mapping[str, str], left: str) -> str:
    """One entry, and where it stands."""
    place = "mapping"
    if isinstance(mapping, WrittenMapping):
        line = mapping.lines.get(left)
        place = f"{mapping.path}{'' if line is None else f', line {line}'}:"
    return f"{place} {left!r}: {mapping[left]!r}"
