"""Pictures from files or a folder, decoded into arrays. Needs the extra with Pillow."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from extractkit.advice import override
from extractkit.core.keys import Values
from extractkit.core.spec import TEXT, numpy_dtype
from extractkit.core.values import Array
from extractkit.errors import InputError, choices
from extractkit.inputs import PICTURE, InputSpec, Quantized, Sample, Signature
from extractkit.inputs.checks import Faults, check_limit, describe, quantizing, require
from extractkit.inputs.file_access import PathLike, sample_digest
from extractkit.inputs.records import fitted
from extractkit.inputs.whole_files import FileSamples, SampleFile, find_sample_files

if TYPE_CHECKING:
    from PIL.Image import Image


SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
RESIZES = ("bilinear", "nearest", "bicubic", "lanczos")
SCALES = ("unit", "signed")

# Named explicitly: otherwise Pillow also tries formats that start an external program.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
_CHANNELS = {"rgb": 3, "gray": 1}
_MODES = {3: "RGB", 1: "L"}
# More than 8 bits per channel, which Pillow would clip to 8.
_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")

_BYTE = np.dtype(np.uint8)


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
        values: The pixels in the model's layout and dtype.
        width, height: The picture's own size, upright, before resizing.
    """

    values: Array
    width: int
    height: int


@dataclass(frozen=True)
class Pixels:
    """The conversion of a picture to an array.

    Attributes:
        height, width: The size to resize to. If one is None, it keeps the proportions; if both are,
            the picture is not resized.
        channels: 3 (RGB) or 1 (gray).
        axes: "hwc", "chw" or "hw".
        dtype: The name of the values' dtype.
        resize: The interpolation, one of `RESIZES`.
        scale: The range of values: 0 … 255 for None, 0 … 1 for "unit", -1 … 1 for "signed".
        quantized: The quantisation that values in this range are converted by, or None.
        note: A message for the user on what the values mean, or None.
    """

    height: int | None
    width: int | None
    channels: int
    axes: str
    dtype: str
    resize: str = RESIZES[0]
    scale: str | None = None
    # The other fields enter digests by their repr.
    quantized: Quantized | None = field(default=None, repr=False)
    note: str | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        spec: InputSpec,
        signature: Signature,
        *,
        size: Sequence[int] | None = None,
        resize: str = RESIZES[0],
        mode: str | None = None,
        scale: str | None = None,
        scalable: bool = True,
    ) -> "Pixels":
        """Return the conversion for a model's input.

        Three axes are height, width and channels, or channels first where only the first of them
        has a length of 1 or 3; two axes are a gray picture.

        Args:
            size: The height and width. If None, the input's.
            mode: "rgb" or "gray". If None, by the input's channels, "rgb" if that is free.
            scalable: Whether the user can set `inputs.scale`.

        Raises:
            InputError: The input takes no pictures, or not such ones.
        """
        require("PIL.Image", "images", "reading pictures")
        _check_choice("resize", resize, RESIZES)
        _check_choice("mode", mode, (None, *_CHANNELS))
        _check_choice("scale", scale, (None, *SCALES))
        axes = _axes(spec, signature)
        lengths = dict(zip(axes, spec.shape, strict=True))
        taken = lengths.get("c", 1)
        channels = _CHANNELS[mode or "rgb"] if mode or taken is None else taken
        if channels not in _MODES or taken not in (None, channels):
            asked = "" if mode is None else f"inputs.mode={mode}, and "
            raise InputError(
                f"{asked}input {spec.name!r} of model {signature.model!r} takes {taken} "
                f"channels ({describe(signature)}). Pictures have 3 (rgb) or 1 (gray)"
            )
        if spec.quantized is None:
            _check_range(spec, signature, scale)
            note = None
        else:
            note = _quantised_note(spec, signature, scale, scalable)
        height, width = _size(size, lengths, spec, signature)
        return cls(height, width, channels, axes, spec.dtype, resize, scale, spec.quantized, note)

    @classmethod
    def deferred_preparation(
        cls,
        signature: Signature,
        size: Sequence[int] | None,
        resize: str,
        mode: str | None,
        scale: str | None,
    ) -> "Pixels":
        """Return the conversion for a model whose image processor scales and resizes pictures.

        Raises:
            InputError: A setting is invalid, or is determined by the model.
        """
        require("PIL.Image", "images", "reading pictures")
        _check_choice("resize", resize, RESIZES)
        for key, given in (("mode", mode if mode != "rgb" else None), ("scale", scale)):
            if given is not None:
                raise InputError(
                    f"inputs.{key}={given}: model {signature.model!r} prepares pictures by its own "
                    f"image processor. Leave inputs.{key} out"
                )
        height, width = _size(size, {"h": None, "w": None}, signature.specs[0], signature)
        return cls(height, width, _CHANNELS["rgb"], "hwc", _BYTE.name, resize)

    def decode(self, data: bytes, at: str) -> Picture:
        """Decode the first frame of a file, upright and without transparency.

        Returns values of shape (height, width, channels), (channels, height, width) or
        (height, width), depending on the model.

        Raises:
            InputError: The picture is broken or in an unsupported format.
        """
        from PIL import Image, ImageOps

        try:
            with Image.open(BytesIO(data), formats=_FORMATS) as opened:
                _check_mode(opened, at)
                upright = ImageOps.exif_transpose(opened)
                width, height = upright.size
                picture = self._resized(_opaque(upright, _MODES[self.channels]))
        except InputError:
            raise
        except Exception as error:  # Pillow's format readers raise errors of many types
            raise InputError(
                f"{at} is not a picture that can be decoded: {_reason(error)}. "
                f"Repair it, convert it to one of {', '.join(_FORMATS)}, or leave it out"
            ) from error
        if self.quantized is None:
            values = _scaled(np.asarray(picture, numpy_dtype(self.dtype)), self.scale)
        else:
            values = _quantised(np.asarray(picture), self.dtype, self.scale, self.quantized)
        return Picture(self._arranged(values), width, height)

    def _resized(self, picture: "Image") -> "Image":
        from PIL import Image

        own_width, own_height = picture.size
        if self.height is None and self.width is None:
            return picture
        width = self.width or max(1, round(own_width * (self.height or 0) / own_height))
        height = self.height or max(1, round(own_height * width / own_width))
        if (width, height) == picture.size:
            return picture
        return picture.resize((width, height), Image.Resampling[self.resize.upper()])

    def _arranged(self, values: Array) -> Array:
        if self.axes == "hw":
            return values
        if values.ndim == 2:
            values = values[:, :, np.newaxis]
        return values if self.axes == "hwc" else values.transpose(2, 0, 1)


