"""Export to TensorBoard: histograms and scalars over checkpoints, attention, embedding projector.

Event files are written by the protocol buffers of the package `tensorboard`, without TensorFlow.
Their times are those of the run, so that the same run gets the same files.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from extractkit.core.component import require
from extractkit.core.statistics import Arrays, Block, Merging
from extractkit.core.statistics.histograms import Histogram, buckets
from extractkit.core.statistics.moments import Moments
from extractkit.core.statistics.per import ALL
from extractkit.core.statistics.results import Statistics
from extractkit.core.values import Array, Dense
from extractkit.errors import RunDirectoryError, counted
from extractkit.exports import Note
from extractkit.exports.numbers import of_drift, of_moments, statistics_at, steps
from extractkit.reports.attention import is_map
from extractkit.reports.material import spread
from extractkit.runs import overview
from extractkit.runs.comparing.result import Comparison
from extractkit.runs.drift import present
from extractkit.runs.reader import Run
from extractkit.runs.samples import Row
from extractkit.runs.views import TensorView
from extractkit.store.local import make_directory, write_durably

_USE = "export --to tensorboard"
_NUMBERS = "fiub"
_MOST_POINTS = 10_000
"""Points of the projector, which computes in the browser."""
_MOST_STEPS = 10
_MOST_IMAGES = 4
_MOST_TOKENS = 64
_PIXELS = 160
"""Least width of an attention map. Each pair of tokens is a square of whole pixels."""

_HISTOGRAM = Histogram(None, 64, ALL, _USE)
_MOMENTS = Moments(ALL, _USE)
_CONFIG = "projector_config.pbtxt"
_TENSORS = "projector"
_DATA_CLASSES = {"scalars": 1, "histograms": 2, "text": 2, "images": 3}
"""How TensorBoard stores what a plugin shows: numbers, tensors, and sequences of files."""


class TensorBoard:
    """The files of `tensorboard --logdir`."""

    name: ClassVar[str] = "tensorboard"
    summary: ClassVar[str] = "histograms, scalars, attention maps, embedding projector"
    compares: ClassVar[bool] = False

    def check(self, run: Run) -> None:
        """Check that TensorBoard is installed, and that the run has numbers to show."""
        require("tensorboard", _USE)
        shown = any(view.dtype.kind in _NUMBERS for view in run.values())
        if not shown and not run.manifest.statistics:
            raise RunDirectoryError(
                f"{run.path} holds no numbers, and TensorBoard shows nothing else of a run"
            )

    def write(
        self, run: Run, directory: Path, note: Note, comparison: Comparison | None = None
    ) -> None:
        """Write one file of events, and the points of the projector."""
        times = run.manifest.volatile
        time = datetime.fromisoformat(times.finished or times.started).timestamp()
        events = _events(run, note)
        written = b"".join(_records(events, time))
        write_durably(directory / f"events.out.tfevents.{int(time)}.extractkit", written)
        _write_projector(run, directory, note)


def _events(run: Run, note: Note) -> Iterator[tuple[int, list[Any]]]:
    """Yield the summaries of each step, the text about the run first."""
    checkpoints = steps(run)
    first = next(iter(checkpoints))
    yield first, [_text("run", described(run))]
    with_images = {*spread([*checkpoints], _MOST_STEPS)}
    for at, (step, label) in enumerate(checkpoints.items()):
        one = run if label is None else run.at(label)
        found = [value for view in one.values() for value in _of_tensor(view, one.missing)]
        found += _of_statistics(statistics_at(run, at))
        found += [_number(f"{key}/{name}", number) for key, name, number in of_drift(run, at)]
        if step in with_images:
            found += _attention(one, note if step == first else _silent)
        yield step, found


def _silent(remark: str) -> None:
    """Receive a remark that was made before."""


def _of_tensor(view: TensorView, missing: Mapping[int, str]) -> Iterator[Any]:
    """Yield the histogram of all elements of a tensor, and its moments."""
    if view.dtype.kind not in _NUMBERS:
        return
    histogram, moments = Merging(_HISTOGRAM), Merging(_MOMENTS)
    for values in _blocks(view, missing):
        block = Block(Dense(values.reshape(-1, 1)), np.zeros(0, np.int64), 1)
        histogram.add(_HISTOGRAM.of(block))
        moments.add(_MOMENTS.of(block))
    counts = histogram.finish()
    if beyond := sum(int(counts[name]) for name in ("below", "above", "nan")):
        yield _number(f"{view.key}/not finite", beyond)
    yield from _summaries(view.key, counts, moments.finish())


def _blocks(view: TensorView, missing: Mapping[int, str]) -> Iterator[Array]:
    """Yield the values of a tensor shard by shard, those of missing samples excepted."""
    yield np.zeros(0, view.dtype)
    if view.constant:
        yield np.asarray(view)
        return
    for start, values in view.by_shard():
        yield present(start, values, missing)


def _of_statistics(found: Statistics) -> Iterator[Any]:
    """Yield the histograms and moments that a run has as statistics, over all features."""
    for key, one in found.items():
        histogram = dict(one["histogram"].items()) if "histogram" in one else None
        moments = dict(one["moments"].items()) if "moments" in one else None
        yield from _summaries(key, histogram, moments)


def _summaries(key: str, histogram: Arrays | None, moments: Arrays | None) -> Iterator[Any]:
    if histogram is not None and len(rows := buckets(histogram)):
        yield _value("histograms", key, rows)
    if moments is not None:
        yield from (_number(f"{key}/{name}", number) for name, number in of_moments(moments))


def _attention(run: Run, note: Note) -> Iterator[Any]:
    """Yield the attention maps of a few samples: an image for each, its heads side by side."""
    for view in run.values():
        if not is_map(view):
            continue
        at_hand = [at for at in range(len(view)) if at not in run.missing]
        some = spread(at_hand, _MOST_IMAGES)
        read = {at: one for at in some if (one := view.sample(at)).size}
        if not read:
            continue
        maps = [*read.values()]
        if any(max(one.shape[-2:]) > _MOST_TOKENS for one in maps):
            note(f"{view.key}: images show the first {_MOST_TOKENS} tokens")
        drawn = [_drawn(one[..., :_MOST_TOKENS, :_MOST_TOKENS]) for one in maps]
        widest = [max(sizes) for sizes in zip(*(one.shape for one in drawn), strict=True)]
        head = [str(widest[1]).encode(), str(widest[0]).encode()]
        ids = ", ".join(str(run.samples[at]["id"]) for at in read)
        about = f"Queries down, keys across, heads side by side. Samples: {ids}"
        yield _value("images", f"{view.key}/map", [*head, *map(_png, drawn)], about)


def _drawn(maps: Array) -> Array:
    """Return maps side by side, uint8 (height, width): black is 0 and white 1, or the largest."""
    heads = np.nan_to_num(maps.reshape(-1, *maps.shape[-2:]).astype(np.float64), posinf=0, neginf=0)
    heads = np.clip(heads / max(1.0, heads.max()), 0, 1)
    by = max(1, -(-_PIXELS // heads.shape[-1]))
    large = (heads * 255).round().astype(np.uint8).repeat(by, 1).repeat(by, 2)
    apart = np.pad(large, ((0, 0), (0, 0), (0, by)), constant_values=128)
    return np.concatenate([*apart], axis=1)[:, :-by]


def _png(pixels: Array) -> bytes:
    file = io.BytesIO()
    require("PIL.Image", _USE).fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def described(run: Run) -> str:
    """Return what is notable about the run, as a table in Markdown."""
    rows = [(one.label, one.text) for one in overview.read(run.path).facts]
    return "\n".join(f"| {_cell(a)} | {_cell(b)} |" for a, b in [("", ""), ("---", "---"), *rows])


def _cell(text: str) -> str:
    if set(text) == {"-"}:
        return text
    signs = str.maketrans({sign: f"\\{sign}" for sign in "\\|*_`<>[]"})
    return " ".join(text.split()).translate(signs)


def _number(tag: str, number: float | np.number[Any]) -> Any:
    with np.errstate(over="ignore"):
        return _value("scalars", tag, np.float32(number))


def _text(tag: str, text: str) -> Any:
    return _value("text", tag, text.encode())


def _value(plugin: str, tag: str, content: Any, description: str = "") -> Any:
    """Return a summary of a plugin.

    Args:
        content: a single float32, the only type of numbers that TensorBoard shows as scalars; an
            array of float64; bytes, or a list of them.
    """
    proto = "tensorboard.compat.proto"
    summaries, tensors = (require(f"{proto}.{name}_pb2", _USE) for name in ("summary", "tensor"))
    types = require(f"{proto}.types_pb2", _USE)
    tensor = tensors.TensorProto()
    shape = (len(content),) if isinstance(content, list) else np.shape(content)
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    if isinstance(content, np.float32):
        tensor.dtype = types.DT_FLOAT
        tensor.float_val.append(content)
    elif isinstance(content, np.ndarray):
        tensor.dtype = types.DT_DOUBLE
        tensor.tensor_content = content.astype("<f8").tobytes()
    else:
        tensor.dtype = types.DT_STRING
        tensor.string_val.extend(content if isinstance(content, list) else [content])
    metadata = summaries.SummaryMetadata(
        summary_description=description,
        plugin_data=summaries.SummaryMetadata.PluginData(plugin_name=plugin),
        data_class=_DATA_CLASSES[plugin],
    )
    return summaries.Summary.Value(tag=tag, metadata=metadata, tensor=tensor)


def _records(events: Iterator[tuple[int, list[Any]]], time: float) -> Iterator[bytes]:
    """Yield the records of an event file."""
    proto = require("tensorboard.compat.proto.event_pb2", _USE)
    summary = require("tensorboard.compat.proto.summary_pb2", _USE).Summary
    file = io.BytesIO()
    writer = require("tensorboard.summary.writer.record_writer", _USE).RecordWriter(file)
    writer.write(proto.Event(wall_time=time, file_version="brain.Event:2").SerializeToString())
    for step, values in events:
        event = proto.Event(wall_time=time, step=step, summary=summary(value=values))
        writer.write(event.SerializeToString())
        yield file.getvalue()
        file.seek(0)
        file.truncate()


def _write_projector(run: Run, directory: Path, note: Note) -> None:
    """Write the vectors of samples, those of the last checkpoint, with ids, labels and texts."""
    last = run.at(run.checkpoints[-1]) if run.checkpoints else run
    views = [view for view in last.values() if _is_vector(view)]
    every = [at for at in range(run.manifest.samples) if at not in last.missing]
    chosen = spread(every, _MOST_POINTS)
    if not views or len(chosen) < 2:
        return
    if len(chosen) < len(every):
        note(f"the projector shows {len(chosen):,} of {counted(len(every), 'sample')}")
    make_directory(directory / _TENSORS)
    files: dict[tuple[int, ...], str] = {}
    entries = []
    for number, view in enumerate(views):
        values = view[np.asarray(chosen)].astype(np.float32)
        whole = np.logical_and.reduce(np.isfinite(values), axis=1)
        if not whole.all():
            lost = int((~whole).sum())
            what = f"{counted(lost, 'sample')} with NaN or infinite elements"
            note(f"{view.key}: the projector does not show {what}")
        if whole.sum() < 2:
            continue
        shown = tuple(at for at, kept in zip(chosen, whole, strict=True) if kept)
        if shown not in files:
            files[shown] = f"{_TENSORS}/samples-{len(files)}.tsv"
            write_durably(directory / files[shown], _metadata([run.samples[at] for at in shown]))
        file = f"{_TENSORS}/tensor-{number}.tsv"
        lines = ("\t".join(f"{one:.9g}" for one in row) for row in values[whole])
        write_durably(directory / file, "".join(f"{line}\n" for line in lines).encode())
        entries.append(
            f"embeddings {{\n  tensor_name: {json.dumps(_name(view.key))}\n"
            f'  tensor_path: "{file}"\n  metadata_path: "{files[shown]}"\n}}\n'
        )
    write_durably(directory / _CONFIG, "".join(entries).encode())


def _name(key: str) -> str:
    """Return the name of a tensor in the projector, which cuts off the ending of a graph's."""
    return key.removesuffix(":0")


def _is_vector(view: TensorView) -> bool:
    sizes = view.spec.sample_shape
    usable = not view.constant and not view.result and view.dtype.kind == "f"
    return usable and len(sizes) == 1 and sizes[0] is not None and sizes[0] > 1


def _metadata(rows: Sequence[Row]) -> bytes:
    """Return a table of the fields of samples that hold one text or number."""
    kept = str | int | float
    fields = list(
        dict.fromkeys(n for row in rows for n, one in row.items() if isinstance(one, kept))
    )
    first = [name for name in ("index", "id") if name in fields]
    names = [*first, *(name for name in fields if name not in first)]
    lines = [names, *([row.get(name, "") for name in names] for row in rows)]
    return "".join("\t".join(map(_field, line)) + "\n" for line in lines).encode()


def _field(value: object) -> str:
    text = value if isinstance(value, str | int | float) else ""
    return " ".join(str(text).split()).encode(errors="replace").decode()
