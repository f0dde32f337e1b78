"""An installation on a machine: packages, what works with them, devices, memory, disk and caches.

Nothing that is looked at is imported, so this takes less than a second.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from extractkit.core.extras import (
    BERT_WEIGHTS,
    BERT_WEIGHTS_INSTALL,
    CORE,
    EXTRAS,
    Requirement,
    extra_for,
)
from extractkit.models.process import (
    INTER_OP,
    INTRA_OP,
    free_memory,
    given,
    inter_op_threads,
    intra_op_threads,
)
from extractkit.runs.directory import existing_parent, free_bytes
from extractkit.runs.environment import extractkit_release, host, package_versions
from extractkit.runs.schema import plain
from extractkit.store.local import cache_folder

SCHEMA = 1
"""Version of the document that `doctor --json` prints. Raise it with every change."""


@dataclass(frozen=True)
class Package:
    """A package that extractkit uses.

    Attributes:
        name: the name by which it is installed.
        bounds: the releases that serve, as in ">=2.21,<2.22"; empty for any.
        version: the installed release; None if it is not installed.
        serves: whether it is installed in such a release.
    """

    name: str
    bounds: str
    version: str | None
    serves: bool

    @classmethod
    def of(cls, requirement: Requirement, versions: Mapping[str, str]) -> "Package":
        """Return a required package as it is installed."""
        version = versions.get(requirement.name)
        serves = version is not None and requirement.takes(version)
        return cls(requirement.name, requirement.bounds, version, serves)


@dataclass(frozen=True)
class Use:
    """A choice of the configuration, or a feature.

    Attributes:
        name: the override that chooses it (`model=bert`), or the feature in words.
        lacks: the packages that it needs and that are not installed, or in no release that serves.
        install: the command that installs them; None if nothing is lacking.
        apart: whether that has to be done in an environment of its own.
    """

    name: str
    lacks: tuple[Package, ...] = ()
    install: str | None = None
    apart: bool = False


@dataclass(frozen=True)
class Gpu:
    """A GPU that the driver of NVIDIA lists.

    Attributes:
        name: its product name.
        address: its address on the bus.
    """

    name: str
    address: str


@dataclass(frozen=True)
class Disk:
    """The disk of a folder.

    Attributes:
        folder: the folder, which may not exist yet.
        free: free bytes.
        file_system: the type of its file system, as Linux names it; None if unknown.
        rate: "memory", "solid state", "rotating", "network" or "unknown".
        writable: whether this user may write to it, or to its nearest existing parent.
    """

    folder: Path
    free: int
    file_system: str | None
    rate: str
    writable: bool


@dataclass(frozen=True)
class Cache:
    """A folder of files that can be made or fetched again.

    Attributes:
        folder: the folder.
        holds: its content in words.
        bytes: the size of all files in it.
    """

    folder: Path
    holds: str
    bytes: int


@dataclass(frozen=True)
class Installation:
    """An installation, and the machine that it is on.

    Attributes:
        works: whether every package of the core is installed.
        extractkit: the release; None for a checkout that is not installed.
        python: the version of Python.
        core: the packages that every installation has.
        extras: the packages of each extra by its name.
        choices: what configurations can choose.
        features: everything else that an extra serves.
        host: name, system, processor, number of processors and memory of the machine.
        free_memory: bytes that a process may still take; None if the system does not report it.
        threads: the threads of an operation, and the operations that run at once.
        set_threads: which of the two an environment variable sets.
        gpus: the GPUs.
        gpu_libraries: the release of NVIDIA's cuDNN among the Python packages; None if there is
            none.
        outputs: the disk of the folder of runs.
        caches: those that exist.
    """

    works: bool
    extractkit: str | None
    python: str
    core: tuple[Package, ...]
    extras: Mapping[str, tuple[Package, ...]]
    choices: tuple[Use, ...]
    features: tuple[Use, ...]
    host: Mapping[str, object]
    free_memory: int | None
    threads: Mapping[str, int]
    set_threads: tuple[str, ...]
    gpus: tuple[Gpu, ...]
    gpu_libraries: str | None
    outputs: Disk
    caches: tuple[Cache, ...]

    def to_json(self) -> dict[str, object]:
        """Return the document for JSON."""
        return {"schema": SCHEMA, **plain(self)}


def inspect(choices: Sequence[str], outputs: Path) -> Installation:
    """Look at this installation and this machine.

    Args:
        choices: what configurations can choose, as overrides (`model=bert`).
        outputs: the folder of runs, which may not exist.
    """
    required = [*CORE, BERT_WEIGHTS, *(one for extra in EXTRAS for one in extra.requires)]
    versions = package_versions([_CUDNN, *(one.name for one in required)])
    core = tuple(Package.of(one, versions) for one in CORE)
    try:
        free = free_memory()
    except OSError:
        free = None
    return Installation(
        works=all(one.version is not None for one in core),
        extractkit=extractkit_release(),
        python=versions["python"],
        core=core,
        extras={
            extra.name: tuple(Package.of(one, versions) for one in extra.requires)
            for extra in EXTRAS
        },
        choices=tuple(_use(choice, versions) for choice in choices),
        features=tuple(_features(choices, versions)),
        host=host(),
        free_memory=free,
        threads={"intra_op": intra_op_threads(), "inter_op": inter_op_threads()},
        set_threads=tuple(name for name in (INTRA_OP, INTER_OP) if given(name)),
        gpus=tuple(_gpus()),
        gpu_libraries=versions.get(_CUDNN),
        outputs=_disk(outputs),
        caches=tuple(_caches()),
    )


_CUDNN = "nvidia-cudnn-cu12"


def _features(choices: Sequence[str], versions: Mapping[str, str]) -> Iterator[Use]:
    """Yield the weights that `model=bert` has, then what extras serve beside choices."""
    weights = Package.of(BERT_WEIGHTS, versions)
    name = "model=bert without model.path"
    yield Use(name) if weights.serves else Use(name, (weights,), BERT_WEIGHTS_INSTALL)
    for extra in EXTRAS:
        for use in extra.serves:
            if use not in choices:
                yield _use(use, versions)


def _use(name: str, versions: Mapping[str, str]) -> Use:
    extra = extra_for(name)
    if extra is None:
        return Use(name)
    packages = (Package.of(one, versions) for one in extra.requires)
    lacks = tuple(one for one in packages if not one.serves)
    return Use(name, lacks, extra.install, extra.apart) if lacks else Use(name)


DRIVER = Path("/proc/driver/nvidia/gpus")
"""The folder in which NVIDIA's driver lists GPUs."""


