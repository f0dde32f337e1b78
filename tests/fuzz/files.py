"""Damaged model files against their loaders."""

from pathlib import Path

from tests.fuzz.damage import damaged
from tests.fuzz.examples import EXAMPLES, load_and_list
from tests.fuzz.outcomes import outcome
from tests.fuzz.program import Case


def cases(name: str, scratch: Path) -> Case:
    """Each case of a format damages its small example in another way."""
    example = EXAMPLES[name](scratch)

    def case(seed: int) -> tuple[str, str | None]:
        target = scratch / "cases" / str(seed) / example.name
        what = damaged(example, target, seed)
        how, words = outcome(lambda: load_and_list(name, target))
        return str(how), None if how.allowed else f"{how}: {what}: {words[:300]}"

    return case
