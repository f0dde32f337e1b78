"""Export to Google's Model Explorer: numbers of a run on the nodes of its model's graph.

Model Explorer finds the nodes of TensorFlow Lite by the names of their tensors. Nodes of TensorFlow
graphs have numbers, which its own converter gives: the package `ai-edge-model-explorer-adapter`.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from extractkit.core.catalog import Kind
from extractkit.core.component import require
from extractkit.core.spec import file_dtype
from extractkit.errors import RunDirectoryError, choices
from extractkit.exports import Note
from extractkit.runs.checking.files import changed_source
from extractkit.runs.comparing.result import Comparison
from extractkit.runs.reader import Run
from extractkit.runs.views import TensorView
from extractkit.store.local import write_durably

_USE = "export --to model-explorer of a TensorFlow graph"
_ADAPTER = "ai_edge_model_explorer_adapter"
_TFLITE, _SAVED_MODEL = "tflite", "saved_model"
_MAIN = "main"
_DEQUANTISED = ":dequantized"
_NUMBERS = "fiub"
_GRADIENT = [{"stop": 0, "bgColor": "#e8f0fe"}, {"stop": 1, "bgColor": "#f28b82"}]

_CONVERTERS: Mapping[str, tuple[str, ...]] = {
    "frozen_graph": ("ConvertGraphDefDirectlyToJson",),
    _SAVED_MODEL: ("ConvertSavedModelDirectlyToJson", "ConvertSavedModelToJson"),
}
"""The converters of Model Explorer for a kind of model, each with node numbers of its own."""

_MEASURES: Mapping[str, Callable[[float, float], float]] = {
    "bytes per sample": float.__add__,
    "not finite": float.__add__,
    "min": min,
    "max": max,
    "drift": max,
    "relative error": max,
    "largest error": max,
}
"""What a file shows, with what it is for a node of several tensors."""

Named = dict[str, float]
"""A number for each name of a tensor in TensorFlow Lite, or of an operation in a graph."""


class ModelExplorer:
    """Node data of `model-explorer`: a JSON file for each kind of number."""

    name: ClassVar[str] = "model-explorer"
    summary: ClassVar[str] = "numbers on the nodes of a TensorFlow or TensorFlow Lite graph"
    compares: ClassVar[bool] = True

    def check(self, run: Run) -> None:
        """Check that Model Explorer opens the model, and that the file is the run's if needed."""
        kind = run.manifest.model_name
        if kind != _TFLITE and kind not in _CONVERTERS:
            raise RunDirectoryError(
                f"{run.path} is a run of model={kind}, of which Model Explorer has no graph. "
                f"{choices('', (_TFLITE, *_CONVERTERS))} Save the model as one of these, and "
                f"extract from that"
            )
        if kind in _CONVERTERS:
            require(_ADAPTER, _USE)
            _model_file(run)

    def write(
        self, run: Run, directory: Path, note: Note, comparison: Comparison | None = None
    ) -> None:
        """Write a file for each kind of number of which the run has some."""
        views = {key: view for key, view in run.items() if _is_on_graph(view, run)}
        if lost := len(run) - len(views):
            what = "tensor is" if lost == 1 else "tensors are"
            note(
                f"{lost:,} {what} not on the graph: results of transforms, gradients, texts, "
                f"variables of a SavedModel, or inputs and outputs of a signature"
            )
        measured = {
            name: {key: one for key, one in found.items() if key in views and isfinite(one)}
            for name, found in _measured(run, comparison).items()
        }
        lite = run.manifest.model_name == _TFLITE
        places = _by_tensor if lite else partial(_by_node, _graph_nodes(run, note))
        written = 0
        for name, found in measured.items():
            if content := places(_MEASURES[name], {views[key]: one for key, one in found.items()}):
                data = {graph: _data(name, results) for graph, results in content.items()}
                text = json.dumps(data[""] if lite else data, indent=1, sort_keys=True)
                write_durably(directory / f"{name.replace(' ', '-')}.json", text.encode())
                written += 1
        if not written:
            raise RunDirectoryError(
                f"no tensor of {run.path} is on the graph that Model Explorer shows of its model"
            )


def _data(name: str, results: Named) -> dict[str, object]:
    return {
        "name": name,
        "results": {node: {"value": value} for node, value in results.items()},
        "gradient": _GRADIENT,
    }


def _is_on_graph(view: TensorView, run: Run) -> bool:
    """Return whether a tensor is stored as an operation computes it, and is of numbers.

    Inputs and outputs of a signature name tensors that have other names in the graph, and so do
    variables of a SavedModel.
    """
    plain = view.transforms == () and not view.result and not view.request
    variable = view.record.kind is Kind.WEIGHT and run.manifest.model_name == _SAVED_MODEL
    named = not variable and not view.record.address.startswith(":")
    return plain and named and view.dtype.kind in _NUMBERS


