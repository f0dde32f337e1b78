"""Pairs of samples, checkpoints and tensors of two runs."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shortened

import numpy as np
import numpy.typing as npt
import yaml  # type: ignore[import-untyped]

from extractkit.core.catalog import TensorRecord
from extractkit.core.selectors import parse_selector
from extractkit.errors import (
    ConfigError,
    RunDirectoryError,
    SelectionError,
    UnknownTensorError,
    choices,
    counted,
)
from extractkit.runs import SAMPLES
from extractkit.runs.comparing.result import OneSided, SampleComparison, SamplePair
from extractkit.runs.reader import Run

BY_ID, BY_NUMBER = "id", "number"

_FEW = 3

Pairs = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Alignment:
    """Pairs of samples, in the first run's order.

    Attributes:
        ids: the ids of all samples of the first run.
        a, b: for each pair, the sample's number in each run.
        found: how they were paired, and which were not.
    """

    ids: Sequence[str]
    a: Pairs
    b: Pairs
    found: SampleComparison

    def __len__(self) -> int:
        return len(self.a)

    def sample(self, pair: int) -> SamplePair:
        """Return the sample of one pair."""
        number = int(self.a[pair])
        return SamplePair(self.ids[number], number, int(self.b[pair]))


def align(a: Run, b: Run) -> Alignment:
    """Pair the samples by their ids, or by their numbers if the ids of a run are not unique.

    Samples that are missing from one of the runs are not paired.

    Raises:
        RunDirectoryError: the list of samples is missing or damaged.
    """
    ids_a, ids_b = _ids(a), _ids(b)
    unique = len({*ids_a}) == len(ids_a) and len({*ids_b}) == len(ids_b)
    names_a: Sequence[object] = ids_a if unique else range(len(ids_a))
    names_b: Sequence[object] = ids_b if unique else range(len(ids_b))
    numbers_b = {name: number for number, name in enumerate(names_b)}
    both = [(n, numbers_b[name]) for n, name in enumerate(names_a) if name in numbers_b]
    missing_a = {n for n, _ in both if n in a.missing}
    missing_b = {n for n, other in both if other in b.missing}
    without = missing_a | missing_b
    pairs = [pair for pair in both if pair[0] not in without]
    numbers_a = {name: number for number, name in enumerate(names_a)}
    found = SampleComparison(
        aligned_by=BY_ID if unique else BY_NUMBER,
        compared=len(pairs),
        missing=len(missing_a & missing_b),
        missing_in_a=_one_sided(sorted(missing_a - missing_b), ids_a),
        missing_in_b=_one_sided(sorted(missing_b - missing_a), ids_a),
        only_in_a=_one_sided(_missing(names_a, numbers_b), ids_a),
        only_in_b=_one_sided(_missing(names_b, numbers_a), ids_b),
    )
    columns = np.array(pairs, np.int64).reshape(-1, 2)
    return Alignment(ids_a, columns[:, 0], columns[:, 1], found)


def _ids(run: Run) -> list[str]:
    ids = [str(row["id"]) for row in run.samples]
    if len(ids) != run.manifest.samples:
        raise RunDirectoryError(
            f"{run.path / SAMPLES} is damaged: it lists {counted(len(ids), 'sample')}, the run has "
            f"{run.manifest.samples}"
        )
    return ids


def _missing(names: Sequence[object], others: Mapping[object, int]) -> list[int]:
    return [number for number, name in enumerate(names) if name not in others]


def _one_sided(numbers: Sequence[int], ids: Sequence[str]) -> OneSided:
    return OneSided(len(numbers), tuple(ids[number] for number in numbers[:_FEW]))


@dataclass(frozen=True, eq=False)
class PairedCheckpoints:
    """The second run's label by the first's, in the first's order, and labels in one run only."""

    a: Run
    b: Run
    labels: Mapping[str, str]
    only_in_a: tuple[str, ...] = ()
    only_in_b: tuple[str, ...] = ()

    @property
    def both(self) -> Iterator[tuple[str | None, str | None, Run, Run]]:
        """Both labels and both runs for each checkpoint; one item if the runs have none."""
        if not self.a.checkpoints:
            yield None, None, self.a, self.b
        for label, other in self.labels.items():
            yield label, other, self.a.at(label), self.b.at(other)


