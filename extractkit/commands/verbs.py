"""The verbs and options of the command line, declared once for parser and help."""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent, wrap

from extractkit.core.keys import Effect, Setting

_WIDTH = 100


def _count(text: str) -> int:
    """Return a whole number of 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


@dataclass(frozen=True)
class Option:
    """An option of a verb.

    Attributes:
        flag: The option as typed.
        description: The text for `--help`.
        metavar: The name of its value; None for an option without one.
        convert: Converts the typed value.
        default: Its value if it is not given.
        repeated: Whether it may be given several times, for a list of values.
    """

    flag: str
    description: str
    metavar: str | None = None
    convert: Callable[[str], object] = str
    default: object = None
    repeated: bool = False

    @property
    def typed(self) -> str:
        """The option with the name of its value."""
        return self.flag if self.metavar is None else f"{self.flag} {self.metavar}"

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Make a parser accept the option."""
        if self.metavar is None:
            parser.add_argument(self.flag, action="store_true")
            return
        parser.add_argument(
            self.flag,
            metavar=self.metavar,
            type=self.convert,
            default=[] if self.repeated else self.default,
            action="append" if self.repeated else "store",
        )


@dataclass(frozen=True)
class Verb:
    """A verb.

    Attributes:
        summary: One line, for the list of verbs.
        usage: The words between the verb and its options.
        text: A description with examples.
        options: Its options.
        operands: The names of its runs or files, in order. One that ends with `?` is optional.
            Verbs on jobs have none.
        overrides: Whether overrides may follow the operands.
        keys: The effects of the keys of `runtime` that its help lists.
    """

    summary: str
    usage: str
    text: str
    options: tuple[Option, ...]
    operands: tuple[str, ...] = ()
    overrides: bool = False
    keys: tuple[Effect, ...] = ()


JSON = Option("--json", "print one JSON document on standard output")
TRUST = Option(
    *("--trust", "let files name callables of this module as `_target_`", "MODULE"), repeated=True
)
MAP = Option(
    "--map", 'a YAML file of lines "ADDRESS IN A": "ADDRESS IN B", where addresses differ', "FILE"
)
EXACT = Option("--exact", "read every sample, for exact sizes")
FAIL_FAST = Option("--fail-fast", "start no further job of a sweep once one has failed")

ONLY = Option("--only", "compare only tensors whose address matches", "GLOB", repeated=True)
COMPARING = (
    Option("--rtol", "the relative tolerance; 1e-5", "X", float, default=1e-5),
    Option("--atol", "the absolute tolerance; 1e-6", "X", float, default=1e-6),
    MAP,
    ONLY,
)

HYDRA = (
    Option("-m", "one job for each combination of the values in KEY=A,B (Hydra's multirun)"),
    Option("--config-dir", "YAML files of your own, in folders named like the groups", "DIR"),
    Option("--hydra-help", "all features of Hydra"),
)

