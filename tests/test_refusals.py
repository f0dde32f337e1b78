"""The page about what `resume` refuses lists each message of the source, and no other."""

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import extractkit
from extractkit.core.checkpoints import Checkpoint
from extractkit.runs.environment import Volatile
from extractkit.runs.manifest import Manifest, RunInputs
from extractkit.runs.same_job import differences
from tests.runs.examples import TENSORS

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "resume-refusals.md"
PACKAGE = Path(extractkit.__file__).parent
VARIES = "…"


@dataclass(frozen=True)
class Refusal:
    """One `raise` of such an error.

    Attributes:
        where: The function, with its class.
        message: The message, with `…` for what differs from case to case.
    """

    where: str
    message: str


def refusals(*errors: str) -> Iterator[Refusal]:
    """Yield every place where an error of one of these classes is made."""
    for tree in _trees():
        yield from _in(tree, (), errors)


@cache
def _trees() -> list[ast.Module]:
    return [ast.parse(path.read_text("utf-8")) for path in sorted(PACKAGE.rglob("*.py"))]


def _in(node: ast.AST, names: tuple[str, ...], errors: Sequence[str]) -> Iterator[Refusal]:
    for child in ast.iter_child_nodes(node):
        inner = names
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            inner = (*names, child.name)
        if (
            isinstance(child, ast.Call)
            and isinstance(child.func, ast.Name)
            and child.func.id in errors
        ):
            yield Refusal(".".join(names), _message(child.args[0]))
        yield from _in(child, inner, errors)


def _message(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_message, node.values))
    return VARIES


_READING = "reading a run or a sweep"
_STORED_AGAIN = "reading a run; resume stores the shard again"

ELSEWHERE = {
    "_draw": "show --figure",
    "show_tensor": "show --tensor",
    "_of_run": "a new run that projects onto the components of another",
    "check_repeats": "rerun",
    "verify": "verify",
    "sign": "sign",
    "check_whole": "sign and crate",
    "export": "export",
    "TensorBoard.check": "export",
    "ModelExplorer.check": "export",
    "ModelExplorer.write": "export",
    "_graph_nodes": "export",
    "_model_file": "export",
    "diff": "diff",
    "_ids": "diff",
    "pair": "diff",
    "check_writable": "a new run",
    "check_unused": "a new run, or sweep",
    "new_directory": "a new run",
    "check_part_directory": "a new part",
    "finished_parts": "join",
    "_entries": "join",
    "_check_agreement": "join",
    "join": "join",
    "_check_joined": "join",
    "_join_locked": "join",
    "_check_file": "join",
    "StoredFile.on_disk": _STORED_AGAIN,
    "_merged": "verify, and finishing a run whose states were checked when it was opened",
    "StoredFile._opened": _STORED_AGAIN,
    "StoredFile._compare": _STORED_AGAIN,
    "check_names": _STORED_AGAIN,
    "check_state": _STORED_AGAIN,
    "intact_entries": _STORED_AGAIN,
    "parse": _READING,
    "read_drift": _READING,
    "read_statistics": _READING,
    "open_run": _READING,
    "sink_of": _READING,
    "_Runs.__getitem__": _READING,
    "_Runs._open": _READING,
    "labelled": _READING,
    "_positions": _READING,
    "_check_alike": _READING,
    "Committed.path": _READING,
    "Committed._shard_of": _READING,
    "Listed.__getitem__": _READING,
    "Extent.read_into": _READING,
    "damaged": _READING,
    "opened": _READING,
    "stored": _READING,
    "_opened": _READING,
    "_entered": _READING,
}
"""Functions that refuse other commands, and what calls them."""

OF_RESUME = ("where_it_runs", "resume")
"""Where mistakes in the command `resume` itself are refused."""


def refused_on_resume() -> list[Refusal]:
    found = [one for one in refusals("ConfigError") if one.where in OF_RESUME]
    found += [
        one for one in refusals("RunDirectoryError", "FinalError") if one.where not in ELSEWHERE
    ]
    return [one for one in found if one.message != VARIES]


def listed() -> list[str]:
    """The messages on the page, in order."""
    text = " ".join(PAGE.read_text("utf-8").partition("## Differences")[0].split())
    return re.findall(r" - `([^`]+)`", text)


def test_every_refusal_is_listed() -> None:
    raised = {" ".join(one.message.split()): one.where for one in refused_on_resume()}
    lacking = {message: where for message, where in raised.items() if message not in listed()}
    assert lacking == {}
    assert [message for message in listed() if message not in raised] == []


def test_every_exception_of_this_test_exists() -> None:
    places = [one.where for one in refusals("RunDirectoryError", "FinalError")]
    assert {*ELSEWHERE} <= {*places}


def test_each_reason_is_given() -> None:
    text = " ".join(PAGE.read_text("utf-8").split())
    for message in listed():
        assert re.match(r"[A-Z`]\S* \S+", text.partition(f"`{message}`: ")[2]), message


def test_every_difference_is_listed() -> None:
    one = Manifest(
        volatile=Volatile("now"),
        model={"weights": "a", "definition": "a"},
        checkpoints=(Checkpoint("step", None, "a.h5", "a", 1),),
        inputs=RunInputs("a", 1),
        environment={"A": "1"},
        settings={"batch_size": 1},
        seeds={"runtime": 0},
        versions={"numpy": "1"},
        tensors=TENSORS,
    )
    found = differences(one, Manifest(volatile=Volatile("now"), values_version=-1))
    page = PAGE.read_text("utf-8").partition("## Differences")[2]
    named = [text.replace(VARIES, ".+") for text in re.findall(r"^\| `([^`]+)` \|", page, re.M)]
    for difference in found:
        what = difference.partition(":")[0]
        assert any(re.fullmatch(pattern, what) for pattern in named), what
    assert len(found) == len(named)
