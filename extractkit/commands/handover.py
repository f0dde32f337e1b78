"""Verbs that hand a run over to other tools and to other people: export, sign, crate."""

import sys
from collections.abc import Sequence

from extractkit.commands.arguments import RunOptions
from extractkit.commands.jobs import write_path
from extractkit.display import printable
from extractkit.errors import ConfigError, choices

_NEEDED = {"license": "https://creativecommons.org/licenses/by/4.0/", "author": "'Ada Lovelace'"}
"""The options of `crate`, none of which has a default, with an example of each."""


def export(arguments: Sequence[str]) -> bool:
    """Export a run, and print the directory as the last line on standard output."""
    from extractkit.display.progress import waiting
    from extractkit.exports.registry import EXPORTERS, export
    from extractkit.runs.comparing.pairing import FileMapping

    given = RunOptions("export").read(arguments)
    if given.to is None:
        raise ConfigError(f"export: --to is missing. {choices('', EXPORTERS)}")
    if given.map is not None and given.reference is None:
        raise ConfigError("export: --map is between the reference and RUN: give --reference RUN")
    remarks: list[str] = []
    with waiting(sys.stderr, f"exporting {given.run}"):
        path = export(
            given.run,
            given.to,
            given.output,
            reference=given.reference,
            mapping=None if given.map is None else FileMapping.read(given.map),
            trust=given.trust,
            note=remarks.append,
        )
    sys.stderr.write("".join(printable(f"{one}\n") for one in remarks))
    write_path(path)
    return True


def sign(arguments: Sequence[str]) -> bool:
    """Sign a run, and print the file of the signature as the last line on standard output."""
    from extractkit.display.progress import waiting
    from extractkit.runs.checking.signature import sign

    given = RunOptions("sign").read(arguments)
    if given.key is None:
        raise ConfigError("sign: --key is missing. Give the file of a private key: --key key.pem")
    with waiting(sys.stderr, f"signing {given.run}"):
        path = sign(given.run, given.key, given.output, trust=given.trust)
    write_path(path)
    return True


def crate(arguments: Sequence[str]) -> bool:
    """Describe a run as an RO-Crate, and print the file as the last line on standard output."""
    from extractkit.display.progress import waiting
    from extractkit.exports.ro_crate import crate

    given = RunOptions("crate").read(arguments)
    for name, example in _NEEDED.items():
        if getattr(given, name) is None:
            raise ConfigError(f"crate: --{name} is missing. Give it: --{name} {example}")
    with waiting(sys.stderr, f"checking {given.run}"):
        path = crate(given.run, license=given.license, author=given.author, trust=given.trust)
    write_path(path)
    return True