VERBS: Mapping[str, Verb] = {
    "run": Verb(
        summary="extract tensors into a run directory; the verb may be omitted",
        usage="model=NAME selectors=NAME [KEY=VALUE …]",
        text="""\
        Compute the selected tensors for every sample and store them. The last line on standard
        output is the run directory (run_dir); progress goes to standard error.

        With -m, run a sweep: one run for each combination of the values in KEY=A,B below one
        directory (run_dir), with an index. That directory is then the last line. A job that fails
        does not stop the others, unless --fail-fast is given. Jobs run in this process, or where
        Hydra's launcher sends them (hydra/launcher=joblib, submitit_local, submitit_slurm, ray;
        extra `launchers`).

          extractkit model=bert selectors=attention inputs.path=texts.txt
          extractkit -m model=bert selectors=attention,layers     one run for each
        """,
        options=(FAIL_FAST, TRUST),
        keys=tuple(Effect),
    ),
    "tensors": Verb(
        summary="what can be selected: a tree of addresses, types and shapes",
        usage="model=NAME [selectors=NAME] [KEY=VALUE …]",
        text="""\
        Without selectors: the layers with their outputs and weights; other tensors are counted.
        With selectors: exactly the matching tensors, operations included, with the reasons why
        some cannot be extracted. Nothing is left on disk.

          extractkit tensors model=bert
          extractkit tensors model=bert selectors=ops
          extractkit tensors model=bert --json      all records, under `tensors`
        """,
        options=(JSON, TRUST),
    ),
    "plan": Verb(
        summary="what a run would store: matches, shapes, bytes, shards, room on the disk",
        usage="model=NAME selectors=NAME [KEY=VALUE …]",
        text="""\
        Check a job without running it. The sizes of texts are upper bounds unless --exact is
        given. A plan that the disk of run_dir cannot hold is refused. Nothing is left on disk.

          extractkit plan model=bert selectors=layers inputs.path=texts.txt
        """,
        options=(EXACT, JSON, TRUST),
    ),
    "resume": Verb(
        summary="continue a run or a sweep that was interrupted, killed or damaged",
        usage="RUN|SWEEP [runtime.KEY=VALUE …]",
        text="""\
        Committed shards that are intact are kept. Everything else is computed, and the run ends
        bitwise identical to an uninterrupted one. Weights, inputs and library versions
        must be the recorded ones. The last line on standard output is the run directory. In a
        sweep, finished jobs are left alone, and all others are run by the same launcher. A run
        may continue elsewhere: the keys below choose where.

          extractkit resume outputs/2026-11-22/10-15-00
          extractkit resume multirun/2026-11-22/10-15-00
        """,
        options=(TRUST,),
        operands=("run",),
        overrides=True,
        keys=(Effect.WHERE,),
    ),
    "join": Verb(
        summary="join the parts of a job (runtime.part=i/n) to one run",
        usage="RUN",
        text="""\
        Each of n machines has run one part of the job: runtime.part=1/n run_dir=RUN, and so on to
        n/n. Join them to one run, bitwise identical to the run of a single process. Parts that
        are missing, unfinished or from another job are refused and named. No model is loaded. The
        last line on standard output is the run directory.

          extractkit model=bert selectors=attention runtime.part=1/2 run_dir=runs/big
          extractkit model=bert selectors=attention runtime.part=2/2 run_dir=runs/big
          extractkit join runs/big
        """,
        options=(TRUST,),
        operands=("run",),
    ),
    "rerun": Verb(
        summary="repeat a run from its manifest, into a new directory",
        usage="RUN [run_dir=DIR] [runtime.KEY=VALUE …]",
        text="""\
        The same job on the same weights and inputs; libraries and machine may differ. It reports
        whether the values are bitwise equal. The last line on standard output is the new run
        directory. The keys below choose where it runs.

          extractkit rerun outputs/2026-11-22/10-15-00 run_dir=runs/again
        """,
        options=(TRUST,),
        operands=("run",),
        overrides=True,
        keys=(Effect.WHERE,),
    ),
    "verify": Verb(
        summary="check a run against what it recorded, and against its model",
        usage="RUN",
        text="""\
        Check every file, digest, count, shape and dtype of the run, and the files that its
        configuration names. With --recompute, also compare the model's outputs with those of the
        model's own call. With --key, also check that the run is as the owner of the key signed it.
        Exit code 1 if anything differs from the record.

          extractkit verify outputs/2026-11-22/10-15-00
          extractkit verify outputs/2026-11-22/10-15-00 --recompute 3
          extractkit verify runs/first --key public.pem
        """,
        options=(
            Option(
                "--recompute",
                "compute K shards, drawn at random, again and compare them bitwise",
                "K",
                _count,
                default=0,
            ),
            Option("--seed", "the seed of the draw", "N", _count),
            Option("--key", "a public key, to check the signature of the run", "FILE"),
            Option("--signature", "the signature; RUN.sig, beside the run", "FILE"),
            JSON,
            TRUST,
        ),
        operands=("run",),
    ),
    "sign": Verb(
        summary="sign a run with a private key, so that others can check who made it",
        usage="RUN --key FILE",
        text="""\
        Check the run, and sign all of its files in the format of OpenSSF model signing. Unfinished
        and changed runs are refused. The key is one of an elliptic curve (P-256, P-384 or P-521),
        as PEM without a password. Nothing is sent anywhere. Needs the extra `sign`. The last line
        on standard output is the file of the signature.

          openssl ecparam -name prime256v1 -genkey -noout -out key.pem
          openssl ec -in key.pem -pubout -out public.pem
          extractkit sign runs/first --key key.pem
          extractkit verify runs/first --key public.pem
        """,
        options=(
            Option("--key", "a private key", "FILE"),
            Option("--output", "the file; RUN.sig, beside the run", "FILE", Path),
            TRUST,
        ),
        operands=("run",),
    ),
    "diff": Verb(
        summary="compare two runs, tensor by tensor, sample by sample",
        usage="A B",
        text="""\
        A is the reference. For each tensor: bitwise equal, within the tolerance
        (|a − b| ≤ atol + rtol · max(|a|, |b|)), or beyond it, with errors, cosine, correlation,
        the first and the worst sample. Exit code 1 if anything is beyond the tolerance, or in one
        run only.

          extractkit diff runs/laptop runs/server
          extractkit diff runs/keras runs/int8 --map layers.yaml --rtol 0.1
        """,
        options=(*COMPARING, JSON, TRUST),
        operands=("a", "b"),
    ),
    "similarity": Verb(
        summary="find the tensors of two runs, or of one, that are alike, by linear CKA",
        usage="A [B]",
        text="""\
        For each tensor of A: its centered kernel alignment (CKA) with the tensor of the same key in
        B, and the most similar tensor of B. CKA is 1 for tensors that differ only by an orthogonal
        transform, a factor and an offset. Both runs store values of the same samples, and --json
        prints the CKA of all pairs. Without B, the tensors of A are compared with each other.

          extractkit similarity runs/first
          extractkit similarity runs/first runs/second
          extractkit similarity runs/first runs/second --only 'encoder/*:output' --batch 256
        """,
        options=(
            ONLY,
            Option("--batch", "estimate from minibatches of N rows, with less memory", "N", _count),
            JSON,
            TRUST,
        ),
        operands=("a", "b?"),
    ),
    "show": Verb(
        summary="show the content of a run or a sweep",
        usage="RUN|SWEEP",
        text="""\
        For a run: status, job, samples, size, tensors and what statistics show; --json prints its
        whole manifest. For a sweep: a row for each job with the swept values, its run, status,
        sizes and time.

          extractkit show outputs/2026-11-22/10-15-00
          extractkit show outputs/2026-11-22/10-15-00 --tensor encoder/output
          extractkit show multirun/2026-11-22/10-15-00
        """,
        options=(
            JSON,
            Option("--tensor", "show the statistics of this tensor, number by number", "KEY"),
            Option(
                "--figure",
                "draw how tensors move over checkpoints to this file: .png, .svg or .pdf",
                "FILE",
                Path,
            ),
        ),
        operands=("run",),
    ),
    "report": Verb(
        summary="write one HTML page about a run, a sweep or two runs: charts, tables, provenance",
        usage="RUN|SWEEP [OTHER]",
        text="""\
        The page needs no network and can be sent by mail: it has at most 5 MB, and notes where it
        shows a part of a run for that. It has charts with a choice of samples and layers, and a
        tree of all tensors to search. Unfinished and damaged runs get a page about what is whole.
        Of a sweep: its runs, and results by the values that vary. With OTHER: where and in which
        samples it departs from RUN, the reference, as `diff` compares them. Needs the extra
        `report`. The last line on standard output is the file.

          extractkit report outputs/2026-11-22/10-15-00
          extractkit report runs/first --output first.html --figures figures
          extractkit report runs/keras runs/int8 --map layers.yaml --rtol 0.1
        """,
        options=(
            Option("--output", "the file; RUN.html, beside the run", "FILE", Path),
            Option(
                "--figures", "also save each chart to this directory, as SVG and PNG", "DIR", Path
            ),
            Option("--umap", "also draw the map of a run's samples by UMAP (extra `umap`)"),
            *COMPARING,
            TRUST,
        ),
        operands=("run", "other?"),
    ),
    "export": Verb(
        summary="write a run as the files of another tool, such as TensorBoard",
        usage="RUN",
        text="""\
        The run stays as it is. Only finished runs are exported. The last line on standard output
        is the directory, which must not exist.

          tensorboard      histograms, scalars over checkpoints, attention maps, and the embedding
                           projector, for tensorboard --logdir DIR (extra `tensorboard`)
          model-explorer   numbers on the nodes of a TensorFlow or TensorFlow Lite graph, as node
                           data of Google's Model Explorer: sizes, NaN, extremes, drift, and how
                           far the run is from the reference

          extractkit export runs/first --to tensorboard
          extractkit export runs/int8 --to model-explorer --reference runs/float
        """,
        options=(
            Option("--to", "the format", "FORMAT"),
            Option("--output", "the directory; RUN.FORMAT, beside the run", "DIR", Path),
            Option("--reference", "another run, to show how far this one is from it", "RUN"),
            MAP,
            TRUST,
        ),
        operands=("run",),
    ),
    "crate": Verb(
        summary="describe a run as an RO-Crate, so that it can be archived and cited",
        usage="RUN --license URL --author AUTHOR",
        text="""\
        Check the run, and write ro-crate-metadata.json into it, by the profile Process Run Crate:
        program, versions, what the job was given, what it made, licence and author. Nothing else
        changes. Unfinished and changed runs are refused. To sign a run too, sign it afterwards. The
        last line on standard output is the file.

          extractkit crate runs/first --license https://creativecommons.org/licenses/by/4.0/ \\
              --author https://orcid.org/0000-0002-1825-0097
        """,
        options=(
            Option("--license", "the address of the licence", "URL"),
            Option("--author", "the author's ORCID, or name", "AUTHOR"),
            TRUST,
        ),
        operands=("run",),
    ),
    "init": Verb(
        summary="write a first job for a model's file, with comments, as configuration",
        usage="MODEL",
        text="""\
        Recognise the format of a file or folder, load the model, and write a job for it that can
        be planned: the model, inputs that need no file, and a selector of one tensor. The last
        line on standard output is the command that runs it. A file that exists is not replaced.

          extractkit init net.keras
          extractkit init saved_model --output my
        """,
        options=(Option("--output", "the folder of configuration; conf", "DIR", default="conf"),),
        operands=("model",),
    ),
    "completion": Verb(
        summary="let bash, zsh or fish complete verbs, keys, runs and addresses of tensors",
        usage="bash|zsh|fish",
        text="""\
        Print the code that makes a shell complete the words of `extractkit`: verbs, options,
        overrides and their values, files, runs, and what predicates match: addresses, types of
        layers. These are known for a model's file once `extractkit tensors` has listed it. Put the
        line for your shell into ~/.bashrc, ~/.zshrc or ~/.config/fish/config.fish.

          eval "$(extractkit completion bash)"
          eval "$(extractkit completion zsh)"
          extractkit completion fish | source
        """,
        options=(),
        operands=("shell",),
    ),
    "doctor": Verb(
        summary="what is installed, what works with it, what to install, and the machine",
        usage="[FOLDER]",
        text="""\
        Packages and their releases; the formats of models and inputs that work, and the command
        that installs what others need; threads, memory and GPUs; room and kind of the disk of
        FOLDER, where runs will be (outputs); caches with their sizes. Nothing is imported,
        loaded or written. Exit code 1 only if a package that every job needs is not installed.

          extractkit doctor
          extractkit doctor /scratch/runs --json
        """,
        options=(JSON,),
        operands=("folder?",),
    ),
}
"""Verbs, in the order in which a user needs them."""