def pair(a: Run, b: Run) -> PairedCheckpoints:
    """Pair the checkpoints of two runs.

    Raises:
        RunDirectoryError: only one run has checkpoints, or they have none in common.
    """
    if bool(a.checkpoints) != bool(b.checkpoints):
        several, other = (a, b) if a.checkpoints else (b, a)
        raise RunDirectoryError(
            f"{several.path} has {counted(len(several.checkpoints), 'checkpoint')}, "
            f"{other.path} has none. Compare one of them in Python: "
            f"extractkit.diff(a.at({several.checkpoints[0]!r}), b)"
        )
    common = _paired(a, b) if a.checkpoints else {}
    if a.checkpoints and not common:
        first, other_first = a.checkpoints[0], b.checkpoints[0]
        raise RunDirectoryError(
            f"{a.path} and {b.path} have no checkpoint in common, neither a label nor a step: the "
            f"first ones are {first!r} and {other_first!r}. Compare two of them in Python: "
            f"extractkit.diff(a.at({first!r}), b.at({other_first!r}))"
        )
    return PairedCheckpoints(
        a,
        b,
        common,
        tuple(label for label in a.checkpoints if label not in common),
        tuple(label for label in b.checkpoints if label not in common.values()),
    )


def _paired(a: Run, b: Run) -> dict[str, str]:
    by_label = set(a.checkpoints) & set(b.checkpoints)
    by_step: dict[int | None, str] = {
        one.step: one.label
        for one in b.manifest.checkpoints
        if one.step is not None and one.label not in by_label
    }
    paired = {}
    for one in a.manifest.checkpoints:
        other = one.label if one.label in by_label else by_step.get(one.step)
        if other is not None:
            paired[one.label] = other
    return paired


ANY = "*"
"""Wildcard in a mapping's address: any text, the same on both sides, matched in order."""


class FileMapping(dict[str, str]):
    """A mapping read from a file, with line numbers for messages.

    Attributes:
        path: the file.
        lines: line numbers, from 1, by address of the first run. Entries merged in by YAML have
            none.
    """

    def __init__(self, entries: Mapping[str, str], path: str, lines: Mapping[str, int]) -> None:
        super().__init__(entries)
        self.path = path
        self.lines = lines

    @classmethod
    def read(cls, path: str | Path) -> "FileMapping":
        """Read a file of one YAML mapping, each entry `ADDRESS: ADDRESS`.

        Raises:
            ConfigError: the file does not exist, is not UTF-8 or YAML, or holds something else.
        """
        try:
            with Path(path).open(encoding="utf-8") as file:  # it may be a pipe: read it once
                loader = yaml.SafeLoader(file)
                node = loader.get_single_node()
                if not isinstance(node, yaml.MappingNode) or not node.value:
                    raise ConfigError(f"{path} {_NOTHING}")
                lines = _lines(node, path)
                entries = loader.construct_document(node)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path} is not UTF-8 text: {error}") from error
        except RecursionError as error:
            raise ConfigError(f"{path} {_NOTHING}") from error
        except (yaml.YAMLError, ValueError) as error:
            mark = getattr(error, "problem_mark", None)
            line = "" if mark is None else f", line {mark.line + 1}"
            problem = getattr(error, "problem", None) or " ".join(str(error).split())
            raise ConfigError(f"{path}{line}: not valid YAML: {problem}") from error
        for left, right in entries.items():
            if not isinstance(left, str) or not isinstance(right, str):
                given = f"{shortened(left)}: {shortened(right)}"  # aliases can make it endless
                raise ConfigError(f"{path}: {given} is not an entry. Write texts: {_FORM}")
        return cls(entries, str(path), lines)


_FORM = '"dense:output": "model/dense/BiasAdd:0"'
_NOTHING = f"does not hold a mapping. Write one line for each tensor: {_FORM}"


