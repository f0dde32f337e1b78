"""How values flow through the subgraph that is called. No interpreter."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from extractkit.models.litert.entry import Entry
from extractkit.models.litert.graph import RESOURCES, Operation, Subgraph

READ_STATE = "READ_VARIABLE"

_IMPURE_OPERATION = re.compile("RANDOM|MULTINOMIAL|RNG_BIT")


@dataclass(frozen=True)
class Flow:
    """What depends on what in a subgraph, and where operations that cannot be run cut it off.

    Attributes:
        entry: What is called.
        lacking: Reasons by the numbers of the operations that cannot be run.
    """

    entry: Entry
    lacking: Mapping[int, str]

    @property
    def subgraph(self) -> Subgraph:
        """The subgraph that is called."""
        return self.entry.subgraph

    @cached_property
    def made_by(self) -> Mapping[int, int]:
        """Numbers of the operations that make tensors, by tensor."""
        operations = enumerate(self.subgraph.operations)
        return {index: number for number, one in operations for index in one.outputs}

    @cached_property
    def dependent(self) -> frozenset[int]:
        """Tensors whose values depend on inputs or states."""
        states = {tensor.index for tensor in self.subgraph.tensors if tensor.variable}
        reads = {
            i for one in self.subgraph.operations if one.type == READ_STATE for i in one.outputs
        }
        return self._downstream({*self.entry.inputs.values()} | states | reads)

    @cached_property
    def impure(self) -> frozenset[int]:
        """Tensors that random operations come before."""
        operations = self.subgraph.operations
        return self._downstream(
            {i for one in operations if _IMPURE_OPERATION.search(one.type) for i in one.outputs}
        )

    @cached_property
    def blocked(self) -> Mapping[int, int]:
        """The operation that cannot be run, by number, before each operation that needs it.

        An operation that cannot be run needs itself. Once a state is not written, no later
        operation on a state has the right value.
        """
        found: dict[int, int] = {}
        missing: dict[int, int] = {}
        unwritten: int | None = None
        for number, operation in enumerate(self.subgraph.operations):
            of_state = self._touches_state(operation)
            cause = number if number in self.lacking else None
            if cause is None:
                cause = next((missing[i] for i in operation.inputs if i in missing), None)
            if cause is None and of_state:
                cause = unwritten
            if cause is not None:
                found[number] = cause
                missing.update((index, cause) for index in operation.outputs)
                unwritten = cause if of_state else unwritten
        return found

    def why_blocked(self, index: int) -> str | None:
        """Return why a tensor cannot be computed, None if it can."""
        number = self.made_by.get(index)
        cause = None if number is None else self.blocked.get(number)
        return None if cause is None else self.lacking[cause]

    @cached_property
    def runnable(self) -> tuple[int, ...]:
        """Numbers of the operations that can be run, in order."""
        numbers = range(len(self.subgraph.operations))
        return tuple(number for number in numbers if number not in self.blocked)

    def runnable_for_inputs(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the operations that can be run for a call, and the tensors that are its ends.

        What constants alone decide is left out unless something else needs it: XNNPACK fails on
        dequantised weights that lead nowhere.
        """
        operations = [self.subgraph.operations[number] for number in self.runnable]
        taken = {index for one in operations for index in one.inputs}
        ends = [
            index
            for one in operations
            for index in one.outputs
            if index in self.subgraph.outputs or (index not in taken and self._varies(index))
        ]
        effects = {n for n in self.runnable if not self.subgraph.operations[n].outputs}
        needed = {*self.needed_for(ends)}.union(
            effects, *(self.needed_for(self.subgraph.operations[n].inputs) for n in effects)
        )
        return tuple(sorted(needed)), tuple(ends)

    def _varies(self, index: int) -> bool:
        return index in self.dependent or index in self.impure

    @cached_property
    def fixed(self) -> tuple[int, ...]:
        """Tensors that operations compute from constants alone."""
        return tuple(
            index
            for index, number in self.made_by.items()
            if number not in self.blocked
            and not self._varies(index)
            and not self._touches_state(self.subgraph.operations[number])
        )

    def needed_for(self, wanted: Iterable[int]) -> tuple[int, ...]:
        """Return the numbers of the operations that make these tensors, in order."""
        open_tensors, needed = [*wanted], set[int]()
        while open_tensors:
            number = self.made_by.get(open_tensors.pop())
            if number is not None and number not in needed:
                needed.add(number)
                open_tensors += self.subgraph.operations[number].inputs
        return tuple(sorted(needed))

    def _touches_state(self, operation: Operation) -> bool:
        if operation.calls and not operation.outputs:
            return True  # it is run for what it does to states alone
        tensors = self.subgraph.tensors
        own = [tensors[i] for i in (*operation.inputs, *operation.outputs) if i != -1]
        return any(tensor.variable or tensor.type in RESOURCES for tensor in own)

    def _downstream(self, sources: set[int]) -> frozenset[int]:
        """The sources and everything computed from them; operations are in running order."""
        reached = set(sources)
        for operation in self.subgraph.operations:
            if not reached.isdisjoint(operation.inputs):
                reached.update(operation.outputs)
        return frozenset(reached)