def _gpus() -> Iterator[Gpu]:
    """Yield the GPUs in the order of their addresses."""
    for file in sorted(DRIVER.glob("*/information")):
        try:
            lines = file.read_text("utf-8", errors="replace").splitlines()
        except OSError:
            continue
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
        yield Gpu(names[0] if names else "unknown", file.parent.name)


_IN_MEMORY = frozenset({"tmpfs", "ramfs"})
_NETWORK = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs"),
        *("afs", "9p", "wekafs", "pvfs2", "orangefs", "fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse"),
        *("fuse.glusterfs", "fuse.ceph", "fuse.juicefs", "fuse.rclone"),
    }
)


def _disk(folder: Path) -> Disk:
    existing = existing_parent(folder)
    file_system = file_system_of(existing)
    return Disk(
        folder=folder.absolute(),
        free=free_bytes(folder),
        file_system=file_system,
        rate=rate_of(existing, file_system),
        writable=os.access(existing, os.W_OK | os.X_OK),
    )


MOUNTS = Path("/proc/self/mountinfo")
"""The file in which Linux lists mounts."""


def file_system_of(folder: Path) -> str | None:
    """Return the type of the file system that a folder is on."""
    try:
        lines = MOUNTS.read_text("utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    place = folder.resolve()
    found: tuple[int, str] | None = None
    for line in lines:
        before, _, after = line.partition(" - ")
        mounted = Path(_unescaped(before.split()[4]))
        depth = len(mounted.parts)
        # Of two mounts at one place, the later one hides the other.
        if place.is_relative_to(mounted) and (found is None or depth >= found[0]):
            found = depth, after.split()[0]
    return None if found is None else found[1]


def _unescaped(text: str) -> str:
    """Return a path as it is, in which Linux writes blanks and backslashes as octal numbers."""
    for code, char in (("040", " "), ("011", "\t"), ("012", "\n"), ("134", "\\")):
        text = text.replace(f"\\{code}", char)
    return text


DEVICES = Path("/sys/dev/block")
"""The folder in which Linux describes disks, by their numbers."""


def rate_of(folder: Path, file_system: str | None) -> str:
    """Return how fast the disk of an existing folder is, as in `Disk.rate`."""
    if file_system in _IN_MEMORY:
        return "memory"
    if file_system in _NETWORK:
        return "network"
    number = folder.stat().st_dev
    device = (DEVICES / f"{os.major(number)}:{os.minor(number)}").resolve()
    for place in (device, device.parent):  # a partition is a folder in that of its disk
        try:
            rotating = (place / "queue" / "rotational").read_text("ascii").strip()
        except (OSError, ValueError):
            continue
        return {"0": "solid state", "1": "rotating"}.get(rotating, "unknown")
    return "unknown"


_KEPT = {
    "catalogs": "catalogs of model files",
    "completion": "what shells complete of models",
    "vega": "the code of charts in reports",
}


def _caches() -> Iterator[Cache]:
    folder = cache_folder()
    kept = {} if folder is None else {folder / name: holds for name, holds in _KEPT.items()}
    try:
        home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
        kept[home / "models"] = "weights that Keras has downloaded"
    except RuntimeError:  # the home directory is unknown
        pass
    for place, holds in kept.items():
        if place.is_dir():
            yield Cache(place, holds, _size(place))


def _size(folder: Path) -> int:
    """Return the size of all files below a folder that can be looked at; links are not followed."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(Path(place, name)).st_size
            except OSError:  # removed in the meantime
                continue
    return total
