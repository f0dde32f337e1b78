"""Explanation of intact zip archives that Python cannot unpack."""

_ENCRYPTED = "encrypted"


def why_not_unpacked(error: BaseException) -> str | None:
    """Return why Python cannot unpack an intact archive, or None if it is damaged.

    The text follows the archive's name in a message.

    Args:
        error: The error that `zipfile` raised.
    """
    if isinstance(error, NotImplementedError):  # a RuntimeError, too
        return (
            f"is packed in a way that Python cannot unpack ({error}). Unpack it with the program "
            f"that packed it, and pack it again: python -m zipfile -c NAME FILES"
        )
    if isinstance(error, RuntimeError) and _ENCRYPTED in str(error):
        return (
            "is encrypted. Unpack it with its password, and pack it again: "
            "python -m zipfile -c NAME FILES"
        )
    return None
