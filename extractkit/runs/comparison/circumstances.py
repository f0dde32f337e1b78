"""What differs between two runs besides their values: machine, versions, settings, what went in."""

from collections.abc import Iterator, Mapping

from extractkit.runs.comparison.result import Circumstance
from extractkit.runs.manifest import Manifest

_ADAPTER, _STATE = "model._target_", "model.state"


def circumstances(a: Manifest, b: Manifest) -> tuple[Circumstance, ...]:
    """Everything that two manifests record and that may explain a difference; None: not there."""
    one, other = dict(_leaves("", _recorded(a))), dict(_leaves("", _recorded(b)))
    if one.get(_ADAPTER) != other.get(_ADAPTER):
        # Settings of different adapters are about different things.
        one, other = _without_settings(one), _without_settings(other)
    return tuple(
        Circumstance(key, one.get(key), other.get(key))
        for key in dict.fromkeys((*one, *other))
        if one.get(key) != other.get(key)
    )


def _recorded(manifest: Manifest) -> Mapping[str, object]:
    return {
        "model": {**_configured(manifest), **_carried(manifest)},
        "weights": manifest.model.get("weights"),
        "inputs": manifest.inputs and manifest.inputs.fingerprint,
        "versions": manifest.versions,
        "settings": manifest.settings,
        "seeds": manifest.seeds,
        "environment": manifest.environment,
        "host": manifest.volatile.host,
    }


def _configured(manifest: Manifest) -> Mapping[str, object]:
    """Return the settings of the model; none of one that was in memory."""
    configured = manifest.job_resolved.get("model")
    return configured if isinstance(configured, Mapping) else {}


def _carried(manifest: Manifest) -> Mapping[str, object]:
    """Return where the calls of a stateful model started from, also where that was a default."""
    return {"state": manifest.model["state"]} if "state" in manifest.model else {}


def _without_settings(leaves: Mapping[str, object]) -> dict[str, object]:
    kept = (_ADAPTER, _STATE)
    return {
        key: value for key, value in leaves.items() if key in kept or not key.startswith("model.")
    }


def _leaves(path: str, value: object) -> Iterator[tuple[str, object]]:
    if not isinstance(value, Mapping):
        yield path, value
        return
    for key, entry in value.items():
        yield from _leaves(f"{path}.{key}" if path else str(key), entry)
