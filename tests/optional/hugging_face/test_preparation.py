"""Texts and images become what the tokenizer and image processor of the directory make of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("transformers", "4")

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from extractkit import extract
from extractkit.core.requests import Value
from extractkit.engine.batches import collate
from extractkit.errors import ConfigError, InputError, ModelError
from extractkit.inputs import Sample
from extractkit.inputs.random import Random
from extractkit.models import Compilation, Fetch, hugging_face
from tests.optional.hugging_face.zoo import saved

pytestmark = pytest.mark.hugging_face

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "bird", "sings", "high"]
TEXTS = ["a bird sings", "high", "a bird a bird sings high"]


def with_tokenizer(directory: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    )
    fast.save_pretrained(str(directory))


def of_texts(directory: Path, run_dir: Path, *overrides: str) -> Any:
    overrides = ("model=hugging_face", f"model.path={directory}", "selectors=outputs", *overrides)
    return extract(overrides, inputs=TEXTS, run_dir=run_dir)


def test_texts_are_tokenized_and_padding_changes_nothing(tmp_path: Path) -> None:
    model = saved("bert", tmp_path / "dir")
    with_tokenizer(tmp_path / "dir")
    run = of_texts(tmp_path / "dir", tmp_path / "run")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "dir"))
    for index, text in enumerate(TEXTS):
        wanted = model(dict(tokenizer(text, return_tensors="tf")), training=False)
        got = run[":output.last_hidden_state"].sample(index)
        np.testing.assert_allclose(got, wanted.last_hidden_state[0], atol=1e-5)
    rows = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").open()]
    assert rows[0]["tokens"] == ["[CLS]", "a", "bird", "sings", "[SEP]"]


def test_a_text_gives_a_decoder_its_start(tmp_path: Path) -> None:
    model = saved("t5", tmp_path / "dir")
    with_tokenizer(tmp_path / "dir")
    run = of_texts(tmp_path / "dir", tmp_path / "run", "model.max_length=4")
    ids = np.array([[2, 4, 5, 3]], "int32")
    wanted = model({"input_ids": ids, "decoder_input_ids": np.array([[0]], "int32")})
    np.testing.assert_allclose(
        run[":output.last_hidden_state"].sample(0), wanted.last_hidden_state[0], atol=1e-5
    )


@pytest.mark.parametrize("length", [1, 25, "8"])
def test_a_length_that_the_model_does_not_take(length: object, tmp_path: Path) -> None:
    saved("bert", tmp_path)
    with_tokenizer(tmp_path)
    with pytest.raises(ConfigError, match="is not a number of tokens from 2 to 24"):
        hugging_face.load(str(tmp_path), max_length=length)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["bert", "distilbert", "electra", "gpt2", "roberta", "t5"])
def test_masked_padding_leaves_real_tokens_alone(name: str, tmp_path: Path) -> None:
    saved(name, tmp_path)
    model = hugging_face.load(str(tmp_path))
    records = [
        record
        for record in model.catalog.records
        if record.extractable and record.depends_on_inputs and "float" in record.spec.dtype
        and record.spec.dims and record.spec.dims[0].samples
        and all(dim.size or dim.follows for dim in record.spec.dims)
    ]  # fmt: skip
    assert len(records) > 50
    program = model.program([Fetch(Value(record.address)) for record in records], Compilation())

    def drawn(length: int) -> Any:
        (one,) = model.encode(Random(samples=1, length=length).bind(model.signature).read(0, 1))
        return one

    short = drawn(6)
    alone, padded = (collate(model.signature, few) for few in ([short], [short, drawn(11)]))
    for record, one, two in zip(
        records,
        program(alone.features, alone.lengths),
        program(padded.features, padded.lengths),
        strict=True,
    ):
        real = tuple(
            slice(short.sizes[dim.follows]) if dim.follows else slice(None)
            for dim in record.spec.axes[1:]
        )
        apart = np.abs(np.asarray(one[0], np.float64) - two[0][real])
        same = one[0] == two[0][real]  # minus infinity, or the least number, on both sides
        assert np.max(np.where(same, 0, apart), initial=0) < 1e-4, record.address


def pictures(directory: Path) -> list[Image.Image]:
    directory.mkdir()
    draw = np.random.default_rng(0)
    made = [
        Image.fromarray(draw.integers(0, 256, (*size, 3)).astype("uint8"))
        for size in ((40, 60), (32, 32), (20, 90))
    ]
    for index, picture in enumerate(made):
        picture.save(directory / f"{index}.png")
    return made


def test_images_are_prepared_by_the_image_processor(tmp_path: Path) -> None:
    model = saved("vit", tmp_path / "dir")
    settings = {"size": {"height": 32, "width": 32}, "image_mean": [0.4, 0.5, 0.6]}
    processor = transformers.ViTImageProcessor(**settings)
    processor.save_pretrained(str(tmp_path / "dir"))
    made = pictures(tmp_path / "pictures")
    run = extract(
        ["model=hugging_face", f"model.path={tmp_path / 'dir'}", "selectors=[attention,outputs]",
         "inputs=images", f"inputs.path={tmp_path / 'pictures'}"],
        run_dir=tmp_path / "run",
    )  # fmt: skip
    wanted = model(dict(processor(made, return_tensors="tf")), output_attentions=True)
    np.testing.assert_allclose(
        np.asarray(run[":output.last_hidden_state"]), wanted.last_hidden_state, atol=1e-5
    )
    for key, attention in zip([k for k in run if "Softmax" in k], wanted.attentions, strict=True):
        np.testing.assert_allclose(np.asarray(run[key]), attention, atol=1e-6)


def test_images_without_an_image_processor_are_refused(tmp_path: Path) -> None:
    saved("vit", tmp_path / "dir")
    pictures(tmp_path / "pictures")
    asked = ["model=hugging_face", f"model.path={tmp_path / 'dir'}", "selectors=outputs",
             "inputs=images", f"inputs.path={tmp_path / 'pictures'}"]  # fmt: skip
    with pytest.raises(InputError, match=r"has no image processor \(preprocessor_config\.json\)"):
        extract(asked, run_dir=tmp_path / "run")
    extract([*asked, "inputs.scale=signed"], run_dir=tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "arguments", "error", "text"),
    [
        ({"architectures": ["LlamaModel"], "model_type": "llama"}, {}, ModelError,
         "has no TensorFlow class. It has none for the model_type 'llama'"),
        ({"architectures": ["BertForJokes"]}, {}, ModelError,
         "is a model of BertForJokes, for which transformers 4"),
        ({}, {"architecture": "BertForJokes"}, ConfigError,
         "model.architecture='BertForJokes' is not a TensorFlow class of transformers 4"),
        ({}, {"architecture": "GPT2Model"}, ConfigError,
         "is a class for the model_type 'gpt2'; config.json in "),
        ({}, {"architecture": "AutoModel"}, ConfigError, "is not a TensorFlow class"),
        ({"hidden_size": "wide"}, {}, ModelError, "config.json does not make a TFBertModel: "),
        ({"hidden_size": 32}, {}, ModelError, "does not fit the model: "),
        ({}, {"input_axes": ["input_idz"]}, ConfigError,
         "model.input_axes: 'input_idz' is not an input."),
        ({}, {"input_axes": ["position_ids"]}, ConfigError,
         "model.input_axes.position_ids: the model does not declare its axes."),
    ],
)  # fmt: skip
def test_what_cannot_be_read_says_why(
    changes: dict[str, object], arguments: dict[str, Any], error: Any, text: str, tmp_path: Path
) -> None:
    saved("bert", tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    with pytest.raises(error) as caught:
        hugging_face.load(str(tmp_path), **arguments)
    assert text in str(caught.value)


def test_code_that_settings_name_is_never_run(tmp_path: Path) -> None:
    saved("bert", tmp_path)
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')\n")
    for name in ("config.json", "tokenizer_config.json"):
        file = tmp_path / name
        before = json.loads(file.read_text()) if file.exists() else {}
        remote = {
            "AutoConfig": "evil.A",
            "TFAutoModel": "evil.B",
            "AutoTokenizer": ["evil.C", None],
        }
        file.write_text(json.dumps({**before, "auto_map": remote, "tokenizer_class": "Evil"}))
    model = hugging_face.load(str(tmp_path))
    with pytest.raises(ModelError, match="its tokenizer cannot be read"):
        model.encode([Sample(0, "0", "memory", "a bird")])


def test_a_class_method_is_a_target(tmp_path: Path) -> None:
    model = saved("bert", tmp_path / "dir")
    ids = np.arange(1, 13, dtype=np.int32).reshape(2, 6)
    run = extract(
        ["model=keras", "model.factory._target_=transformers.TFBertModel.from_pretrained",
         f"model.factory.pretrained_model_name_or_path={tmp_path / 'dir'}", "selectors=outputs",
         "model.input_axes={input_ids: {dims: [sample, token], dtype: int32}}"],
        inputs=ids, run_dir=tmp_path / "run",
    )  # fmt: skip
    wanted = model(ids).last_hidden_state
    np.testing.assert_allclose(np.asarray(run[":output.last_hidden_state"]), wanted, atol=1e-5)
