"""Files cut short and with bits turned over: a clear error, or weights; never anything else."""

import random
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from extractkit.errors import ModelError
from extractkit.models.checkpoint import load
from tests.models.weight_files import examples

TRIALS = 40

Write = Callable[[Path], Path]


def _safetensors(folder: Path) -> Path:
    examples.safetensors(folder / "m.safetensors")
    return folder / "m.safetensors"


def _legacy(folder: Path) -> Path:
    examples.legacy_hdf5(folder / "m.h5")
    return folder / "m.h5"


def _keras_3(folder: Path) -> Path:
    examples.trained_model().save_weights(folder / "m.weights.h5")
    return folder / "m.weights.h5"


def _archive(folder: Path) -> Path:
    examples.trained_model().save(folder / "m.keras")
    return folder / "m.keras"


def _index(folder: Path) -> Path:
    examples.graph_checkpoint(folder / "graph")
    return folder / "graph" / "model.ckpt-7.index"


def _data(folder: Path) -> Path:
    examples.graph_checkpoint(folder / "graph")
    return folder / "graph" / "model.ckpt-7.data-00000-of-00001"


def _old(folder: Path) -> Path:
    examples.graph_checkpoint(folder / "graph", version=1)
    return folder / "graph" / "model.ckpt-7"


def damaged(content: bytes, seed: int) -> bytes:
    """A file cut short (every fourth), or with one to four bits turned over."""
    draw = random.Random(seed)
    if seed % 4 == 0:
        return content[: draw.randrange(len(content))]
    changed = bytearray(content)
    # What is zero is mostly room that nobody reads.
    used = [place for place, byte in enumerate(content) if byte]
    for _ in range(draw.choice([1, 1, 2, 4])):
        changed[draw.choice(used)] ^= 1 << draw.randrange(8)
    return bytes(changed)


@pytest.mark.parametrize("write", [_safetensors, _legacy, _keras_3, _archive, _index, _data, _old])
def test_damage_is_reported_or_harmless(write: Write, tmp_path: Path) -> None:
    file = write(tmp_path)
    content = file.read_bytes()
    reported = []
    for seed in range(TRIALS):
        file.write_bytes(damaged(content, seed))
        try:
            load(str(file)).weights_digest()
        except ModelError as error:
            reported.append(str(error))
    assert all(text.startswith("model.path=") and "\n" not in text for text in reported)
    assert len(reported) >= TRIALS // 4  # every file that was cut short


@pytest.mark.parametrize(
    ("ending", "reported"),
    [
        (
            "os.kill(os.getpid(), 11)",
            ", or its library fails on it: reading it crashed the process that tried (signal 11)",
        ),
        ("raise SystemError('no')", ": the process that tried to read it failed: SystemError: no"),
    ],
)
def test_a_reader_that_dies_is_reported(
    ending: str, reported: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a stand-in for h5py: which file takes HDF5 down depends on its version."""
    (tmp_path / "h5py.py").write_text(f"import os\n{ending}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    # The other tests share a process that has imported h5py.
    monkeypatch.setattr(sys, "executable", str(Path(sys.prefix) / "bin" / "python"))
    file = _legacy(tmp_path)
    with pytest.raises(ModelError) as caught:
        load(str(file))
    assert str(caught.value) == f"model.path={str(file)!r} is damaged, or not whole{reported}"


def test_an_array_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    """Nobody would notice before its memory is asked for."""
    with h5py.File(tmp_path / "m.h5", "w") as opened:
        opened.create_dataset("kernel", (1 << 40, 8), "f4", chunks=(1024, 8))
    with pytest.raises(
        ModelError,
        match=r"is refused: .kernel. takes 35,184,372,088,832 bytes of memory",
    ):
        load(str(tmp_path / "m.h5"))
