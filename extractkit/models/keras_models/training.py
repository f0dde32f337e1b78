"""A Keras model while it is trained, and the callback through which `fit` of either Keras calls."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from extractkit.errors import ConfigError, ModelError
from extractkit.models.keras_internals import BatchHooks
from extractkit.models.keras_models.model import KerasModel
from extractkit.models.process import settings


@dataclass(frozen=True, eq=False)
class TrainedModel(KerasModel):
    """A Keras model that is being trained. Reading its values changes nothing in the training.

    Its trace reads the variables that the training assigns to, so that it is made once.
    """

    def configure(self, seed: int, deterministic: bool, device: str | None) -> Mapping[str, object]:
        """Return the settings of the process. The generators of the process are the training's."""
        return settings(device)


def check_one_replica(model: Any) -> None:
    """Check that a model is trained on one device.

    Raises:
        ModelError: Its variables are copies on several devices.
    """
    strategy = getattr(model, "distribute_strategy", None) or tf.distribute.get_strategy()
    if strategy.num_replicas_in_sync > 1:
        raise ModelError(
            f"the model is trained on {strategy.num_replicas_in_sync} replicas "
            f"({type(strategy).__name__}), and extractkit.Callback reads the weights of one. "
            f"Save weights at each step (ModelCheckpoint), and extract from them: "
            f"model.checkpoints='FOLDER/*.weights.h5'"
        )


class TrainingCallback(BatchHooks, keras.callbacks.Callback):
    """A callback for `fit` of Keras 3 and of tf-keras. Subclasses say what to do at each step.

    Args:
        every: "epoch", or the number of steps of the optimizer from one call to the next.
    """

    def __init__(self, every: str | int) -> None:
        super().__init__()
        self.every = every
        self.each_batch = every != "epoch"
        self._begun = False
        self._seen = self._before = 0
        if self.each_batch:
            # Keras waits for the results of each batch if this method exists.
            self.on_train_batch_end = self._after_batch

    def begin(self) -> None:
        """Training is about to begin."""
        raise NotImplementedError

    def start(self, step: int, *, due: bool) -> None:
        """The first epoch begins. Weights that other callbacks restore are in place.

        Args:
            step: the number of steps, or epochs, of the training so far.
            due: whether a step with this number would be recorded.
        """
        raise NotImplementedError

    def record(self, step: int) -> None:
        """A step that is to be recorded has ended."""
        raise NotImplementedError

    def end(self) -> None:
        """Training has ended."""
        raise NotImplementedError

    def on_train_begin(self, logs: object = None) -> None:
        """See `begin`."""
        self._begun = False
        self.begin()

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        """See `start`."""
        if not self._begun:
            self._begun = True
            self._seen = self._steps() if self.each_batch else epoch
            self.start(self._seen, due=self._seen % self._every == 0)
        self._before = self._seen

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        """See `record`. Without a step of the optimizer, warn."""
        if not self.each_batch:
            self.record(epoch + 1)
        elif self._seen == self._before:
            warnings.warn(
                f"every={self.every}: no step is recorded in this epoch, since the optimizer of "
                f"{type(self.model).__name__} {self.model.name!r} makes none. If the model trains "
                f"with other optimizers, give every='epoch'",
                stacklevel=2,
            )

    def on_train_end(self, logs: object = None) -> None:
        """See `end`."""
        self.end()

    def _after_batch(self, batch: int, logs: object = None) -> None:
        # With `steps_per_execution`, several steps have passed.
        before, self._seen = self._seen, self._steps()
        if self._seen // self._every > before // self._every:
            self.record(self._seen)

    @property
    def _every(self) -> int:
        return self.every if isinstance(self.every, int) else 1

    def _steps(self) -> int:
        optimizer = getattr(self.model, "optimizer", None)
        if optimizer is None:
            raise ConfigError(
                f"every={self.every}: steps are counted by the model's optimizer, and "
                f"{type(self.model).__name__} {self.model.name!r} has none. Give every='epoch', or "
                f"compile the model with an optimizer"
            )
        return int(np.asarray(optimizer.iterations))
