"""What of a run's files is not as manifest and journal record it, found without reading values."""

from pathlib import Path

from extractkit.runs.directory import HYDRA, LOG
from extractkit.runs.manifest import Manifest
from extractkit.runs.verification.files import recorded_files, shard_files
from extractkit.runs.verification.listing import listed_shards


def lasting_damage(directory: Path, manifest: Manifest) -> list[str]:
    """What of the damage no computing can mend: what Hydra composed, and the log."""
    found = recorded_files(directory, manifest).findings
    own = (f"{HYDRA}/", LOG)
    return [one.message for one in found if one.file is not None and one.file.startswith(own)]


def damage(directory: Path, manifest: Manifest) -> list[str]:
    """Every file that is missing or holds something else, each in a message that names it.

    Of a run that is not finished, what it says to have stored is looked at.
    """
    journal, entries = listed_shards(directory, manifest)
    shards, _ = shard_files(directory, entries, manifest)
    checks = (recorded_files(directory, manifest), journal, shards)
    return [finding.message for check in checks for finding in check.findings]
