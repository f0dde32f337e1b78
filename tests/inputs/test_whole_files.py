"""Whole files, a sample each."""

from pathlib import Path

import pytest

from extractkit.errors import InputError, JobError
from extractkit.inputs import Inputs, InputSpec, Signature
from extractkit.inputs.images import Images
from extractkit.inputs.whole_files import Files
from extractkit.testing.inputs import SourceContract, read_all

CONTENTS = {
    "a.bin": b"\x00\xff\x00\x00",
    "cat/1.png": b"\x89PNG\r\n\x00",
    "cat/deep/2": b"",
    "dog/é.wav": "text é\x00".encode(),
}
BYTES = Signature("m", (InputSpec("raw", "string", (), ()),), takes_text=True)
ROW = Signature("m", (InputSpec("raw", "string", (1,), (None,)),), takes_text=True)
IDS = Signature("bert", (InputSpec("ids", "int32", (None,), ("token",)),), takes_text=True)
NUMBERS = Signature("m", (InputSpec("x", "float32", (2,), (None,)),))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tree(tmp_path / "in")


def tree(folder: Path) -> Path:
    for name, content in {**CONTENTS, ".hidden": b"x", "cat/.hidden": b"x"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def refusal(inputs: Inputs, signature: Signature = BYTES) -> str:
    with pytest.raises(InputError) as caught:
        read_all(inputs, signature)
    return str(caught.value)


class TestFiles(SourceContract):
    def inputs(self, folder: Path) -> Inputs:
        return Files(str(tree(folder)))

    def signature(self) -> Signature:
        return BYTES


class TestTexts(SourceContract):
    def inputs(self, folder: Path) -> Inputs:
        for name in ("a", "b"):
            (folder / name).write_text(f"{name}\n\ntwo paragraphs é\n")
        return Files(f"{folder}/*")

    def signature(self) -> Signature:
        return IDS


@pytest.mark.parametrize("signature", [BYTES, ROW], ids=["scalar", "row"])
def test_every_byte_of_every_file_is_there(folder: Path, signature: Signature) -> None:
    samples = read_all(Files("in"), signature)
    found = {}
    for sample in samples:
        assert not isinstance(sample.data, str)
        value = sample.data["raw"]
        assert value.shape == signature.specs[0].shape
        found[sample.id] = value.item()
    assert found == CONTENTS
    assert [sample.extra for sample in samples[:2]] == [
        {"file": "in/a.bin", "bytes": 4},
        {"file": "in/cat/1.png", "label": "cat", "bytes": 7},
    ]


def test_names_and_globs_give_the_files_in_order(folder: Path) -> None:
    found = read_all(Files(["in/dog/*", "in/a.bin"]), BYTES)
    assert [sample.id for sample in found] == ["é.wav", "a.bin"]
    assert [sample.id for sample in read_all(Files("in", limit=2), BYTES)] == ["a.bin", "cat/1.png"]


def test_a_tokenizer_is_given_the_text(folder: Path) -> None:
    (sample,) = read_all(Files("in/dog"), IDS)
    assert sample.data == "text é\x00"


def test_content_and_name_are_part_of_the_digest(folder: Path) -> None:
    before = Files("in").bind(BYTES).digest
    (folder / "a.bin").write_bytes(CONTENTS["a.bin"][:-1])
    shorter = Files("in").bind(BYTES).digest
    (folder / "a.bin").write_bytes(CONTENTS["a.bin"])
    assert Files("in").bind(BYTES).digest == before != shorter
    (folder / "a.bin").rename(folder / "b.bin")
    assert Files("in").bind(BYTES).digest != before


def test_a_file_that_changes_under_a_job_is_noticed(folder: Path) -> None:
    source = Files("in").bind(BYTES)
    (folder / "a.bin").write_bytes(b"other")
    with pytest.raises(JobError, match=r"a.bin changed while the job ran"):
        source.read(0, 1)


class TestRefused:
    def test_no_path_and_no_files(self, folder: Path) -> None:
        assert refusal(Files(None)) == (
            "inputs.path is missing. Give a folder of files: inputs.path=DIR"
        )
        Path("empty").mkdir()
        assert refusal(Files("empty")).startswith("inputs.path='empty' holds no file. ")
        assert "no 'inn' in" in refusal(Files("inn"))

    def test_a_model_that_takes_no_string(self, folder: Path) -> None:
        assert refusal(Files("in"), NUMBERS) == (
            "inputs=files gives the bytes of a file, and model 'm' takes x: float32 (samples, 2). "
            "Decoded pictures: inputs=images; numbers: inputs=arrays"
        )

    def test_a_file_that_is_no_text_for_a_tokenizer(self, folder: Path) -> None:
        reported = refusal(Files("in/a.bin"), IDS)
        assert reported.startswith("inputs.path='in/a.bin' is not UTF-8, and model 'bert' has a")
        source = Files("in").bind(IDS)  # the others are good
        with pytest.raises(InputError, match=r"in/a.bin' is not UTF-8"):
            source.read(0, 1)

    def test_a_file_that_cannot_be_read(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(path: Path) -> bytes:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(Path, "read_bytes", broken)
        assert refusal(Files("in")) == "inputs.path='in/a.bin' cannot be read: Input/output error"

    def test_pictures_are_not_decoded_for_a_string(self, folder: Path) -> None:
        for signature in (BYTES, ROW):
            assert refusal(Images("in"), signature) == (
                "inputs=images decodes pictures, and input 'raw' of model 'm' is a string: it "
                "takes a picture's file as it is. Use inputs=files inputs.path=in"
            )
