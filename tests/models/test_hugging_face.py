"""`model=hugging_face` says what is wrong with a directory before transformers is needed."""

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from extractkit.errors import ConfigError, InputError, MissingExtraError, ModelError
from extractkit.inputs import PICTURE, InputSpec, Signature
from extractkit.inputs.images import Images
from extractkit.models import hugging_face
from extractkit.models import hugging_face_library as library
from extractkit.models.hugging_face import load

OWN = "In an environment of its own"


def directory(path: Path, config: object = None, *files: str) -> Path:
    path.mkdir(exist_ok=True)
    config = {"model_type": "bert"} if config is None else config
    (path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    for name in files:
        (path / name).write_bytes(b"not read")
    return path


@pytest.mark.parametrize(
    ("config", "files", "text"),
    [
        ("{", (), "config.json is damaged: JSONDecodeError"),
        ("[1]", (), "config.json holds a list, where settings should be"),
        ({"vocab_size": 3}, (), "names neither 'architectures' nor a 'model_type'"),
        (None, ("vocab.txt",), "has none of model.safetensors, "),
        (None, ("pytorch_model.bin",), "That is a pickle, which runs code when it is opened"),
        (None, ("pytorch_model.bin.index.json",), "That is a pickle"),
        (None, ("tf_model.h5.index.json",), "several .h5 files (tf_model.h5.index.json)"),
        (None, ("model.safetensors",), "model.safetensors"),
        (None, ("tf_model.h5",), "is not an HDF5 file"),
    ],
)
def test_a_directory_that_cannot_be_read(
    config: object, files: tuple[str, ...], text: str, tmp_path: Path
) -> None:
    path = directory(tmp_path / "dir", config, *files)
    with pytest.raises(ModelError) as caught:
        load(str(path))
    assert str(caught.value).startswith(f"model.path={str(path)!r}"[:-1])
    assert text in str(caught.value)


def test_a_directory_without_settings(tmp_path: Path) -> None:
    (tmp_path / "weights.h5").touch()
    with pytest.raises(ModelError, match=r"has no config\.json\. It holds 'weights\.h5'\."):
        load(str(tmp_path))
    with pytest.raises(ModelError, match="is an empty file"):
        load(str(tmp_path / "weights.h5"))


@pytest.mark.parametrize(
    ("path", "command"),
    [
        ("google-bert/bert-base-uncased", "hf download google-bert/bert-base-uncased "),
        ("gpt2", "If this is a name on one: hf download gpt2 "),
    ],
)
def test_nothing_is_downloaded_from_a_hub(
    path: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as caught:
        load(path)
    assert f"{command}--local-dir DIR, then model.path=DIR" in str(caught.value)


def whole(path: Path) -> Path:
    directory(path)
    save_file({"x": np.zeros(1, np.float32)}, path / "model.safetensors")
    return path


@pytest.mark.parametrize(
    ("version", "text"),
    [
        (None, "needs transformers 4, which is not installed"),
        ("5.0.1", "the last with TensorFlow models; installed is 5.0.1"),
    ],
)
def test_the_right_transformers_has_to_be_there(
    version: str | None, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def installed(name: str) -> str:
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(library, "version", installed)
    with pytest.raises(MissingExtraError) as caught:
        load(str(whole(tmp_path / "dir")))
    assert text in str(caught.value)
    assert f"{OWN}, since it needs older packages" in str(caught.value)
    assert "python -m pip install 'extractkit[hugging-face]'" in str(caught.value)


def test_tf_keras_has_to_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "version", lambda name: "4.57.6")
    monkeypatch.setattr(library.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="needs tf-keras, which is not installed"):
        library.require_transformers()


def test_settings_are_checked_first(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.architecture=3 is not the name of a class"):
        hugging_face.load(str(tmp_path), architecture=3)  # type: ignore[arg-type]


def signature(takes_pictures: bool | None) -> Signature:
    spec = InputSpec("pixel_values", "float32", (3, 8, 8), (None, None, None))
    return Signature("hugging_face", (spec,), takes_pictures=takes_pictures)


def pictures(path: Path) -> np.ndarray[Any, Any]:
    pixels = np.arange(10 * 6 * 3, dtype=np.uint8).reshape(10, 6, 3)
    Image.fromarray(pixels).save(path / "a.png")
    return pixels


def test_a_model_that_prepares_pictures_gets_them_as_they_are(tmp_path: Path) -> None:
    pixels = pictures(tmp_path)
    (sample,) = Images(str(tmp_path)).bind(signature(True)).read(0, 1)
    assert not isinstance(sample.data, str)
    np.testing.assert_array_equal(sample.data[PICTURE], pixels)
    with pytest.raises(InputError, match=r"inputs\.scale=unit: model .* Leave inputs\.scale out"):
        Images(str(tmp_path), scale="unit").bind(signature(True))


def test_a_model_without_its_image_processor_gets_no_pictures(tmp_path: Path) -> None:
    pictures(tmp_path)
    with pytest.raises(InputError, match=r"has no image processor \(preprocessor_config\.json\)"):
        Images(str(tmp_path)).bind(signature(False))
    for given in (Images(str(tmp_path), scale="unit"), Images(str(tmp_path))):
        takes = signature(False if given.scale else None)
        (sample,) = given.bind(takes).read(0, 1)
        assert not isinstance(sample.data, str)
        assert sample.data["pixel_values"].shape == (3, 8, 8)
