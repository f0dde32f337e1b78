"""The same work done in several ways, each way in a process of its own.

A way is a module of this package, run as `python -m benchmarks.ways.NAME FOLDER` by any Python
that has what the way needs. It reads names of works from standard input, a line each, does the work
and answers in a line of JSON. The folder holds what all ways share: `assets.json`, texts, weights,
pictures. This module needs only NumPy, h5py and tokenizers, so other frameworks can import it.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from queue import Queue
from threading import Thread
from time import perf_counter
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

BATCH_SIZE = 32  # samples
MAX_LENGTH = 128  # tokens
CHUNK = 1 << 20  # bytes of an HDF5 file


class Assets:
    """What all ways of a comparison share.

    Attributes:
        folder: It has `assets.json`, `resnet50.npz`, `lstm.npz` and, as arrays of samples,
            `pictures.npy`, `sequences.npy`, `audio.npy`.
        minilm: The folder of MiniLM in the layout of Hugging Face.
        saved_model, onnx, tflite: The model of basic-pitch in three formats.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        described = json.loads((folder / "assets.json").read_text("utf-8"))
        self.texts: list[str] = described["texts"]
        self.minilm, self.saved_model, self.onnx, self.tflite = (
            Path(described[name]) for name in ("minilm", "saved_model", "onnx", "tflite")
        )

    def array(self, name: str) -> NDArray[np.float32]:
        """Return the samples of a file, float32."""
        array: NDArray[np.float32] = np.load(self.folder / f"{name}.npy")
        return array

    @cached_property
    def tokenizer(self) -> Any:
        """The Rust tokenizer of MiniLM, which cuts texts at 128 tokens."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.minilm / "tokenizer.json"))
        tokenizer.enable_truncation(MAX_LENGTH)
        tokenizer.no_padding()
        return tokenizer

    def batches(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Tokenize the texts and yield them in batches of 32, longest last, with little padding.

        Yields:
            Token ids (texts, tokens), padded with 0, and the number of tokens of each text.
        """
        rows = sorted((one.ids for one in self.tokenizer.encode_batch(self.texts)), key=len)
        for first in range(0, len(rows), BATCH_SIZE):
            batch = rows[first : first + BATCH_SIZE]
            lengths = np.array([len(row) for row in batch])
            ids = np.zeros((len(batch), lengths.max()), np.int64)
            for row, tokens in zip(ids, batch, strict=True):
                row[: len(tokens)] = tokens
            yield ids, lengths


@dataclass(frozen=True)
class Totals:
    """What shows that two ways stored the same values, in whichever order and layout.

    Attributes:
        count: Numbers stored, without padding.
        sum: The sum of their absolute values.
    """

    count: int
    sum: float

    @classmethod
    def of(cls, arrays: Sequence[NDArray[Any]]) -> "Totals":
        """Count and add up arrays."""
        return cls(
            sum(array.size for array in arrays),
            sum(float(np.abs(array).sum(dtype=np.float64)) for array in arrays),
        )


@dataclass(frozen=True)
class Work:
    """One way of doing one work, loaded and ready.

    Attributes:
        run: Do the work and write its result to a new file or folder. This is what is timed, unless
            the function itself returns seconds.
        totals: Sum up what was written. None for a way that writes nothing.
    """

    run: Callable[[Path], float | None]
    totals: Callable[[Path], Totals] | None


