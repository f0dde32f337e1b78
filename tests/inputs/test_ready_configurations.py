"""The ready configurations of inputs hold every argument of their class, with its default.

Required arguments are null there.
"""

import inspect
from pathlib import Path

import pytest
from hydra.utils import get_class
from omegaconf import OmegaConf

CONF = Path(__file__).parents[2] / "conf/inputs"


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_argument_is_there_with_its_default(path: Path) -> None:
    entries = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(entries, dict)
    parameters = inspect.signature(get_class(entries["_target_"])).parameters
    defaults = {
        name: None if parameter.default is inspect.Parameter.empty else parameter.default
        for name, parameter in parameters.items()
    }
    assert entries == {"_target_": entries["_target_"], **defaults}
