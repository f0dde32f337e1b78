"""Texts of `--help`."""

from collections.abc import Mapping, Sequence
from textwrap import dedent

_OVERVIEW = """\
Extract tensor values from TensorFlow models: YAML and overrides say which model, which inputs,
which tensors and where to; one command turns that into a run that can be read back.

Usage: extractkit [VERB] [KEY=VALUE …] [OPTION …]

Verbs
{verbs}

Groups (choose with GROUP=NAME, several at once with GROUP=[NAME,NAME])
{groups}
  A model's file may stand for model=NAME model.path=FILE: extractkit tensors net.keras

Keys (override with KEY=VALUE, add a selector of your own with '+selectors.NAME.KEY=VALUE')
  selectors.NAME.…  path (glob), regex, layer_type, inside, op_type, kind, port, dtype, depth;
                    any, all, not; slice, reduce, cast
  run_dir           the run directory; with -m, that of the sweep
  All keys with their values: extractkit model=bert --cfg job

Options
  --json            tensors, plan, show, verify, diff: one JSON document on standard output
  --exact           plan: read every sample, for exact sizes
  --fail-fast       run: once a job of a sweep has failed, begin no other
  --trust MODULE    let files name callables of this module as `_target_`
  -m                one job for each combination of the values in KEY=A,B (Hydra's multirun)
  --config-dir DIR  YAML files of your own, in folders named like the groups
  --hydra-help      everything else that Hydra can do
  --help, --version

Examples
  extractkit model=bert selectors=attention
  extractkit tensors model=bert
  extractkit plan model=bert 'selectors=[attention,layers]' inputs.path=texts.txt
  extractkit model=bert '+selectors.mine.path="*/query:output"' run_dir=runs/query
  extractkit show runs/query
  extractkit verify runs/query --recompute 2
"""

