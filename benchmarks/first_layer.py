"""What the first layer alone costs against a whole forward pass of the same batch.

Both programs come from one trace; a program runs only what the selected tensors need.
"""

from statistics import median
from time import perf_counter

from extractkit.core.plan import plan_tensors
from extractkit.core.selectors import parse_selector
from extractkit.engine.batches import collate
from extractkit.engine.stream import fetches
from extractkit.inputs import Sample
from extractkit.models import Compilation, Program
from extractkit.models.bert import load
from tests.corpus import stdlib_docstrings

TEXTS = 32
ROUNDS = 15


def main() -> None:
    """Print the median cost of both, and their ratio, round by round in turn."""
    model = load()
    samples = [Sample(i, str(i), "corpus", t) for i, t in enumerate(stdlib_docstrings(TEXTS))]
    batch = collate(model.signature, model.encode(samples))
    programs: dict[str, Program] = {}
    for name, path in {"first": "transformer_layer_0:output", "whole": ":output.*"}.items():
        tensors = plan_tensors(model.catalog, [parse_selector(name, {"path": path})])
        programs[name] = model.program(fetches(tensors), Compilation())
        programs[name](batch.features, batch.lengths)
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(ROUNDS):
        for name, program in programs.items():
            began = perf_counter()
            program(batch.features, batch.lengths)
            seconds[name].append(perf_counter() - began)
    ratios = [first / whole for first, whole in zip(*seconds.values(), strict=True)]
    print(
        f"  first layer {median(seconds['first']) * 1000:.1f} ms, "
        f"whole pass {median(seconds['whole']) * 1000:.1f} ms, "
        f"ratio: median {median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}"
    )
