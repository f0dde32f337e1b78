"""Pictures decoded into arrays that fit a model's input. Needs the extra with Pillow."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from extractkit.core.component import require
from extractkit.core.spec import TEXT, numpy_dtype
from extractkit.core.values import Array
from extractkit.errors import InputError, choices
from extractkit.inputs import InputSpec, Quantized, Signature
from extractkit.inputs.checks import describe, quantizing

if TYPE_CHECKING:
    from PIL.Image import Image


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
            InputError: The input takes no pictures, or none with these settings.
        """
        require("PIL.Image", "reading pictures")
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
        require("PIL.Image", "reading pictures")
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

    Without a scale, they are the pixels themselves, shifted if an 8-bit type is signed.
    """
    limits = np.iinfo(dtype)
    if scale is None:
        return (pixels.astype(np.int64) + _shift(dtype)).astype(dtype)
    whole = np.round(_scaled(pixels.astype(np.float64), scale) / quantized.scale)
    return np.clip(whole + quantized.zero_point, limits.min, limits.max).astype(dtype)


def _shift(dtype: str) -> int:
    """Return the integer that represents black in this dtype, if pixels are not scaled."""
    limits = np.iinfo(dtype)
    return int(limits.min) if limits.bits == 8 else 0


def decoder() -> str:
    """Return the decoder and its version, since another one may differ in the last bit."""
    return f"Pillow {require('PIL', 'reading pictures').__version__}"


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

    Unscaled pixels need no note if the quantisation shows that the model was trained on pixels from
    0 to 255, from 0 to 1 or from -1 to 1.

    Raises:
        InputError: Unscaled pixels have another meaning, and do not have the dtype of the input.
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
