"""Overrides of what stands inside an argument of a model or of inputs.

`model.factory.units=3` and `model.constants.keep_prob=1.0` name keys that only the factory or the
model knows, so Hydra cannot have them in its configuration beforehand, and would ask for a plus.
Whether they exist is told when the model is loaded.
"""

import re
from collections.abc import Sequence

_INSIDE = re.compile(
    r"(model\.(factory|inputs|constants|custom_objects)|inputs\.(dataset|columns|features))\.[^=]+="
)


def opened(arguments: Sequence[str]) -> list[str]:
    """The same arguments, such overrides marked as adding a key where there is none."""
    return [f"++{one}" if _INSIDE.match(one) else one for one in arguments]


def as_typed(override: str) -> str:
    """An override as it was before `opened`; one that was typed with its plusses means the same."""
    bare = override.removeprefix("++")
    return bare if _INSIDE.match(bare) else override
