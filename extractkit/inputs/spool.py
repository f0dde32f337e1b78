"""Samples that can be read only once, kept on disk to be read at random."""

import os
import pickle
import tempfile
import weakref
from array import array

from extractkit.errors import DiskSpaceError, InputError
from extractkit.inputs.protocol import Identity, Sample


class Spool:
    """Samples in a temporary file (in `TMPDIR`), at 8 bytes of memory each.

    The file has no name: nobody else can write to it, which is why it may be unpickled, and it is
    gone with this object or with the process, however that ends.

    Args:
        source: where the samples come from.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._offsets = array("q", [0])
        # Without a context, as it is open for as long as this object lives.
        weakref.finalize(self, self._file.close)

    def append(self, sample: Sample | InputError) -> None:
        """Add a sample behind the others, or what is wrong with it.

        Raises:
            DiskSpaceError: the disk is full.
        """
        try:
            pickle.dump(sample, self._file, pickle.HIGHEST_PROTOCOL)
            self._file.flush()
        except OSError as error:
            raise DiskSpaceError(
                f"{tempfile.gettempdir()} cannot hold the samples, which are kept there to be read "
                f"at random ({error.strerror}). Set inputs.limit, or give another folder: TMPDIR=…"
            ) from error
        self._offsets.append(self._file.tell())

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def identify(self, index: int) -> Identity:
        """Who the sample of this number is: nothing but the number tells."""
        return Identity(str(index), self._source)

    def record(self, index: int) -> Sample:
        """The sample of this number.

        Raises:
            InputError: it is no good.
        """
        start, stop = self._offsets[index], self._offsets[index + 1]
        # Reading at an offset leaves the file's position alone: threads do not meet in it.
        parts = []
        while start < stop:
            parts.append(os.pread(self._file.fileno(), stop - start, start))
            start += len(parts[-1])
        sample: Sample | InputError = pickle.loads(b"".join(parts))
        if isinstance(sample, InputError):
            raise sample
        return sample
