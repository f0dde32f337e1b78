"""What a source advises where it refuses is taken out of the text by code, and followed.

Models are signatures alone: nothing is computed. Files have names that a shell and Hydra's grammar
give a meaning.
"""

import gzip
import json
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from extractkit.advice import hydra_override
from extractkit.config.compose import compose
from extractkit.core.component import Component
from extractkit.errors import InputError
from extractkit.inputs import InputSpec, Sample, Signature
from extractkit.inputs.in_memory import LiveArrays, LiveRows, LiveTexts
from tests.advised import Answer, merged

ODD = 'it\'s [1], v=1: {new} "q" $x (y)'

X = InputSpec("x", "float32", (4,), (None,))
ONE = Signature("m", (X,))
TWO = Signature("m", (InputSpec("a b", "float32", (4,), (None,)), X))
HALF = Signature("m", (InputSpec("x", "bfloat16", (4,), (None,)),))
STRING = Signature("m", (InputSpec("x", "string", (), ()),), takes_text=True)
STRINGS = Signature("m", (InputSpec("x", "string", (), ()), InputSpec("y", "string", (), ())))
COMPLEX = Signature("m", (InputSpec("x", "complex64", (4,), (None,)),))
TOKENS = InputSpec("ids", "int32", (None,), ("token",))
TOKENIZER = Signature("m", (TOKENS,), takes_text=True)
PICTURE = Signature("m", (InputSpec("x", "float32", (8, 8, 3), (None, None, None)),))
BYTES = Signature("m", (InputSpec("x", "uint8", (8, 8, 3), (None, None, None)),))
OWN_PICTURE = Signature(
    "m", (InputSpec("x", "float32", (3, 8, 8), (None, None, None)),), takes_pictures=True
)
BARE_PICTURE = Signature("m", PICTURE.specs, takes_pictures=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of most formats, in a folder with an odd name."""
    place = tmp_path_factory.mktemp("advice") / ODD
    (place / "pictures").mkdir(parents=True)
    (place / "folder").mkdir()
    rows = np.ones((2, 4), "float32")
    np.save(place / "x.npy", rows)
    shutil.copy(place / "x.npy", place / "folder/a b.npy")
    np.savez(place / "two.npz", **{"a b": rows, "x": rows})
    np.savez(place / "one.npz", x=rows)
    np.savez(place / "complex.npz", x=rows.astype("complex64"))
    np.save(place / "words.npy", np.array(["one", "two"]))
    (place / "lines.txt").write_text("one\ntwo\n", encoding="utf-8")
    shutil.copy(place / "lines.txt", place / "folder/a, b.txt")
    (place / "old.txt").write_bytes("été\n".encode("latin-1"))
    row = {"a b": [1.0] * 4, "x": [2.0] * 4, "the body": "text", "label": 3}
    (place / "rows.jsonl").write_text(f"{json.dumps(row)}\n", encoding="utf-8")
    (place / "words.jsonl").write_text('{"x": "one", "y": "two"}\n', encoding="utf-8")
    (place / "ids.jsonl").write_text('{"the ids": [1, 2]}\n', encoding="utf-8")
    table = {"c, d": [[1.0] * 4], "null": [[2.0] * 4], "the body": ["text"], "ids": [[1]]}
    pq.write_table(pa.table(table), place / "t.parquet")
    pq.write_table(pa.table({"any": [[1.0] * 4]}), place / "x.parquet")
    with h5py.File(place / "t.h5", "w") as file:
        file["g/c d"] = rows
        file["g/e"] = rows
    picture = Image.new("RGB", (8, 8), "red")
    picture.save(place / "pictures/a b.png")
    return place


@pytest.fixture
def here(data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same folder, as the working directory."""
    monkeypatch.chdir(data)
    return data


def read(signature: Signature, words: Sequence[str]) -> list[Sample]:
    """Every sample of the source that the command chooses."""
    live = {"model": Component("model", "builtins.dict")}
    job = compose([*words, "selectors=outputs"], live=live).job
    source = job.inputs.instantiate().bind(signature)  # type: ignore[attr-defined]
    return list(source.read(0, len(source)))


def answer(signature: Signature, words: Sequence[str]) -> Answer:
    """The refusal of that command."""
    with pytest.raises(InputError) as caught:
        read(signature, words)
    return Answer(tuple(words), 2, "", f"extractkit: {caught.value}")


@dataclass(frozen=True)
class Row:
    """One refused command.

    Attributes:
        signature: what the model takes.
        words: the command's overrides.
        text: what the message says.
        ways: for each alternative the numbers of the message's overrides that make it up; none:
            all of them together.
        names: what stands for the message's placeholders.
        more: what the command has besides.
        instead_of: the key of what the message says to replace.
    """

    signature: Signature
    words: tuple[str, ...]
    text: str
    ways: tuple[tuple[int, ...], ...] = ()
    names: tuple[tuple[str, str], ...] = ()
    more: tuple[str, ...] = ()
    instead_of: str = ""


PATHS = (("FILE", "one"),)
ROWS = [
    Row(ONE, ("inputs=arrays",), "Give an array for each: ", names=PATHS),
    Row(TWO, ("inputs=arrays", "inputs.path=x.npy"), "or a file for each: ",
        names=(("FILE.npy", "x.npy"),)),
    Row(ONE, ("inputs=arrays", "inputs.path={x: one.npz}"), "or the .npz for all inputs: "),
    Row(ONE, ("inputs=texts",), "Try inputs=random, or ", ((1,), (2, 3)), PATHS),
    Row(STRINGS, ("inputs=texts",), "Try JSON lines: ", ((1,),), (("FILE", "words"),)),
    Row(TOKENIZER, ("inputs=texts", "inputs.path=folder"), "Give a file: 'inputs.path=\"folder/a"),
    Row(TOKENIZER, ("inputs=texts", "inputs.path=rows.jsonl"), "has no 'text'. Available: 'a b', "
        "'label', 'the body', 'x'. Try 'inputs.column=\"the body\"'"),
    Row(TOKENIZER, ("inputs=texts", "inputs.path=rows.jsonl", "inputs.column=label"),
        "is a number, not a text. Try "),
    Row(TWO, ("inputs=texts", "inputs.path=rows.jsonl", 'inputs.column="a b"'),
        "as the model takes no text", instead_of="inputs.column"),
    Row(TOKENIZER, ("inputs=texts", "inputs.path=ids.jsonl", "inputs.column=b",
        "inputs.columns={ids: a}"), "as inputs.columns is given", instead_of="inputs.column",
        names=(("ids: b}", 'ids: "the ids"}'),)),
    Row(TWO, ("inputs=parquet", "inputs.path=t.parquet"), "Name them: ",
        names=(("x: COLUMN", 'x: "null"'), ("COLUMN", '"c, d"'))),
    Row(TOKENIZER, ("inputs=parquet", "inputs.path=t.parquet"), "Give the one with the text, ",
        ((0,), (1,)), (("inputs.column=…", "inputs.column='the\\ body'"),
                       ("{INPUT:COLUMN,…}", "{ids:ids}"))),
    Row(ONE, ("inputs=parquet",), "Give Parquet files: ", names=(("FILE", "x"),)),
    Row(TWO, ("inputs=hdf5", "inputs.path=t.h5"), "Name them: ",
        names=(("x: COLUMN", "x: g/e"), ("COLUMN", '"g/c d"'))),
    Row(STRING, ("inputs=random",), "Try inputs=texts or inputs=arrays", ((1,),),
        more=("inputs.path=words.npy",)),
    Row(STRINGS, ("inputs=random",), "Try inputs=texts inputs.path=FILE.jsonl (JSON lines) or ",
        ((0, 1),), (("FILE", "words"),)),
    Row(STRING, ("inputs=images", "inputs.path=pictures"), "Use inputs=files "),
    Row(PICTURE, ("inputs=images",), "Give a folder of pictures: ", names=(("DIR", "pictures"),)),
    Row(PICTURE, ("inputs=images", "inputs.path=pictures", "inputs.size=8"), "as in inputs.size="),
    Row(BARE_PICTURE, ("inputs=images", "inputs.path=pictures"), "inputs.scale=signed (",
        ((0,), (1,))),
    Row(STRING, ("inputs=files",), "Give a folder of files: ", names=(("DIR", "pictures"),)),
    Row(PICTURE, ("inputs=files", "inputs.path=pictures"), "Decoded pictures: ", ((0,),),
        more=("inputs.path=pictures",)),
    Row(COMPLEX, ("inputs=random",), "Try inputs=arrays", ((0,),),
        more=("inputs.path=complex.npz",)),
    Row(TWO, ("inputs=images", "inputs.path=pictures"), "Try inputs=arrays or ", ((0,),),
        more=("inputs.path=two.npz",)),
    Row(ONE, ("inputs=images", "inputs.path=pictures"), "Try inputs=arrays inputs.path=",
        names=PATHS),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_settings(row: Row, here: Path) -> None:
    refused = answer(row.signature, row.words)
    assert row.text in refused.message
    message = refused.message
    for name, value in row.names:
        message = message.replace(name, value)
    found = Answer(refused.words, 2, "", message).overrides
    ways = row.ways or (tuple(range(len(found))),)
    kept = [word for word in row.words if word.partition("=")[0] != row.instead_of]
    for way in ways:
        words = [*merged(kept, [found[number] for number in way]), *row.more]
        assert read(row.signature, words), words


LEFT_OUT = [
    (PICTURE, ("inputs.size=[4,4]",)),
    (OWN_PICTURE, ("inputs.mode=gray",)),
    (OWN_PICTURE, ("inputs.scale=unit",)),
    (BYTES, ("inputs.scale=unit",)),
]


@pytest.mark.parametrize(("signature", "words"), LEFT_OUT)
def test_what_is_to_be_left_out(signature: Signature, words: tuple[str, ...], here: Path) -> None:
    given = ("inputs=images", "inputs.path=pictures", *words)
    left = re.search(r"Leave ([\w.]+) out", answer(signature, given).message)
    assert left is not None
    key = words[0].partition("=")[0] if left[1] == "it" else left[1]
    assert read(signature, [word for word in given if not word.startswith(f"{key}=")])


def expression(message: str, begin: str) -> str:
    """The last Python expression in a message that begins so, up to its closing bracket."""
    text = message[message.rindex(begin) :]
    depth = 0
    for position, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if char in ")]}" and not depth:
            return text[: position + 1].replace(", …", "").replace("NAME=", "x=")
    raise AssertionError(text)


CONVERTED = [
    (ONE, np.array([["1", "2", "3", "4"]]), "array"),
    (ONE, np.array([[1, 2, 3, 4.5]], object), "array"),
    (HALF, np.array([["1", "2", "3", "4"]]), "array"),
    (STRING, np.array([1.5, 2]), "array"),
    (STRING, np.array([b"a\xff\0", b"ab\xff"]), "np.array"),
    (ONE, np.array([((1, 2, 3, 4), 5)], [("a b", "f4", 4), ("y", "i4")]), "array["),
]


@pytest.mark.parametrize(("signature", "array", "begin"), CONVERTED)
def test_arrays_are_converted(signature: Signature, array: np.ndarray, begin: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(InputError) as caught:
        LiveArrays(array).bind(signature)
    names = {"np": np, "array": array, "values": array.tolist()}
    assert len(LiveArrays(eval(expression(str(caught.value), begin), names)).bind(signature))


def member(change: Callable[[zipfile.ZipInfo], None]) -> bytes:
    """An .npz whose one member says something of itself that is changed."""
    np.savez("plain.npz", x=np.ones((1, 4)))
    with zipfile.ZipFile("plain.npz") as archive:
        info = archive.infolist()[0]
        old = (info.flag_bits, info.compress_type)
        change(info)
        new = (info.flag_bits, info.compress_type)
    content = Path("plain.npz").read_bytes()
    for begin in (b"PK\x03\x04\x2d\x00", b"PK\x01\x02\x2d\x03\x2d\x00"):
        pairs = [begin + b"".join(one.to_bytes(2, "little") for one in pair) for pair in (old, new)]
        assert pairs[0] in content
        content = content.replace(*pairs)
    return content


def test_files_of_numpy_are_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    array = np.ones((1, 4))
    objects = np.array([[1, 2, 3, 4]], object)
    np.save("objects.npy", objects)
    np.save("words.npy", np.array(["a", "b"], object))
    Path("text.npy").write_text("1 2 3", encoding="utf-8")
    with zipfile.ZipFile("notes.zip", "w") as archive:
        archive.writestr("notes.txt", "hello")
    Path("locked.npz").write_bytes(member(lambda one: setattr(one, "flag_bits", 1)))
    Path("newer.npz").write_bytes(member(lambda one: setattr(one, "compress_type", 93)))
    for name, text, begin, signature, given in [
        ("text.npy", "is neither .npy nor .npz: ", "np.save('x.npy'", ONE, array),
        ("text.npy", "is neither .npy nor .npz: ", "np.savez", ONE, array),
        ("objects.npy", "Make it numbers, array = array.astype('float32'), ", "np.save(path", ONE,
         objects),
        ("words.npy", "or texts, array = array.astype('str'), ", "np.save(path", STRING,
         np.array(["a", "b"], object)),
        ("notes.zip", "is a zip archive, but not an .npz: 'notes.txt' in it is not an array. ",
         "np.savez", ONE, array),
        ("locked.npz", "is encrypted. ", "np.savez", ONE, array),
        ("newer.npz", "is compressed as Python cannot read it (method 93). ", "np.savez", ONE,
         array),
    ]:  # fmt: skip
        message = answer(signature, ("inputs=arrays", f"inputs.path={name}")).message
        assert text in message
        code = expression(message, begin).replace("path,", "'x.npy',").replace("path", "'x.npz'")
        code = re.sub(r"savez\((?=x=)", "savez('x.npz', ", code)
        converted = re.search(r"array = (array\.astype\('\w+'\))", text)
        array_given = eval(converted[1], {"array": given}) if converted else given
        eval(code, {"np": np, "array": array_given})
        ending = "npz" if "savez" in code else "npy"
        assert read(signature, ("inputs=arrays", f"inputs.path=x.{ending}"))


def ran(message: str, begin: str, new: str = "new") -> None:
    """Run the command of a shell that a message ends in."""
    command = message[message.index(begin) :].replace("ENCODING", "LATIN1").replace("NEW", new)
    subprocess.run(command, shell=True, check=True)


def test_a_text_is_converted_to_utf_8(here: Path) -> None:
    shutil.copy("old.txt", "it's old & odd.txt")
    for source in ("texts", "files"):
        words = (f"inputs={source}", hydra_override("inputs.path", "it's old & odd.txt"))
        ran(answer(TOKENIZER, words).message, "iconv ")
        assert read(TOKENIZER, (words[0], "inputs.path=new"))[0].data in ("été", "été\n")


def test_a_file_that_may_not_be_read(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy("lines.txt", "it's mine.txt")
    file = Path("it's mine.txt")
    file.chmod(0)
    monkeypatch.setattr("os.access", lambda path, mode: bool(Path(path).stat().st_mode & 0o400))
    words = ("inputs=texts", 'inputs.path="it\'s mine.txt"')
    ran(answer(TOKENIZER, words).message, "chmod ")
    assert len(read(TOKENIZER, words)) == 2


def test_plain_text_is_read_once_it_has_another_ending(here: Path) -> None:
    shutil.copy("lines.txt", "lines.json")
    refused = answer(TOKENIZER, ("inputs=texts", "inputs.path=lines.json"))
    assert "Files that end in .jsonl, .ndjson or .json hold one object a line" in refused.message
    assert "plain text needs another ending" in refused.message
    shutil.move("lines.json", "lines.text")
    assert len(read(TOKENIZER, ("inputs=texts", "inputs.path=lines.text"))) == 2


def test_bytes_are_kept_by_every_source_that_is_named(here: Path) -> None:
    """What NumPy's fixed-width types may have cut has other ways into a model."""
    value = b"a\xff\0"
    with pytest.raises(InputError, match="give inputs=files, inputs=tfrecord, a binary column"):
        LiveArrays(np.array([value, b"ab\xff"])).bind(STRING)
    Path("one.bin").write_bytes(value)
    pq.write_table(pa.table({"x": pa.array([value], pa.binary())}), "b.parquet")
    for words in (
        ("inputs=files", "inputs.path=one.bin"),
        ("inputs=parquet", "inputs.path=b.parquet"),
    ):
        data = read(STRING, words)[0].data
        assert not isinstance(data, str)
        assert data["x"].item() == value


def test_pictures_of_16_bits_are_converted(here: Path) -> None:
    Path("deep").mkdir(exist_ok=True)
    Image.fromarray(np.full((8, 8), 300, np.uint16)).save("deep/a.png")
    words = ("inputs=images", "inputs.path=deep")
    assert "Convert it to 8 bits, or give arrays" in answer(PICTURE, words).message
    Image.fromarray(np.full((8, 8), 30, np.uint8)).save("deep/a.png")
    assert read(PICTURE, words)


def test_a_broken_picture_is_left_out_or_converted(here: Path) -> None:
    Path("broken").mkdir(exist_ok=True)
    Path("broken/a.png").write_bytes(b"no picture")
    words = ("inputs=images", "inputs.path=broken")
    message = answer(PICTURE, words).message
    for name in message.partition("to one of ")[2].partition(", or ")[0].split(", "):
        Image.new("RGB", (8, 8)).save("broken/a.png", name)
        assert read(PICTURE, words)


def test_samples_in_memory() -> None:
    rows = np.ones((2, 4), "float32")
    with pytest.raises(InputError, match="Give a mapping from their names to arrays"):
        LiveArrays(rows).bind(TWO)
    assert len(LiveArrays({"a b": rows, "x": rows}).bind(TWO)) == 2
    with pytest.raises(InputError, match=r"Give arrays: inputs=\{NAME: array, …\}"):
        LiveTexts(["a"]).bind(ONE)
    assert len(LiveArrays({"x": rows}).bind(ONE)) == 2
    with pytest.raises(InputError, match=r"one text, 'a b'\. Give a list: inputs=\[text\]"):
        LiveTexts("a b").bind(TOKENIZER)
    assert len(LiveTexts(["a b"]).bind(TOKENIZER)) == 1
    with pytest.raises(InputError, match="Give a mapping from their names, or a tuple in their"):
        LiveRows([rows[0]]).bind(TWO)
    for row in ({"a b": rows[0], "x": rows[1]}, (rows[0], rows[1])):
        assert len(LiveRows([row]).bind(TWO)) == 1


def test_values_that_are_missing_are_filled_in(here: Path) -> None:
    pq.write_table(pa.table({"x": pa.array([None, [1.0] * 4])[:1]}), "null.parquet")
    words = ("inputs=parquet", "inputs.path=null.parquet")
    assert "holds a null. Fill it in or leave the row out" in answer(ONE, words).message
    pq.write_table(pa.table({"x": [[1.0] * 4]}), "null.parquet")
    assert read(ONE, words)


def test_links_and_groups_of_hdf5(here: Path) -> None:
    with h5py.File("links.h5", "w") as file:
        file["g/own"] = np.ones((2, 4), "float32")
        file["link"] = h5py.SoftLink("/g/own")
        file.create_dataset("virtual", data=file["g/own"][:])
    for column in ("link", "g"):
        words = ("inputs=hdf5", "inputs.path=links.h5", f"inputs.columns={{x: {column}}}")
        message = answer(ONE, words).message
        named = re.search(r"Available: '([^']+)'|is a link to '/([^']+)'", message)
        assert named is not None
        column = named[1] or named[2]
        assert len(read(ONE, (*words[:2], f"inputs.columns={{x: {column}}}"))) == 2


class TestTFRecord:
    """Features and records; TensorFlow reads them."""

    @staticmethod
    def write(*rows: dict[str, object]) -> None:
        import tensorflow as tf

        with tf.io.TFRecordWriter("x.tfrecord") as writer:
            for row in rows:
                example = tf.train.Example()
                for name, value in row.items():
                    feature = example.features.feature[name]
                    if isinstance(value, bytes):
                        feature.bytes_list.value.append(value)
                    else:
                        feature.float_list.value.extend(value)  # type: ignore[arg-type]
                writer.write(example.SerializeToString())

    def test_features_are_named_for_every_input(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        self.write({"a b": [1.0] * 4, "null": [2.0] * 4, "raw": np.ones(4, "<f4").tobytes()})
        words: Sequence[str] = ("inputs=tfrecord", "inputs.path=x.tfrecord")
        first = answer(TWO, words)
        assert "has no feature 'x' for input 'x'. Available: 'a b', 'null', 'raw'." in first.message
        assert "inputs.whole" not in first.message
        second = answer(TWO, [one.replace("NAME", "raw") for one in first.advised()])
        assert "Specify what they are: 'inputs.features={a\\ b: {}, x: {" in second.message
        third = [
            one.replace("uint8", "float32") for one in merged(second.words, second.overrides[:1])
        ]
        data = read(TWO, third)[0].data
        assert not isinstance(data, str)
        assert {name: value.tolist() for name, value in data.items()} == {
            "a b": [1.0] * 4, "x": [1.0] * 4,
        }  # fmt: skip

    def test_a_picture_among_several_inputs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Image.new("RGB", (8, 8)).save("a.png")
        self.write({"p": Path("a.png").read_bytes(), "x": [1.0] * 4})
        picture = InputSpec("p", "float32", (8, 8, 3), (None, None, None))
        signature = Signature("m", (picture, X))
        refused = answer(signature, ("inputs=tfrecord", "inputs.path=x.tfrecord"))
        assert read(signature, merged(refused.words, refused.overrides[1:2]))

    def test_whole_records(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        self.write({"other": b"text"})
        words = ("inputs=tfrecord", "inputs.path=x.tfrecord")
        refused = answer(STRING, words)
        for way, name in ((refused.overrides[:1], "other"), (refused.overrides[1:], "")):
            assert read(STRING, [one.replace("NAME", name) for one in merged(words, way)])
        assert "inputs.whole" not in answer(STRINGS, words).message
        given = (*words, "inputs.features={x: gone}")
        assert "inputs.whole" not in answer(STRING, given).message
        whole = (*words, "inputs.whole=true")
        assert "Leave inputs.features out" in answer(STRING, (*whole, given[-1])).message
        assert read(STRING, whole)
        self.write({"x": [1.0] * 4})
        assert read(ONE, answer(ONE, whole).advised())

    def test_compressed_records(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As TensorFlow writes them, a compressed file has no ending that gunzip knows."""
        (tmp_path / ODD).mkdir()
        monkeypatch.chdir(tmp_path / ODD)
        self.write({"x": [1.0] * 4})
        Path("it's.tfrecord").write_bytes(gzip.compress(Path("x.tfrecord").read_bytes()))
        words = ("inputs=tfrecord", 'inputs.path="it\'s.tfrecord"')
        ran(answer(ONE, words).message, "gunzip ")
        assert read(ONE, ("inputs=tfrecord", "inputs.path=new"))

    def test_features_that_were_mapped_to_inputs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        self.write({"a b": [1.0] * 4, "raw": np.ones(4, "<f4").tobytes()})
        old = "inputs.features={a b: {}, raw: {input: x, dtype: float32}}"
        refused = answer(TWO, ("inputs=tfrecord", "inputs.path=x.tfrecord", old))
        assert refused.message == (
            "extractkit: inputs.features maps inputs to features, and not features to inputs. "
            "Write: 'inputs.features={a\\ b: {}, x: {feature: raw, dtype: float32}}'"
        )
        data = read(TWO, refused.advised())[0].data
        assert not isinstance(data, str)
        assert data["x"].tolist() == [1.0] * 4
