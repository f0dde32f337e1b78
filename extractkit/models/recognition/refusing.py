"""Refusals of what a loader was given, in words of what it is."""

from extractkit.advice import override
from extractkit.errors import ModelError
from extractkit.models.recognition.paths import recognize, remote


def refuse_remote(path: str, key: str = "model.path") -> None:
    """Refuse a path that is not on this machine.

    Raises:
        ModelError: it is a URL.
    """
    if (elsewhere := remote(path)) is not None:
        raise ModelError(f"{key}={path!r} is {elsewhere.what}. {elsewhere.advice}")


def refuse_others(path: str, *models: str, key: str = "model.path") -> None:
    """Refuse what is certainly for other formats than these, or for none, and say what it is.

    What is not recognized passes: the loader itself reports what it lacks.

    Args:
        path: as it was given.
        models: entries of the `model` group that the loader takes.

    Raises:
        ModelError: as above.
    """
    refuse_remote(path, key)
    try:
        found = recognize(path)
    except OSError:
        return  # the loader reports why it cannot be read
    if found is None or found.model in models or not found.certain:
        return
    if found.model is None:
        raise ModelError(f"{key}={path!r} is {found.what}. {found.advice}")
    raise ModelError(
        f"{key}={path!r} is {found.what}. That is for model={found.model} "
        f"{override('model.path', found.path)}{f'. {found.advice}' if found.advice else ''}"
    )
