"""Composition of a job from YAML and overrides. Only this package uses Hydra and OmegaConf.

The functions here do not need Hydra. They find the configuration files, list what can be chosen,
and replace `model=FILE` by overrides. Only typed overrides are replaced, before Hydra parses them.
Configuration files name the format.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path

from extractkit.advice import command, hydra_override
from extractkit.errors import ConfigError, choices

ROOT = "config"
"""Name of the primary configuration file."""

SCHEMA = "config.schema.json"
"""Name of the JSON schema of files with a whole job, beside the primary configuration file."""

GROUPS = ("model", "inputs", "selectors", "sinks", "runtime", "experiment")
"""Folders of options, in the order of the help."""


@cache
def config_directory() -> Path:
    """Return the folder of `config.yaml`: the installed package's copy, or else the checkout's.

    Raises:
        ConfigError: neither exists.
    """
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "conf", package.parent / "conf"):
        if (candidate / f"{ROOT}.yaml").is_file():
            return candidate
    raise ConfigError(
        f"the configuration files are missing: neither {package / 'conf'} nor "
        f"{package.parent / 'conf'} holds {ROOT}.yaml. Install extractkit again"
    )


def new_run_directory() -> Path:
    """Return a run directory named after the time, as in config.yaml."""
    return Path("outputs", f"{datetime.now():%Y-%m-%d}", f"{datetime.now():%H-%M-%S}").absolute()


def with_run_dir(arguments: Sequence[str], *, swept: bool) -> list[str]:
    """Return the arguments with `run_dir=DIR` replaced by Hydra's own key.

    Only typed arguments are replaced. Configuration files use Hydra's own keys.

    Args:
        arguments: Arguments of the command line, or overrides.
        swept: Whether they describe a sweep, whose directory is another key.

    Raises:
        ConfigError: The directory is given twice, or is empty.
    """
    given = [one for one in arguments if one.startswith(_DIRECTORIES)]
    if not any(one.startswith(_RUN_DIR) for one in given):
        return list(arguments)
    if len(given) > 1:
        raise ConfigError(f"the run directory is given twice: {' and '.join(given)}. Give one")
    if given == [_RUN_DIR]:
        raise ConfigError("run_dir is empty. Give a directory: run_dir=runs/first")
    key = SWEEP_DIR if swept else RUN_DIR
    return [
        f"{key}={one.removeprefix(_RUN_DIR)}" if one.startswith(_RUN_DIR) else one
        for one in arguments
    ]


def with_plain_run_dir(override: str) -> str:
    """Return an override of one of Hydra's directories with `run_dir` as its key."""
    key, equals, value = override.partition("=")
    return f"{_RUN_DIR}{value}" if equals and key in (RUN_DIR, SWEEP_DIR) else override


RUN_DIR, SWEEP_DIR = "hydra.run.dir", "hydra.sweep.dir"
"""Hydra's keys that `run_dir` replaces."""

_RUN_DIR = "run_dir="
_DIRECTORIES = (_RUN_DIR, f"{RUN_DIR}=", f"{SWEEP_DIR}=")


def options(group: str) -> list[str]:
    """Return the names of extractkit's own configuration files in a group."""
    return sorted(path.stem for path in (config_directory() / group).glob("*.yaml"))


MODEL = "model="
_PATH = "model.path"
_QUOTES = "'\""


@dataclass(frozen=True)
class ModelFile:
    """A model file, or several files of one format.

    Attributes:
        model: The override that names the format, as in `model=keras`.
        path: The override that names the file or files, as in `model.path=net.keras`.
        what: Its description, as in "net.keras is a Keras archive".
    """

    model: str
    path: str
    what: str


def spell_out(overrides: Sequence[str]) -> list[str]:
    """Return the overrides with `model=FILE` replaced by `model=FORMAT model.path=FILE`.

    Raises:
        ConfigError: The file does not exist, or no format is known for it.
    """
    found: list[str] = []
    for one in overrides:
        file = file_of(one)
        found += [one] if file is None else [file.model, file.path]
    return found


def file_of(override: str, folders: Iterable[str] = (), *, swept: bool = False) -> ModelFile | None:
    """Return the file that `model=FILE` names, or None for any other override.

    An option of the `model` group takes precedence over a file with its name.

    Args:
        folders: Folders of configuration that `--config-dir` adds.
        swept: Whether `model=A,B` may name several files.

    Raises:
        ConfigError: The file does not exist, or no format is known for it.
    """
    if not override.startswith(MODEL):
        return None
    value = override.removeprefix(MODEL)
    if len(value) > 1 and value[0] == value[-1] and value[0] in _QUOTES:
        value = value[1:-1]
    if not value or set(value.split(",")) <= _offered(folders):
        return None
    found = model_file(value, swept=swept)
    if found is None and ("/" in value or Path(value).suffix):
        siblings = [entry.name for entry in Path(value).parent.glob("*")]
        raise ConfigError(
            f"{override}: there is no such file, and no format of that name. In "
            f"{str(Path(value).parent)!r}: {choices(Path(value).name, siblings)} "
            f"Formats: {choices('', options('model'))}"
        )
    return found


def model_file(given: str, *, swept: bool = False) -> ModelFile | None:
    """Return the model file at a path, or None if nothing exists there.

    Args:
        given: The path, or with `swept` several paths separated by commas.

    Raises:
        ConfigError: No format is known for it, or the formats of several files differ.
    """
    paths = [given] if not swept or _exists(given) else given.split(",")
    files = [file for file in map(_one, paths) if file is not None]
    if len(files) < len(paths):
        return None
    models = {file.model: file.what for file in files}
    if len(models) > 1:
        raise ConfigError(
            f"model={given}: a sweep over files takes files of one format; "
            f"{', '.join(models.values())}. Run a sweep for each format"
        )
    values = [file.path.removeprefix(f"{_PATH}=") for file in files]
    return ModelFile(files[0].model, f"{_PATH}={','.join(values)}", files[0].what)


def _one(path: str) -> ModelFile | None:
    from extractkit.models.recognition import recognize  # with NumPy, which names do not need

    try:
        found = recognize(path)
    except (OSError, RuntimeError) as error:  # a RuntimeError for `~user`
        text = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"model={path} cannot be looked up: {text}") from error
    if found is None:
        if not _exists(path):
            return None
        raise ConfigError(
            f"model={path} exists, but its format is not recognized. "
            f"{choices('', options('model'))} Name the format: "
            f"{command('tensors', 'model=NAME', hydra_override(_PATH, path))}"
        )
    if found.model is None:
        raise ConfigError(f"model={path} is {found.what}. {found.advice}")
    return ModelFile(
        f"{MODEL}{found.model}", hydra_override(_PATH, found.path), f"{path} is {found.what}"
    )


def _exists(path: str) -> bool:
    return "\0" not in path and Path(path).expanduser().exists()


def _offered(folders: Iterable[str]) -> set[str]:
    """Return the options of the `model` group."""
    own = {
        path.relative_to(folder).with_suffix("").as_posix()
        for folder in (Path(one, "model") for one in folders)
        for path in folder.rglob("*.yaml")
    }
    return {*options("model"), *own}
