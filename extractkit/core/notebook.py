"""What notebooks ask of values: their HTML, their charts and their widgets.

Notebooks call methods of the value that a cell returns. The code behind these methods draws on
whole runs, and is above everything that has such values: `extractkit.notebooks`. It is imported
here by name and on first use, so that no room depends on one above it, and reading a run imports
none of it.
"""

from importlib import import_module
from typing import Any

_ROOM = "extractkit.notebooks"


class Shown:
    """A value that notebooks show as HTML. Elsewhere, its `repr` counts."""

    def _repr_html_(self) -> str:
        """Return the value as HTML, which needs no network, for light and dark notebooks."""
        return str(_room("summaries").html(self))


class WithWidgets(Shown):
    """A value that lists tensors, which notebooks can show as a widget."""

    @property
    def widget(self) -> Any:
        """Widgets, each by a method: see `extractkit.notebooks.widgets`.

        Raises:
            MissingExtraError: anywidget is not installed.
        """
        return _room("widgets").widgets(self)


class WithPlots(Shown):
    """A value that charts can be made of."""

    @property
    def plot(self) -> Any:
        """Charts of Altair, each by a method: see `extractkit.notebooks.plots`.

        Raises:
            MissingExtraError: Altair is not installed.
        """
        return _room("plots").plots(self)


def _room(module: str) -> Any:
    return import_module(f"{_ROOM}.{module}")
