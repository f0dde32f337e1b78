"""Numbers from .npy and .npz files."""

import os
import re
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from extractkit.core.values import Array
from extractkit.errors import InputError, JobError
from extractkit.inputs import Inputs, InputSpec, Signature
from extractkit.inputs.arrays import Arrays
from extractkit.inputs.columns import ColumnSource
from extractkit.inputs.in_memory import LiveArrays
from extractkit.testing.inputs import SourceContract, read_all

X = InputSpec("x", "float32", (10,), (None,))
ONE = Signature("m", (X,))
IDS = InputSpec("ids", "int32", (None,), ("token",))
MASK = InputSpec("mask", "bool", (None,), ("token",))
TWO = Signature("bert", (IDS, MASK), takes_text=True, longest={"token": 8})


def whole(source: ColumnSource, name: str = "x") -> Array:
    return np.stack([sample.data[name] for sample in source.read(0, len(source))])  # type: ignore[index, misc]


def refusal(signature: Signature, path: object, **arguments: object) -> str:
    with pytest.raises(InputError) as caught:
        read_all(Arrays(path, **arguments), signature)  # type: ignore[arg-type]
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, so that messages hold short paths."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestNpy(SourceContract):
    def inputs(self, folder: Path) -> Inputs:
        np.save(folder / "x.npy", np.arange(50.0).reshape(5, 10))
        return Arrays(str(folder / "x.npy"))

    def signature(self) -> Signature:
        return ONE


class TestNpz(SourceContract):
    def inputs(self, folder: Path) -> Inputs:
        ids = np.arange(12).reshape(3, 4)
        np.savez(folder / "x.npz", mask=ids > 3, ids=ids)
        return Arrays(str(folder / "x.npz"))

    def signature(self) -> Signature:
        return TWO


class TestCompressedNpz(SourceContract):
    def inputs(self, folder: Path) -> Inputs:
        ids = np.arange(12).reshape(3, 4)
        np.savez_compressed(folder / "x.npz", mask=ids > 3, ids=ids)
        return Arrays(str(folder / "x.npz"))

    def signature(self) -> Signature:
        return TWO


class TestAFileForEachInput(SourceContract):
    def inputs(self, folder: Path) -> Inputs:
        ids = np.arange(12).reshape(3, 4)
        np.save(folder / "i.npy", ids)
        np.save(folder / "m.npy", ids > 3)
        return Arrays({"mask": str(folder / "m.npy"), "ids": str(folder / "i.npy")})

    def signature(self) -> Signature:
        return TWO


class TestScalars(SourceContract):
    def inputs(self, folder: Path) -> Inputs:
        np.save(folder / "x.npy", np.arange(3))
        return Arrays(str(folder / "x.npy"))

    def signature(self) -> Signature:
        return Signature("m", (InputSpec("x", "float32", (), ()),))