_OVERVIEW = """\
Extract tensor values from TensorFlow models. YAML and overrides describe the model, the inputs
and the tensors; one command turns them into a run that can be read back.

Usage: extractkit [VERB] [KEY=VALUE …] [OPTION …]

Verbs
{verbs}

Groups (choose with GROUP=NAME, several at once with GROUP=[NAME,NAME])
{groups}
  A model's file may replace model=NAME model.path=FILE: extractkit tensors net.keras

Keys (override with KEY=VALUE, add a selector of your own with '+selectors.NAME.KEY=VALUE')
{keys}
  All keys with their values: extractkit model=bert --cfg job

Options
{options}

Examples
  extractkit model=bert selectors=attention
  extractkit tensors model=bert
  extractkit plan model=bert 'selectors=[attention,layers]' inputs.path=texts.txt
  extractkit model=bert '+selectors.mine.path="*/query:output"' run_dir=runs/query
  extractkit show runs/query
  extractkit verify runs/query --recompute 2
"""


def overview(groups: Mapping[str, Sequence[str]]) -> str:
    """Return the help of the program; `groups` holds the choices of each config group."""
    from extractkit.core.job import SETTINGS
    from extractkit.core.selectors import SELECTOR_KEYS

    keys = {
        "selectors.NAME.…": ", ".join(SELECTOR_KEYS),
        "runtime.…": ", ".join(key.name for key in SETTINGS),
        "run_dir": "the run directory; with -m, that of the sweep",
    }
    users = {
        option: [name for name, verb in VERBS.items() if option in verb.options]
        for verb in VERBS.values()
        for option in verb.options
    }
    options = {
        option.typed: f"{', '.join(names)}: {option.description}" for option, names in users.items()
    }
    hydra = {option.typed: option.description for option in HYDRA}
    return _OVERVIEW.format(
        verbs="\n".join(f"  {name:<10} {verb.summary}" for name, verb in VERBS.items()),
        groups="\n".join(f"  {name:<10} {', '.join(options)}" for name, options in groups.items()),
        keys=_table(keys),
        options=_table({**options, **hydra, "--help, --version": ""}),
    )