def _measured(run: Run, comparison: Comparison | None) -> dict[str, Named]:
    """Return each kind of number by the key of the tensor."""
    found: dict[str, Named] = {name: {} for name in _MEASURES}
    last = run.at(run.checkpoints[-1]) if run.checkpoints else run
    checks = run.manifest.actual.values if run.manifest.actual else {}
    for key, view in last.items():
        one = checks.get(key)
        if view.dtype.kind not in _NUMBERS or one is None:
            continue
        size = file_dtype(view.spec.dtype).itemsize
        elements = np.size(view) if view.constant else one.elements / max(1, one.examined)
        found["bytes per sample"][key] = float(size * elements)
        found["not finite"][key] = float(one.nan + one.inf)
        for name, extreme in (("min", one.minimum), ("max", one.maximum)):
            if extreme is not None:
                found[name][key] = float(extreme)
    for key, moved in (run.drift.tensors if run.drift else {}).items():
        if (norm := moved.from_first.relative_norm[-1]) is not None:
            found["drift"][key] = norm
    for other in comparison.tensors if comparison else ():
        if other.result is not None or (errors := other.errors) is None:
            continue
        for name, error in (
            ("largest error", errors.max_abs),
            ("relative error", errors.relative_l2),
        ):
            if error is not None:  # each checkpoint has one
                found[name][other.b] = max(error, found[name].get(other.b, error))
    return found


def _by_tensor(
    merged: Callable[[float, float], float], found: Mapping[TensorView, float]
) -> dict[str, Named]:
    """Return numbers by the names that a file of TensorFlow Lite has for its tensors.

    Where a quantised tensor is stored both ways, its real numbers count, but its own bytes.
    """
    names = Counter(view.record.name for view in found)
    own, real = Named(), Named()
    for view, number in found.items():
        name = view.record.name
        if names[name] == 1:  # a name of several tensors would say nothing about any of them
            (real if name.endswith(_DEQUANTISED) else own)[name.removesuffix(_DEQUANTISED)] = number
    both = real | own if merged is _MEASURES["bytes per sample"] else own | real
    return {"": both} if both else {}


def _by_node(
    nodes: Mapping[str, list[tuple[str, str]]],
    merged: Callable[[float, float], float],
    found: Mapping[TensorView, float],
) -> dict[str, Named]:
    """Return numbers by graph and number of the node.

    Operations of inner functions are found in these alone, and all others in the main graph alone:
    `Identity` is the name of the output of each function.
    """
    result: dict[str, Named] = {}
    for view, number in found.items():
        record = view.record
        inner = record.name != record.address
        for graph, node in nodes.get(record.address.rpartition(":")[0], ()):
            if inner == (graph == _MAIN):
                continue
            own = result.setdefault(graph, {})
            own[node] = merged(own[node], number) if node in own else number
    return result


def _graph_nodes(run: Run, note: Note) -> dict[str, list[tuple[str, str]]]:
    """Return the graph and number of the nodes of each operation, from Model Explorer itself.

    An operation whose name several nodes have, as functions have names of their own, is not found.
    """
    adapter, path = require(_ADAPTER, _USE), _model_file(run)
    nodes: dict[str, list[tuple[str, str]]] = {}
    failed = []
    for name in _CONVERTERS[run.manifest.model_name]:
        try:
            converted = json.loads(getattr(adapter, name)(adapter.VisualizeConfig(), path))
        except RuntimeError as error:
            failed.append(f"{name}: {error}")
            continue
        each = [*_each(converted)]
        counts = Counter(operation for operation, _, _ in each)
        for operation, graph, node in each:
            if counts[operation] == 1:
                nodes.setdefault(operation, []).append((graph, node))
    if not nodes:
        raise RunDirectoryError(f"{path} is not converted by Model Explorer. {'; '.join(failed)}")
    for one in failed:
        note(f"one of Model Explorer's converters does not take the model: {one}")
    return nodes


def _each(converted: Any) -> Iterator[tuple[str, str, str]]:
    """Yield operation, graph and number of each node."""
    for collection in converted:
        for graph in collection["subgraphs"]:
            for node in graph["nodes"]:
                yield str(node["namespace"]), str(graph["id"]), str(node["id"])


def _model_file(run: Run) -> str:
    """Return the path of the model, which is as the run recorded it.

    Raises:
        RunDirectoryError: it is not.
    """
    recorded = next((one for one in run.manifest.origins if one.key == "model.path"), None)
    if recorded is None:
        raise RunDirectoryError(f"{run.path} records no model.path, from which its graph is shown")
    for one in changed_source(recorded, recorded.path):
        raise RunDirectoryError(
            f"{run.path} is of another model than is at {recorded.path} now, so its numbers belong "
            f"to other nodes: {one.message}"
        )
    return recorded.path