def _scaled(pixels: Array, scale: str | None) -> Array:
    """Return pixels, 0 to 255, in the range of a scale, with their own precision."""
    values = pixels
    if scale == "unit":
        values = pixels / pixels.dtype.type(255)
    elif scale == "signed":
        values = pixels / pixels.dtype.type(127.5) - pixels.dtype.type(1)
    return values


def _quantised(pixels: Array, dtype: str, scale: str | None, quantized: Quantized) -> Array:
    """Return the whole numbers that a quantised input takes for pixels.

    Without a scale, they are the pixels themselves, from the least number of the type on.
    """
    limits = np.iinfo(dtype)
    if scale is None:
        return (pixels.astype(np.int64) + _shift(dtype)).astype(dtype)
    whole = np.round(_scaled(pixels.astype(np.float64), scale) / quantized.scale)
    return np.clip(whole + quantized.zero_point, limits.min, limits.max).astype(dtype)


def _shift(dtype: str) -> int:
    """Return the whole number of a type that a black pixel is, if pixels are taken as they are."""
    limits = np.iinfo(dtype)
    return int(limits.min) if limits.bits == 8 else 0


def decoder() -> str:
    """Return the decoder and its version, since another one may differ in the last bit."""
    return f"Pillow {require('PIL', 'images', 'reading pictures').__version__}"


def _axes(spec: InputSpec, signature: Signature) -> str:
    if spec.dtype != TEXT and len(spec.shape) == 2:
        return "hw"
    if spec.dtype == TEXT:
        raise InputError(
            f"input {spec.name!r} of model {signature.model!r} is a string: it takes a picture's "
            f"file as it is. Remove encoded=true"
        )
    if len(spec.shape) != 3:
        raise InputError(
            f"input {spec.name!r} of model {signature.model!r} takes no picture "
            f"(it takes {describe(signature)}); that has height, width and channels. "
            f"Try inputs=arrays inputs.path=FILE.npz"
        )
    first, _, last = spec.shape
    return "chw" if first in _MODES and last not in _MODES else "hwc"


def _size(
    size: Sequence[int] | None,
    lengths: dict[str, int | None],
    spec: InputSpec,
    signature: Signature,
) -> tuple[int | None, int | None]:
    own = lengths["h"], lengths["w"]
    if size is None:
        return own
    whole = isinstance(size, list | tuple) and all(type(n) is int and n > 0 for n in size)
    if not whole or len(size) != 2:
        example = [taken or 224 for taken in own]
        raise InputError(
            f"inputs.size={size!r} is not a height and a width, as in "
            f"inputs.size=[{example[0]},{example[1]}]"
        )
    if any(taken not in (None, given) for taken, given in zip(own, size, strict=True)):
        raise InputError(
            f"inputs.size={list(size)}: input {spec.name!r} of model {signature.model!r} takes "
            f"height and width {list(own)} ({describe(signature)}). Leave inputs.size out"
        )
    return size[0], size[1]


