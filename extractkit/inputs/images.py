"""Pictures from files or a folder."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from extractkit.advice import override
from extractkit.errors import InputError
from extractkit.inputs.checks import check_limit, describe
from extractkit.inputs.faults import Faults
from extractkit.inputs.files import PathLike
from extractkit.inputs.fingerprints import sample_digest
from extractkit.inputs.pixels import RESIZES, SUFFIXES, Pixels, decoder
from extractkit.inputs.protocol import PICTURE, Sample, Signature
from extractkit.inputs.records import fitted
from extractkit.inputs.sample_files import FileSamples, SampleFile, find_sample_files


@dataclass(frozen=True)
class Images:
    """Pictures, a sample a file: upright, without transparency, the first frame of several.

    They stay in their files and are decoded when they are read.

    Attributes:
        path: a folder, looked through with all below it; or a file, a glob (sorted) or several.
        limit: the first so many pictures; None: all.
        size: height and width that they are resized to, whatever their proportions; None: those
            that the model takes, or each picture's own where it takes any.
        resize: bilinear, nearest, bicubic or lanczos, as Pillow does it: smoothed when it shrinks.
        mode: "rgb" or "gray"; None: as the model's input has 3 channels or 1.
        scale: None: values from 0 to 255; "unit": from 0 to 1; "signed": from -1 to 1.

    Raises:
        InputError: `limit` is no whole number of 1 or more.
    """

    path: PathLike | Sequence[PathLike] | None
    limit: int | None = None
    size: Sequence[int] | None = None
    resize: str = RESIZES[0]
    mode: str | None = None
    scale: str | None = None

    def __post_init__(self) -> None:
        check_limit(self.limit)

    def bind(self, signature: Signature) -> "ImageSource":
        """Find the pictures, and read every file once; a broken one is found when it is decoded.

        Raises:
            InputError: the model does not take one picture; or there is none, or all are broken.
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
        # Pillow's version does not tell those of the libraries that it was built with.
        first = _first_decoded(files, signature, pixels)
        digest.update(sample_digest(replace(first, extra={})))
        return ImageSource(files, signature, pixels, digest.hexdigest(), notes)

    def _pixels(self, signature: Signature) -> Pixels:
        if signature.takes_pictures:
            return Pixels.prepared_later(signature, self.size, self.resize, self.mode, self.scale)
        if signature.takes_pictures is False and self.scale is None:
            raise InputError(
                f"model {signature.model!r} has no image processor (preprocessor_config.json), so "
                f"nothing tells how pictures are scaled for it. Copy it from where the model comes "
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
    """The decoded picture as the model takes it.

    Raises:
        InputError: it is broken.
        JobError: the file has changed since it was found.
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
    """Pictures, decoded as they are read.

    Attributes:
        files: in order.
        signature: what the model takes.
        pixels: how they are decoded.
        fingerprint: SHA-256 over the files' names and contents, the settings, the decoder and its
            first result.
        notes: for log and manifest.
    """

    files: tuple[SampleFile, ...]
    signature: Signature
    pixels: Pixels
    fingerprint: str
    notes: tuple[str, ...] = ()

    def sample(self, index: int) -> Sample:
        """Return the picture of this number, decoded."""
        return _sample(self.files[index], index, self.signature, self.pixels)


def _first_decoded(files: Sequence[SampleFile], signature: Signature, pixels: Pixels) -> Sample:
    faults = Faults()
    for index, file in enumerate(files):
        try:
            return _sample(file, index, signature, pixels)
        except InputError as error:
            faults.add(error)
    faults.check(len(files))
    raise AssertionError("there is a file, or none would have been found")
