"""Archives of TFLite files: what a path names in them, and what is refused."""

import hashlib
import io
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from extractkit.api import extract
from extractkit.errors import ModelError
from extractkit.models.tflite import load
from extractkit.runs.files import origin
from tests.models.tflite_zoo import content, images


def archive(compression: int = zipfile.ZIP_STORED, /, **members: bytes) -> bytes:
    """A zip; underscores in names stand for dots."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as made:
        for name, data in members.items():
            made.writestr(name.replace("_", "."), data)
    return buffer.getvalue()


def written(folder: Path, data: bytes) -> Path:
    path = folder / "bundle.task"
    path.write_bytes(data)
    return path


def refusal(path: object) -> str:
    with pytest.raises(ModelError) as caught:
        load(str(path))
    return str(caught.value)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_model_in_an_archive_is_the_file_itself(
    tmp_path: Path, compression: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed, file_digest = [], hashlib.file_digest

    def counting(file: BinaryIO, by: str) -> object:
        hashed.append(Path(file.name).name)
        return file_digest(file, by)

    monkeypatch.setattr(hashlib, "file_digest", counting)
    data = content("float16")
    path = written(tmp_path, archive(compression, a_tflite=content("two"), b_tflite=data))
    (tmp_path / "plain.tflite").write_bytes(data)
    x = {"x": images(2)}
    runs = [
        extract(
            ["selectors=[outputs,weights,ops]", "model=tflite", f"model.path={one}"],
            inputs=x, run_dir=tmp_path / f"run-{number}",
        )
        for number, one in enumerate((path / "b.tflite", tmp_path / "plain.tflite"))
    ]  # fmt: skip
    assert hashed == ["bundle.task"]  # the digest of the plain file is that of the definition
    assert list(runs[0]) == list(runs[1])
    for address in runs[0]:
        np.testing.assert_array_equal(np.asarray(runs[0][address]), np.asarray(runs[1][address]))
    assert runs[0].manifest.model["member"] == "b.tflite"
    for run, file in zip(runs, (path, tmp_path / "plain.tflite"), strict=True):
        (found,) = run.manifest.origins
        assert origin(found.key, found.path) == found
        assert found.bytes == file.stat().st_size
    left = {entry.name for entry in tmp_path.iterdir()}
    assert left == {"bundle.task", "plain.tflite", "run-0", "run-1"}


def test_an_archive_of_one_model_is_named_alone(tmp_path: Path) -> None:
    path = written(tmp_path, archive(readme_txt=b"hello", one_tflite=content("float32")))
    assert load(str(path)).file.member == "one.tflite"


def test_several_models_are_listed(tmp_path: Path) -> None:
    inner = archive(hand_tflite=content("float32"))
    path = written(tmp_path, archive(face_tflite=content("float32"), more_task=inner))
    assert refusal(path) == (
        f"model.path={str(path)!r} is an archive of 2 models. Available: 'face.tflite', "
        f"'more.task/hand.tflite'. Choose one: model.path={path}/face.tflite"
    )
    assert "there is no model 'fce.tflite' in 'bundle.task'. Available: 'face" in refusal(
        path / "fce.tflite"
    )
    assert load(str(path / "more.task" / "hand.tflite")).catalog[":output.y"].extractable


def test_an_archive_without_models(tmp_path: Path) -> None:
    path = written(tmp_path, archive(readme_txt=b"hello"))
    text = "is an archive without a model of TensorFlow Lite in it"
    assert refusal(path) == f"model.path={str(path)!r} {text}"


def test_a_member_that_is_no_model(tmp_path: Path) -> None:
    path = written(tmp_path, archive(a_tflite=b"no model at all"))
    assert "'a.tflite' in it is not a TFLite file" in refusal(path)


def test_damage_is_reported(tmp_path: Path) -> None:
    data = bytearray(archive(a_tflite=content("float32")))
    data[200] ^= 255
    assert "'a.tflite' in it is damaged: BadZipFile: Bad CRC-32" in refusal(
        written(tmp_path, bytes(data))
    )
    assert "is a damaged archive: BadZipFile" in refusal(written(tmp_path, bytes(data[:-40])))


def test_encrypted_members_are_reported(tmp_path: Path) -> None:
    data = bytearray(archive(a_tflite=content("float32")))
    place = data.rindex(b"PK\1\2") + 8
    data[place : place + 2] = struct.pack("<H", 1)
    path = written(tmp_path, bytes(data))
    assert (
        "'a.tflite' in it is encrypted. Unpack it with its password, and give the file"
        in refusal(path)
    )


def test_what_would_fill_memory_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, archive(zipfile.ZIP_DEFLATED, a_tflite=bytes(60_000_000)))
    assert path.stat().st_size < 100_000
    assert "'a.tflite' in it would take 60,000,000 bytes, packed 5" in refusal(path)
