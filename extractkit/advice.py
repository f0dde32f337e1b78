"""Commands and overrides as text: quoted for a shell, and as older releases recorded them."""

import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

# Without a full stop at the end, which may be the sentence's.
_PLAIN = re.compile(r"([A-Za-z0-9_./-]*[A-Za-z0-9_/-])?", re.ASCII)
_MODEL, _EXPERIMENT, _SELECTORS = "model", "experiment", "selectors"

RENAMED_KEYS: Mapping[str, str] = {
    "model.inputs": "model.input_axes",
    "runtime.shards": "runtime.part",
}
"""The current names of configuration keys, by their former names."""

RENAMED_VERBS: Mapping[str, str] = {"finalize": "join"}
"""The current names of verbs and Python functions, by their former names."""


def command(verb: str, *arguments: object) -> str:
    """Return an extractkit command line, quoted for a shell."""
    return shlex.join(["extractkit", verb, *map(str, arguments)])


def renamed_key(key: str, value: object) -> str | None:
    """Return the message about a key that was renamed, or None if it was not.

    Args:
        key: The configuration key.
        value: Its value as plain data.
    """
    new = RENAMED_KEYS.get(key)
    written = shlex.quote(f"{new}={hydra_value(value)}")
    return None if new is None else f"{key} is now {new}. Write: {written}"


def with_current_key(word: str) -> str:
    """Return an override with the current name of its key, and any other word unchanged."""
    return _RENAMED.sub(lambda found: f"{found[1]}{RENAMED_KEYS[found[2]]}", word)


_RENAMED = re.compile(rf"^([+~]*)({'|'.join(map(re.escape, RENAMED_KEYS))})(?=[.=]|$)")


def listing(
    model: str,
    given: Iterable[str] = (),
    options: Iterable[str] = (),
    selectors: Iterable[str] = (),
) -> str:
    """Return the command that lists the tensors of a model, with the overrides that concern it.

    Args:
        model: the entry of the `model` group.
        given: the overrides as typed.
        options: options with their values, such as `--config-dir DIR`.
        selectors: names of selectors. Those of an experiment are deleted, because they would narrow
            the list.
    """
    overrides = list(given)
    about = [word for word in overrides if _group(word) in (_MODEL, _EXPERIMENT)]
    if _EXPERIMENT in map(_group, about):
        chosen = [word for word in overrides if _group(word) == _SELECTORS]
        about += [*chosen, *(f"~{_SELECTORS}.{name}" for name in selectors)]
    elif not any(word.startswith(f"{_MODEL}=") for word in about):
        about.insert(0, f"{_MODEL}={model}")
    return command("tensors", *options, *about)


def _group(word: str) -> str:
    """Return the config group of an override."""
    return re.split(r"[.=@]", word.lstrip("+~"), maxsplit=1)[0]


def override(key: str, value: object) -> str:
    """Return `KEY=VALUE` for one text in Hydra's grammar, quoted for a shell."""
    return shlex.quote(hydra_override(key, value))


def hydra_override(key: str, value: object) -> str:
    """Return `KEY=VALUE` for one text in Hydra's grammar."""
    return f"{key}={hydra_text(value)}"


def hydra_text(value: object) -> str:
    """Return a text so that Hydra and OmegaConf read it back unchanged.

    It is quoted if either would read it as something else: `null`, `true`, `1.0`, `a, b`.
    """
    text = str(value)
    if _PLAIN.fullmatch(text) and not is_another_type(text):
        return text
    # OmegaConf would resolve "${…}".
    return hydra_quoted(re.sub(r"(\\*)\$\{", r"\1\1\\${", text))


def is_another_type(text: str) -> bool:
    """Return True if Hydra may read an unquoted text as null, a boolean or a number."""
    if text.lower() in ("", "null", "true", "false"):
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True