class TestReading:
    def test_samples_are_rows_in_the_models_dtype(self, folder: Path) -> None:
        values = np.linspace(0, 1, 30).reshape(3, 10)
        np.save("x.npy", values)
        source = Arrays("x.npy").bind(ONE)
        np.testing.assert_array_equal(whole(source), values.astype("float32"))
        sample = source.read(2, 3)[0]
        assert (sample.index, sample.id, sample.source) == (2, "2", "x.npy")

    @settings(max_examples=40, deadline=None)
    @given(
        values=arrays_of.arrays(
            st.sampled_from(["<f4", ">f4", "<i2", ">i8", "?"]),
            arrays_of.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=5),
            elements={"min_value": -100, "max_value": 100},
        ),
        order=st.sampled_from("CF"),
    )
    def test_every_file_form_gives_the_array_and_one_digest(
        self, tmp_path_factory: pytest.TempPathFactory, values: Array, order: str
    ) -> None:
        folder = tmp_path_factory.mktemp("arrays")
        values = np.asarray(values, order=order)  # type: ignore[call-overload]
        spec = InputSpec("x", "float64", (None, None), ("a", "b"))
        np.save(folder / "x.npy", values)
        np.savez(folder / "stored.npz", x=values)
        np.savez_compressed(folder / "packed.npz", x=values)
        forms: list[Inputs] = [
            *(Arrays(folder / name) for name in ("x.npy", "stored.npz", "packed.npz")),
            Arrays({"x": folder / "x.npy"}),
            LiveArrays(values),
        ]
        sources = [form.bind(Signature("m", (spec,))) for form in forms]
        assert len({source.digest for source in sources}) == 1
        for source in sources:
            assert isinstance(source, ColumnSource)
            np.testing.assert_array_equal(whole(source), values.astype("float64"))

    def test_the_file_is_recognized_by_its_content_not_by_its_name(self, folder: Path) -> None:
        with Path("x.bin").open("wb") as file:
            np.savez(file, x=np.zeros((2, 10)))
        assert len(Arrays("x.bin").bind(ONE)) == 2

    def test_what_is_on_disk_stays_there(self, folder: Path) -> None:
        np.save("x.npy", np.zeros((400_000, 10), "float32"))
        np.savez("x.npz", x=np.zeros((400_000, 10), "float32"))
        for name in ("x.npy", "x.npz"):
            tracemalloc.start()
            try:
                source = Arrays(name).bind(ONE)
                held, _ = tracemalloc.get_traced_memory()
                source.read(100, 110)
            finally:
                tracemalloc.stop()
            assert held < 1_000_000
            assert source.notes == ()

    def test_a_compressed_file_is_noted(self, folder: Path) -> None:
        np.savez_compressed("x.npz", x=np.zeros((2, 10)))
        note = "x.npz is compressed and was read into memory; np.savez leaves it on disk"
        assert Arrays("x.npz").bind(ONE).notes == (note,)

    def test_a_sample_without_elements_is_possible(self, folder: Path) -> None:
        np.save("x.npy", np.zeros((3, 0), "int32"))
        signature = Signature("m", (InputSpec("x", "int32", (None,), ("n",)),))
        assert whole(Arrays("x.npy").bind(signature)).shape == (3, 0)

    def test_the_limit_takes_the_first_samples(self, folder: Path) -> None:
        values = np.arange(50.0).reshape(5, 10)
        np.save("x.npy", values)
        np.testing.assert_array_equal(whole(Arrays("x.npy", limit=2).bind(ONE)), values[:2])
        assert len(Arrays("x.npy", limit=9).bind(ONE)) == 5

    def test_a_limit_below_one_is_refused(self) -> None:
        text = "inputs.limit=0 is not a whole number of 1 or more"
        assert refusal(ONE, "x.npy", limit=0) == text

    @pytest.mark.parametrize("change", ["value", "limit", "dtype"])
    def test_the_digest_follows_what_is_read(self, folder: Path, change: str) -> None:
        values = np.zeros((5, 10))
        np.save("x.npy", values)
        before = Arrays("x.npy").bind(ONE).digest
        assert re.fullmatch("[0-9a-f]{64}", before)
        np.save("x.npy", values + (change == "value"))
        signature = Signature("m", (InputSpec("x", "float64", (10,), (None,)),))
        limit = 4 if change == "limit" else None
        after = Arrays("x.npy", limit).bind(signature if change == "dtype" else ONE)
        assert after.digest != before

    @pytest.mark.parametrize(
        ("given", "taken"),
        [("float64", "float16"), ("int64", "int8"), ("int64", "uint8"), ("uint8", "float32"),
         ("int64", "float16"), ("bool", "int32"), ("bool", "float32")],
    )  # fmt: skip
    def test_dtypes_that_keep_their_meaning_are_cast(
        self, folder: Path, given: str, taken: str
    ) -> None:
        np.save("x.npy", np.array([0, 1, 1], given))
        signature = Signature("m", (InputSpec("x", taken, (), ()),))
        found = whole(Arrays("x.npy").bind(signature))
        np.testing.assert_array_equal(found, np.array([0, 1, 1], taken))
        assert found.dtype == taken


