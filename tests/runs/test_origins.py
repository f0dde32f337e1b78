"""The files that a configuration names."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from extractkit.core.component import Component
from extractkit.engine import catalog_files
from extractkit.errors import InputError
from extractkit.runs.checking import files as sources
from extractkit.runs.files import (
    TABLE_END,
    Origin,
    files_with_companions,
    origin,
    origins,
    relocated,
)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def of_several(*files: tuple[str, bytes]) -> str:
    """The digest of several files, as it is documented: names, sizes and contents."""
    rows = (f"{name}\0{len(content)}\0{sha256(content)}\n" for name, content in files)
    return sha256("".join(rows).encode())


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A directory with two files, one of them in a directory of its own."""
    (tmp_path / "d" / "deep").mkdir(parents=True)
    (tmp_path / "d" / "b.txt").write_bytes(b"bb")
    (tmp_path / "d" / "deep" / "a.txt").write_bytes(b"a")
    return tmp_path / "d"


def test_a_file_has_its_own_digest(files: Path) -> None:
    found = origin("inputs.path", str(files / "b.txt"))
    assert found == Origin("inputs.path", str(files / "b.txt"), sha256(b"bb"), 2)


def test_a_path_is_made_absolute(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = origin("inputs.path", str(files / "b.txt"))
    monkeypatch.chdir(files)
    assert origin("inputs.path", "b.txt") == expected
    monkeypatch.setenv("HOME", str(files))
    assert origin("inputs.path", "~/b.txt") == expected


def test_a_directory_is_its_files_names_and_contents(files: Path) -> None:
    expected = of_several(("b.txt", b"bb"), ("deep/a.txt", b"a"))
    assert origin("model.path", str(files)) == Origin("model.path", str(files), expected, 3)


def test_a_directory_of_one_file_is_not_that_file(files: Path) -> None:
    found = origin("model.path", str(files / "deep"))
    assert found is not None
    assert found.sha256 == of_several(("a.txt", b"a"))


def test_a_pattern_is_the_files_that_it_matches(files: Path) -> None:
    found = origin("inputs.path", str(files / "**" / "*.txt"))
    expected = of_several(("b.txt", b"bb"), ("deep/a.txt", b"a"))
    assert found == Origin("inputs.path", str(files / "**" / "*.txt"), expected, 3)


def test_a_checkpoints_prefix_is_its_files(files: Path) -> None:
    (files / "model-7.index").write_bytes(b"i")
    (files / "model-7.data-00000-of-00001").write_bytes(b"data")
    (files / "model-70.index").write_bytes(b"another")
    found = origin("model.checkpoint", str(files / "model-7"))
    expected = of_several(("model-7.data-00000-of-00001", b"data"), ("model-7.index", b"i"))
    assert found == Origin("model.checkpoint", str(files / "model-7"), expected, 5)


@pytest.mark.parametrize("text", ["b.txt", "", "*.txt", "**/*.txt", "b"])
def test_the_same_files_elsewhere_have_the_same_digest(
    text: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "elsewhere [1]" / "deeper"
    shutil.copytree(files, moved)
    first = origin("model.path", str(files / text))
    monkeypatch.chdir(moved)
    # Relative, for a pattern in a directory whose name is one itself means something else.
    second = origin("model.path", text or ".")
    assert first is not None
    assert second is not None
    assert (first.sha256, first.bytes) == (second.sha256, second.bytes)


def test_another_name_or_content_is_another_digest(files: Path) -> None:
    before = origin("model.path", str(files))
    (files / "b.txt").rename(files / "c.txt")
    renamed = origin("model.path", str(files))
    (files / "c.txt").write_bytes(b"cc")
    changed = origin("model.path", str(files))
    assert len({one.sha256 for one in (before, renamed, changed) if one}) == 3


@pytest.mark.parametrize("text", ["", "imagenet", "a\0b", "x" * 5000, "hf://a/b", "[", "~nobody/x"])
def test_a_text_that_names_no_file_has_no_origin(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert origin("model.weights", text) is None


def test_arguments_that_name_files_are_found_wherever_they_stand(files: Path) -> None:
    a, b = str(files / "deep" / "a.txt"), str(files / "b.txt")
    nested = Component("model.factory", "a.b", {"weights": a, "name": b})
    model = Component("model", "a.b", {"factory": nested, "checkpoint": b, "limit": 3})
    inputs = Component("inputs", "a.b", {"path": [a, b]})
    named = Component("inputs", "a.b", {"path": {"tokens": a}, "column": b})
    found = origins([model, inputs, named])
    assert [(one.key, one.path) for one in found] == [
        ("model.factory.weights", a),
        ("model.checkpoint", b),
        ("inputs.path.0", a),
        ("inputs.path.1", b),
        ("inputs.path.tokens", a),
    ]


def test_a_file_that_cannot_be_read_is_named(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (files / "c.json").write_text("{}")

    # A test that runs as root could read anything.
    def refuse(path: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    for name in ("b.txt", "c.json", "deep"):
        with pytest.raises(InputError) as caught:
            origin("inputs.path", str(files / name))
        assert str(caught.value) == (
            f"inputs.path={str(files / name)!r} cannot be read: Permission denied"
        )


def test_the_path_of_a_selector_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "weights.h5").touch()
    entries = {"selectors": {"all": {"path": "*"}}, "model": {"path": "weights.h5"}}
    assert relocated(entries, tmp_path) == {
        "selectors": {"all": {"path": "*"}},
        "model": {"path": str(tmp_path / "weights.h5")},
    }


WEIGHTS_MANIFEST = (
    b'{"weightsManifest": [{"paths": ["g1-1of2.bin", "g1-2of2.bin"], "weights": []}]}'
)
READ_TOGETHER = {
    "a graph with its checkpoint": ("m.meta", {"m.meta", "m.index", "m.data-00000-of-00001"}),
    "the index of a checkpoint": ("m.index", {"m.index", "m.data-00000-of-00001", "m.meta"}),
    "the prefix of a checkpoint": ("m", {"m.index", "m.data-00000-of-00001", "m.meta"}),
    "the latest checkpoint": (
        "checkpoint",
        {"checkpoint", "m.index", "m.data-00000-of-00001", "m.meta"},
    ),
    "an old checkpoint with its graph": ("old", {"old", "old.meta"}),
    "TensorFlow.js": ("model.json", {"model.json", "g1-1of2.bin", "g1-2of2.bin"}),
    "safetensors in parts": (
        "w.safetensors.index.json",
        {"w.safetensors.index.json", "w-1.safetensors", "w-2.safetensors"},
    ),
    "a file of a SavedModel": (
        "saved/saved_model.pb",
        {
            *("saved/saved_model.pb", "saved/fingerprint.pb", "saved/keras_metadata.pb"),
            *("saved/variables/variables.index", "saved/assets/words.txt"),
            "saved/assets.extra/requests",
        },
    ),
    "samples beside a file of their own": ("data.csv", {"data.csv"}),
    "a folder": ("hub", {"hub/config.json", "hub/tokenizer.json", "hub/assets/vocab.txt"}),
    "a model in an archive": ("pack.task/inner.tflite", {"pack.task"}),
    "one file": ("model.keras", {"model.keras"}),
}


@pytest.fixture
def formats(tmp_path: Path) -> Path:
    """Files of every format, and some beside them that belong to none."""
    contents = {
        "model.json": WEIGHTS_MANIFEST,
        "w.safetensors.index.json": b'{"weight_map": {"a": "w-1.safetensors", "b": '
        b'"w-2.safetensors"}}',
        "checkpoint": b'model_checkpoint_path: "m"\nall_model_checkpoint_paths: "other"\n',
        "old": b"tensors" + TABLE_END,
    }
    names = {name for _, read in READ_TOGETHER.values() for name in read}
    unread = {"other.index", "other.bin", "model.h5", "m2.index", "data.csv.meta"}
    for name in names | unread | {"saved/samples.jsonl", "saved/runs/1/manifest.json"}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(contents.get(name, name.encode()))
    return tmp_path


@pytest.mark.parametrize("kind", READ_TOGETHER)
def test_a_byte_of_any_file_that_a_format_reads_is_another_origin(formats: Path, kind: str) -> None:
    given, read = READ_TOGETHER[kind]
    component = Component("model", "some.load", {"path": str(formats / given)})

    def found() -> tuple[object, object]:
        return origin("model.path", str(formats / given)), catalog_files.files_read(component)

    before, stamped = found()
    assert {str(path.relative_to(formats)) for path in stamped} == read
    for path in sorted(formats.rglob("*")):
        if not path.is_file():
            continue
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        changed = found()[0] != before
        path.write_bytes(content)
        name = str(path.relative_to(formats))
        assert changed == (name in read), name


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"weight_map"', b'{"weightsManifest": 3}', b'{"weight_map": []}']
)
def test_a_damaged_index_names_no_other_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.json").write_bytes(content)
    found = origin("model.path", str(tmp_path / "model.json"))
    assert found is not None
    assert found.sha256 == sha256(content)


def test_an_index_names_files_beside_it_alone(formats: Path) -> None:
    (formats / "model.json").write_bytes(b'{"weight_map": {"a": "../x", "b": "hub/config.json"}}')
    assert [one.name for one in files_with_companions(formats / "model.json")[0]] == ["model.json"]


def test_older_runs_recorded_the_named_file_alone(formats: Path) -> None:
    """Their files have not changed; one that has is found."""
    path = str(formats / "model.json")
    recorded = Origin("model.path", path, sha256(WEIGHTS_MANIFEST), len(WEIGHTS_MANIFEST))
    assert sources.changed_source(recorded, path) == []
    assert sources.changed_source(replace(recorded, sha256=sha256(b"")), path)
