"""The verb completion: shells complete verbs, options, overrides, files, runs and addresses.

The code that it prints asks for the completions of a line at each press of Tab, so this module
imports neither NumPy nor Rich unless the line names a model's file that has to be recognised.
"""

import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from textwrap import shorten
from typing import Any

from extractkit.commands.arguments import split_verb
from extractkit.commands.verbs import HYDRA, VERBS, Option
from extractkit.config import GROUPS, MODEL, SCHEMA, config_directory, model_file, options
from extractkit.errors import ConfigError, ExtractkitError, choices
from extractkit.runs import MANIFEST, SWEEP
from extractkit.store import listed_models

_BASH = """\
_extractkit() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        COMPREPLY+=("$line")
    done < <("$1" completion bash -- "${COMP_LINE:0:COMP_POINT}" "$COMP_WORDBREAKS" 2>/dev/null)
    if [[ ${#COMPREPLY[@]} == 1 && $COMPREPLY == *[=/.] ]]; then
        compopt -o nospace
    fi
}
complete -F _extractkit extractkit
"""
_ZSH = """\
_extractkit() {
    local found line text
    local -a ended open ended_shown open_shown
    found=$("${(Q)words[1]}" completion zsh -- \\
        "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)
    for line in ${(f)found}; do
        text=${line%%$'\\t'*}
        line=${line/$'\\t'/  -- }
        if [[ $text == *[=/.] ]]; then
            open+=("$text") open_shown+=("$line")
        else
            ended+=("$text") ended_shown+=("$line")
        fi
    done
    compadd -l -d ended_shown -a ended
    compadd -l -S '' -d open_shown -a open
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
compdef _extractkit extractkit
"""
_FISH = """\
function __extractkit_complete
    set -l before (commandline -opc)
    set -l current (commandline -ct)
    command $before[1] completion fish -- $before[2..] "$current" 2>/dev/null
end
complete -c extractkit -f -a '(__extractkit_complete)'
"""
SHELLS = {"bash": _BASH, "fish": _FISH, "zsh": _ZSH}
"""The code for each shell."""

# Characters that bash does not take as they are, by the quote around them.
_SPECIAL = {
    "": re.compile(r"[^\w@%+=:,./~\[\]{}-]"),
    '"': re.compile(r'["$`\\!]'),
    "'": re.compile(r"(?!)"),
}
# An address of other characters needs quotes in Hydra's grammar, or is a glob.
_ADDRESS = re.compile(r"[\w@+:./-]+", re.ASCII)
_PATHS = frozenset({"path", "checkpoint", "checkpoints", "weights", "reuse_from"})
_RUN_DIR = "run_dir"

Completions = Mapping[str, str]
"""Words that continue the last one, each with a description, which may be empty."""


def completion(arguments: Sequence[str]) -> bool:
    """Print the code for a shell.

    Raises:
        ConfigError: a mistake in the arguments.
    """
    from extractkit.commands.arguments import RunOptions
    from extractkit.display import write

    shell = RunOptions("completion").read(arguments).shell
    if shell not in SHELLS:
        raise ConfigError(f"completion: {shell!r} is not a known shell. {choices(shell, SHELLS)}")
    write(SHELLS[shell])
    return True


def answer(shell: str, given: Sequence[str]) -> str:
    """Return the completions for a shell, one a line.

    Args:
        shell: the shell that asks.
        given: for bash the line up to the cursor, and the characters at which bash divides words;
            for others the words after the program, the last one up to the cursor.
    """
    if len(given) < (2 if shell == "bash" else 1):
        return ""  # no shell asks for that
    if shell == "bash":
        line, breaks = given
        words, quote = _split(line)
        found = completions(words[1:])
        # Bash replaces what follows the last of these characters, not the whole word.
        places = [] if quote else [words[-1].rfind(char) for char in breaks if char.strip()]
        kept = 1 + max(places, default=-1)
        lines = [_SPECIAL[quote].sub(r"\\\g<0>", one[kept:]) for one in found]
        if quote == "'":  # within which nothing can be escaped
            lines = [one for one in lines if quote not in one]
    else:
        lines = [
            f"{text}\t{about}" if about else text for text, about in completions(given).items()
        ]
    return "".join(f"{one}\n" for one in lines if one.replace("\t", "").isprintable())


