"""RO-Crate: metadata beside the manifest, with which archives and catalogues cite a run.

It follows the profile Process Run Crate: an action with the program, what it was given and what it
made. https://www.researchobject.org/workflow-run-crate/profiles/process_run_crate
"""

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from extractkit.advice import command
from extractkit.errors import ConfigError
from extractkit.runs import JOURNAL, LOG, MANIFEST, RO_CRATE, SAMPLES, SHARDS
from extractkit.runs.checking.signature import check_whole, signature_file
from extractkit.runs.directory import run_path
from extractkit.runs.manifest import Manifest
from extractkit.runs.manifest import read as read_manifest
from extractkit.store.local import write_durably

_CRATE = "https://w3id.org/ro/crate/1.1"
_PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
_ORCID = "https://orcid.org/"
_PROGRAM, _ACTION = "#extractkit", "#run"

_FILES = {
    MANIFEST: ("The run's description of itself", "application/json"),
    JOURNAL: ("The committed shards, one line each", "application/jsonl"),
    SAMPLES: ("The samples, one line each", "application/jsonl"),
    LOG: ("The log", "text/plain"),
    "tensors.h5": ("All tensors", "application/x-hdf5"),
    "statistics.npz": ("Statistics over all samples", "application/zip"),
    "drift.json": ("How tensors move over the checkpoints", "application/json"),
}
_FOLDERS = {SHARDS: "The values, shard by shard", ".hydra": "The configuration"}

Entity = dict[str, Any]


def crate(
    run: str | Path,
    *,
    license: str,  # noqa: A002 - the name that the option and the metadata have
    author: str,
    trust: Sequence[str] = (),
) -> Path:
    """Write `ro-crate-metadata.json` into a finished run, after checking that it is whole.

    Values, manifest and journal stay as they are. The same run gets the same metadata.

    Args:
        run: the run directory.
        license: the address of the licence of the run, such as
            `https://creativecommons.org/licenses/by/4.0/`.
        author: the ORCID of the author, `https://orcid.org/0000-…`, or a name.
        trust: modules whose callables the run's configuration may name.

    Returns:
        The file.

    Raises:
        ConfigError: the licence is not an address, the author is neither a name nor an ORCID, or
            the run is signed.
        RunDirectoryError: there is no run, it is unfinished, or it has changed.
        JobError: the file could not be written.
    """
    _check_terms(license, author)
    directory = run_path(run)
    check_whole(directory, trust, "described as a crate")
    graph = [*_entities(directory, read_manifest(directory), license, author)]
    document = {"@context": f"{_CRATE}/context", "@graph": graph}
    content = f"{json.dumps(document, indent=1, ensure_ascii=False)}\n".encode()
    path, signature = directory / RO_CRATE, signature_file(directory)
    if path.is_file() and path.read_bytes() == content:
        return path
    if signature.exists():
        raise ConfigError(
            f"{signature} signs all files of the run, and would not hold with {RO_CRATE}. Remove "
            f"it, describe the run, and sign it again: {command('sign', run, '--key', 'key.pem')}"
        )
    write_durably(path, content)
    return path


_ADDRESS = re.compile(r"https?://[!#-;=?-\[\]_a-z~]+")
"""An address, of the characters that one may have."""
_BARE_ORCID = re.compile(r"(\d{4}-){3}\d{3}[\dX]")


def _check_terms(licence: str, author: str) -> None:
    """Check the licence and the author of a run.

    Raises:
        ConfigError: the licence is not an address, or the author neither a name nor an ORCID.
    """
    if not _ADDRESS.fullmatch(licence):
        raise ConfigError(
            f"license={licence!r} is not the address of a licence. Give one, as in "
            f"https://creativecommons.org/licenses/by/4.0/"
        )
    if not author.strip():
        raise ConfigError("author is empty. Give a name, or an ORCID: https://orcid.org/0000-…")
    if _BARE_ORCID.fullmatch(author):
        raise ConfigError(f"author={author!r} is not a name. Give the address: {_ORCID}{author}")
    orcid = author.removeprefix(_ORCID)
    if not author.isprintable() or set("<>") & set(author):
        raise ConfigError(
            f"author={author!r} has characters that names do not have. Give a name, or an ORCID"
        )
    if orcid != author and not _BARE_ORCID.fullmatch(orcid):
        raise ConfigError(f"author={author!r} is not an ORCID, as in {_ORCID}0000-0002-1825-0097")


