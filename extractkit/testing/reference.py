"""A small model in plain NumPy that implements the `Model` protocol.

With it, engine, runs and command line are tested without TensorFlow's start-up, and plugin authors
have an example of an adapter. It reads token ids (or texts, one character per token), embeds them,
scores every token against every other, mixes them, and pools. Samples are computed one by one
without padding, so values do not depend on batches.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from extractkit.core.catalog import Catalog, Edges, Kind, Scope, TensorRecord
from extractkit.core.checkpoints import KEY
from extractkit.core.keys import DecidesValues
from extractkit.core.requests import check_values
from extractkit.core.spec import TensorSpec
from extractkit.core.values import Array, digest_of_plain_data, stacked
from extractkit.errors import ConfigError, ModelError
from extractkit.inputs import InputSpec, Sample, Signature
from extractkit.models import (
    SAME_OBJECT,
    Compilation,
    Encoded,
    Fetch,
    OwnCall,
    Program,
    encode_arrays,
)
from extractkit.models.given_weights import checkpoint_axis
from extractkit.models.weight_files import WeightFile, open_weights

_VOCABULARY, _WIDTH = 50, 4
_TOKEN = "token"
_MODEL = Scope("", "ReferenceModel", ("Layer",))
_EMBEDDING = Scope("embedding", "Embedding", ("Layer",))
_ATTENTION = Scope("attention", "SelfAttention", ("Layer",))
_POOL = Scope("pool", "MeanPooling", ("Layer",))

_SCOPES = {"embedding:embeddings": _EMBEDDING, "attention:kernel": _ATTENTION}

_CONSUMED = {
    "embedding:output": (":input.tokens", "embedding:embeddings"),
    "attention:op/Softmax": ("embedding:output",),
    "attention:op/MatMul": ("embedding:output", "attention:kernel"),
    "attention:op/Count": (":input.tokens",),
    "attention:output": ("embedding:output", "attention:kernel"),
    "pool:op/Max": ("attention:output",),
    "pool:output": ("attention:output",),
    ":output": ("pool:output",),
}
"""The tensors that each one is computed from."""

Weights = Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class ReferenceModel:
    """The model. `seed` draws its weights, and `longest` truncates texts.

    `checkpoints` names files of weights, and is replaced by their axis, or None.
    `checkpoint_step` finds their steps.
    """

    seed: DecidesValues[int] = 0
    longest: DecidesValues[int] = 64
    name: DecidesValues[str] = "reference"
    checkpoints: DecidesValues[Annotated[Any, "text, list or null"]] = None
    checkpoint_step: DecidesValues[str | None] = None

    def __post_init__(self) -> None:
        axis = checkpoint_axis(self.checkpoints, self.checkpoint_step, self.become)
        object.__setattr__(self, "checkpoints", axis)
        for key in ("seed", "longest"):
            value = getattr(self, key)
            if type(value) is not int or value < 0:
                raise ConfigError(f"model.{key}={value!r} is not a whole number of 0 or more")

    @property
    def signature(self) -> Signature:
        """One input, `tokens`: integers along a free axis."""
        spec = InputSpec("tokens", "int32", (None,), (_TOKEN,), pad=0, low=0, high=_VOCABULARY)
        return Signature(self.name, (spec,), takes_text=True, longest={_TOKEN: self.longest})

    @property
    def lacks_gradients(self) -> str:
        """Why no gradients exist."""
        return "it is written in NumPy, which does not differentiate"

    def become(self, file: WeightFile) -> None:
        """Load the weights of a file that holds `embeddings` and `kernel`."""
        shapes = {key: file.entry(key).shape for key in file}
        if shapes != {"embeddings": (_VOCABULARY, _WIDTH), "kernel": (_WIDTH, _WIDTH)}:
            raise ModelError(f"{KEY}={file.path!r} does not fit the model: {shapes}")
        # The cached weights are used by every computation.
        vars(self)["weights"] = {
            "embedding:embeddings": file.read("embeddings").astype(np.float32),
            "attention:kernel": file.read("kernel").astype(np.float32),
        }

    @cached_property
    def weights(self) -> Weights:
        """The weights, float32: embeddings (50, 4) and kernel (4, 4)."""
        draw = np.random.default_rng(self.seed)
        return {
            "embedding:embeddings": draw.normal(size=(_VOCABULARY, _WIDTH)).astype(np.float32),
            "attention:kernel": draw.normal(size=(_WIDTH, _WIDTH)).astype(np.float32),
        }

    @cached_property
    def catalog(self) -> Catalog:
        """Every tensor of the model, one of which cannot be extracted."""
        token, wide, pooled = ("sample", _TOKEN), ("sample", _TOKEN, None), ("sample", None)
        attention, hidden = (_ATTENTION,), (None, None, _WIDTH)
        output, op, weight = Kind.LAYER_OUTPUT, Kind.OP, Kind.WEIGHT
        whole_batch = "no axis of it follows the samples: its value belongs to a whole batch"
        records = [
            _record(":input.tokens", Kind.MODEL_INPUT, token, (None, None), dtype="int32"),
            _record("embedding:output", output, wide, hidden, (_EMBEDDING,)),
            _record("attention:op/Softmax", op, (*token, _TOKEN), (None, None, None), attention),
            _record("attention:op/MatMul", op, ("sample*token", None), (None, _WIDTH), attention),
            _record("attention:op/Count", op, (), (), attention, reason=whole_batch),
            _record("attention:output", output, wide, hidden, attention),
            _record("pool:op/Max", op, ("?", "?"), (None, None), (_POOL,)),
            _record("pool:output", output, pooled, (None, _WIDTH), (_POOL,)),
            _record(":output", Kind.MODEL_OUTPUT, pooled, (None, _WIDTH)),
            *(
                _record(address, weight, (None, None), array.shape, (_SCOPES[address],))
                for address, array in self.weights.items()
            ),
        ]
        # A partial, unlike a nested function, can be sent to workers with the model.
        edges = Edges(partial(_consumed, tuple(record.address for record in records)))
        return Catalog(records, self.name, edges)

    def configure(self, seed: int, deterministic: bool, device: str | None) -> Mapping[str, object]:
        """Return the settings. There is nothing to seed."""
        return {"numpy": np.__version__}

    def encode(self, samples: Sequence[Sample]) -> list[Encoded]:
        """Encode texts, one character per token, truncated at `longest`; arrays as they are."""
        return [self._encode(sample) for sample in samples]

    def _encode(self, sample: Sample) -> Encoded:
        if not isinstance(sample.data, str):
            return encode_arrays(self.signature, sample)
        text = sample.data[: self.longest]
        tokens = np.array([ord(char) % _VOCABULARY for char in text], dtype=np.int32)
        return Encoded(
            {"tokens": tokens},
            {_TOKEN: len(tokens)},
            truncated=len(sample.data) > len(text),
            tokens=tuple(text),
        )

    def program(self, fetches: Sequence[Fetch], compilation: Compilation) -> Program:
        """Return a program that computes sample by sample, then pads as a batched model would."""
        check_values((fetch.request for fetch in fetches), self.name)

        def run(features: Mapping[str, Array], lengths: Mapping[str, Array]) -> list[Array]:
            rows = features["tokens"]
            computed = [
                self.forward(row[: int(size)])
                for row, size in zip(rows, lengths[_TOKEN], strict=True)
            ]
            return [self._returned(fetch, computed, rows.shape[1]) for fetch in fetches]

        return run

    def forward(self, tokens: Array) -> dict[str, Array]:
        """Compute every tensor for one sample, from tokens int32 (length,), without sample axis."""
        embedded = self.weights["embedding:embeddings"][tokens]
        scores = embedded @ embedded.T
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True, initial=-np.inf))
        weights = weights / weights.sum(axis=-1, keepdims=True)
        projected = embedded @ self.weights["attention:kernel"]
        mixed = weights @ projected
        pooled = mixed.sum(axis=0) / max(len(tokens), 1)
        return {
            ":input.tokens": tokens,
            "embedding:output": embedded,
            "attention:op/Softmax": weights,
            "attention:op/MatMul": projected,
            "attention:op/Count": np.asarray(len(tokens), np.int32),
            "attention:output": mixed,
            "pool:op/Max": mixed.max(axis=0, initial=-1.0),
            "pool:output": pooled,
            ":output": np.tanh(pooled),
        }

    def _returned(
        self, fetch: Fetch, computed: Sequence[Mapping[str, Array]], padded: int
    ) -> Array:
        values = [one[fetch.address] for one in computed]
        if fetch.pipeline is not None:
            values = [fetch.pipeline.in_numpy(value) for value in values]
        record = self.catalog[fetch.address]
        if fetch.layout is None and record.spec.dims and record.spec.dims[0].factors:
            # As in a real model, with padding between the samples.
            whole = np.zeros((len(values), padded, *values[0].shape[1:]), values[0].dtype)
            for row, value in zip(whole, values, strict=True):
                row[: len(value)] = value
            return whole.reshape(-1, *whole.shape[2:])
        return stacked(values)

    def constants(self, fetches: Sequence[Fetch]) -> list[Array]:
        """Return the weights."""
        check_values((fetch.request for fetch in fetches), self.name)
        return [
            fetch.pipeline.in_numpy(self.weights[fetch.address])
            if fetch.pipeline is not None
            else self.weights[fetch.address]
            for fetch in fetches
        ]

    def own_call(self, checkpoint: int | None = None) -> OwnCall:
        """Return a call of `forward`; with checkpoints, that of a new model."""
        if checkpoint is None:
            return OwnCall(SAME_OBJECT, self._outputs)
        anew = replace(self, checkpoints=None, checkpoint_step=None)
        anew.become(open_weights(self.checkpoints.checkpoints[checkpoint].path, KEY))
        return OwnCall("a ReferenceModel made anew", anew._outputs)

    def _outputs(
        self, features: Mapping[str, Array], lengths: Mapping[str, Array]
    ) -> dict[str, Array]:
        rows = zip(features["tokens"], lengths[_TOKEN], strict=True)
        computed = [self.forward(row[: int(size)]) for row, size in rows]
        return {":output": stacked([one[":output"] for one in computed])}

    def weights_digest(self) -> str:
        """Return the SHA-256 over the weights."""
        sha = hashlib.sha256()
        for address, array in self.weights.items():
            sha.update(address.encode() + array.tobytes())
        return sha.hexdigest()

    def definition_digest(self) -> str:
        """Return the SHA-256 over what the class computes: the longest text, not the weights."""
        return digest_of_plain_data([type(self).__name__, self.longest])

    def describe(self) -> Mapping[str, object]:
        """Return name, seed, size and preprocessing."""
        parameters = sum(array.size for array in self.weights.values())
        return {
            "name": self.name,
            "class": "ReferenceModel",
            "parameters": parameters,
            "seed": self.seed,
            "preprocessing": {"token": "character", "max_length": self.longest},
        }


def _consumed(addresses: Sequence[str]) -> list[tuple[int, ...]]:
    """Return the positions of what each tensor is made from."""
    positions = {address: at for at, address in enumerate(addresses)}
    return [
        tuple(positions[taken] for taken in _CONSUMED.get(address, ())) for address in addresses
    ]


def _record(
    address: str,
    kind: Kind,
    dims: tuple[str | None, ...],
    shape: tuple[int | None, ...],
    scopes: tuple[Scope, ...] = (),
    dtype: str = "float32",
    reason: str | None = None,
) -> TensorRecord:
    return TensorRecord(
        address=address,
        kind=kind,
        spec=TensorSpec.of(dtype, dims, shape),
        scopes=(_MODEL, *scopes),
        name=address,
        op_type=address.rpartition("/")[2] if kind is Kind.OP else None,
        depends_on_inputs=kind is not Kind.WEIGHT,
        reason=reason,
    )