def _split(line: str) -> tuple[list[str], str]:
    """Return the words of an unfinished line, and the quote that is open at its end."""
    for quote in ("", "'", '"'):
        with suppress(ValueError):
            words = shlex.split(line + quote)
            if not quote and line[-1:].isspace():
                words.append("")
            return words, quote
    return ["", ""], ""


def completions(words: Sequence[str]) -> Completions:
    """Return the words that may replace the last one.

    Args:
        words: the words after the program.
    """
    *before, current = words
    return {text: about for text, about in _Line(before).after(current) if text.startswith(current)}


class _Line:
    """The words before the one to complete."""

    def __init__(self, before: Sequence[str]) -> None:
        self._before = before
        self._verb, self._words = split_verb(before)
        self._verb_is_open = self._verb is None

    def after(self, current: str) -> Iterator[tuple[str, str]]:
        """Yield words with descriptions; some may not begin with the current one."""
        verb = VERBS[self._verb or "run"]
        on_job = not verb.operands
        known = [*verb.options, *(HYDRA if on_job else ())]
        valued = {one.flag: one for one in known if one.metavar is not None}
        flag, equals, value = current.partition("=")
        if self._before and self._before[-1] in valued:
            yield from self._of_option(valued[self._before[-1]], current)
        elif equals and flag in valued:
            for text, about in self._of_option(valued[flag], value):
                yield f"{flag}={text}", about
        elif current.startswith("-"):
            yield from ((one.flag, one.description) for one in known)
            yield "--help", "show the help"
        elif on_job:
            if self._verb_is_open:
                yield from ((name, one.summary) for name, one in VERBS.items())
            yield from self._overrides(current)
        else:
            yield from self._operands(verb.operands, current)
            if verb.overrides:
                yield from self._overrides(current, ("runtime",))

    def _of_option(self, option: Option, current: str) -> Iterator[tuple[str, str]]:
        match option.metavar:
            case "FILE" | "DIR":
                yield from _files(current, folders=option.metavar == "DIR")
            case "RUN":
                yield from _runs(current)
            case "FORMAT":
                from extractkit.exports.registry import EXPORTERS  # with NumPy

                yield from ((name, one.summary) for name, one in EXPORTERS.items())
            case "GLOB" | "KEY":
                for run in self._operands_given()[:1]:
                    yield from _steps(_stored(Path(run)), current)

    def _operands_given(self) -> list[str]:
        """Return the operands before the word, without options and their values."""
        valued = {one.flag for one in VERBS[self._verb or "run"].options if one.metavar is not None}
        found, is_value = [], False
        for word in self._words:
            if not is_value and not word.startswith("-"):
                found.append(word)
            is_value = word in valued
        return found

    def _operands(self, operands: Sequence[str], current: str) -> Iterator[tuple[str, str]]:
        at = len(self._operands_given())
        match operands[at].rstrip("?") if at < len(operands) else "":
            case "run" | "other" | "a" | "b":
                yield from _runs(current)
            case "folder":
                yield from _files(current, folders=True)
            case "model":
                yield from _files(current)
            case "shell":
                yield from ((shell, "") for shell in SHELLS)

    def _overrides(self, current: str, groups: Sequence[str] = GROUPS) -> Iterator[tuple[str, str]]:
        sign = current[: len(current) - len(current.lstrip("+~"))]
        key, equals, value = current[len(sign) :].partition("=")
        if equals:
            prefix = f"{sign}{key}="
            for text, about in self._values(key, value):
                yield f"{prefix}{text}", about
            return
        if key.partition(".")[0] in groups and "." in key:
            yield from ((f"{sign}{one}=", about) for one, about in self._keys(key))
            return
        for group in groups:
            if not sign and group != "runtime":
                yield f"{group}=", shorten(", ".join(self._options(group)), 60, placeholder=" …")
            if group != "experiment":
                yield f"{sign}{group}.", f"a key of {group}"
        if not sign:
            yield f"{_RUN_DIR}=", "the directory of the run"
        if not sign and groups == GROUPS and current:
            yield from _files(current)

    def _keys(self, key: str) -> Iterator[tuple[str, str]]:
        """Yield the keys of the group in which a key begins."""
        group, _, rest = key.partition(".")
        names = self._names(group)
        if names is None:
            for name, one in self._declared(group).items():
                yield f"{group}.{name}", _about(one)
            return
        typed = rest.partition(".")[0]
        for name in [*names, *([typed] if "." in rest and typed not in names else [])]:
            for one, schema in self._declared(group, name).items():
                yield f"{group}.{name}.{one}", _about(schema)

    def _names(self, group: str) -> Sequence[str] | None:
        """Return the names below a group; None if it holds keys itself."""
        if group == "selectors":
            found = re.compile(r"\+*selectors\.(\w+)\.")
            own = [match[1] for word in self._words if (match := found.match(word))]
            return list(dict.fromkeys([*self._chosen(group), *own]))
        return self._chosen(group) or ["hdf5"] if group == "sinks" else None

    def _declared(self, group: str, name: str = "") -> Mapping[str, Any]:
        """Return the schemas of the keys of a group, by their names."""
        definitions = self._schema["$defs"]
        match group:
            case "selectors":
                found = definitions["selector"]
            case "runtime":
                found = definitions["runtime"]
            case "sinks":
                found = definitions.get(f"sinks.{name}", {})
            case _:
                default = ["texts"] if group == "inputs" else []
                chosen = (self._chosen(group) or default)[-1:]
                found = definitions.get(f"{group}.{''.join(chosen)}", {})
        own = found.get("properties", {})
        return {key: one for key, one in own.items() if not key.startswith("_")}

    def _values(self, key: str, value: str) -> Iterator[tuple[str, str]]:
        group, _, rest = key.partition(".")
        last = rest.rpartition(".")[2]
        if key in GROUPS:
            # Several in brackets, or for a sweep.
            before = value[: 1 + max(value.rfind(","), value.rfind("["))]
            for name in self._options(key):
                yield f"{before}{name}", ""
            if key == "model":
                yield from _files(value)
            return
        if key == _RUN_DIR:
            yield from _files(value, folders=True)
            return
        if group == "selectors":
            quote = value[:1] if value[:1] in ("'", '"') else ""
            for text, _ in _steps(self._matched.get(last, ()), value[len(quote) :]):
                yield f"{quote}{text}{quote if not text.endswith('/') else ''}", ""
        names = self._names(group)
        schema = self._declared(group, rest.partition(".")[0] if names else "").get(last, {})
        yield from ((text, "") for text in _constants(schema))
        if last in _PATHS and group != "selectors":
            yield from _files(value)

    def _options(self, group: str) -> list[str]:
        own = [path.stem for one in self._folders for path in Path(one, group).glob("*.yaml")]
        return sorted({*options(group), *own})

    def _chosen(self, group: str) -> list[str]:
        """Return the choices of a group: the words of `group=[a,b]`."""
        values = [word.partition("=")[2] for word in self._words if word.startswith(f"{group}=")]
        if group == "model" and self._model_file is not None:
            with suppress(ExtractkitError):
                if (file := model_file(self._model_file)) is not None:
                    return [file.model.removeprefix(MODEL)]
            return []
        return re.findall(r"[\w.-]+", values[-1]) if values else []

    @cached_property
    def _folders(self) -> list[str]:
        """The folders of configuration that the line names."""
        words = list(self._words)
        after = [words[at + 1] for at, word in enumerate(words[:-1]) if word == "--config-dir"]
        return after + [
            word.partition("=")[2] for word in words if word.startswith("--config-dir=")
        ]

    @cached_property
    def _model_file(self) -> str | None:
        """The path of a model that is a word alone, or given in place of a format."""
        valued = [word for word in self._words if word.startswith(MODEL)]
        names = [word.removeprefix(MODEL) for word in valued] or [
            word for word in self._words if "=" not in word and not word.startswith("-")
        ]
        for name in names:
            if name in self._options("model") or name in self._folders:
                continue
            if Path(name).expanduser().exists():
                return name
        return None

    @cached_property
    def _matched(self) -> Mapping[str, Sequence[str]]:
        """The values that predicates can match in the model, as far as they are known."""
        path = next((w.partition("=")[2] for w in self._words if w.startswith("model.path=")), None)
        if path is None and self._model_file is not None:
            path = self._model_file
        if path is None:
            path = self._path_of_experiment()
        if path is not None:
            return listed_models.kept(str(Path(path.strip("\"'")).expanduser().absolute()))
        chosen = self._chosen("model")
        own = self._schema["$defs"].get(f"model.{''.join(chosen[-1:])}", {})
        loader = own.get("properties", {}).get("_target_", {}).get("const")
        return listed_models.kept(loader) if loader else {}

    def _path_of_experiment(self) -> str | None:
        """Return the model's path in the chosen experiment, as `extractkit init` writes it."""
        import yaml  # type: ignore[import-untyped]

        for name in self._chosen("experiment"):
            for folder in (*map(Path, self._folders), config_directory()):
                with suppress(OSError, ValueError, yaml.YAMLError, LookupError, TypeError):
                    text = (folder / "experiment" / f"{name}.yaml").read_text("utf-8")
                    return str(yaml.safe_load(text)["model"]["path"])
        return None

    @cached_property
    def _schema(self) -> Mapping[str, Any]:
        return json.loads((config_directory() / SCHEMA).read_bytes())  # type: ignore[no-any-return]