def _entities(directory: Path, recorded: Manifest, licence: str, author: str) -> Iterator[Entity]:
    parts = [*_parts(directory)]
    given = [*_given(recorded)]
    packages = [*_packages(recorded)]
    person = author if author.startswith(_ORCID) else "#author"
    times = recorded.volatile
    made = [one for one in parts if one["@id"] in ("tensors.h5", "statistics.npz", f"{SHARDS}/")]
    yield {
        "@id": RO_CRATE,
        "@type": "CreativeWork",
        "conformsTo": {"@id": _CRATE},
        "about": {"@id": "./"},
    }
    yield {
        "@id": "./",
        "@type": "Dataset",
        "conformsTo": {"@id": _PROFILE},
        "name": f"{directory.name}: tensors of a TensorFlow model",
        "description": f"{len(recorded.tensors):,} tensors of {recorded.samples:,} samples, "
        f"extracted by extractkit",
        "datePublished": (times.finished or times.started)[:10],
        "license": {"@id": licence},
        "author": {"@id": person},
        "hasPart": _each(parts),
        "mentions": {"@id": _ACTION},
        **({"identifier": f"sha256:{recorded.identity}"} if recorded.identity else {}),
    }
    yield {"@id": _PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"}
    yield {"@id": licence, "@type": "CreativeWork", "name": licence, "description": "The licence"}
    yield {"@id": person, "@type": "Person", "name": author}
    yield {
        "@id": _ACTION,
        "@type": "CreateAction",
        "name": "Extraction of tensors",
        "description": shlex.join(["extractkit", *recorded.job_given]),
        "instrument": {"@id": _PROGRAM},
        "agent": {"@id": person},
        "object": _each(given),
        "result": _each(made),
        "startTime": times.started,
        "endTime": times.finished or times.started,
        "actionStatus": {"@id": "http://schema.org/CompletedActionStatus"},
    }
    yield {
        "@id": _PROGRAM,
        "@type": "SoftwareApplication",
        "name": "extractkit",
        "softwareVersion": recorded.versions.get("extractkit", "unknown"),
        "softwareRequirements": _each(packages),
    }
    yield from (*packages, *given, *parts)


def _each(entities: Sequence[Entity]) -> list[Entity]:
    return [{"@id": one["@id"]} for one in entities]


def _packages(recorded: Manifest) -> Iterator[Entity]:
    for name, version in recorded.versions.items():
        if name != "extractkit":
            yield {
                "@id": f"#package-{name}",
                "@type": "SoftwareApplication",
                "name": name,
                "softwareVersion": version,
            }


def _given(recorded: Manifest) -> Iterator[Entity]:
    """Yield what the job was given, of which the crate holds the digests alone."""
    for origin in recorded.origins:
        yield {
            "@id": f"#{origin.key}",
            "@type": "CreativeWork",
            "name": f"{origin.key}: {Path(origin.path).name}",
            "identifier": f"sha256:{origin.sha256}",
        }


def _parts(directory: Path) -> Iterator[Entity]:
    """Yield files and folders of the run. Each folder is one part, however many files it has."""
    for path in sorted(directory.iterdir()):
        if path.name == RO_CRATE or path.is_symlink():
            continue
        if path.is_dir():
            about = _FOLDERS.get(path.name, path.name)
            yield {"@id": f"{path.name}/", "@type": "Dataset", "name": about, "description": about}
            continue
        about, form = _FILES.get(path.name, (path.name, "application/octet-stream"))
        yield {
            "@id": path.name,
            "@type": "File",
            "name": path.name,
            "description": about,
            "encodingFormat": form,
            "contentSize": str(path.stat().st_size),
        }
