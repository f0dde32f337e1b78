"""Overrides as older releases recorded them, with the present keys."""

import re
from typing import Any

from extractkit.advice import hydra_key, hydra_text

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

    Of what an experiment chooses, only its file knows. Where that is a component of the user's own,
    the present key does not exist, and a resumed sweep is refused with the keys that do.
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
