"""The notebook of the documentation, in a kernel of Jupyter, on real values of MiniLM."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import extractkit
from extractkit.runs.reader import Run

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
for needed in ("ipykernel", "anywidget", "vl_convert"):
    pytest.importorskip(needed)

NOTEBOOK = Path(__file__).parents[2] / "docs" / "tutorial" / "notebook.ipynb"
WIDGET = "application/vnd.jupyter.widget-view+json"


def result_of(cell: Any) -> dict[str, Any]:
    """Return what a cell shows, by media type."""
    (shown,) = (one for one in cell.outputs if one.output_type != "stream")
    return dict(shown.data)


@pytest.mark.real_model
def test_the_notebook_runs_and_shows_values_of_the_run(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(one.get("outputs") for one in notebook.cells), "it is stored without outputs"
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    cells = [one for one in notebook.cells if one.cell_type == "code"]
    shown = {cell.source.rpartition("\n")[2]: result_of(cell) for cell in cells}
    widgets = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]

    def state(source: str) -> Any:
        return widgets[shown[source][WIDGET]["model_id"]]["state"]

    for source, begins in (("run", "Run <bdi"), ("view", "Tensor <bdi")):
        assert begins in shown[source]["text/html"]
        assert shown[source]["text/plain"].startswith("<")
    assert "data:image/png" in shown["view"]["text/html"]
    assert len(state("catalog.widget.tensors()")["rows"]) > 1000

    run = extractkit.open(tmp_path / "runs" / "notebook")
    assert isinstance(run, Run)
    maps = [run[key].sample(0) for key in run if "softmax" in key]
    wanted = [[np.diagonal(head, -1).mean() for head in heads] for heads in maps]
    heads = state('run.plot.heads(sample=0, by="share on the token before")')["spec"]
    (rows,) = heads["datasets"].values()
    drawn = np.array([row["value"] for row in rows])
    np.testing.assert_allclose(drawn, np.ravel(wanted), atol=1e-3)
    attention = state("run.widget.attention(sample=0, layer=layer, head=head)")
    assert attention["down"][:3] == ["[CLS]", "the", "cat"]
    at = np.unravel_index(np.argmax(wanted), np.shape(wanted))
    assert (attention["layer"], attention["head"] - 1) == at
    assert "topic" in str(state('points.encode(color=alt.Color("topic:N"))')["spec"])