def _about(schema: Mapping[str, Any]) -> str:
    """Return the first sentence of a key's description."""
    text = " ".join(str(schema.get("description", "")).split())
    return re.split(r"(?<=[\w)])[.;:] ", text, maxsplit=1)[0].rstrip(".")


def _constants(schema: Mapping[str, Any]) -> Iterator[str]:
    """Yield the words that a key takes."""
    for one in schema.get("anyOf", ()):
        if one.get("type") == "boolean":
            yield from ("true", "false")
        values = [*one.get("enum", ()), *([one["const"]] if "const" in one else ())]
        yield from (
            str(value).lower() if isinstance(value, bool) else str(value) for value in values
        )


def _steps(values: Iterable[str], current: str) -> Iterator[tuple[str, str]]:
    """Yield values up to their next `/`, so that a tree of thousands is walked level by level.

    A value that is the only one below a `/` is yielded whole.
    """
    below: dict[str, list[str]] = {}
    for value in values:
        if value.startswith(current) and _ADDRESS.fullmatch(value):
            cut = value.find("/", len(current)) + 1
            below.setdefault(value[:cut] if cut else value, []).append(value)
    if len(below) == 1 and len(whole := next(iter(below.values()))) > 1:
        yield from _steps(whole, next(iter(below)))
        return
    for text, whole in below.items():
        yield (whole[0] if len(whole) == 1 else text), ""


