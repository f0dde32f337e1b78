"""Runs of the reference model, which computes without TensorFlow."""

from pathlib import Path

import extractkit
from extractkit.runs.reader import Run
from extractkit.testing.reference import ReferenceModel

HOSTILE = (
    '</script><script>alert("1")</script>',
    "\u202eright to left\u202c & <b>'quoted'</b>",
    "plain",
    "",
    "{{ 7 * 7 }} ${1} $$ %s \\u003c",
)
"""Texts that would break out of a page, a template or a chart."""

EVERYTHING = {"all": {"path": "*"}}
STATISTICS = {
    "counted": {
        "path": ["embedding:output", "pool:output"],
        "statistics": ["moments", {"histogram": {"bins": 8, "per": "all"}}, {"top": {"k": 3}}],
    }
}


def hostile_run(into: Path) -> Run:
    """Every tensor of the reference model for hostile texts."""
    return extractkit.extract(
        model=ReferenceModel(), inputs=list(HOSTILE), selectors=EVERYTHING, run_dir=into
    )