class TestFiles:
    def test_no_path_names_what_the_model_takes(self) -> None:
        assert refusal(TWO, None) == (
            "inputs.path is missing. Model 'bert' takes ids: int32 (samples, token), "
            "mask: bool (samples, token). Give an array for each: inputs.path=FILE.npz"
        )

    def test_a_missing_file_names_its_neighbours(self, folder: Path) -> None:
        Path("x.npz").touch()
        assert refusal(ONE, "y.npz") == (
            "inputs.path='y.npz' does not exist: no 'y.npz' in '.'. Available: 'x.npz'."
        )
        assert "inputs.path.x='y.npy' does not exist" in refusal(ONE, {"x": "y.npy"})

    @pytest.mark.parametrize("content", [b"", b"1,2,3\n", b"\x93NUM"])
    def test_another_format_is_refused(self, folder: Path, content: bytes) -> None:
        Path("x.npy").write_bytes(content)
        assert "inputs.path='x.npy' is neither .npy nor .npz" in refusal(ONE, "x.npy")
        assert "np.save('x.npy', array)" in refusal(ONE, "x.npy")

    def test_an_array_cut_short_is_refused(self, folder: Path) -> None:
        np.save("x.npy", np.zeros((5, 10)))
        content = Path("x.npy").read_bytes()
        Path("x.npy").write_bytes(content[:-1])
        assert refusal(ONE, "x.npy") == (
            "inputs.path='x.npy' is cut short: 527 bytes of 528. Copy or write it again"
        )
        Path("x.npy").write_bytes(content[:20])
        assert "inputs.path='x.npy' cannot be read as .npy" in refusal(ONE, "x.npy")

    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    def test_a_damaged_archive_is_refused(self, folder: Path, save: object) -> None:
        save("x.npz", x=np.random.default_rng(0).random((5, 10)))  # type: ignore[operator]
        content = Path("x.npz").read_bytes()
        for damaged in (content[:-30], content[:60], content[200:]):
            Path("x.npz").write_bytes(b"PK" + damaged[2:])
            assert "inputs.path='x.npz' cannot be read as .npz" in refusal(ONE, "x.npz")

    def test_a_member_that_is_no_array_is_refused(self, folder: Path) -> None:
        with zipfile.ZipFile("x.npz", "w") as archive:
            archive.writestr("x.npy", "1,2,3")
        assert "is a zip archive, but not an .npz: 'x.npy' in it is not an array." in refusal(
            ONE, "x.npz"
        )

    def test_python_objects_are_not_unpickled(self, folder: Path) -> None:
        values = np.array([1, "x"], object)
        np.save("x.npy", values)
        np.savez("x.npz", y=np.ones(2), **{"x:0": values})
        reported = refusal(ONE, "x.npy")
        assert reported.startswith("inputs.path='x.npy' holds Python objects")
        assert reported.endswith("and save it: np.save(path, array)")
        reported = refusal(ONE, "x.npz")
        assert reported.startswith("inputs.path='x.npz': 'x:0' holds Python objects")
        assert reported.endswith("and save it: np.savez(path, **{'x:0': array, …})")

    def test_one_array_for_two_inputs_is_refused(self, folder: Path) -> None:
        np.save("x.npy", np.zeros((5, 10)))
        assert refusal(TWO, "x.npy") == (
            "inputs.path='x.npy' holds one array, model 'bert' takes ids: int32 (samples, token), "
            "mask: bool (samples, token). Give an .npz with an array for each, or "
            "a file for each: 'inputs.path={ids: FILE.npy, mask: FILE.npy}'"
        )

    def test_an_archive_within_a_mapping_is_refused(self, folder: Path) -> None:
        np.savez("x.npz", x=np.zeros((5, 10)))
        assert refusal(ONE, {"x": "x.npz"}) == (
            "inputs.path.x='x.npz' is an .npz, which has an array for each input. Give one .npy, "
            "or the .npz for all inputs: inputs.path=x.npz"
        )

    @pytest.mark.parametrize("name", ["x.npy", "x.npz"])
    def test_a_file_that_changes_fails_the_job(self, folder: Path, name: str) -> None:
        np.save("x.npy", np.zeros((5, 10)))
        np.savez("x.npz", x=np.zeros((5, 10)))
        source = Arrays(name).bind(ONE)
        os.utime(name, ns=(0, 0))
        with pytest.raises(JobError, match=f"{name} changed while the job ran"):
            source.read(0, 1)


