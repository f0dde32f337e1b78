"""Damaged model files against their loaders."""

from pathlib import Path

from tests.fuzz.damage import damaged
from tests.fuzz.examples import EXAMPLES, load_and_list
from tests.fuzz.outcomes import Outcome, outcome
from tests.fuzz.program import Case


def cases(name: str, scratch: Path) -> Case:
    """Each case of a format damages its small example in another way."""
    # In a child: one that has run a session has threads, which the processes forked for the cases
    # would lack and wait for.
    how, built = outcome(lambda: str(EXAMPLES[name](scratch)), seconds=600)
    if how is not Outcome.ANSWERED:
        raise RuntimeError(f"the example of {name} cannot be built: {how}: {built}")
    example = Path(built)

    def case(seed: int) -> tuple[str, str | None]:
        target = scratch / "cases" / str(seed) / example.name
        what = damaged(example, target, seed)
        how, words = outcome(lambda: load_and_list(name, target))
        return str(how), None if how.allowed else f"{how}: {what}: {words[:300]}"

    return case