def _check_range(spec: InputSpec, signature: Signature, scale: str | None) -> None:
    dtype = numpy_dtype(spec.dtype)
    if dtype.kind == "f":
        return
    takes = f"input {spec.name!r} of model {signature.model!r} takes {spec.dtype}"
    if not np.can_cast(_BYTE, dtype):
        raise InputError(f"{takes}, which cannot hold the values of a picture, 0 to 255")
    if scale is not None:
        raise InputError(f"inputs.scale={scale} makes real numbers, and {takes}. Leave it out")


def _quantised_note(
    spec: InputSpec, signature: Signature, scale: str | None, scalable: bool
) -> str | None:
    """Return what the user should know about pictures for a quantised input, or None.

    Pixels are given as they are if the input is quantised so that this is right: they are then what
    a model takes that was trained on pixels from 0 to 255, from 0 to 1 or from -1 to 1.

    Raises:
        InputError: Pixels as they are have another meaning, and are not of the type that the input
            takes.
    """
    assert spec.quantized is not None
    if scale is not None or any(_fits(spec, usual) for usual in (None, *SCALES)):
        return None
    factor, zero_point = spec.quantized
    takes = (
        f"input {spec.name!r} of model {signature.model!r} takes {spec.dtype}, quantised with "
        f"scale {factor:.6g} and zero point {zero_point}"
    )
    ranges = "If the model was trained on other pixels"
    if scalable:
        ranges = (
            "If the model was trained on pixels from 0 to 1: inputs.scale=unit; from -1 to 1: "
            "inputs.scale=signed; otherwise"
        )
    quantise = quantizing(spec, "pixels")
    advice = f"{ranges}, give arrays, inputs=arrays, quantised, in NumPy: {quantise}"
    if numpy_dtype(spec.dtype) != _BYTE:
        raise InputError(f"{takes}, for which pixels from 0 to 255 have no usual form. {advice}")
    low, high = ((pixel - zero_point) * factor for pixel in (0, 255))
    return (
        f"{takes}. Pixels are given as they are, so that 0 to 255 mean {low:.4g} to {high:.4g}. "
        f"{advice}"
    )


def _fits(spec: InputSpec, scale: str | None) -> bool:
    """Return whether scaling and quantising gives back every pixel value.

    A difference of 1 is accepted: it occurs if a range from -1 to 1 is made by division by 127.5,
    127 or 128.
    """
    assert spec.quantized is not None
    pixels = np.arange(256)
    real = _scaled(pixels.astype(np.float64), scale)
    whole = np.round(real / spec.quantized.scale) + spec.quantized.zero_point
    return bool(np.abs(whole - (pixels + _shift(spec.dtype))).max() <= 1)


def _check_choice(key: str, given: str | None, options: Sequence[str | None]) -> None:
    if given not in options:
        named = [option for option in options if option is not None]
        raise InputError(f"inputs.{key}={given!r} does not exist. {choices(str(given), named)}")


def _check_mode(picture: "Image", at: str) -> None:
    if picture.mode in _DEEP:
        raise InputError(
            f"{at} has more than 8 bits a channel (Pillow's mode {picture.mode!r}), which would "
            f"be cut off. Convert it to 8 bits, or give arrays: inputs=arrays"
        )


def _opaque(picture: "Image", mode: str) -> "Image":
    # Pillow warns of a palette's transparent entry.
    if "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return picture.convert(mode)


def _reason(error: Exception) -> str:
    # Pillow's message names the object in memory. The file is named before.
    if type(error).__name__ == "UnidentifiedImageError":
        return "its format is not known"
    return f"{type(error).__name__}: {error}"


