"""Every command of the pages on what people ask composes, or is refused as its page says."""

import re
import shlex
from pathlib import Path

import pytest

from extractkit.commands import jobs
from extractkit.config.compose import compose
from extractkit.errors import ConfigError
from extractkit.runs import manifest
from extractkit.runs.comparison import result as comparison
from extractkit.runs.sweeps import record
from extractkit.runs.verification import result as verification

PAGES = Path(__file__).parents[1] / "docs" / "what-people-ask"
# In a block of its own or behind a prompt, with the lines that a backslash joins to it.
COMMAND = re.compile(r"^ *(?:\$ )?(?:python -m )?extractkit((?: .*\\\n)* .*)$", re.MULTILINE)
# These take a run.
OTHERS = {"show", "verify", "diff"}


def commands(page: Path) -> list[tuple[list[str], str]]:
    """Return the arguments of each command of a page, and the first line that it prints."""
    text = page.read_text(encoding="utf-8")
    return [
        (shlex.split(one[1].replace("\\\n", " ")), text[one.end() + 1 :].partition("\n")[0])
        for one in COMMAND.finditer(text)
    ]


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.stem)
def test_every_command_composes(page: Path) -> None:
    checked = 0
    for (command, *overrides), printed in commands(page):
        checked += 1
        if command in OTHERS:
            continue
        given = overrides if command in {"tensors", "plan"} else [command, *overrides]
        if any("=" not in one for one in given):
            continue  # `tensors FILE` looks into the file
        selectors = [] if any("selectors" in one for one in given) else ["selectors=outputs"]
        try:
            compose([*given, *selectors])
        except ConfigError as error:
            assert printed == f"extractkit: {error}"  # noqa: PT017 - most commands raise nothing
    assert checked or page.stem == "README"


def test_the_versions_of_json_documents_are_those_that_the_page_tells() -> None:
    table = (PAGES / "old-runs.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `([a-zA-Z ]+)` \| (\d+) \|", table, re.MULTILINE))
    assert {command: int(version) for command, version in told.items()} == {
        "tensors": jobs.TENSORS_SCHEMA,
        "plan": jobs.PLAN_SCHEMA,
        "show RUN": manifest.SCHEMA,
        "show SWEEP": record.SCHEMA,
        "verify": verification.SCHEMA,
        "diff": comparison.SCHEMA,
    }
