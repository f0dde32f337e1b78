"""Samples that are skipped, or could be: how a message names one."""

WAY_OUT = "To leave such samples out: runtime.bad_samples=skip"


def named(sample_id: str, index: int) -> str:
    """How a message names a sample."""
    return f"{sample_id!r} (number {index})"


def blamed(sample_id: str, index: int, reason: str) -> str:
    """Why a job fails for one sample, which it could have left out."""
    return f"sample {named(sample_id, index)}: {reason.removesuffix('.')}. {WAY_OUT}"
