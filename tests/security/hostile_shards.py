"""HDF5 and NPZ files in a shard's place that are not what a sink writes.

Each maker gets the path of a file to make and the directory of a file that holds a secret. All hold
a tensor under KEY, or what looks like one.
"""

import io
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

KEY = "a:output"
HUGE = 10**12
"""More bytes than any machine of ours has."""

Maker = Callable[[Path, Path], None]


def hdf5(build: Callable[[Any, Path], object]) -> Maker:
    def make(path: Path, secret: Path) -> None:
        with h5py.File(path, "w") as file:
            build(file, secret)

    return make


def _virtual(file: Any, secret: Path) -> None:
    layout = h5py.VirtualLayout((3,), "f8")
    layout[:] = h5py.VirtualSource(secret, KEY, (3,))
    file.create_virtual_dataset(KEY, layout)


def _ragged(file: Any, values: Any, offsets: Any, shapes: Any = None) -> None:
    file[f"{KEY}/values"] = values
    file[f"{KEY}/offsets"] = offsets
    if shapes is not None:
        file[f"{KEY}/shapes"] = shapes


def _linked_part(file: Any, secret: Path) -> None:
    file[f"{KEY}/offsets"] = np.array([0, 3])
    file[f"{KEY}/values"] = h5py.ExternalLink(str(secret), KEY)


def _references(file: Any, secret: Path) -> None:
    file["x"] = np.arange(3)
    file.create_dataset(KEY, data=[file["x"].ref], dtype=h5py.ref_dtype)


def _rows_of_rows(file: Any, secret: Path) -> None:
    dataset = file.create_dataset(KEY, (2,), h5py.vlen_dtype("i4"))
    dataset[0] = [1, 2]


def _inflating_chunk(file: Any, secret: Path) -> None:
    """A chunk of 8 kB whose stream inflates to 64 MB: HDF5 would allocate whatever comes out."""
    dataset = file.create_dataset(KEY, (1024,), "f8", chunks=(1024,), compression="gzip")
    dataset.id.write_direct_chunk((0,), zlib.compress(bytes(1 << 26)))


def _unknown_filter(file: Any, secret: Path) -> None:
    file.create_dataset(KEY, data=np.arange(8), chunks=(8,), fletcher32=True)


def _gzip_twice(file: Any, secret: Path) -> None:
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_chunk((1 << 20,))
    settings.set_deflate(9)
    settings.set_filter(h5py.h5z.FILTER_DEFLATE, 0, (9,))
    space = h5py.h5s.create_simple((1 << 20,))
    made = h5py.h5d.create(file.id, KEY.encode(), h5py.h5t.NATIVE_DOUBLE, space, settings)
    h5py.Dataset(made)[:] = 0


def _texts_of_one_place(file: Any, secret: Path) -> None:
    """Many texts that all point at one long text in the file's heap."""
    texts = np.array(["x" * 100_000, *[""] * 20_000], object)
    file.create_dataset(KEY, data=texts, dtype=h5py.string_dtype())
    offset, path = file[KEY].id.get_offset(), Path(file.filename)
    file.flush()
    content = bytearray(path.read_bytes())
    first = content[offset : offset + 16]
    content[offset : offset + 16 * len(texts)] = first * len(texts)
    file.close()
    path.write_bytes(content)