class TestFit:
    def test_wrong_names_are_listed_with_the_models_own(self, folder: Path) -> None:
        np.savez("x.npz", idz=np.zeros((2, 3), int), mask=np.zeros((2, 3), bool))
        assert refusal(TWO, "x.npz") == (
            "inputs.path='x.npz' does not match model 'bert': 'ids' is missing; 'idz' is not an "
            "input of it (Available: 'ids', 'mask'). It takes ids: int32 (samples, token), "
            "mask: bool (samples, token)"
        )
        np.save("y.npy", np.zeros((2, 10)))
        named = {"y": "y.npy"}
        assert "inputs.path does not match model 'm': 'x' is missing" in refusal(ONE, named)

    def test_only_inputs_that_the_model_has_values_for_are_advised_to_be_left_out(
        self, folder: Path
    ) -> None:
        signature = replace(TWO, optional=frozenset({"mask"}))
        np.savez("ids.npz", ids=np.zeros((2, 3), int))
        np.savez("mask.npz", mask=np.zeros((2, 3), bool))
        advice = ". The model has values of its own for the others: 'model.input_axes=[ids]'"
        assert refusal(signature, "ids.npz").endswith(advice)
        assert "model.input_axes" not in refusal(signature, "mask.npz")

    @pytest.mark.parametrize("shape", [(100, 12), (100,), (), (100, 10, 1)])
    def test_a_wrong_shape_is_shown_beside_the_models(
        self, folder: Path, shape: tuple[int, ...]
    ) -> None:
        np.save("x.npy", np.zeros(shape))
        assert refusal(ONE, "x.npy") == (
            f"inputs.path='x.npy': 'x' has shape {shape}; model 'm' takes it as (samples, 10)"
        )

    def test_different_numbers_of_samples_are_refused(self, folder: Path) -> None:
        np.savez("x.npz", ids=np.zeros((2, 3), int), mask=np.zeros((1, 3), bool))
        assert refusal(TWO, "x.npz") == (
            "inputs.path='x.npz': the inputs differ in their number of samples: "
            "'ids' has 2, 'mask' has 1"
        )

    def test_no_samples_are_refused(self, folder: Path) -> None:
        np.save("x.npy", np.zeros((0, 10)))
        assert refusal(ONE, "x.npy") == "inputs.path='x.npy' holds no sample. Give at least one"

    def test_a_free_axis_has_one_length(self, folder: Path) -> None:
        np.savez("x.npz", ids=np.zeros((2, 3), int), mask=np.zeros((2, 4), bool))
        assert refusal(TWO, "x.npz") == (
            "inputs.path='x.npz': axis 'token' has length 3 in 'ids' and 4 in 'mask'; "
            "model 'bert' needs one length in both"
        )

    def test_a_free_axis_beyond_the_longest_is_refused(self, folder: Path) -> None:
        np.savez("x.npz", ids=np.zeros((2, 9), int), mask=np.zeros((2, 9), bool))
        assert refusal(TWO, "x.npz") == (
            "inputs.path='x.npz': axis 'token' of 'ids' has length 9; model 'bert' takes 8 at most"
        )

    @pytest.mark.parametrize(
        ("given", "taken"),
        [("float32", "int32"), ("int32", "bool"), ("float32", "bool"), ("complex64", "float32")],
    )  # fmt: skip
    def test_dtypes_that_would_lose_their_meaning_are_refused(
        self, folder: Path, given: str, taken: str
    ) -> None:
        values = np.zeros(3).astype(given)
        np.save("x.npy", values)
        signature = Signature("m", (InputSpec("x", taken, (), ()),))
        assert refusal(signature, "x.npy") == (
            f"inputs.path='x.npy': 'x' is {values.dtype.name}, model 'm' takes {taken}. "
            f"This is not converted automatically. If you mean it, in NumPy: "
            f"array.astype('{taken}')"
        )

    @pytest.mark.parametrize(
        ("number", "taken"),
        [(2**31, "int32"), (-1, "uint8"), (256, "uint8"), (-1e300, "float32"), (7e4, "float16")],
    )
    def test_numbers_that_would_wrap_around_or_become_infinite_are_refused(
        self, folder: Path, number: float, taken: str
    ) -> None:
        np.save("x.npy", np.array([0, number]))
        signature = Signature("m", (InputSpec("x", taken, (), ()),))
        assert refusal(signature, "x.npy") == (
            f"inputs.path='x.npy': 'x' holds {number}, which {taken}, the type that the model "
            f"takes, cannot hold"
        )
