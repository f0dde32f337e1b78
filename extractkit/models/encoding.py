"""Encoding of samples that are already arrays. NumPy only."""

from collections.abc import Mapping

from extractkit.core.plan import numpy_dtype
from extractkit.core.values import as_array
from extractkit.errors import InputError
from extractkit.inputs.protocol import Sample, Signature
from extractkit.models.protocol import Encoded


def encode_arrays(signature: Signature, sample: Sample) -> Encoded:
    """Encode one sample that has an array per input.

    Raises:
        InputError: The sample is a text, or an array does not fit its input.
    """
    if isinstance(sample.data, str) and signature.takes_text:
        text = as_array(sample.data)
        return Encoded(
            {spec.name: text.reshape((1,) * len(spec.shape)) for spec in signature.specs}, {}
        )
    if not isinstance(sample.data, Mapping):
        raise InputError(
            f"sample {sample.id!r} is a text, but model {signature.model!r} takes numbers: "
            f"{', '.join(f'{s.name} {s.dtype} {list(s.shape)}' for s in signature.specs)}. "
            f"Try inputs=random, or inputs=arrays inputs.path=FILE.npz"
        )
    if missing := [spec.name for spec in signature.specs if spec.name not in sample.data]:
        raise InputError(
            f"sample {sample.id!r} lacks {', '.join(map(repr, missing))}; model "
            f"{signature.model!r} takes {', '.join(repr(spec.name) for spec in signature.specs)}"
        )
    sizes: dict[str, int] = {}
    features = {}
    for spec in signature.specs:
        array = as_array(sample.data[spec.name])
        fits = array.ndim == len(spec.shape) and all(
            wanted in (None, size) for wanted, size in zip(spec.shape, array.shape, strict=True)
        )
        for dim, size in zip(spec.dims, array.shape, strict=False):
            fits = fits and (dim is None or sizes.setdefault(dim, size) == size)
        if not fits:
            raise InputError(
                f"sample {sample.id!r}: input {spec.name!r} of model {signature.model!r} takes "
                f"shape {list(spec.shape)}, given {list(array.shape)}"
            )
        features[spec.name] = array.astype(numpy_dtype(spec.dtype), copy=False)
    for axis, longest in (signature.longest or {}).items():
        if sizes.get(axis, 0) > longest:
            raise InputError(
                f"sample {sample.id!r} has {sizes[axis]} elements along {axis!r}; "
                f"model {signature.model!r} takes at most {longest}"
            )
    return Encoded(features, sizes)