def hydra_value(value: object) -> str:
    """Return plain data (mappings, lists, texts, numbers, None) in Hydra's grammar."""
    if isinstance(value, Mapping):
        return (
            f"{{{', '.join(f'{hydra_key(str(k))}: {hydra_value(v)}' for k, v in value.items())}}}"
        )
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(hydra_value, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return hydra_text(value) if isinstance(value, str) else str(value)


def hydra_quoted(value: str) -> str:
    """Quote a text in Hydra's grammar, where only `"` and `\\` before it are special."""
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', value)
    return '"' + re.sub(r"(\\+)$", r"\1\1", escaped) + '"'


def names_override(key: str, names: Iterable[str]) -> str:
    """Return `KEY=[NAME, …]` in Hydra's grammar, quoted for a shell."""
    return shlex.quote(f"{key}=[{', '.join(map(hydra_text, names))}]")


def choice_override(key: str, values: Iterable[object]) -> str:
    """Return `KEY=A,B`, a sweep over texts, in Hydra's grammar, quoted for a shell."""
    return shlex.quote(f"{key}={','.join(map(hydra_text, values))}")


def nested_override(key: str, entries: Mapping[str, str]) -> str:
    """Return `KEY={NAME: VALUE, …}` in Hydra's grammar, quoted for a shell.

    Args:
        key: the key of the mapping.
        entries: values in Hydra's grammar: `[sample, 4]`, `1.0`.
    """
    inside = ", ".join(f"{hydra_key(name)}: {value}" for name, value in entries.items())
    return shlex.quote(f"{key}={{{inside}}}")


def hydra_key(name: str) -> str:
    """Escape a name as a key in a mapping of Hydra's grammar, which has no quotes there."""
    return re.sub(r"([\\()\[\]{}:=, \t])", r"\\\1", name)


# ---- overrides as older releases recorded them, with the present keys

_INPUTS = re.compile(r"^([+~]*)model\.inputs(?=[.=]|$)")
_INPUT_AXES = r"\1model.input_axes"
_HAD_INPUTS = "frozen_graph|hugging_face|keras|meta_graph|module|saved_model|tensorflow_js"
FEATURES = "inputs.features"
"""The key of the features of TFRecord files."""

_TYPED_FEATURES = re.compile(r"^([+~]*inputs\.features=)(\{.*\})$", re.DOTALL)


def with_part(override: Any) -> Any:
    """Return an override of `runtime.shards` as one of `runtime.part`, and others unchanged."""
    if not isinstance(override, str):
        return override
    return re.sub(r"^([+~]*)runtime\.shards(?==|$)", r"\1runtime.part", override)


def chosen_model(given: Any) -> Any:
    """Return the chosen entry of the `model` group, which schema 1 recorded as an override only."""
    chosen = "model"
    for one in given if isinstance(given, list) else ():
        if isinstance(one, str) and one.startswith("model="):
            chosen = one.removeprefix("model=")
    return chosen


def present_key(override: str) -> str:
    """Return an override, or its key, with `model.input_axes` in place of `model.inputs`."""
    return _INPUTS.sub(_INPUT_AXES, override)


def with_present_keys(overrides: Any) -> Any:
    """Return the overrides of a job of extractkit's own formats with the present keys."""
    if not isinstance(overrides, list) or not all(isinstance(one, str) for one in overrides):
        return overrides
    current = overrides
    if _may_choose(overrides, "model", _HAD_INPUTS):
        current = [present_key(one) for one in current]
    if _may_choose(overrides, "inputs", "tfrecord"):
        current = [_TYPED_FEATURES.sub(_features_by_input, one) for one in current]
    return current


def _may_choose(overrides: list[str], group: str, names: str) -> bool:
    """Return whether overrides choose one of these in a group, or leave it to an experiment.

    Only the file of an experiment shows what it chooses. If that is a component of the user's own,
    the present key does not exist, and a resumed sweep is refused with a list of the keys that do.
    """
    if any(re.match(rf"{group}=(.*,)?({names})(,|$)", one) for one in overrides):
        return True
    chosen = re.compile(rf"[+~]*{group}(=|$|\._target_=)")
    return any(re.match(r"\+?experiment=", one) for one in overrides) and not any(
        map(chosen.match, overrides)
    )


def _features_by_input(typed: re.Match[str]) -> str:
    """Return features that were typed in Hydra's grammar by input; other text unchanged."""
    swept = [_turned(mapping) for mapping in _split(typed[2], ",")]
    return typed[0] if None in swept else f"{typed[1]}{','.join(map(str, swept))}"


def _turned(mapping: str) -> str | None:
    """Return one mapping of features by input; None if the text is something else.

    It has no spaces, as in the overrides that Hydra gives to the jobs of a sweep.
    """
    entries = _entries(mapping)
    if entries is None:
        return None
    turned = []
    for name, entry in entries.items():
        settings = _entries(entry)
        if settings is None and entry != "null":
            return None
        target = (settings or {}).pop("input", "null")
        if target in (name, "null"):
            target = name
        else:
            target = hydra_key(_unquoted(target))
            settings = {"feature": hydra_text(_unquoted(name)), **(settings or {})}
        inside = ",".join(f"{key}:{value}" for key, value in (settings or {}).items())
        turned.append(f"{target}:{entry if settings is None else f'{{{inside}}}'}")
    return f"{{{','.join(turned)}}}"


def _entries(mapping: str) -> dict[str, str] | None:
    """Return the entries of a mapping in Hydra's grammar as typed; None for other text."""
    if not (mapping.startswith("{") and mapping.endswith("}")):
        return None
    pairs = [_split(entry, ":", 1) for entry in _split(mapping[1:-1], ",") if entry]
    return dict(pair for pair in pairs) if all(len(pair) == 2 for pair in pairs) else None


_NESTED = re.compile(r"""\\.|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|.""", re.DOTALL)


def _split(text: str, separator: str, most: int = -1) -> list[str]:
    """Split text of Hydra's grammar outside of brackets and quotes, at most so many times."""
    parts, depth = [""], 0
    for token in _NESTED.findall(text):
        depth += (token in "([{") - (token in ")]}")
        if token == separator and depth == 0 and len(parts) != most + 1:
            parts.append("")
        else:
            parts[-1] += token
    return [part.strip() for part in parts]


def _unquoted(text: str) -> str:
    """Return the text that a value in Hydra's grammar represents."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return re.sub(rf"\\(?={text[0]})", "", text[1:-1])
    return re.sub(r"\\(.)", r"\1", text)
