"""Steps and statistics that do not fit, through the command line: one message, exit code 2."""

import json
import subprocess
import sys
from pathlib import Path

from tests.cli.called import Program, variables

AT = "selectors.mine."


CASES = [
    (
        "do: [{topk: {axis: 2, k: 5}}]",
        "do.0.topk.k=5 is larger than the axis of 'attention:output', which has 4 elements",
    ),
    (
        "slice: {2: 4}",
        "slice takes element 4 of an axis of 'attention:output' that has 4 elements",
    ),
    (
        "slice: {2: '7:'}",
        "slice takes nothing of an axis of 'attention:output' that has 4 elements",
    ),
    (
        "do: [{histogram: {edges: [0, 1, 1]}}]",
        "do.0.histogram: the edges must ascend, and 1.0 follows 1.0",
    ),
    (
        "statistics: [{histogram: {bins: 4, range: [2, 2]}}]",
        "statistics.0.histogram: the edges must ascend, and 2.0 follows 2.0",
    ),
    (
        "do: [{project: {axis: 2, to: 5}}]",
        "do.0.project.to=5 is larger than the axis of 'attention:output', which has 4 elements",
    ),
    (
        "statistics: [{pca: {components: 5}}]",
        "statistics.0.pca.components=5 is more than the 4 features of 'attention:output'",
    ),
    (
        "do: [{histogram: {bins: 1000000000, range: [-1, 1]}}]",
        "do.0.histogram.bins=1000000000 would take 8,000,000,000 bytes wherever elements are "
        f"counted, and for the edges. Take at most {AT}do.0.histogram.bins=1000000, or "
        "quantiles",
    ),
    (
        "statistics: [{histogram: {bins: 1000000000, range: [-1, 1]}}]",
        "statistics.0.histogram.bins=1000000000 would take 8,000,000,000 bytes wherever "
        "elements are counted, and for the edges. Take at most "
        f"{AT}statistics.0.histogram.bins=1000000, or quantiles",
    ),
    (
        "statistics: [{histogram: {bins: 1000000000}}]",
        "statistics.0.histogram of 'attention:output' would hold 32,000,000,160 bytes for each "
        f"shard, more than 268,435,456. Take at most {AT}statistics.0.histogram.bins=8388603, "
        f"or count all elements together: {AT}statistics.0.histogram.per=all",
    ),
    (
        "statistics: [{histogram: {bins: 1000000000, per: all}}]",
        "statistics.0.histogram of 'attention:output' would hold 8,000,000,040 bytes for each "
        f"shard, more than 268,435,456. Take at most {AT}statistics.0.histogram.bins=33554427",
    ),
    (
        "statistics: [{top: {k: 2000000000}}]",
        "statistics.0.top of 'attention:output' would hold 192,000,000,000 bytes for each "
        f"shard, more than 268,435,456. Take at most {AT}statistics.0.top.k=2796202",
    ),
]

EVERY = """
import contextlib, io, json, sys
from extractkit import cli

found = []
for job in json.load(sys.stdin):
    with contextlib.redirect_stderr(io.StringIO()) as written:
        code = cli.execute(job)
    found.append([code, written.getvalue()])
print(json.dumps(found))
"""


def test_a_plan_is_refused(place: Path) -> None:
    """One process plans all jobs."""
    common = ["model=reference", "selectors=none", "inputs.limit=2", "--config-dir", "my"]
    jobs = [
        ["plan", *common, f'+selectors.mine={{path: "attention:output", {written}}}']
        for written, _ in CASES
    ]
    ended = subprocess.run(
        [sys.executable, "-c", EVERY],
        input=json.dumps(jobs),
        cwd=place,
        env=variables(),
        capture_output=True,
        text=True,
        check=True,
    )
    expected = [[2, f"extractkit: {AT}{message}\n"] for _, message in CASES]
    assert json.loads(ended.stdout) == expected


def test_a_run_is_refused_with_the_same_message(program: Program, place: Path) -> None:
    step = "do: [{histogram: {edges: [0, 1, 1]}}]"
    selector = f'+selectors.mine={{path: "attention:output", {step}}}'
    ended = program(
        *("model=reference", "selectors=none", "inputs.limit=2", selector, "run_dir=run")
    )
    assert ended.returncode == 2
    assert f"{AT}do.0.histogram: the edges must ascend, and 1.0 follows 1.0" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (place / "run").exists()