def _lines(mapping: yaml.MappingNode, path: str | Path) -> dict[str, int]:
    """Return the line number of each key."""
    lines: dict[str, int] = {}
    for key, _ in mapping.value:
        if isinstance(key, yaml.ScalarNode):
            line = key.start_mark.line + 1
            if key.value in lines:
                raise ConfigError(f"{path}, line {line}: duplicate key {key.value!r}")
            lines[key.value] = line
    return lines


@dataclass(frozen=True)
class PairedTensors:
    """Paired keys of tensors, in the first run's order, and the keys without a counterpart."""

    pairs: tuple[tuple[str, str], ...]
    only_in_a: tuple[str, ...]
    only_in_b: tuple[str, ...]


def pair_tensors(
    a: Run,
    b: Run,
    mapping: Mapping[str, str] | None = None,
    only: str | Sequence[str] | None = None,
) -> PairedTensors:
    """Find the counterpart of each tensor.

    Args:
        mapping: addresses of `a` to addresses of `b`, as lookups in a run accept them: keys, or the
            layers' own names. `*` matches any text, including `/`: `block_*:output:
            net/block_*/Relu:0` pairs all blocks that both runs have. The first entry that matches
            a tensor counts, and entries without `*` come first. None: equal keys.
        only: globs. Tensors whose address matches none of them are not compared.

    Raises:
        ConfigError: an entry of the mapping has more `*` on one side.
        SelectionError: an entry of the mapping, or a glob of `only`, matches no tensor.
    """
    found = {key: key for key in {*a} & {*b}} if mapping is None else _mapped(a, b, mapping)
    wanted_a, wanted_b = (wanted(run, only) for run in (a, b))
    _check(only, a, b)
    pairs = tuple((key, found[key]) for key in a if key in found and key in wanted_a)
    joined = set(found.values())
    return PairedTensors(
        pairs,
        tuple(key for key in a if key in wanted_a and key not in found),
        tuple(key for key in b if key in wanted_b and key not in joined),
    )


Result = tuple[str, str, str]
"""A result of a statistic: the key of the tensor or group, the statistic and the result's name."""


@dataclass(frozen=True)
class PairedResults:
    """Results of statistics in both runs, in the first run's order, and what only one run has.

    Attributes:
        both: the results.
        only_in_a, only_in_b: statistics as "KEY STATISTIC", or "KEY STATISTIC.RESULT" if the other
            run has the statistic without that result.
    """

    both: tuple[Result, ...]
    only_in_a: tuple[str, ...]
    only_in_b: tuple[str, ...]


def pair_results(a: Run, b: Run, only: str | Sequence[str] | None = None) -> PairedResults:
    """Pair the results of statistics: those of the same name, of tensors with the same key.

    Statistics of several tensors are paired if they are of the same ones.

    Args:
        only: globs over addresses, which `pair_tensors` checks.
    """
    ours, theirs = _results(a, only), _results(b, only)
    return PairedResults(
        tuple(one for one, tensors in ours.items() if theirs.get(one) == tensors),
        _alone(ours, theirs),
        _alone(theirs, ours),
    )


def _results(run: Run, only: str | Sequence[str] | None) -> dict[Result, tuple[str, ...]]:
    """Return the tensors of each result."""
    wanted = _wanted_statistics(run, only)
    return {
        (key, statistic, result): statistics.tensors
        for key, statistics in run.statistics.items()
        if wanted.issuperset(statistics.tensors)
        for statistic in statistics
        for result in statistics[statistic]
    }


def _alone(
    ours: Mapping[Result, tuple[str, ...]], theirs: Mapping[Result, tuple[str, ...]]
) -> tuple[str, ...]:
    shared = {(key, statistic, tensors) for (key, statistic, _), tensors in theirs.items()}
    found = (
        f"{key} {statistic}.{result}"
        if (key, statistic, tensors) in shared
        else f"{key} {statistic}"
        for (key, statistic, result), tensors in ours.items()
        if theirs.get((key, statistic, result)) != tensors
    )
    return tuple(dict.fromkeys(found))


