"""What differs between two runs besides their values: machine, versions, settings, what went in."""

from collections.abc import Iterator, Mapping

from extractkit.runs.comparison.result import Circumstance
from extractkit.runs.manifest import Manifest


def circumstances(a: Manifest, b: Manifest) -> tuple[Circumstance, ...]:
    """Everything that two manifests record and that may explain a difference; None: not there."""
    one, other = dict(_leaves("", _recorded(a))), dict(_leaves("", _recorded(b)))
    return tuple(
        Circumstance(key, one.get(key), other.get(key))
        for key in dict.fromkeys((*one, *other))
        if one.get(key) != other.get(key)
    )


def _recorded(manifest: Manifest) -> Mapping[str, object]:
    return {
        "weights": manifest.model.get("weights"),
        "inputs": manifest.inputs and manifest.inputs.fingerprint,
        "versions": manifest.versions,
        "settings": manifest.settings,
        "seeds": manifest.seeds,
        "environment": manifest.environment,
        "host": manifest.volatile.host,
    }


def _leaves(path: str, value: object) -> Iterator[tuple[str, object]]:
    if not isinstance(value, Mapping):
        yield path, value
        return
    for key, entry in value.items():
        yield from _leaves(f"{path}.{key}" if path else str(key), entry)
