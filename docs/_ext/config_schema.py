"""A JSON schema of the configuration, with which editors complete keys and mark mistakes.

It is derived from the declarations of keys. It accepts every configuration that extractkit accepts,
except where a key is given a value of another type than it declares.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from extractkit.core.job import SETTINGS
from extractkit.core.keys import REQUIRED, Choice, Flag, Form, Key, Number, Setting, Text, Whole
from extractkit.core.predicates import COMBINATORS, NEIGHBOURS, PREDICATE_KEYS
from extractkit.core.selectors import GRADIENT_KEY, ROLLOUT_KEY, STATISTICS_KEY, TAKE
from extractkit.core.transforms.pipeline import TRANSFORMS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from declared import Entry

Schema = dict[str, Any]

_DIALECT = "http://json-schema.org/draft-07/schema#"
_TARGET, _PARTIAL = "_target_", "_partial_"
# What Hydra resolves later may be of any type.
_RESOLVED_LATER: Schema = {"type": "string", "pattern": r"^\?\?\?$|\$\{"}
_WORDS: Mapping[str, Schema] = {
    "true": {"const": True},
    "false": {"const": False},
    "whole number": {"type": "integer"},
    "number": {"type": "number"},
    "text": {"type": "string"},
    "list": {"type": "array"},
    "mapping": {"type": "object"},
    "null": {"type": "null"},
}
# A section without keys is null in YAML.
_MAYBE_EMPTY: Schema = {"type": ["object", "null"]}
# Texts are taken as lists of one.
_IMPORTS = "imports"


def document(entries: Mapping[str, Sequence[Entry]]) -> Schema:
    """Return the schema of a file with a whole job, such as an experiment.

    Files of a group have theirs in `$defs`, by the name of the group.

    Args:
        entries: The files of the groups `model`, `inputs` and `sinks`.
    """
    components = {
        f"{group}.{entry.name}": _component(entry) for group in entries for entry in entries[group]
    }
    definitions = {
        **components,
        **{_one(group): _by_target(group, entries[group]) for group in entries},
        "sinks": _named("sink"),
        "runtime": {**_closed({key.name: _setting(key) for key in SETTINGS}), **_MAYBE_EMPTY},
        "predicate": _closed(_predicates()),
        "selector": _closed({**_predicates(), **_of_values()}),
        "selectors": {
            **_named("selector"),
            "propertyNames": {"pattern": r"^[^\W\d]\w*$"},
        },
    }
    groups = ("model", "inputs", "selectors", "sinks", "runtime")
    job = {
        "defaults": {"type": "array", "description": "The chosen files, by their groups."},
        **{group: _ref(group) for group in groups},
        "hydra": {"type": "object", "description": "Settings of Hydra: directories, launchers."},
    }
    chosen = [
        _if_chosen(group, entry.name) for group in ("model", "inputs") for entry in entries[group]
    ]
    return {
        "$schema": _DIALECT,
        "title": "A job of extractkit",
        "type": "object",
        "properties": job,
        "additionalProperties": False,
        "allOf": chosen,
        "$defs": dict(sorted(definitions.items())),
    }


def _one(group: str) -> str:
    """Return the definition of one component of a group: a job has several sinks."""
    return "sink" if group == "sinks" else group


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _closed(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _named(kind: str) -> Schema:
    return {**_MAYBE_EMPTY, "additionalProperties": _ref(kind)}


def _component(entry: Entry) -> Schema:
    """Return the schema of a component with the arguments of a file's target."""
    special = {
        _TARGET: {"const": entry.target, "description": "The callable that makes it."},
        _PARTIAL: {"type": "boolean"},
    }
    keys = {key.name: _key(key) for key in entry.keys}
    return {"description": entry.intro, **_closed({**special, **keys})}


def _by_target(group: str, entries: Iterable[Entry]) -> Schema:
    """Return the schema of a component: one of extractkit's by its target, or any other."""
    return {
        "type": "object",
        "properties": {_TARGET: {"type": "string"}},
        "allOf": [
            {
                "if": {
                    "type": "object",
                    "properties": {_TARGET: {"const": entry.target}},
                    "required": [_TARGET],
                },
                "then": _ref(f"{group}.{entry.name}"),
            }
            for entry in entries
        ],
    }


def _if_chosen(group: str, name: str) -> Schema:
    """Return the condition that the arguments belong to the entry that `defaults` chooses.

    A section with a target of its own has other arguments.
    """
    words = [f"override /{group}", f"override {group}", f"/{group}", group]
    choosing = {
        "type": "object",
        "anyOf": [{"properties": {one: {"const": name}}, "required": [one]} for one in words],
    }
    return {
        "if": {
            "type": "object",
            "properties": {
                "defaults": {"contains": choosing},
                group: {"type": "object", "not": {"required": [_TARGET]}},
            },
            "required": ["defaults", group],
        },
        "then": {"properties": {group: _ref(f"{group}.{name}")}},
    }


def _key(key: Key) -> Schema:
    words = re.split(r", | or ", key.type)
    known = [_WORDS.get(one, {"const": one}) for one in words]
    if key.name == _IMPORTS:
        known.append(_WORDS["text"])
    return _declared(key, known)


def _declared(key: Key, kinds: list[Schema]) -> Schema:
    found: Schema = {
        "description": " ".join(key.description.split()),
        "anyOf": [*kinds, _RESOLVED_LATER],
    }
    if key.default == REQUIRED:
        return found
    default = {} if key.default == {} else key.default  # an empty mapping may be read-only
    return {**found, "default": default}


def _setting(key: Setting) -> Schema:
    word = getattr(key.form, "word", None)
    kinds = [_form(key.form)]
    if word is not None:
        kinds.append({"const": word})
    if key.default is None:
        kinds.append(_WORDS["null"])
    default = word if key.default is None and word is not None else key.default
    return {**_declared(key, kinds), "default": default}


def _form(form: Form) -> Schema:
    match form:
        case Whole():
            most = {} if form.most is None else {"maximum": form.most}
            return {"type": "integer", "minimum": form.least, **most}
        case Number():
            return {"type": "number", "minimum": 0}
        case Flag():
            return {"type": "boolean"}
        case Choice():
            return {"enum": list(form.options)}
        case Text():
            return {"type": "string", "examples": [form.example]}
    return {}  # a form of a key's own, in words


def _predicates() -> Schema:
    """Return the keys for what a selector matches."""
    several: Schema = {"type": "array", "items": _ref("predicate"), "minItems": 1}
    one_or_several: Schema = {"anyOf": [_ref("predicate"), several]}
    nested = {
        **dict.fromkeys((*NEIGHBOURS, *COMBINATORS), one_or_several),
        "any": several,
        "all": several,
    }
    return {key.name: _described(key, nested.get(key.name)) for key in PREDICATE_KEYS}


def _described(key: Key, schema: Schema | None = None) -> Schema:
    """Return the schema of a key of a selector. Null leaves the key out."""
    taken = {} if schema is None else {"anyOf": [schema, _WORDS["null"], _RESOLVED_LATER]}
    return {"description": " ".join(key.description.split()), **taken}


def _of_values() -> Schema:
    """Return the keys for what is stored of the tensors that a selector matches."""
    keys = (TAKE, GRADIENT_KEY, ROLLOUT_KEY, *TRANSFORMS, STATISTICS_KEY)
    return {key.name: _described(key) for key in keys}