@dataclass(frozen=True)
class Images:
    """Pictures, one per file: the first frame, upright and without transparency.

    They are decoded when they are read.

    Attributes:
        path: A folder, searched recursively (its subfolders become labels), or a file, a glob
            (sorted) or several. Required.
        limit: The number of pictures to use. If None, all.
        size: The height and width to resize to, regardless of proportions. If None, those of the
            model's input, or each picture's own if the input takes any.
        resize: bilinear, nearest, bicubic or lanczos, as in Pillow, antialiased when shrinking.
        mode: "rgb" or "gray". If None, by the channels of the model's input, 3 or 1.
        scale: The range of values: 0 to 255 for None, 0 to 1 for "unit", -1 to 1 for "signed". A
            quantised input takes them quantised by its own scale and zero point; for None, the
            pixels as they are.

    Raises:
        InputError: `limit` is not a whole number of at least 1.
    """

    path: Values[PathLike | Sequence[PathLike] | None]
    limit: Values[int | None] = None
    size: Values[Sequence[int] | None] = None
    resize: Values[str] = RESIZES[0]
    mode: Values[str | None] = None
    scale: Values[str | None] = None

    def __post_init__(self) -> None:
        check_limit(self.limit)

    def bind(self, signature: Signature) -> "ImageSource":
        """Find the pictures, and read every file once. Broken ones are found when decoded.

        Raises:
            InputError: The model does not take one picture, or there is none, or all are broken.
            MissingExtraError: Pillow is not installed.
        """
        if signature.string is not None:
            path = self.path if isinstance(self.path, str) else "DIR"
            raise InputError(
                f"inputs=images decodes pictures, and input {signature.string.name!r} of model "
                f"{signature.model!r} is a string: it takes a picture's file as it is. "
                f"Use inputs=files {override('inputs.path', path)}"
            )
        if len(signature.specs) != 1:
            raise InputError(
                f"inputs=images gives one picture a sample, and model {signature.model!r} takes "
                f"{describe(signature)}. Try inputs=arrays or inputs=dataset"
            )
        pixels = self._pixels(signature)
        files, notes = self._find()
        digest = hashlib.sha256(f"{decoder()}\0{pixels}\0".encode())
        for file in files:
            digest.update(f"{file.id}\0".encode())
            digest.update(hashlib.sha256(file.read()).digest())
        # The versions of the libraries that Pillow was built with do not follow from Pillow's.
        first = _first_decoded(files, signature, pixels)
        digest.update(sample_digest(replace(first, extra={})))
        if pixels.note is not None:
            notes = (*notes, pixels.note)
        return ImageSource(files, signature, pixels, digest.hexdigest(), notes)

    def _pixels(self, signature: Signature) -> Pixels:
        if signature.takes_pictures:
            return Pixels.deferred_preparation(
                signature, self.size, self.resize, self.mode, self.scale
            )
        if signature.takes_pictures is False and self.scale is None:
            raise InputError(
                f"model {signature.model!r} has no image processor (preprocessor_config.json), so "
                f"the scale of its pictures is not known. Copy it from where the model comes "
                f"from into its directory; or, if you know the scale: inputs.scale=signed (-1 to "
                f"1) or inputs.scale=unit (0 to 1); or give arrays: inputs=arrays"
            )
        return Pixels.of(
            signature.specs[0],
            signature,
            size=self.size,
            resize=self.resize,
            mode=self.mode,
            scale=self.scale,
        )

    def _find(self) -> tuple[tuple[SampleFile, ...], tuple[str, ...]]:
        if self.path is None:
            raise InputError("inputs.path is missing. Give a folder of pictures: inputs.path=DIR")
        files, others = find_sample_files(self.path, SUFFIXES, self.limit)
        files_are = "file is" if others == 1 else "files are"
        note = f"{others} other {files_are} in {str(self.path)!r}, no pictures by their names"
        return files, (note,) if others else ()


def _sample(file: SampleFile, index: int, signature: Signature, pixels: Pixels) -> Sample:
    """Return the decoded picture as a sample.

    Raises:
        InputError: The picture is broken.
        JobError: The file has changed since it was found.
    """
    picture = pixels.decode(file.read(), file.at)
    own = file.identity
    extra = {**own.extra, "width": picture.width, "height": picture.height}
    if signature.takes_pictures:
        return Sample(index, own.id, own.source, {PICTURE: picture.values}, extra)
    data = {signature.specs[0].name: picture.values}
    sample = Sample(index, own.id, own.source, data, extra)
    return fitted(sample, index, signature, file.at)


@dataclass(frozen=True, eq=False)
class ImageSource(FileSamples):
    """A source of pictures that are decoded when they are read.

    Attributes:
        files: The files, in order.
        signature: The model's inputs.
        pixels: Their conversion.
        fingerprint: The SHA-256 over the files' names and contents, the settings, the decoder and
            its first result.
        notes: Notes for the log and the manifest.
    """

    files: tuple[SampleFile, ...]
    signature: Signature
    pixels: Pixels
    fingerprint: str
    notes: tuple[str, ...] = ()

    def sample(self, index: int) -> Sample:
        """Return the decoded picture of this number."""
        return _sample(self.files[index], index, self.signature, self.pixels)


def _first_decoded(files: Sequence[SampleFile], signature: Signature, pixels: Pixels) -> Sample:
    faults = Faults()
    for index, file in enumerate(files):
        try:
            return _sample(file, index, signature, pixels)
        except InputError as error:
            faults.add(error)
    faults.check(len(files))
    raise AssertionError("a source of pictures has at least one file")
