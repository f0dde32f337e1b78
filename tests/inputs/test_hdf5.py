"""Numbers and texts from an HDF5 file."""

import gc
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from extractkit.core.values import Array
from extractkit.errors import InputError, JobError
from extractkit.inputs import Inputs, InputSpec, Signature
from extractkit.inputs.columns import ColumnSource
from extractkit.inputs.hdf5 import Hdf5
from extractkit.inputs.in_memory import LiveArrays
from extractkit.testing.inputs import SourceContract, read_all

ONE = Signature("m", (InputSpec("x", "float32", (10,), (None,)),))
SCALAR = Signature("m", (InputSpec("x", "float32", (), ()),))
TEXTS = Signature("m", (InputSpec("x", "string", (), ()),), takes_text=True)
IDS = InputSpec("ids", "int32", (None,), ("token",))
MASK = InputSpec("mask", "bool", (None,), ("token",))
TWO = Signature("bert", (IDS, MASK))

VALUES = np.random.default_rng(0).standard_normal((5, 10))


def whole(source: ColumnSource, name: str = "x") -> Array:
    return np.stack([sample.data[name] for sample in source.read(0, len(source))])  # type: ignore[index, misc]


def refusal(signature: Signature, path: object = "x.h5", **arguments: object) -> str:
    with pytest.raises(InputError) as caught:
        read_all(Hdf5(path, **arguments), signature)  # type: ignore[arg-type]
    return str(caught.value)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> h5py.File:
    """An empty file x.h5 in the working directory, so that messages hold short paths."""
    monkeypatch.chdir(tmp_path)
    with h5py.File("x.h5", "w") as opened:
        yield opened


class TestHdf5(SourceContract):
    def inputs(self, folder: Path) -> Inputs:
        ids = np.arange(12).reshape(3, 4)
        if not (folder / "x.h5").exists():
            with h5py.File(folder / "x.h5", "w") as file:
                file["train/ids"] = ids
                file.create_dataset("mask", data=ids > 3, chunks=(2, 2), compression="gzip")
        return Hdf5(str(folder / "x.h5"), columns={"ids": "/train/ids", "mask": "mask"})

    def signature(self) -> Signature:
        return TWO


class TestReading:
    def test_datasets_have_the_names_of_the_inputs(self, file: h5py.File) -> None:
        file["x"], file["y"] = VALUES, VALUES
        file.close()
        source = Hdf5("x.h5").bind(ONE)
        gc.collect()
        np.testing.assert_array_equal(whole(source), VALUES.astype("float32"))
        assert source.digest == LiveArrays(VALUES).bind(ONE).digest
        sample = source.read(2, 3)[0]
        assert (sample.index, sample.id, sample.source) == (2, "2", "x.h5")

    def test_the_only_dataset_will_do_for_the_only_input(self, file: h5py.File) -> None:
        file["some/values"] = VALUES
        file.close()
        np.testing.assert_array_equal(whole(Hdf5("x.h5").bind(ONE)), VALUES.astype("float32"))

    def test_the_file_is_closed_with_its_source(self, file: h5py.File) -> None:
        file["x"] = VALUES
        file.close()
        source = Hdf5("x.h5").bind(ONE)
        source.read(0, 1)
        del source
        gc.collect()
        with h5py.File("x.h5", "a") as again:  # refused while it is open elsewhere
            assert "x" in again

    def test_the_limit_takes_the_first_samples(self, file: h5py.File) -> None:
        file["x"] = VALUES
        file.close()
        assert len(Hdf5("x.h5", limit=2).bind(ONE)) == 2

    @pytest.mark.parametrize("dtype", [h5py.string_dtype(), "S4"], ids=["any length", "fixed"])
    def test_texts_are_objects(self, file: h5py.File, dtype: object) -> None:
        texts = [text.encode() for text in ("a", "bé", "")]
        file.create_dataset("x", data=texts, dtype=dtype)
        file.close()
        source = Hdf5("x.h5").bind(TEXTS)
        found = [sample.data["x"] for sample in source.read(0, 3)]  # type: ignore[index]
        assert [(value.dtype, value.shape, value.item()) for value in found] == [
            (np.dtype(object), (), text) for text in texts
        ]
        live = LiveArrays(np.array(["a", "bé", ""])).bind(TEXTS)
        assert source.digest == live.digest

    def test_a_file_that_changes_fails_the_job(self, file: h5py.File) -> None:
        file["x"] = VALUES
        file.close()
        source = Hdf5("x.h5").bind(ONE)
        os.utime("x.h5", ns=(0, 0))
        with pytest.raises(JobError, match=r"x\.h5 changed while the job ran"):
            source.read(0, 1)


