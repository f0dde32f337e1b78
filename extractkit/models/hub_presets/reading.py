"""Backbones and tasks out of presets, by keras-hub."""

import logging
import re
from pathlib import Path
from typing import Any

import keras_hub

from extractkit.errors import ConfigError, ModelError, choices
from extractkit.models.foreign import told
from extractkit.models.hub_presets.bert_settings import settle_bert
from extractkit.models.hub_presets.classes import tasks
from extractkit.models.hub_presets.preset import Preset

_log = logging.getLogger(__name__)

_UNFIT = re.compile(r"Unable to find a subclass of \w+ that is compatible with (\w+)")


def read_backbone(preset: Preset) -> Any:
    """The `keras_hub.models.Backbone` of a preset, with its weights.

    Raises:
        ModelError: no such preset, or one that keras-hub cannot read.
    """
    _check_name(preset)
    with preset.reading():
        backbone = keras_hub.models.Backbone.from_preset(preset.name)
    settle_bert(backbone, preset)
    return backbone


def read_task(preset: Preset, task: str) -> Any:
    """A `keras_hub.models.Task` (backbone and head) of a preset.

    A head of which the preset holds no weights has random ones; that is logged.

    Raises:
        ConfigError: keras-hub has no such task, or none for this backbone.
        ModelError: no such preset, or one that keras-hub cannot read.
    """
    known = tasks()
    if task not in known:
        raise ConfigError(f"model.task={task!r} is not a task of keras-hub. {choices(task, known)}")
    _check_name(preset)
    with preset.reading():
        try:
            # What turns texts and images into inputs is read apart from the model.
            model = known[task].from_preset(preset.name, preprocessor=None)
        except ValueError as error:
            if unfit := _UNFIT.search(str(error)):
                raise ConfigError(_no_such_task(task, unfit[1])) from error
            raise
        except TypeError as error:
            raise ModelError(
                f"model.path={preset.name!r} does not say how the head of model.task={task} is "
                f"made: {told(error)}. Save the task itself: task.save_to_preset(DIR)"
            ) from error
    settle_bert(model.backbone, preset)
    if head_is_random(preset, model):
        _log.warning(
            "model.path=%r holds no weights for the head of %s: they are random",
            preset.name,
            type(model).__name__,
        )
    return model


def head_is_random(preset: Preset, task: Any) -> bool:
    """Whether a task has weights beyond its backbone's that its directory does not hold."""
    converted = "ForImageClassification" in str(preset.config.get("architectures", ""))
    return bool(task.has_task_weights()) and not converted and not preset.has("task.weights.h5")


def _check_name(preset: Preset) -> None:
    presets = keras_hub.models.Backbone.presets
    if preset.directory is None and "://" not in preset.name and preset.name not in presets:
        here = [one.name for one in Path.cwd().iterdir() if one.is_dir() and one.name[0] != "."]
        raise ModelError(
            f"model.path={preset.name!r} is neither a folder nor a preset of keras-hub. "
            f"{choices(preset.name, presets)} Folders here: {choices(preset.name, here)}"
        )


def _no_such_task(task: str, backbone: str) -> str:
    fitting = [
        name
        for name, value in tasks().items()
        if value.backbone_cls is not None and value.backbone_cls.__name__ == backbone
    ]
    return f"model.task={task!r} does not exist for a {backbone}. {choices(task, fitting)}"