def wanted(run: Run, only: str | Sequence[str] | None) -> set[str]:
    """Return the keys of tensors with values per sample whose address matches a glob."""
    return _matched({key: view.record for key, view in run.items()}, only)


def _wanted_statistics(run: Run, only: str | Sequence[str] | None) -> set[str]:
    """Return the keys of tensors with statistics whose address matches a glob."""
    return _matched({one.key: one.record for one in run.manifest.statistics}, only)


def _matched(records: Mapping[str, TensorRecord], only: str | Sequence[str] | None) -> set[str]:
    if only is None:
        return set(records)
    globs = only if isinstance(only, str) else list(only)
    predicate = parse_selector("only", {"path": globs}).predicate
    return {key for key, record in records.items() if predicate.matches(record)}


def _check(only: str | Sequence[str] | None, a: Run, b: Run) -> None:
    """Raise for a glob that matches no tensor of either run, which is likely misspelt."""
    globs = [only] if isinstance(only, str) else only or ()
    for glob in globs:
        if not any(wanted(run, glob) or _wanted_statistics(run, glob) for run in (a, b)):
            counted = (one.key for run in (a, b) for one in run.manifest.statistics)
            raise SelectionError(
                f"only={glob!r} matches no tensor of {a.path} or {b.path}. "
                f"{choices(glob, dict.fromkeys((*a, *b, *counted)))}"
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
            for key, counterpart in _matching(a, b, left, right, _entry(mapping, left)):
                found.setdefault(key, counterpart)
    return found


def _key(run: Run, address: str, at: str) -> str:
    try:
        return run[address].key
    except UnknownTensorError as error:
        raise SelectionError(f"{at}: {error}") from error


def _matching(a: Run, b: Run, left: str, right: str, at: str) -> Iterator[tuple[str, str]]:
    """Yield the tensors of both runs that an entry with `*` pairs. Raise if there are none."""
    if left.count(ANY) != right.count(ANY):
        raise ConfigError(
            f"{at}: {left.count(ANY)} and {right.count(ANY)} times {ANY!r}. Each matches the same "
            f"text on both sides, so write as many on the right"
        )
    pattern = re.compile("(.*)".join(map(re.escape, left.split(ANY))), re.DOTALL)
    names_a, names_b = _names(a), _names(b)
    images = [
        (key, "".join(_alternate(right.split(ANY), match.groups())))
        for name, key in names_a.items()
        if (match := pattern.fullmatch(name))
    ]
    if not images:
        raise SelectionError(
            f"{at}: {left!r} matches no tensor of {a.path}. {choices(left, names_a)}"
        )
    found = [(key, names_b[image]) for key, image in images if image in names_b]
    if not found:
        key, image = images[0]
        raise SelectionError(
            f"{at}: the counterpart of {key!r} would be {image!r}, which is not a "
            f"tensor of {b.path}. {choices(image, names_b)}"
        )
    yield from found


def _names(run: Run) -> dict[str, str]:
    """Return the key of each tensor by every unique name that a lookup accepts."""
    own = dict(zip(run, run, strict=True))
    called: dict[str, set[str]] = {}
    for key, view in run.items():
        for name in (view.record.address, view.record.name) if not view.request else ():
            called.setdefault(name, set()).add(key)
    others = {name: next(iter(keys)) for name, keys in called.items() if name and len(keys) == 1}
    return {**others, **own}


def _alternate(texts: Sequence[str], between: Sequence[str]) -> Iterator[str]:
    yield texts[0]
    for text, gap in zip(texts[1:], between, strict=True):
        yield gap
        yield text


def _entry(mapping: Mapping[str, str], left: str) -> str:
    """Format one entry of a mapping, with its file and line if known."""
    source = "mapping"
    if isinstance(mapping, FileMapping):
        line = mapping.lines.get(left)
        source = f"{mapping.path}{'' if line is None else f', line {line}'}:"
    return f"{source} {left!r}: {mapping[left]!r}"
