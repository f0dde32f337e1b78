"""Mutated overrides and YAML files: the program answers or refuses in one message, and nothing but
the run directory is touched."""

import random
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import yaml

from tests.fuzz.mutation import HOSTILE, mutated_document, mutated_text
from tests.fuzz.program import Case, call, import_early

_FILES: Mapping[str, str] = {
    "my/model/mine.yaml": """\
_target_: extractkit.testing.reference.ReferenceModel
seed: 1
longest: 40
""",
    "my/inputs/lines.yaml": """\
_target_: extractkit.inputs.texts.Texts
path: [texts.txt, "more/*.jsonl"]
limit: 12
column: body
""",
    "my/selectors/mine.yaml": """\
hidden: {path: "attention:output", slice: {token: "0:3"}, cast: float16}
pooled: {path: "attention:output", reduce: {token: mean}}
rest: {kind: layer_output, not: {inside: pool}, any: [{layer_type: "Self*"}, {regex: ".*"}]}
steps:
  kind: layer_output
  consumes: {kind: weight}
  take: "-1:"
  dims: "sample,token,*"
  do: [abs, {slice: {token: "-2:"}}, {pool: {axis: token, window: 2, op: max}}, {quantize: int8}]
largest: {path: "attention:output", do: [{softmax: 2}, {topk: {axis: 2, k: 2}}, {threshold: 0.1}]}
random:
  path: "attention:output"
  do: [{project: {axis: 2, to: 2, seed: 1}}, {quantile: {q: [0.1, 0.9], axis: token}}]
counted:
  kind: layer_output
  dims: "sample,token,*"
  do: [{normalize: 2}]
  statistics:
    - moments
    - {histogram: {bins: 4, range: [-1, 1]}}
    - {quantiles: {q: [0.5], per: feature}}
    - {top: {k: 2, smallest: true}}
    - {pca: {components: 2}}
    - coactivation
    - {similarity: {batch: 4}}
""",
    "my/sinks/mine.yaml": """\
mine:
  _target_: extractkit.sinks.hdf5.Hdf5Sink
  compression: gzip
""",
    "my/runtime/mine.yaml": """\
batch_size: 4
batch_tokens: 100
shard_size: 5
compile: graph
device: null
seed: 3
deterministic: true
threads: 1
bad_samples: skip
non_finite: warn
reuse_from: null
""",
    "my/experiment/mine.yaml": """\
# @package _global_
defaults:
  - override /model: mine
  - override /inputs: lines
  - override /sinks: [mine, npz]
  - override /runtime: mine
selectors:
  own: {kind: weight}
  rows: {path: "attention:output", reduce: {token: mean}}
  counted: {kind: layer_output, statistics: [moments, {top: {k: 2}}, {pca: {components: 2}}]}
""",
    "texts.txt": "one\ntwo words\n\nthe third text\n",
    "more/some.jsonl": '{"body": "a"}\n{"body": "bc", "id": 7}\n',
}

_JOBS: tuple[tuple[str, ...], ...] = (
    ("experiment=mine",),
    ("model=mine", "inputs=lines", "selectors=[mine]", "sinks=[mine,npz]", "runtime=mine"),
    ("model=mine", "inputs=texts", "inputs.path=texts.txt", "selectors=layers", "sinks=npz"),
    ("model=mine", "+selectors.own={kind: op, slice: {token: 0}}", "runtime.batch_size=2"),
    ("model=mine", "inputs=random", "inputs.samples=3", "selectors=[outputs,weights]"),
    ("model=mine", "selectors=outputs", "~sinks", "+sinks=npz", "runtime.seed=5"),
)
_WHERE = ("hydra.run.dir=out/run", "--config-dir", "my")
_VERBS = ("run", "run", "run", "run", "run", "plan", "tensors")


def prepare(place: Path) -> None:
    """Lay out the files of the user, unharmed."""
    (place / "tmp").mkdir(parents=True)
    for name, text in _FILES.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text, "utf-8")


def mutated(place: Path, seed: int) -> list[str]:
    """Mutate one job: its arguments, or a file that they name. The arguments to call."""
    draw = random.Random(f"configs {seed}")
    overrides = list(draw.choice(_JOBS))
    if draw.random() < 0.5:
        at = draw.randrange(len(overrides))
        key, equals, value = overrides[at].partition("=")
        if draw.random() < 0.5:
            key = mutated_text(key, draw)
        else:
            value = mutated_text(value, draw)
        overrides[at] = key + equals + value
    else:
        overrides = list(_JOBS[draw.randrange(2)])
        file = place / draw.choice([name for name in _FILES if name.startswith("my/")])
        file.write_text(_mutated_yaml(file.read_text("utf-8"), draw), "utf-8")
    return [draw.choice(_VERBS), *overrides, *_WHERE]


def cases(scratch: Path) -> Case:
    """Each case in a place of its own below `scratch`."""
    undamaged = scratch / "undamaged"
    prepare(undamaged)
    import_early(["run", *_JOBS[1], *_WHERE], undamaged)

    def case(seed: int) -> tuple[str, str | None]:
        place = scratch / "case"
        prepare(place)
        arguments = mutated(place, seed)
        ended = call(arguments, place, [place / "out"] if arguments[0] == "run" else [])
        if ended.code == 2 and (place / "out").exists():
            ended = replace(ended, wrong=(*ended.wrong, "a mistake left something"))
        shutil.rmtree(place)
        return f"exit code {ended.code}", ended.fault(arguments)

    return case


def _mutated_yaml(text: str, draw: random.Random) -> str:
    if draw.random() < 0.5:
        return mutated_text(text, draw)
    document = yaml.safe_load(text)
    if draw.random() < 0.3:
        document["_target_"] = draw.choice(HOSTILE)
    document = mutated_document(document, draw)
    head = "# @package _global_\n" if text.startswith("#") else ""
    return head + yaml.safe_dump(document, allow_unicode=True)