class RaggedFile:
    """An HDF5 file in which values of samples of unlike lengths follow each other without padding.

    Each tensor is one extensible dataset, written by a thread of its own while the next batch runs.
    """

    def __init__(self, path: Path) -> None:
        self._file = h5py.File(path, "w")
        self._queue: Queue[tuple[str, NDArray[Any]] | None] = Queue(maxsize=8)
        self._writer = Thread(target=self._write)
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._writer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._queue.put(None)
        self._writer.join()
        self._file.close()
        if self._failure is not None and error is None:
            raise self._failure

    def append(self, name: str, rows: NDArray[Any]) -> None:
        """Queue rows of a tensor."""
        self._queue.put((name, rows))

    def _write(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._failure is not None:
                continue  # empty the queue, so that its other end does not wait
            try:
                self._append(*item)
            except BaseException as error:  # noqa: BLE001 - raised where the file is closed
                self._failure = error

    def _append(self, name: str, rows: NDArray[Any]) -> None:
        if name not in self._file:
            shape = rows.shape[1:]
            chunk = max(1, CHUNK // rows[:1].nbytes)
            self._file.create_dataset(
                name, (0, *shape), rows.dtype, maxshape=(None, *shape), chunks=(chunk, *shape)
            )
        dataset = self._file[name]
        end = len(dataset)
        dataset.resize(end + len(rows), axis=0)
        dataset[end:] = rows


def stored(path: Path) -> Totals:
    """Sum up all datasets of an HDF5 file."""
    with h5py.File(path) as file:
        found: list[NDArray[Any]] = []
        file.visititems(
            lambda _, item: found.append(item[...]) if isinstance(item, h5py.Dataset) else None
        )
    return Totals.of(found)


def real_tokens(values: NDArray[Any], lengths: NDArray[np.int64]) -> NDArray[Any]:
    """Return the rows of real tokens, (tokens of all texts, …), of (texts, tokens, …)."""
    rows: NDArray[Any] = values[np.arange(values.shape[1]) < lengths[:, None]]
    return rows


def real_maps(values: NDArray[Any], lengths: NDArray[np.int64]) -> NDArray[Any]:
    """Return the probabilities between real tokens, flat, of (texts, heads, tokens, tokens)."""
    return np.concatenate(
        [one[:, :length, :length].ravel() for one, length in zip(values, lengths, strict=True)]
    )


def means(values: NDArray[Any], lengths: NDArray[np.int64]) -> NDArray[Any]:
    """Return the mean of each text's real tokens, (texts, width), of (texts, tokens, width)."""
    mask = (np.arange(values.shape[1]) < lengths[:, None]).astype(values.dtype)
    found: NDArray[Any] = np.einsum("stw,st->sw", values, mask) / lengths[:, None]
    return found.astype(values.dtype)


TEXT_WORKS: Mapping[str, Callable[[NDArray[Any], NDArray[np.int64]], NDArray[Any]]] = {
    "hidden_states": real_tokens,
    "attention": real_maps,
    "pooled": means,
    "first_layer": real_tokens,
}
"""What is stored of each layer's values in a batch of texts, by work."""

Forward = Callable[[NDArray[np.int64], NDArray[np.int64]], Sequence[NDArray[Any]]]
"""Token ids and lengths of a batch to the values of each layer that a work needs."""


def text_work(assets: Assets, name: str, forward: Forward) -> Work:
    """Return a work on texts, sorted by length and stored without padding."""
    keep = TEXT_WORKS[name]

    def run(path: Path) -> None:
        with RaggedFile(path) as file:
            for ids, lengths in assets.batches():
                for layer, values in enumerate(forward(ids, lengths)):
                    file.append(f"layer_{layer}", keep(values, lengths))

    return Work(run, stored)


def array_work(
    samples: NDArray[Any],
    forward: Callable[[NDArray[Any]], Sequence[NDArray[Any]]],
    batch_size: int = BATCH_SIZE,
) -> Work:
    """Return a work on samples of one shape: one dataset for each value of `forward`."""

    def run(path: Path) -> None:
        with RaggedFile(path) as file:
            for first in range(0, len(samples), batch_size):
                for index, values in enumerate(forward(samples[first : first + batch_size])):
                    file.append(f"value_{index}", values)

    return Work(run, stored)


def serve(works: Mapping[str, Callable[[Assets], Work]], packages: Sequence[str]) -> None:
    """Do the works that standard input names, until it ends.

    The first line of the answer has the names of the works and the versions of `packages`. Each
    work is loaded when it is first named.
    """
    assets = Assets(Path(sys.argv[1]))
    ready: dict[str, Work] = {}
    versions = {package: version(package) for package in packages}
    print(json.dumps({"works": list(works), "versions": versions}), flush=True)
    for line in sys.stdin:
        name, path = json.loads(line)
        if name not in ready:
            ready[name] = works[name](assets)
        began = perf_counter()
        own = ready[name].run(Path(path))
        seconds = perf_counter() - began
        totals = ready[name].totals
        found = asdict(totals(Path(path))) if totals else {}
        print(json.dumps({"seconds": own or seconds, **found}), flush=True)
