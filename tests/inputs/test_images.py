"""Pictures from files or a folder."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from extractkit.core.values import Array
from extractkit.errors import InputError, JobError, MissingExtraError
from extractkit.inputs import Inputs, InputSpec, Sample, Signature
from extractkit.inputs.images import Images
from extractkit.testing.inputs import SourceContract, read_all


def takes(*shape: int | None, dtype: str = "float32") -> Signature:
    dims = tuple(f"axis{i}" if size is None else None for i, size in enumerate(shape))
    return Signature("m", (InputSpec("x", dtype, shape, dims),))


RGB = takes(6, 8, 3)
ANY = takes(None, None, 3)


def noise(height: int, width: int, channels: int = 3) -> Array:
    values = np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)
    return values[..., 0] if channels == 1 else values


def save(path: str, values: Array, **settings: object) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **settings)  # type: ignore[arg-type]


def first(signature: Signature, path: object, **settings: object) -> Array:
    sample = Images(path, **settings).bind(signature).read(0, 1)[0]  # type: ignore[arg-type]
    return sample.data["x"]  # type: ignore[index, return-value]


def refusal(signature: Signature, path: object, **settings: object) -> str:
    with pytest.raises(InputError) as caught:
        read_all(Images(path, **settings), signature)  # type: ignore[arg-type]
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, so that messages hold short paths."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestFolder(SourceContract):
    def inputs(self, folder: Path) -> Inputs:
        for name, size in (("cat/a.png", (6, 8)), ("dog/a.bmp", (12, 4)), ("b.gif", (1, 1))):
            save(str(folder / "in" / name), noise(*size))
        return Images(str(folder / "in"))

    def signature(self) -> Signature:
        return RGB


class TestFilesOfAnySize(SourceContract):
    def inputs(self, folder: Path) -> Inputs:
        save(str(folder / "a.png"), noise(6, 8))
        save(str(folder / "b.jpg"), noise(5, 4))
        return Images([str(folder / "a.png"), str(folder / "b.jpg")])

    def signature(self) -> Signature:
        return ANY


def listed(samples: list[Sample]) -> list[tuple[str, object]]:
    return [(sample.id, sample.extra.get("label")) for sample in samples]


class TestFinding:
    def test_a_folder_gives_paths_as_ids_and_its_subfolders_as_labels(self, folder: Path) -> None:
        for name in ("in/dog/x.png", "in/cat/deep/y.PNG", "in/top.png", "in/.hidden/z.png"):
            save(name, noise(6, 8))
        Path("in/notes.txt").touch()
        source = Images("in").bind(RGB)
        assert listed(list(source.read(0, 3))) == [
            ("cat/deep/y.PNG", "cat"),
            ("dog/x.png", "dog"),
            ("top.png", None),
        ]
        assert source.notes == ("1 other file is in 'in', no pictures by their names",)

    def test_what_identifies_a_picture_is_reported(self, folder: Path) -> None:
        save("in/dog/x.png", noise(3, 5))
        sample = Images("in").bind(RGB).read(0, 1)[0]
        assert sample.extra == {
            "file": "in/dog/x.png", "label": "dog", "width": 5, "height": 3
        }  # fmt: skip
        assert sample.source == "x.png"

    def test_a_glob_has_the_files_names_as_ids_and_no_labels(self, folder: Path) -> None:
        for name in ("a/x.png", "b/x.png", "b/y.png"):
            save(name, noise(6, 8))
        samples = Images("*/*.png", limit=2).bind(RGB).read(0, 2)
        assert listed(list(samples)) == [("a/x.png", None), ("b/x.png", None)]

    def test_the_limit_looks_at_no_more_files(self, folder: Path) -> None:
        save("in/a.png", noise(6, 8))
        Path("in/b.png").write_bytes(b"broken")
        assert len(Images("in", limit=1).bind(RGB)) == 1

    def test_a_folder_without_pictures_names_what_it_holds(self, folder: Path) -> None:
        Path("in").mkdir()
        Path("in/notes.txt").touch()
        assert refusal(RGB, "in") == (
            "inputs.path='in' holds no file that ends in .png, .jpg, .jpeg, .bmp, .gif, .webp, "
            ".tif, .tiff. Available: 'notes.txt'."
        )

    def test_no_path_is_asked_for(self) -> None:
        assert refusal(RGB, None) == (
            "inputs.path is missing. Give a folder of pictures: inputs.path=DIR"
        )


class TestValues:
    def test_a_picture_of_the_models_size_is_taken_as_it_is(self, folder: Path) -> None:
        save("a.png", noise(6, 8))
        np.testing.assert_array_equal(first(RGB, "a.png"), noise(6, 8).astype("float32"))
        np.testing.assert_array_equal(
            first(takes(6, 8, 3, dtype="uint8"), "a.png"), noise(6, 8)
        )  # fmt: skip

    def test_channels_come_first_where_the_model_takes_them_so(self, folder: Path) -> None:
        save("a.png", noise(6, 8))
        found = first(takes(3, 6, 8), "a.png")
        np.testing.assert_array_equal(found, noise(6, 8).transpose(2, 0, 1))

    @pytest.mark.parametrize("shape", [(6, 8), (6, 8, 1), (1, 6, 8)])
    def test_gray_is_what_the_eye_sees_of_red_green_and_blue(
        self, folder: Path, shape: tuple[int, ...]
    ) -> None:
        save("a.png", noise(6, 8))
        expected = noise(6, 8) @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
        found = first(takes(*shape), "a.png")
        assert found.shape == shape
        np.testing.assert_allclose(found.reshape(6, 8), expected, atol=1)

    def test_a_gray_picture_fills_three_channels(self, folder: Path) -> None:
        save("a.png", noise(6, 8, channels=1))
        found = first(RGB, "a.png")
        np.testing.assert_array_equal(found, np.stack([noise(6, 8, channels=1)] * 3, -1))

    def test_the_mode_decides_where_the_model_does_not(self, folder: Path) -> None:
        save("a.png", noise(6, 8))
        assert first(takes(6, 8, None), "a.png").shape == (6, 8, 3)
        assert first(takes(6, 8, None), "a.png", mode="gray").shape == (6, 8, 1)

    def test_a_free_size_is_the_pictures_own_unless_one_is_given(self, folder: Path) -> None:
        save("a.png", noise(6, 8))
        assert first(ANY, "a.png").shape == (6, 8, 3)
        assert first(ANY, "a.png", size=[2, 5]).shape == (2, 5, 3)
        assert first(takes(None, 4, 3), "a.png").shape == (3, 4, 3)

    def test_halving_a_picture_to_the_nearest_takes_every_second_pixel(self, folder: Path) -> None:
        values = np.repeat(np.repeat(noise(6, 8), 2, 0), 2, 1)
        save("a.png", values)
        np.testing.assert_array_equal(first(RGB, "a.png", resize="nearest"), noise(6, 8))

    def test_resizing_is_close_to_tensorflows_own(self, folder: Path) -> None:
        tf = pytest.importorskip("tensorflow")
        values = noise(24, 32)
        save("a.png", values)
        for method in ("bilinear", "bicubic", "lanczos"):
            name = "lanczos3" if method == "lanczos" else method
            expected = tf.image.resize(values, (6, 8), name, antialias=True).numpy()
            found = first(RGB, "a.png", resize=method)
            np.testing.assert_allclose(found, expected.clip(0, 255), atol=1.5)

    def test_scales(self, folder: Path) -> None:
        values = np.zeros((6, 8, 3), np.uint8)
        values[0, 0] = (0, 51, 255)
        save("a.png", values)
        np.testing.assert_allclose(first(RGB, "a.png", scale="unit")[0, 0], [0, 0.2, 1])
        np.testing.assert_allclose(first(RGB, "a.png", scale="signed")[0, 0], [-1, -0.6, 1])

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_a_photograph_is_turned_upright(self, folder: Path, orientation: int) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        save("a.png", noise(6, 8), exif=exif)
        turned = np.asarray(ImageOps.exif_transpose(Image.open("a.png")))
        if orientation == 6:  # the camera was turned: rows are columns from the right
            np.testing.assert_array_equal(turned, np.rot90(noise(6, 8), -1))
        np.testing.assert_array_equal(first(ANY, "a.png"), turned)

    def test_transparency_is_left_out(self, folder: Path) -> None:
        save("a.png", np.concatenate([noise(6, 8), noise(6, 8, channels=3)[..., :1]], axis=2))
        np.testing.assert_array_equal(first(RGB, "a.png"), noise(6, 8))
        palette = Image.fromarray(noise(6, 8)).quantize(16)
        palette.save("p.png", transparency=bytes(range(16)))
        np.testing.assert_array_equal(first(RGB, "p.png"), np.asarray(palette.convert("RGB")))

    def test_of_several_frames_the_first_is_taken(self, folder: Path) -> None:
        frames = [Image.fromarray(np.full((6, 8, 3), n, np.uint8)) for n in (0, 255)]
        frames[0].save("a.gif", save_all=True, append_images=frames[1:])
        assert not first(RGB, "a.gif").any()


class TestRefused:
    @pytest.mark.parametrize("signature", [takes(10), takes(2, 2, 2, 3)])
    def test_a_model_that_takes_no_pictures(self, folder: Path, signature: Signature) -> None:
        save("a.png", noise(6, 8))
        message = refusal(signature, "a.png")
        assert message.startswith("input 'x' of model 'm' takes no picture (it takes x: ")
        assert message.endswith("Try inputs=arrays inputs.path=FILE.npz")

    def test_a_model_with_two_inputs(self) -> None:
        two = Signature("m", (*RGB.specs, InputSpec("y", "float32", (), ())))
        assert refusal(two, "a.png") == (
            "inputs=images gives one picture a sample, and model 'm' takes "
            "x: float32 (samples, 6, 8, 3), y: float32 (samples). "
            "Try inputs=arrays or inputs=dataset"
        )

    @pytest.mark.parametrize(
        ("signature", "settings", "message"),
        [
            (RGB, {"size": [3, 3]}, "inputs.size=[3, 3]: input 'x' of model 'm' takes height and "
             "width [6, 8] (x: float32 (samples, 6, 8, 3)). Leave inputs.size out"),
            (ANY, {"size": 3}, "inputs.size=3 is not a height and a width, as in "
             "inputs.size=[224,224]"),
            (RGB, {"mode": "gray"}, "inputs.mode=gray, and input 'x' of model 'm' takes 3 channels "
             "(x: float32 (samples, 6, 8, 3)). Pictures have 3 (rgb) or 1 (gray)"),
            (takes(6, 8, 4), {}, "input 'x' of model 'm' takes 4 channels (x: float32 (samples, 6, "
             "8, 4)). Pictures have 3 (rgb) or 1 (gray)"),
            (RGB, {"resize": "area"}, "inputs.resize='area' does not exist. Available: 'bicubic', "
             "'bilinear', 'lanczos', 'nearest'."),
            (RGB, {"scale": "tanh"}, "inputs.scale='tanh' does not exist. Available: 'signed', "
             "'unit'."),
            (takes(6, 8, 3, dtype="uint8"), {"scale": "unit"}, "inputs.scale=unit makes real "
             "numbers, and input 'x' of model 'm' takes uint8. Leave it out"),
            (takes(6, 8, 3, dtype="int8"), {}, "input 'x' of model 'm' takes int8, which cannot "
             "hold the values of a picture, 0 to 255"),
        ],
    )  # fmt: skip
    def test_settings_that_do_not_fit(
        self, signature: Signature, settings: dict[str, object], message: str
    ) -> None:
        assert refusal(signature, "a.png", **settings) == message

    def test_what_is_no_picture(self, folder: Path) -> None:
        Path("a.png").write_bytes(b"hello")
        assert refusal(RGB, "a.png") == (
            "inputs.path='a.png' is not a picture that can be decoded: its format is not known. "
            "Repair it, convert it to one of PNG, JPEG, BMP, GIF, WEBP, TIFF, or leave it out"
        )

    def test_a_picture_cut_short_is_found_when_it_is_read(self, folder: Path) -> None:
        save("a.png", noise(6, 8))
        save("b.png", noise(60, 80))
        content = Path("b.png").read_bytes()
        Path("b.png").write_bytes(content[:200])
        source = Images("*.png").bind(RGB)
        with pytest.raises(
            InputError, match=r"^inputs.path='b.png' is not a picture that can be dec"
        ):
            source.read(0, 2)

    def test_any_flipped_or_missing_bytes_are_a_message_or_a_picture(self, folder: Path) -> None:
        random = np.random.default_rng(1)
        for suffix in ("png", "jpg", "bmp", "gif", "webp", "tif"):
            save(f"a.{suffix}", noise(6, 8))
            content = np.frombuffer(Path(f"a.{suffix}").read_bytes(), np.uint8)
            for _ in range(40):
                broken = content[: random.integers(1, len(content) + 1)].copy()
                bit = np.uint8(1 << int(random.integers(0, 8)))
                broken[random.integers(0, len(broken), 3)] ^= bit
                Path(f"a.{suffix}").write_bytes(broken.tobytes())
                try:
                    assert first(RGB, f"a.{suffix}").shape == (6, 8, 3)
                except InputError as error:
                    assert f"inputs.path='a.{suffix}'" in str(error)  # noqa: PT017

    def test_more_than_eight_bits(self, folder: Path) -> None:
        save("a.png", np.arange(48, dtype=np.uint16).reshape(6, 8))
        assert refusal(RGB, "a.png") == (
            "inputs.path='a.png' has more than 8 bits a channel (Pillow's mode 'I;16'), which "
            "would be cut off. Convert it to 8 bits, or give arrays: inputs=arrays"
        )

    def test_a_picture_larger_than_the_model_takes(self, folder: Path) -> None:
        save("a.png", noise(6, 8))
        signature = Signature("m", ANY.specs, longest={"axis1": 7})
        assert refusal(signature, "a.png") == (
            "inputs.path='a.png', sample 'a.png': axis 'axis1' of 'x' has length 8; "
            "model 'm' takes 7 at most"
        )

    def test_without_pillow_the_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "PIL", None)
        monkeypatch.setitem(sys.modules, "PIL.Image", None)
        with pytest.raises(MissingExtraError) as caught:
            Images("a.png").bind(RGB)
        assert str(caught.value) == (
            "reading pictures needs PIL, which is not installed. "
            "Install it: python -m pip install 'extractkit[images]'"
        )

    def test_a_file_that_changes_fails_the_job(self, folder: Path) -> None:
        save("a.png", noise(6, 8))
        source = Images("a.png").bind(RGB)
        os.utime("a.png", ns=(0, 0))
        with pytest.raises(JobError, match=r"a\.png changed while the job ran"):
            source.read(0, 1)


@pytest.mark.parametrize("change", ["pixel", "name", "limit", "resize", "scale", "dtype", "size"])
def test_the_digest_follows_what_is_read(folder: Path, change: str) -> None:
    for name in "ab":
        save(f"in/{name}.png", noise(6, 8))
    before = Images("in").bind(ANY).digest
    settings: dict[str, object] = {}
    if change == "pixel":
        save("in/b.png", noise(6, 8) ^ 1)
    elif change == "name":
        Path("in/b.png").rename("in/c.png")
    elif change != "dtype":
        value = {"limit": 1, "resize": "nearest", "scale": "unit", "size": [2, 2]}[change]
        settings = {change: value}
    signature = takes(None, None, 3, dtype="uint8") if change == "dtype" else ANY
    assert Images("in", **settings).bind(signature).digest != before  # type: ignore[arg-type]


def test_the_digest_is_the_same_elsewhere(folder: Path) -> None:
    save("in/a.png", noise(6, 8))
    before = Images("in").bind(RGB).digest
    Path("in").rename("moved")
    assert Images("moved").bind(RGB).digest == before
