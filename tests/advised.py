"""A refused command, and what its message advises, taken out of the text by code."""

import io
import re
import shlex
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

import absl.logging

from extractkit import cli

_OVERRIDE = re.compile(r"""(?<![\w'"./=])['"]?[+~]{0,2}(model|inputs|selectors|runtime)[\w.@]*=""")
_SAYS = "extractkit: "
_COMMAND = re.compile(r"extractkit (tensors|plan) .*")


@dataclass(frozen=True)
class Answer:
    """How a command ended.

    Attributes:
        words: the command.
        code: its exit code.
        out: what it wrote on standard output.
        message: what it wrote on standard error.
    """

    words: tuple[str, ...]
    code: int
    out: str
    message: str

    @property
    def command(self) -> list[str]:
        """The whole command at the end of the message, as a shell splits it."""
        found = _COMMAND.search(self.message)
        assert found is not None, self.message
        return shlex.split(found[0])[1:]

    @property
    def overrides(self) -> list[str]:
        """Every override in the message, as a shell reads it, but for the one that it is about."""
        about = self.message.find(_SAYS) + len(_SAYS)
        starts = [match.start() for match in _OVERRIDE.finditer(self.message, about + 1)]
        words = []
        end = 0
        for start in starts:
            if start >= end:
                end = _end_of_word(self.message, start)
                words.append(self.message[start:end].rstrip(".,;:"))
        return [part for word in words for part in shlex.split(word)]

    def advised(self, *kept: str) -> list[str]:
        """The command again, with the last override in the message for each key.

        Args:
            kept: keys of which the last override is taken; none: of all.
        """
        found = [one for one in self.overrides if not kept or _key(one) in kept]
        return merged(self.words, found)


def _end_of_word(text: str, start: int) -> int:
    """Where a word of a shell ends: at a space that is neither quoted nor escaped."""
    quote = ""
    position = start
    while position < len(text):
        char = text[position]
        if char == "\\" and quote != "'":
            position += 1
        elif char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        elif not quote and char.isspace():
            break
        position += 1
    return position


def merged(words: Sequence[str], advised: Sequence[str]) -> list[str]:
    """The command with what is advised: the new value of each key in place of the old one.

    What stood below such a key goes with its old value: another `model` takes none of its settings.
    """
    latest = {_key(one): one for one in advised}
    kept = [
        one for one in words if not any(f"{_key(one)}.".startswith(f"{key}.") for key in latest)
    ]
    return [*kept, *latest.values()]


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]


def ask(*words: str) -> Answer:
    """The answer of the program, in this process."""
    # Hydra closes all handlers of the log, and absl's closes its stream, which pytest may own.
    absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__
    out, message = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(message):
        try:
            code = cli.execute(words)
        except SystemExit as stop:
            code = int(stop.code or 0)
        except Exception as error:  # noqa: BLE001 - as the program itself reports it
            code = cli.report(error)
    return Answer(words, code, out.getvalue(), message.getvalue())


def refused(*words: str) -> Answer:
    """The answer to a command that has to be refused as a mistake."""
    answer = ask(*words)
    assert answer.code == cli.MISTAKEN, answer
    assert "Traceback" not in answer.message, answer.message
    assert "extractkit: " in answer.message
    return answer