_VERBS = {
    "run": (
        "extract, and leave a run directory; the verb may be left out",
        """\
        Usage: extractkit [run] model=NAME selectors=NAME [KEY=VALUE …] [OPTION …]

        Compute the selected tensors for every sample and store them. The last line on standard
        output is the run directory (run_dir); progress goes to standard error.

        With -m, a sweep: one run for each combination of the values in KEY=A,B below one
        directory (run_dir), with an index over them; that directory is then the last line.
        A job that fails does not stop the others, unless --fail-fast is given. Jobs run here, or
        where Hydra's launcher sends them (hydra/launcher=joblib, submitit_local, submitit_slurm,
        ray; extra `launchers`).

          extractkit model=bert selectors=attention inputs.path=texts.txt
          extractkit -m model=bert selectors=attention,layers     one run for each
        """,
    ),
    "tensors": (
        "what can be selected: a tree of addresses, types and shapes",
        """\
        Usage: extractkit tensors model=NAME [selectors=NAME] [KEY=VALUE …] [--json]

        Without selectors: the layers with their outputs and weights, the rest counted. With
        selectors: exactly what they match, operations included, and why something among it cannot
        be extracted. Nothing is left on disk.

          extractkit tensors model=bert
          extractkit tensors model=bert selectors=ops
          extractkit tensors model=bert --json      all records, under `tensors`
        """,
    ),
    "plan": (
        "what a run would store: matches, shapes, bytes, shards, room on the disk",
        """\
        Usage: extractkit plan model=NAME selectors=NAME [KEY=VALUE …] [--exact] [--json]

        Check a job without running it. The sizes of texts are upper bounds, unless --exact has
        every sample read. A plan that the disk of run_dir cannot hold is refused. Nothing is
        left on disk.

          extractkit plan model=bert selectors=layers inputs.path=texts.txt
        """,
    ),
    "resume": (
        "go on with a run or a sweep that was interrupted, killed or damaged",
        """\
        Usage: extractkit resume RUN|SWEEP [runtime.engine=…] [--trust MODULE]

        What is committed and whole is kept; everything else is computed as it would have been, so
        that the run ends bitwise as if nothing had happened. Weights, inputs and library versions
        must be the recorded ones. The last line on standard output is the run directory. Of a
        sweep, jobs whose runs are whole are left alone, and all others are done, by the same
        launcher. A run may go on elsewhere: runtime.engine, workers, shard_timeout, ray_address,
        worker_cpus, worker_gpus, and runtime.self_check can be given.

          extractkit resume outputs/2026-11-22/10-15-00
          extractkit resume multirun/2026-11-22/10-15-00
        """,
    ),
    "join": (
        "join the parts of a job (runtime.part=i/n) to one run",
        """\
        Usage: extractkit join RUN [--trust MODULE]

        Each of n machines has run a part of the job: runtime.part=1/n run_dir=RUN, and so
        on to n/n. Of these one run is made, bitwise that of a single process. Parts that are
        missing, unfinished or not of one job are named. No model is loaded. The last line on
        standard output is the run directory.

          extractkit model=bert selectors=attention runtime.part=1/2 run_dir=runs/big
          extractkit model=bert selectors=attention runtime.part=2/2 run_dir=runs/big
          extractkit join runs/big
        """,
    ),
    "rerun": (
        "repeat a run from its manifest, into a new directory",
        """\
        Usage: extractkit rerun RUN [run_dir=DIR] [runtime.engine=…] [--trust MODULE]

        The same job on the same weights and inputs, here and now; libraries and machine may be
        others. It tells whether the values are the same to the bit. The last line on standard
        output is the new run directory. Where it runs can be given, as with resume.

          extractkit rerun outputs/2026-11-22/10-15-00 run_dir=runs/again
        """,
    ),
    "verify": (
        "hold a run against what it recorded, and against its model",
        """\
        Usage: extractkit verify RUN [--recompute K] [--seed N] [--json] [--trust MODULE]

        Every file, digest, count, shape and dtype of the run, and the files that its
        configuration names. With --recompute, K of its shards, drawn at random, are computed again
        and compared bitwise, and the model's outputs are compared with those of the model's own
        call. Exit code 1 where anything is not as it was recorded.

          extractkit verify outputs/2026-11-22/10-15-00
          extractkit verify outputs/2026-11-22/10-15-00 --recompute 3
        """,
    ),
    "diff": (
        "compare two runs, tensor by tensor, sample by sample",
        """\
        Usage: extractkit diff A B [--rtol X] [--atol X] [--map FILE] [--only GLOB] [--json]

        A is the reference. For each tensor: equal to the bit, within the tolerance
        (|a − b| ≤ atol + rtol · max(|a|, |b|); 1e-6 and 1e-5), or beyond it, with errors, cosine,
        correlation, the first and the worst sample. --map names a YAML file of lines
        "ADDRESS IN A": "ADDRESS IN B" where addresses differ. Exit code 1 where anything is beyond
        the tolerance, or in one run only.

          extractkit diff runs/laptop runs/server
          extractkit diff runs/keras runs/int8 --map layers.yaml --rtol 0.1
        """,
    ),
    "show": (
        "what a run directory, or that of a sweep, holds",
        """\
        Usage: extractkit show RUN|SWEEP [--json]

        Status, job, samples, size and tensors of a run; --json prints its whole manifest. Of a
        sweep, a row for each job: what it was varied over, its run, status, sizes and time.

          extractkit show outputs/2026-11-22/10-15-00
          extractkit show multirun/2026-11-22/10-15-00
        """,
    ),
}

VERBS = tuple(_VERBS)
"""Verbs, in the order in which a user needs them."""


def overview(groups: Mapping[str, Sequence[str]]) -> str:
    """Return the help of the program; `groups` holds the choices of each config group."""
    return _OVERVIEW.format(
        verbs="\n".join(f"  {verb:<10} {line}" for verb, (line, _) in _VERBS.items()),
        groups="\n".join(f"  {name:<10} {', '.join(options)}" for name, options in groups.items()),
    )


def of_verb(verb: str) -> str:
    """Return the help of one verb."""
    return dedent(_VERBS[verb][1])
