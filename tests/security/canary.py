"""A module that tells when it is imported or anything in it is called, and files that name it."""

import itertools
from dataclasses import dataclass
from pathlib import Path

import pytest

_NUMBERS = itertools.count()

_SOURCE = """
from pathlib import Path

def call(*positional, **named):
    with Path({record!r}).open("a") as file:
        file.write("called\\n")

Call = type("Call", (), {{"__init__": call, "write": call, "flush": call}})
Call.make = classmethod(call)
call()
"""


@dataclass(frozen=True)
class Canary:
    """The module is importable: only being refused keeps it from running.

    Attributes:
        module: its name, which no other canary has.
        record: the file that it writes to.
    """

    module: str
    record: Path

    @classmethod
    def made(cls, directory: Path, monkeypatch: pytest.MonkeyPatch) -> "Canary":
        """A new one, in a directory that is put on `sys.path`."""
        canary = cls(f"canary_{next(_NUMBERS)}", directory / "sang")
        package = directory / "modules" / canary.module
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(_SOURCE.format(record=str(canary.record)))
        monkeypatch.syspath_prepend(str(package.parent))
        return canary

    @property
    def sang(self) -> bool:
        """Whether anything of the module has run."""
        return self.record.exists()

    def placed(self, text: str) -> str:
        """A configuration with the module's name in place of CANARY."""
        return text.replace("CANARY", self.module)
