"""The answers to `--help`, as plain text."""

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

Keys (override with KEY=VALUE, add a selector of your own with '+selectors.NAME.KEY=VALUE')
  selectors.NAME.…  path (glob), regex, layer_type, inside, op_type, kind, port, dtype, depth;
                    any, all, not; slice, reduce, cast
  hydra.run.dir     the run directory
  All keys with their values: extractkit model=bert --cfg job

Options
  --json            tensors, plan, show: one JSON document on standard output
  --exact           plan: read every sample, for exact sizes
  -m                one job for each combination of the values in KEY=A,B (Hydra's multirun)
  --config-dir DIR  YAML files of your own, in folders named like the groups
  --hydra-help      everything else that Hydra can do
  --help, --version

Examples
  extractkit model=bert selectors=attention
  extractkit tensors model=bert
  extractkit plan model=bert 'selectors=[attention,layers]' inputs.path=texts.txt
  extractkit model=bert '+selectors.mine.path="*/query:output"' hydra.run.dir=runs/query
  extractkit show runs/query
"""

_VERBS = {
    "run": (
        "extract, and leave a run directory; the verb may be left out",
        """\
        Usage: extractkit [run] model=NAME selectors=NAME [KEY=VALUE …] [OPTION …]

        Compute the selected tensors for every sample and store them. The last line on standard
        output is the run directory (hydra.run.dir); progress goes to standard error.

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
          extractkit tensors model=bert --json      an array of all records
        """,
    ),
    "plan": (
        "what a run would store: matches, shapes, bytes, shards, room on the disk",
        """\
        Usage: extractkit plan model=NAME selectors=NAME [KEY=VALUE …] [--exact] [--json]

        Check a job without running it. The sizes of texts are upper bounds, unless --exact has
        every sample read. A plan that the disk of hydra.run.dir cannot hold is refused. Nothing is
        left on disk.

          extractkit plan model=bert selectors=layers inputs.path=texts.txt
        """,
    ),
    "show": (
        "what a run directory holds",
        """\
        Usage: extractkit show RUN [--json]

        Status, job, samples, size and tensors of a run; --json prints its whole manifest.

          extractkit show outputs/2026-11-22/10-15-00
        """,
    ),
}

VERBS = tuple(_VERBS)
"""The verbs, in the order in which a user meets them."""


def overview(groups: Mapping[str, Sequence[str]]) -> str:
    """Help for the program; `groups` holds what can be chosen."""
    return _OVERVIEW.format(
        verbs="\n".join(f"  {verb:<10} {line}" for verb, (line, _) in _VERBS.items()),
        groups="\n".join(f"  {name:<10} {', '.join(options)}" for name, options in groups.items()),
    )


def of_verb(verb: str) -> str:
    """Help for one verb."""
    return dedent(_VERBS[verb][1])
