"""Pictures from files or a folder, decoded when they are read."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from extractkit.advice import override
from extractkit.core.keys import DecidesValues
from extractkit.errors import InputError
from extractkit.inputs import PICTURE, Sample, Scanning, Signature, Unreadable, Visit
from extractkit.inputs.checks import Faults, check_limit, describe
from extractkit.inputs.file_access import PathLike, sample_digest
from extractkit.inputs.pictures import RESIZES, Pixels, decoder
from extractkit.inputs.records import fitted
from extractkit.inputs.whole_files import (
    FileSamples,
    SampleFile,
    check_folder,
    find_sample_files,
)

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")


@dataclass(frozen=True)
class Images(Scanning):
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
        labels: folder, if a picture's label, as targets of gradients take it, is the number of its
            subfolder of `path` among the sorted names of all with pictures. If None, there is none.

    Raises:
        InputError: `limit` is not a whole number of at least 1, or `labels` not "folder".
    """

    path: DecidesValues[PathLike | Sequence[PathLike] | None]
    limit: DecidesValues[int | None] = None
    size: DecidesValues[Sequence[int] | None] = None
    resize: DecidesValues[str] = RESIZES[0]
    mode: DecidesValues[str | None] = None
    scale: DecidesValues[str | None] = None
    labels: DecidesValues[str | None] = None

    def __post_init__(self) -> None:
        check_limit(self.limit)
        check_folder(self.labels)

    def scan(self, signature: Signature, visit: Visit | None) -> "ImageSource":
        """Find the pictures, and read every file once.

        Without `visit`, only the first that is not broken is decoded.

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
        source = ImageSource(files, signature, pixels, "", ())
        digests: list[bytes] = []
        faults = Faults()
        first: bytes | None = None
        for index, file in enumerate(files):
            content = file.read()
            digests.append(hashlib.sha256(content).digest())
            digest.update(f"{file.id}\0".encode() + digests[index])
            if signature.label is not None:
                digest.update(f"{file.number}\0".encode())
            if first is not None and visit is None:
                continue
            try:
                sample = source.sample(index, content)
            except InputError as error:
                faults.add(error)
                if visit is not None:
                    visit(Unreadable(index, file.identity, error))
                continue
            first = first or sample_digest(replace(sample, extra={}))
            if visit is not None:
                visit(sample)
        faults.check(len(files))
        assert first is not None
        # The versions of the libraries that Pillow was built with do not follow from Pillow's.
        digest.update(first)
        if pixels.note is not None:
            notes = (*notes, pixels.note)
        return ImageSource(files, signature, pixels, digest.hexdigest(), tuple(digests), notes)

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


@dataclass(frozen=True, eq=False)
class ImageSource(FileSamples):
    """A source of pictures that are decoded when they are read.

    Attributes:
        files: The files, in order.
        signature: The model's inputs.
        pixels: Their conversion.
        digest: The SHA-256 over the files' names and contents, the settings, the decoder and
            its first result.
        digests: The SHA-256 of each file, 32 bytes.
        notes: Notes for the log and the manifest.
    """

    files: tuple[SampleFile, ...]
    signature: Signature
    pixels: Pixels
    digest: str
    digests: tuple[bytes, ...]
    notes: tuple[str, ...] = ()

    def sample(self, index: int, content: bytes) -> Sample:
        """Return the decoded picture of this number.

        Raises:
            InputError: The picture is broken.
        """
        file = self.files[index]
        picture = self.pixels.decode(content, file.at)
        own = file.identity
        extra = {**own.extra, "width": picture.width, "height": picture.height}
        label = self.label(file)
        if self.signature.takes_pictures:
            return Sample(index, own.id, own.source, {PICTURE: picture.values}, extra, label)
        data = {self.signature.specs[0].name: picture.values}
        sample = Sample(index, own.id, own.source, data, extra, label)
        return fitted(sample, index, self.signature, file.at)
