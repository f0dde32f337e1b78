"""Models that take images: their axes by name, pixels prepared before the model sees them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from extractkit.inputs.protocol import Sample, Signature
from extractkit.models.keras_models.model import KerasModel
from extractkit.models.protocol import Encoded
from extractkit.values import Array

_AXES = ("height", "width", "channel")


@dataclass(frozen=True, eq=False)
class ImageModel(KerasModel):
    """A Keras model of images (height, width, channels).

    Attributes:
        prepare: from one sample's pixels to what the model was trained on (rescaled, say), of the
            same shape; None: it takes them as they are.
    """

    prepare: Callable[[Array], Array] | None = field(default=None, kw_only=True)

    def encode(self, samples: Sequence[Sample]) -> Sequence[Encoded]:
        """The samples as the model takes them, prepared."""
        encoded = super().encode(samples)
        if self.prepare is None:
            return encoded
        return [
            replace(one, features={name: self.prepare(x) for name, x in one.features.items()})
            for one in encoded
        ]


def image_signature(signature: Signature, *, pixels: bool) -> Signature:
    """What a model of one image takes, with names for what is free.

    Args:
        pixels: whether the numbers of the image are 0 … 255.
    """
    (spec,) = signature.specs
    free = zip(spec.shape, _AXES, strict=True)
    dims = tuple(axis if size is None else None for size, axis in free)
    low, high = (0, 256) if pixels else (None, None)
    return replace(signature, specs=(replace(spec, dims=dims, low=low, high=high),))
