"""Directives for keys: `config-group` for those of a group, `selector-keys` for a selector's."""

import re

from declared import Entry, entries
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from extractkit.core.keys import Key, Setting
from extractkit.core.predicates import PREDICATE_KEYS
from extractkit.core.selectors import TAKE
from extractkit.core.transforms.pipeline import TRANSFORMS


class ConfigGroup(SphinxDirective):
    """A section for each entry of the group that the argument names."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Render the entries as Markdown, the markup of the page."""
        group = self.arguments[0]
        listed = entries(group)
        for entry in listed:
            self.env.note_dependency(str(entry.path))
        text = "\n\n".join(section(group, entry) for entry in listed)
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def section(group: str, entry: Entry) -> str:
    """Return the section of an entry as Markdown: its introduction and its keys."""
    # Commands are indented in the comment: a block of code in Markdown needs four spaces. In its
    # sentences, `_target_` is a key and no emphasis.
    intro = re.sub(r"(?m)^ {2,}", "    ", entry.intro)
    intro = re.sub(r"(?m)^(?! {4}).*", lambda line: line[0].replace("_", r"\_"), intro)
    title = f"### `{group}={entry.name}`\n\n{intro}\n\n"
    if group == "selectors":  # a choice of values for keys that have a page of their own
        lines = entry.path.read_text("utf-8").splitlines()
        values = "\n".join(line for line in lines if not line.startswith(("#", "{}")))
        return title + (f"```yaml\n{values}\n```\n" if values else "")
    prefix = f"sinks.{entry.name}" if group == "sinks" else group
    return title + "\n\n".join(
        f"`{prefix}.{key.name}` ({key.type}; default `{key.written}`)\n: {_meaning(key)}"
        for key in entry.keys
    )


def _meaning(key: Key) -> str:
    engines = ""
    if isinstance(key, Setting) and key.engines:
        engines = f" Only for engine {' and '.join(key.engines)}."
    return f"{key.description}{engines} *{key.effect.value.capitalize()}.*"


class SelectorKeys(SphinxDirective):
    """A table of the keys of a selector: `predicates` or `transforms`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Render the table as Markdown, the markup of the page."""
        predicates = self.arguments[0] == "predicates"
        heads = "| key | holds if |" if predicates else "| key | meaning |"
        rows = [
            f"| `{key.name}` | {' '.join(key.description.split())} |"
            for key in ((*PREDICATE_KEYS, TAKE) if predicates else TRANSFORMS)
        ]
        return self.parse_text_to_nodes("\n".join([heads, "|---|---|", *rows]))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("config-group", ConfigGroup)
    app.add_directive("selector-keys", SelectorKeys)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
