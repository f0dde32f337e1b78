"""The directive `config-group`: the keys of a configuration group, from its YAML files."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from extractkit.core.selectors import PREDICATE_KEYS
from extractkit.core.transforms import TRANSFORMS

CONF = Path(__file__).parents[2] / "conf"

_KEY = re.compile(r"( *)(\w+):(?: +(.*?))?(?: +# (.*))?$")


@dataclass(frozen=True)
class Key:
    """A key of a YAML file, with its default and the comment that describes it."""

    name: str
    default: str
    description: str


@dataclass(frozen=True)
class Entry:
    """A YAML file of a group: `intro` is the comment at its head, Markdown."""

    group: str
    name: str
    intro: str
    keys: tuple[Key, ...]


def entries(group: str) -> list[Entry]:
    """Return the entries of a group in alphabetical order."""
    return [_entry(path) for path in sorted((CONF / group).glob("*.yaml"))]


def _entry(path: Path) -> Entry:
    head, _, rest = path.read_text("utf-8").partition("_target_:")
    comments = [line[2:] for line in head.splitlines() if line.startswith("#")]
    # Commands are indented in the comment: a block of code in Markdown needs four spaces.
    intro = "\n".join(re.sub(r"^ {2,}", "    ", line) for line in comments)
    text = rest or path.read_text("utf-8")
    return Entry(path.parent.name, path.stem, intro, tuple(_keys(text)))


def _keys(text: str) -> Iterator[Key]:
    above: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            above.append(line.lstrip()[2:])
        elif found := _KEY.match(line):
            _, name, default, beside = found.groups()
            yield Key(name, default or "", " ".join([*above, beside or ""]).strip())
            above = []


class ConfigGroup(SphinxDirective):
    """A section for each entry of the group that the argument names."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Render the entries as Markdown, the markup of the page."""
        group = self.arguments[0]
        for path in (CONF / group).glob("*.yaml"):
            self.env.note_dependency(str(path))
        text = "\n\n".join(_section(entry) for entry in entries(group))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def _section(entry: Entry) -> str:
    title = f"### `{entry.group}={entry.name}`\n\n{entry.intro}\n\n"
    if entry.group == "selectors":  # a choice of values for keys that have a page of their own
        values = "\n".join(f"{key.name}: {key.default}" for key in entry.keys)
        return title + (f"```yaml\n{values}\n```\n" if values else "")
    prefix = f"sinks.{entry.name}" if entry.group == "sinks" else entry.group
    return title + "\n\n".join(
        f"`{prefix}.{key.name}` (default `{key.default}`)\n: {key.description}"
        for key in entry.keys
    )


class SelectorKeys(SphinxDirective):
    """A table of the keys of a selector: `predicates` or `transforms`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Render the table as Markdown, the markup of the page."""
        predicates = self.arguments[0] == "predicates"
        heads = "| key | holds if |" if predicates else "| key | meaning |"
        rows = [
            f"| `{key.name}` | {' '.join(key.description.split())} |"
            for key in (PREDICATE_KEYS if predicates else TRANSFORMS)
        ]
        return self.parse_text_to_nodes("\n".join([heads, "|---|---|", *rows]))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("config-group", ConfigGroup)
    app.add_directive("selector-keys", SelectorKeys)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
