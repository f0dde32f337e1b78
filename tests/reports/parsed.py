"""A report as a browser sees it: elements, texts and data."""

import json
from html.parser import HTMLParser
from typing import Any

_VOID = {"meta", "input", "br", "link"}


class Page(HTMLParser):
    """A page.

    Attributes:
        elements: each start tag with its attributes.
        text: the text outside scripts and styles.
        data: the data of each section, by anchor.
        policy: the Content-Security-Policy.
    """

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.data: dict[str, Any] = {}
        self._path: list[str] = []
        self._section = ""
        self._script = ""
        self.feed(text)
        self.close()
        assert self._path == []

    @property
    def policy(self) -> str:
        return next(
            str(attributes["content"])
            for tag, attributes in self.elements
            if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
        )

    def figures(self) -> dict[str, Any]:
        """The figures of all sections, by name."""
        return {
            block["name"]: block
            for section in self.data.values()
            for block in section["blocks"]
            if block["kind"] == "figure"
        }

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag == "section":
            self._section = str(attributes["id"])
        if tag == "script":
            self._script = str(attributes.get("class") or attributes.get("id") or "code")
        if tag not in _VOID:
            self._path.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._path.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._path[-1:] == ["script"]:
            if self._script == "data":
                self.data[self._section] = json.loads(data)
        elif self._path[-1:] != ["style"]:
            self.text += data