HDF5: Mapping[str, Maker] = {
    "soft link": hdf5(lambda file, _: file.__setitem__(KEY, h5py.SoftLink("/x"))),
    "external link": hdf5(
        lambda file, secret: file.__setitem__(KEY, h5py.ExternalLink(str(secret), KEY))
    ),
    "linked part": hdf5(_linked_part),
    "external storage": hdf5(
        lambda file, secret: file.create_dataset(
            KEY, (3,), "f8", external=[(str(secret.with_name("secret.bin")), 0, 24)]
        )
    ),
    "virtual": hdf5(_virtual),
    "references": hdf5(_references),
    "rows of rows": hdf5(_rows_of_rows),
    "records": hdf5(lambda file, _: file.__setitem__(KEY, np.zeros(3, [("x", "i4")]))),
    "opaque": hdf5(lambda file, _: file.__setitem__(KEY, np.zeros(3, "V8"))),
    "texts of one length": hdf5(lambda file, _: file.__setitem__(KEY, np.zeros(3, "S8"))),
    "a type": hdf5(lambda file, _: file.__setitem__(KEY, np.dtype("f8"))),
    "nothing": hdf5(lambda file, _: file.__setitem__(KEY, h5py.Empty("f8"))),
    "never written": hdf5(lambda file, _: file.create_dataset(KEY, (HUGE,), "f8")),
    "missing chunks": hdf5(lambda file, _: file.create_dataset(KEY, (HUGE,), "f8", chunks=(1024,))),
    "large chunks": hdf5(
        lambda file, _: file.create_dataset(
            KEY, (1 << 22,), "f8", chunks=(1 << 22,), data=np.zeros(1 << 22), compression="gzip"
        )
    ),
    "inflating chunk": hdf5(_inflating_chunk),
    "unknown filter": hdf5(_unknown_filter),
    "gzip twice": hdf5(_gzip_twice),
    "texts of one place": hdf5(_texts_of_one_place),
    "a number": hdf5(lambda file, _: file.__setitem__(KEY, 3.0)),
    "offsets that are no numbers": hdf5(lambda file, _: _ragged(file, [1.0], [0.0, 1.0])),
    "offsets of two axes": hdf5(lambda file, _: _ragged(file, [1.0], [[0, 1]])),
    "no offsets": hdf5(lambda file, _: _ragged(file, [1.0], np.zeros(0, int))),
    "offsets beyond the rows": hdf5(lambda file, _: _ragged(file, [1.0], [0, 9])),
    "negative offsets": hdf5(lambda file, _: _ragged(file, [1.0], [-1, 1])),
    "falling offsets": hdf5(lambda file, _: _ragged(file, [1.0, 2.0], [2, 0])),
    "shapes that wrap around": hdf5(
        lambda file, _: _ragged(file, np.zeros(0), [0, 0], [[2**32, 2**32]])
    ),
    "shapes of other sizes": hdf5(lambda file, _: _ragged(file, [1.0], [0, 1], [[1, 2]])),
    "negative shapes": hdf5(lambda file, _: _ragged(file, [1.0], [0, 1], [[-1, -1]])),
    "huge shapes": hdf5(lambda file, _: _ragged(file, np.zeros(0), [0, 0], [[0, HUGE]])),
    "fewer shapes": hdf5(lambda file, _: _ragged(file, [1.0], [0, 1], np.zeros((0, 2), int))),
    "text file": lambda path, _: path.write_text("x") and None,
    "directory": lambda path, _: path.mkdir(),
}


def npz(content: bytes, method: int = zipfile.ZIP_STORED) -> Maker:
    """An archive whose one member has this content."""

    def make(path: Path, secret: Path) -> None:
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("a%3Aoutput.npy", content)

    return make


def array(shape: str, dtype: str = "'<f8'", order: str = "False", data: bytes = b"") -> bytes:
    """A `.npy` file with this header."""
    header = f"{{'descr': {dtype}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def _pickled() -> bytes:
    content = io.BytesIO()
    np.save(content, np.array([{}], object), allow_pickle=True)
    return content.getvalue()


NPZ: Mapping[str, Maker] = {
    "pickle": npz(_pickled()),
    "huge": npz(array(f"({HUGE},)")),
    "huge product": npz(array("(4294967296, 4294967296)")),
    "negative": npz(array("(-1,)")),
    "short": npz(array("(3,)", data=bytes(16))),
    "long": npz(array("(1,)", data=bytes(16))),
    "records": npz(array("(1,)", dtype="[('x', '<f8')]", data=bytes(8))),
    "dates": npz(array("(1,)", dtype="'<M8[s]'", data=bytes(8))),
    "other order": npz(array("(1, 1)", order="True", data=bytes(8))),
    "code for a header": npz(array("__import__('os')")),
    "deep header": npz(array("(" * 5000)),
    "number": npz(array("()", data=bytes(8))),
    "compressed": npz(array("(3,)", data=bytes(24)), zipfile.ZIP_DEFLATED),
    "no array": npz(b"x"),
    "another version": npz(b"\x93NUMPY\x09\x00" + bytes(20)),
    "text file": lambda path, _: path.write_text("x") and None,
    "directory": lambda path, _: path.mkdir(),
}
