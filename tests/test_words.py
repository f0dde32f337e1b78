"""One word per thing: replaced words occur in no code, message or page."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

REPLACED = {
    "report, warn, raise": ["tell", "tells", "told", "telling", "says", "said", "saying"],
    "nothing (name the subject)": ["nobody", "whoever", "whatever"],
    "is, is in": ["stands", "lies"],
    "resume, continue": ["go on", "goes on", "gone on", "going on"],
    "join": ["finalize", "finalized", "finalizes"],
    "digest": ["fingerprint", "fingerprints", "seal", "seals", "sealed"],
    "shard, part": ["piece", "pieces"],
    "missing, unextractable, excluded": ["skipped", "left out", "leave out", "leaves out"],
    "compare with": ["held against", "hold against", "holds against"],
}
"""Words not to use, by the words to use instead."""

ALLOWED = {
    # Names of other programs, and the former names that extractkit answers.
    "fingerprint": [
        r"fingerprint\.pb",
        r"the fingerprint of a SavedModel",
        r"""["'`](inputs\.)?fingerprint["'`]""",
    ],
    "tell": [r"file\.tell\(\)", r"def tell\(self\)"],
    "finalize": [
        r"weakref\.finalize",
        r"\bfinalize_(state|variable_values)\b",
        r"Index\|Finalize",
        r'"finalize": "join"',
        r"extractkit[. ]finalize\b",
    ],
    "skipped": [
        r"""["'`]skipped["'`]""",
        r"`?skipped_`?",
        r'"skipped_checkpoints"',
        r"run\.skipped",
        r"def skipped\b",
    ],
}
"""Uses in which a word is the right one, as patterns."""  # fmt: skip

_ANY = "|".join(re.escape(one).replace(r"\ ", "[ _]") for ones in REPLACED.values() for one in ones)
WORD = re.compile(rf"(?<![a-zA-Z])(?:{_ANY})(?![a-zA-Z])", re.IGNORECASE)
RIGHT = re.compile("|".join(pattern for patterns in ALLOWED.values() for pattern in patterns))

# Texts that are data, and the table of these words.
EXCEPT = {"extractkit/inputs/sample.txt", "docs/reference/glossary.md"}
SUFFIXES = {".py", ".md", ".yaml", ".toml", ".txt"}


def tracked() -> Iterator[Path]:
    """Yield the files of the package, of the configuration, and the pages."""
    listed = subprocess.run(
        ["git", "ls-files", "extractkit", "conf", "docs", "experiments", "*.md"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    ).stdout.split()  # fmt: skip
    assert listed, "not a checkout of git"
    for name in listed:
        if name not in EXCEPT and Path(name).suffix in SUFFIXES:
            yield ROOT / name


def replaced_words(text: str) -> list[str]:
    """Return the lines of a text with a word that is not to be used."""
    return [
        f"{number}: {match[0]!r} in {line.strip()[:90]}"
        for number, line in enumerate(text.splitlines(), 1)
        for match in WORD.finditer(RIGHT.sub("", line))
    ]


def test_words_are_found_in_names_and_sentences() -> None:
    text = "def left_out():\n    # Go on: `skipped` is a key,\n    raise Told('it Lies')  # retold"
    found = [line.partition(" in ")[0] for line in replaced_words(text)]
    assert found == ["1: 'left_out'", "2: 'Go on'", "3: 'Told'", "3: 'Lies'"]


def test_no_replaced_word_is_left() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in tracked()
        for line in replaced_words(path.read_text("utf-8"))
    ]
    assert not found, f"{len(found)} words to replace (see tests/test_words.py):\n" + "\n".join(
        found
    )
