"""The library transformers: whether the right one is installed, and importing it quietly."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

from extractkit.errors import MissingExtraError
from extractkit.models.foreign import told

_LAST = 4
_INSTALL = "python -m pip install 'extractkit[hugging-face]'"
_OWN_ENVIRONMENT = (
    f"In an environment of its own, as it wants older packages than the other extras: {_INSTALL}"
)


def require_transformers() -> None:
    """Refuse to go on without a transformers that has TensorFlow models, and tf-keras.

    Raises:
        MissingExtraError: One of them is not installed, or transformers is 5 or newer.
    """
    try:
        installed = version("transformers")
    except PackageNotFoundError:
        raise MissingExtraError(
            f"model=hugging_face needs transformers {_LAST}, which is not installed. "
            f"{_OWN_ENVIRONMENT}"
        ) from None
    major = installed.partition(".")[0]
    if major.isdecimal() and int(major) > _LAST:
        raise MissingExtraError(
            f"model=hugging_face needs transformers {_LAST}, the last with TensorFlow models; "
            f"installed is {installed}. {_OWN_ENVIRONMENT}. What keras-hub reads needs no "
            f"transformers: model=keras_hub model.path=DIR"
        )
    if importlib.util.find_spec("tf_keras") is None:
        raise MissingExtraError(
            f"model=hugging_face needs tf-keras, which is not installed. Install it: {_INSTALL}"
        )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Import and use transformers inside; its warnings of its own future stay off the terminal.

    Raises:
        MissingExtraError: What is installed cannot be imported.
    """
    try:
        from transformers.utils import logging
    except ImportError as error:
        raise MissingExtraError(
            f"transformers cannot be imported: {told(error)}. {_OWN_ENVIRONMENT}"
        ) from error
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