class TestRefused:
    def test_no_path(self) -> None:
        assert refusal(ONE, None) == (
            "inputs.path is missing. Model 'm' takes x: float32 (samples, 10). "
            "Give an HDF5 file with a dataset for each: inputs.path=FILE.h5"
        )

    def test_another_format(self, file: h5py.File) -> None:
        Path("y.h5").write_bytes(b"hello")
        assert refusal(ONE, "y.h5").startswith("inputs.path='y.h5' cannot be read as HDF5: ")

    def test_a_dataset_that_is_not_there(self, file: h5py.File) -> None:
        file["train/a"], file["b"] = VALUES, VALUES
        file.close()
        assert refusal(ONE) == (
            "inputs.path='x.h5' has no column 'x' for input 'x' of model 'm'. "
            "Available: 'b', 'train/a'. Name it: 'inputs.columns={x: COLUMN}'"
        )
        assert refusal(ONE, columns={"x": "train/b"}) == (
            "inputs.path='x.h5' has no dataset 'train/b'. Available: 'b', 'train/a'."
        )
        assert refusal(ONE, columns={"x": "train"}) == (
            "inputs.path='x.h5', dataset 'train' is a group. Available: 'b', 'train/a'."
        )
        assert refusal(ONE, columns={"y": "b"}).startswith(
            "inputs.columns does not match model 'm': 'x' is missing; 'y' is not an input of it"
        )
        assert refusal(ONE, columns={"b": "x"}) == (
            "inputs.columns maps inputs to columns, and not columns to inputs. Write: "
            "'inputs.columns={x: b}'"
        )

    @pytest.mark.parametrize(
        ("link", "target"),
        [
            (h5py.SoftLink("/b"), "'/b'"),
            (h5py.ExternalLink("secret.h5", "/b"), "'/b' in 'secret.h5'"),
        ],
        ids=["soft", "external"],
    )
    def test_links_are_not_followed(self, file: h5py.File, link: object, target: str) -> None:
        with h5py.File("secret.h5", "w") as secret:
            secret["b"] = VALUES
        file["b"], file["x"] = VALUES, link
        file.close()
        assert refusal(ONE, columns={"x": "x"}) == (
            f"inputs.path='x.h5', dataset 'x': 'x' is a link to {target}, and links are not "
            f"followed. Name the dataset itself"
        )

    def test_a_link_among_the_groups_is_not_followed(self, file: h5py.File) -> None:
        with h5py.File("secret.h5", "w") as secret:
            secret["group/b"] = VALUES
        file["link"] = h5py.ExternalLink("secret.h5", "/group")
        file.close()
        assert "'link' is a link to '/group' in 'secret.h5'" in refusal(
            ONE, columns={"x": "link/b"}
        )

    def test_values_in_other_files_are_not_read(self, file: h5py.File) -> None:
        Path("secret.bin").write_bytes(VALUES.tobytes())
        file.create_dataset("x", VALUES.shape, VALUES.dtype, external=[("secret.bin", 0, 400)])
        layout = h5py.VirtualLayout(VALUES.shape, VALUES.dtype)
        layout[:] = h5py.VirtualSource("secret.h5", "b", VALUES.shape)
        file.create_virtual_dataset("y", layout)
        file.close()
        for name in "xy":
            assert refusal(ONE, columns={"x": name}) == (
                f"inputs.path='x.h5', dataset '{name}' keeps its values in another file, which "
                f"is not read. Store them in it: file.create_dataset(NAME, data=values)"
            )

    @pytest.mark.parametrize("content", ["rows of different lengths", "records", "nothing"])
    def test_what_is_no_array(self, file: h5py.File, content: str) -> None:
        if content == "nothing":
            file["x"] = h5py.Empty("f")
        elif content == "records":
            file["x"] = np.zeros(3, [("a", "f4")])
        else:
            file.create_dataset("x", (3,), h5py.vlen_dtype("i4"))
        file.close()
        assert refusal(SCALAR) == (
            f"inputs.path='x.h5', dataset 'x' holds {content}; numbers, texts and true or false "
            f"can be read. Store an array of one shape"
        )

    def test_texts_for_numbers_and_numbers_for_texts(self, file: h5py.File) -> None:
        file["x"] = ["a", "b"]
        file["y"] = np.zeros(2)
        file.close()
        reported = refusal(SCALAR)
        assert "'x' holds Python objects (bytes), model 'm' takes" in reported
        assert refusal(TEXTS, columns={"x": "y"}) == (
            "inputs.path='x.h5': 'x' is float64, model 'm' takes string. "
            "This is not converted automatically. If you mean it, in NumPy: array.astype('str')"
        )

    def test_damaged_chunks_are_one_message(self, file: h5py.File) -> None:
        file.create_dataset("x", data=VALUES, chunks=(5, 10), compression="gzip")
        at, size = file["x"].id.get_chunk_info(0).byte_offset, file["x"].id.get_chunk_info(0).size
        file.close()
        with Path("x.h5").open("r+b") as raw:
            raw.seek(at)
            raw.write(bytes(size))
        assert refusal(ONE).startswith("inputs.path='x.h5', dataset 'x' cannot be read: ")

    def test_a_file_cut_short_anywhere_is_one_message(self, file: h5py.File) -> None:
        file["x"] = VALUES
        file.close()
        content = Path("x.h5").read_bytes()
        for size in range(0, len(content), 97):
            Path("x.h5").write_bytes(content[:size])
            assert refusal(ONE).startswith("inputs.path='x.h5' cannot be read as HDF5: ")

    def test_flipped_bits_are_a_message_or_numbers(self, file: h5py.File) -> None:
        file.create_dataset("x", data=VALUES, chunks=(2, 10), compression="gzip")
        file.close()
        content = np.frombuffer(Path("x.h5").read_bytes(), np.uint8)
        signature = Signature("m", (InputSpec("x", "float64", (10,), (None,)),))
        for seed in range(150):
            random = np.random.default_rng(seed)
            broken = content.copy()
            broken[random.integers(0, min(len(broken), 2048), 2)] ^= np.uint8(1 << seed % 8)
            Path("x.h5").write_bytes(broken.tobytes())
            try:
                whole(Hdf5("x.h5").bind(signature))
            except InputError as error:
                assert "inputs.path='x.h5'" in str(error)  # noqa: PT017