def of_verb(name: str) -> str:
    """Return the help of one verb."""
    verb = VERBS[name]
    shown = f"[{name}]" if name == "run" else name
    words = ["Usage: extractkit", shown, verb.usage, *(f"[{one.typed}]" for one in verb.options)]
    sections = [
        _usage(words),
        "",
        dedent(verb.text),
    ]
    if verb.options:
        options = {option.typed: option.description for option in verb.options}
        sections += ["Options", _table(options)]
    if verb.keys:
        from extractkit.core.job import SETTINGS

        listed = [key for key in SETTINGS if key.effect in verb.keys]
        keys = {f"runtime.{key.name}": _described(key) for key in listed}
        sections += ["", "Keys of runtime", _table(keys)]
    return "\n".join(sections) + "\n"


def _usage(words: Sequence[str]) -> str:
    """Join words to lines that break between them only."""
    kept = " ".join(word.replace(" ", _NO_BREAK) for word in words)
    return "\n".join(wrap(kept, _WIDTH, subsequent_indent="    ")).replace(_NO_BREAK, " ")


_NO_BREAK = "\u00a0"


def _described(key: Setting) -> str:
    return f"[{key.written}] {key.description}"


def _table(rows: Mapping[str, str]) -> str:
    """Return two columns, the second one wrapped."""
    width = max(map(len, rows)) + 2
    return "\n".join(line for left, right in rows.items() for line in _row(left, right, width))


def _row(left: str, right: str, width: int) -> Iterator[str]:
    lines = wrap(right, _WIDTH - width - 2) or [""]
    yield f"  {left:<{width}}{lines[0]}".rstrip()
    yield from (f"  {'':<{width}}{line}" for line in lines[1:])
