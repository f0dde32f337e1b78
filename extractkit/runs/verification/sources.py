"""The files that a job was given, held against what they held when the run began."""

from extractkit.errors import InputError
from extractkit.runs.manifest import Manifest
from extractkit.runs.origins import Origin, origin
from extractkit.runs.verification.result import Check, Finding, counted


def given_files(manifest: Manifest) -> Check:
    """Weights, inputs, tokenizers: whatever the configuration names by a path."""
    name = "given files"
    if manifest.plan is None:
        return Check.left_out(name, "they are not recorded before the plan")
    found = [one for recorded in manifest.origins for one in _wrong(recorded)]
    return Check.of(name, counted(len(manifest.origins), "path"), found)


def _wrong(recorded: Origin) -> list[Finding]:
    at = f"{recorded.key}={recorded.path}"
    try:
        now = origin(recorded.key, recorded.path)
    except InputError as error:
        return [Finding(recorded.path, str(error))]
    if now is None:
        return [Finding(recorded.path, f"{at} is gone")]
    if now.bytes != recorded.bytes:
        message = f"{at} has changed: {now.bytes} bytes, {recorded.bytes} were recorded"
        return [Finding(recorded.path, message)]
    if now.sha256 != recorded.sha256:
        return [Finding(recorded.path, f"{at} has changed: its SHA-256 is not the recorded one")]
    return []