def _files(current: str, *, folders: bool = False) -> Iterator[tuple[str, str]]:
    """Yield files and folders, which end with `/`. Hidden ones only if that was typed."""
    above, slash, name = current.rpartition("/")
    try:
        found = sorted(os.scandir(Path(f"{above}{slash}" or ".").expanduser()), key=_name)
    except (OSError, ValueError, RuntimeError):
        return
    for one in found:
        if one.name.startswith(".") and not name.startswith("."):
            continue
        if one.is_dir():
            yield f"{above}{slash}{one.name}/", ""
        elif not folders:
            yield f"{above}{slash}{one.name}", ""


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _runs(current: str) -> Iterator[tuple[str, str]]:
    """Yield folders: runs and sweeps without a `/`, as nothing in them is asked for."""
    for folder, _ in _files(current, folders=True):
        place = Path(folder).expanduser()
        if (place / MANIFEST).exists():
            yield folder.rstrip("/"), "a run"
        elif (place / SWEEP).exists():
            yield folder.rstrip("/"), "a sweep"
        else:
            yield folder, ""


def _stored(run: Path) -> list[str]:
    """Return the keys of the tensors of a run."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        plan = json.loads((run.expanduser() / MANIFEST).read_bytes())["plan"]
        return [str(one["key"]) for one in plan["tensors"]]
    return []
