"""Private interfaces: those of other packages in the files `*_internals.py` alone, ours nowhere."""

from pathlib import Path

from tests.internals.names import ROOT, defined, own_private_uses, parsed, private_uses

_SOURCE = ("extractkit", "benchmarks", "experiments")
# Written as a user would without extractkit, whom keras-hub leaves no public name.
_ALLOWED = {
    ("benchmarks/handwritten.py", "_feedforward_intermediate_dense"),
    ("benchmarks/ways/keras_models.py", "_feedforward_intermediate_dense"),
}


def _files(rooms: tuple[str, ...] = _SOURCE) -> list[str]:
    paths = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    return sorted(path.relative_to(ROOT).as_posix() for path in paths)


def test_no_other_file_uses_private_names() -> None:
    trees = {path: parsed(path) for path in _files()}
    assert len(trees) > 100
    own = set().union(*map(defined, trees.values()))
    found = [
        f"{path}:{line}: {name}"
        for path, tree in trees.items()
        if not Path(path).stem.endswith("_internals")
        for line, name in private_uses(tree, own)
        if (path, name) not in _ALLOWED
    ]
    assert not found


def test_each_kind_of_use_is_seen(tmp_path: Path) -> None:
    lines = [
        "import tensorflow.python.framework.ops",
        "from keras.src import backend",
        "from hydra._internal.utils import get_args_parser",
        "from hydra.core.override_parser.types import Override",
        "from package import _hidden",
        "tensor._consumers()",
        "tf.__internal__.FuncGraph('x')",
        "getattr(layer, '_calls')",
        "sys.modules['tensorflow.python.eager.context']",
    ]
    source = tmp_path / "uses.py"
    source.write_text("\n".join([*lines, "self._own", "value.__class__", "os._exit(1)"]), "utf-8")
    found = {line for line, _ in private_uses(parsed(str(source)), set())}
    assert found == set(range(1, len(lines) + 1))


def test_no_test_uses_a_private_name_of_ours() -> None:
    """A test of behaviour holds whatever a class or module is made of."""
    names = set().union(*(defined(parsed(path)) for path in _files()))
    own = {name for name in names if not name.startswith("__")}
    found = [
        f"{path}:{line}: {name}"
        for path in _files(("tests",))
        for line, name in own_private_uses(parsed(path), own)
    ]
    assert not found


def test_each_kind_of_use_of_ours_is_seen(tmp_path: Path) -> None:
    lines = [
        "from extractkit.runs.journal import _line",
        "journal._line(record)",
        "run.reader._opened",
        "monkeypatch.setattr(files, '_BLOCK', 3)",
        "monkeypatch.setattr('extractkit.runs.files._BLOCK', 3)",
        "getattr(model, '_found')",
    ]
    source = tmp_path / "uses.py"
    source.write_text("\n".join([*lines, "self._line", "os._exit(1)", "'_line'"]), "utf-8")
    own = {"_line", "_opened", "_BLOCK", "_found"}
    found = {line for line, _ in own_private_uses(parsed(str(source)), own)}
    assert found == set(range(1, len(lines) + 1))
