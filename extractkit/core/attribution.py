"""Methods of attribution: what is made of the gradient of a target with respect to a tensor.

A method is written beside the target (`gradient: {of: argmax, times: value}`). Each is a class of
plain values; `models/graphs/attribution.py` has the form in TensorFlow. The result has the axes of
the tensor, except that `Cam` drops that of the channels and `Relevance` those of heads. A method
may have further results, which are stored as those of transforms are.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from extractkit.core.catalog import VARIABLES, Layout, TensorRecord
from extractkit.core.rollout import AttentionMap, no_map
from extractkit.core.spec import SAMPLE, TensorSpec
from extractkit.core.transforms import AxisName, Operand, as_options, axis_name, number
from extractkit.core.transforms import whole_number as whole
from extractkit.core.values import Array
from extractkit.errors import ConfigError, SelectionError, choices

COMPLETENESS = "completeness"
"""The name of a further result; see `Integrate`."""

TOLERATED_GAP = 1e-3
"""The largest difference of completeness from 1 without a warning."""


@dataclass(frozen=True)
class Method:
    """A method of attribution. Each is a subclass.

    Attributes:
        at: the configuration key, for messages.
        maps: the attention maps that it combines, once it is bound to them.
    """

    name: ClassVar[str]
    at: str = field(kw_only=True)
    maps: tuple[AttentionMap, ...] = field(default=(), kw_only=True)

    @property
    def options(self) -> object:
        """The options as plain data, in the full form."""
        raise NotImplementedError

    @property
    def written(self) -> Mapping[str, object]:
        """The method as plain data. Methods of equal text do the same."""
        return {self.name: self.options}

    @property
    def further(self) -> Mapping[str, str]:
        """The dtypes of further results, one number of each sample, by name."""
        return {}

    @property
    def combines(self) -> bool:
        """Whether it makes one result of all tensors that match, which are attention maps."""
        return False

    @property
    def in_stored_order(self) -> bool:
        """Whether the result has its axes in stored order, not as in the model."""
        return False

    def unsuited(self, record: TensorRecord) -> str | None:
        """Return why the method is not defined for a tensor, or None."""
        if record.kind in VARIABLES or not record.depends_on_inputs:
            return f"{self.name} needs a value that depends on the inputs"
        return None

    def bound(self, record: TensorRecord) -> "Method":
        """Return the method for a tensor that suits it."""
        return self

    def offered(self, record: TensorRecord) -> TensorRecord:
        """Return the record of the result for a tensor that suits it."""
        return record


@dataclass(frozen=True)
class Times(Method):
    """The gradient times the value of the tensor, element by element."""

    name = "times"
    options = "value"

    @classmethod
    def parse(cls, value: object, at: str) -> "Times":
        """Parse `value`, the only factor.

        Raises:
            ConfigError: it is something else.
        """
        if value != cls.options:
            raise ConfigError(f"{at}={value!r} is not {cls.options!r}, the value of the tensor")
        return cls(at=at)


@dataclass(frozen=True)
class Guided(Method):
    """Guided backpropagation (Springenberg et al., 2015).

    On the way back from the target, each ReLU passes positive gradients only. Times the enlarged
    map of `Cam`, the result for an input is guided Grad-CAM.
    """

    name = "guided"
    options = True

    @classmethod
    def parse(cls, value: object, at: str) -> "Guided":
        """Parse `true`.

        Raises:
            ConfigError: it is something else.
        """
        return cls(at=_only_true(value, at))


@dataclass(frozen=True)
class SampleInputs:
    """The inputs of one sample.

    Attributes:
        arrays: by input, with an axis of one sample.
        digest: a hash over them. Equal digests are the same inputs.
    """

    arrays: Mapping[str, Array] = field(compare=False, repr=False)
    digest: str


@dataclass(frozen=True)
class Baseline:
    """The point at which the path of `Integrate` begins.

    Attributes:
        value: the number that all elements have; None: see `inputs` and `sample`.
        inputs: numbers by input. The point is the value of the tensor where all elements of these
            inputs are replaced by the number, such as the identifier of the padding token.
        sample: the number or the id of a sample. The point is the value of the tensor there.
        found: the inputs of that sample, once it has been read.
    """

    value: float | None = 0.0
    inputs: tuple[tuple[str, float], ...] = ()
    sample: int | str | None = None
    found: SampleInputs | None = None

    @classmethod
    def parse(cls, value: object, at: str) -> "Baseline":
        """Parse a number, `{inputs: {NAME: NUMBER}}`, or `{sample: NUMBER or ID}`.

        Raises:
            ConfigError: it is neither.
        """
        if not isinstance(value, Mapping):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ConfigError(
                    f"{at}={value!r} is not a baseline. Give a number for all elements, numbers "
                    f"that replace inputs, as in {_INPUTS}, or a sample, as in {_SAMPLE}"
                )
            return cls(number(value, at))
        options = as_options(value, at, ("inputs", "sample"), f"{_INPUTS} or {_SAMPLE}")
        if len(options) > 1:
            raise ConfigError(f"{at}.inputs and {at}.sample exclude each other. Give one of them")
        if "sample" in options:
            sample = options["sample"]
            if isinstance(sample, bool) or not isinstance(sample, int | str) or sample == "":
                raise ConfigError(f"{at}.sample={sample!r} is not the number or the id of a sample")
            return cls(None, sample=sample)
        given = options.get("inputs")
        if not isinstance(given, Mapping) or not given:
            raise ConfigError(f"{at}={value!r} names no input. Give some, as in {_INPUTS}")
        named = ((str(name), number(one, f"{at}.inputs.{name}")) for name, one in given.items())
        return cls(None, tuple(sorted(named)))

    @property
    def written(self) -> object:
        """The baseline as plain data."""
        if self.sample is not None:
            return {"sample": self.sample}
        return self.value if self.value is not None else {"inputs": dict(self.inputs)}


_INPUTS = "{inputs: {ids: 0}}"
_SAMPLE = "{sample: 3}"


@dataclass(frozen=True)
class Integrate(Method):
    """Integrated gradients (Sundararajan, Taly and Yan, 2017).

    The gradient is integrated along the straight line from a baseline to the value of the tensor,
    by the Gauss-Legendre rule, and multiplied by their difference. The element that `argmax`
    chooses at the value is the target along the whole line.

    The attributions of a sample add up to the change of its target along the line, apart from the
    error of the rule. The further result `completeness` is 1 plus that error, relative to the
    change or to the sum of absolute attributions, whichever is larger.

    Attributes:
        steps: the number of points.
        baseline: where the line begins.
    """

    name = "integrate"
    steps: int = 64
    baseline: Baseline = Baseline()

    @classmethod
    def parse(cls, value: object, at: str) -> "Integrate":
        """Parse `{steps: 64, baseline: 0}`, both of them optional.

        Raises:
            ConfigError: an option does not exist or is wrong.
        """
        given = as_options(value, at, ("steps", "baseline"), "{steps: 64, baseline: 0}")
        steps = whole(given.get("steps", cls.steps), f"{at}.steps")
        if steps > _MOST_STEPS:
            raise ConfigError(f"{at}.steps={steps} is more than the largest number, {_MOST_STEPS}")
        return cls(steps, Baseline.parse(given.get("baseline", 0), f"{at}.baseline"), at=at)

    @property
    def options(self) -> object:
        """Steps and baseline."""
        return {"steps": self.steps, "baseline": self.baseline.written}

    @property
    def further(self) -> Mapping[str, str]:
        """The gap between the sum of the attributions and the change of the target."""
        return {COMPLETENESS: "float64"}


_MOST_STEPS = 1000
"""The Gauss-Legendre rule of more points takes long to compute."""


@dataclass(frozen=True)
class Smooth(Method):
    """SmoothGrad (Smilkov et al., 2017): the mean of gradients at values with normal noise.

    Noise is a function of the seed, the draw, the sample's inputs and the position of the element.
    It does not depend on the batch, nor on the sample's number.

    Attributes:
        draws: the number of gradients.
        noise: the standard deviation, relative to the range of the tensor's values in the sample.
        seed: the seed.
    """

    name = "smooth"
    draws: int = 16
    noise: float = 0.1
    seed: int = 0

    @classmethod
    def parse(cls, value: object, at: str) -> "Smooth":
        """Parse `{draws: 16, noise: 0.1, seed: 0}`, each of them optional.

        Raises:
            ConfigError: an option does not exist or is wrong.
        """
        example = "{draws: 16, noise: 0.1, seed: 0}"
        given = as_options(value, at, ("draws", "noise", "seed"), example)
        noise = number(given.get("noise", cls.noise), f"{at}.noise")
        if noise <= 0:
            raise ConfigError(f"{at}.noise={given['noise']!r} is not more than 0")
        seed = whole(given.get("seed", cls.seed), f"{at}.seed", least=0)
        draws = whole(given.get("draws", cls.draws), f"{at}.draws")
        if draws > _MOST_DRAWS:
            raise ConfigError(f"{at}.draws={draws} is more than the largest number, {_MOST_DRAWS}")
        return cls(draws, noise, seed, at=at)

    @property
    def options(self) -> object:
        """Draws, noise and seed."""
        return {"draws": self.draws, "noise": self.noise, "seed": self.seed}


_MOST_DRAWS = 10_000
"""The error of the mean falls by the root of the number of draws: more are hardly meant."""

CHANNEL = "channel"


@dataclass(frozen=True)
class Cam(Method):
    """Grad-CAM (Selvaraju et al., 2017) of the output of a convolution.

    The weight of a channel is the mean of its gradients over all positions. The result is the
    weighted sum over the channels, where it is positive, and zero elsewhere.

    Attributes:
        axis: the axis of the channels, by name or by number in stored order.
        layout, position: the layout of the tensor, and the position of its channels in it, once
            the method is bound to one.
    """

    name = "cam"
    axis: AxisName = CHANNEL
    layout: Layout | None = None
    position: int = 0

    @classmethod
    def parse(cls, value: object, at: str) -> "Cam":
        """Parse `true`, or `{channel: 3}`, the axis of the channels by name or number.

        Raises:
            ConfigError: it is neither.
        """
        if value is True:
            return cls(at=at)
        if not isinstance(value, Mapping):
            raise ConfigError(f"{at}={value!r} is neither true nor an axis, as in {_CHANNEL}")
        given = as_options(value, at, (CHANNEL,), _CHANNEL)
        return cls(axis_name(given.get(CHANNEL), f"{at}.{CHANNEL}"), at=at)

    @property
    def options(self) -> object:
        """The axis of the channels."""
        return {CHANNEL: self.axis}

    @property
    def in_stored_order(self) -> bool:
        """See `Method`."""
        return True

    def unsuited(self, record: TensorRecord) -> str | None:
        """See `Method`. The axes have to be known before the model runs."""
        if (reason := super().unsuited(record)) is not None:
            return reason
        layout = Layout.of(record)
        if layout is None:
            return f"{self.name} needs axes that are known before the model runs"
        found = self._found(record, layout)
        if isinstance(found, str):
            return found
        if len(layout.dims) < len((SAMPLE, CHANNEL, "position")):
            return f"{self.name} needs positions, and it has no axis besides that of the channels"
        return None

    def _found(self, record: TensorRecord, layout: Layout) -> int | str:
        """Return the position of the axis of the channels, or why there is none."""
        operand = Operand.of(TensorSpec(record.spec.dtype, layout.dims), record.address)
        try:
            return operand.one(self.axis, self.at)
        except SelectionError:
            titles = [dim.title or str(dim) for dim in layout.dims]
            return (
                f"{self.name} needs one axis {self.axis!r}, and it has dims {titles}. Give the "
                f"number of the channels' axis, as in {self.at}.{CHANNEL}={len(titles) - 1}"
            )

    def bound(self, record: TensorRecord) -> "Cam":
        """See `Method`."""
        layout = Layout.of(record)
        assert layout is not None, "tensors of unknown axes are unsuited"
        position = self._found(record, layout)
        assert isinstance(position, int), "tensors without such an axis are unsuited"
        return replace(self, layout=layout, position=position)

    def offered(self, record: TensorRecord) -> TensorRecord:
        """Return the record in stored order, without the axis of the channels."""
        dims = record.stored_dims
        assert dims is not None, "tensors of unknown axes are unsuited"
        at = self.bound(record).position
        kept = (*dims[:at], *dims[at + 1 :])
        return replace(record, spec=replace(record.spec, dims=kept))


_CHANNEL = "{channel: 3}"


@dataclass(frozen=True)
class Relevance(Method):
    """The relevance of tokens for each other by attention and gradients (Chefer et al., 2021).

    Source: Generic attention-model explainability for interpreting bi-modal and encoder-decoder
    transformers, for self-attention. From the first map to the last, R becomes R + A·R, where A is
    the mean over heads of the positive products of a map and its gradient. R begins with identity.
    """

    name = "relevance"

    @classmethod
    def parse(cls, value: object, at: str) -> "Relevance":
        """Parse `true`.

        Raises:
            ConfigError: it is something else.
        """
        return cls(at=_only_true(value, at))

    @property
    def options(self) -> object:
        """The addresses of the maps; true before it is bound to them."""
        return [one.address for one in self.maps] or True

    @property
    def combines(self) -> bool:
        """See `Method`."""
        return True

    @property
    def in_stored_order(self) -> bool:
        """See `Method`."""
        return True

    def unsuited(self, record: TensorRecord) -> str | None:
        """See `Method`."""
        return no_map(record)


def _only_true(value: object, at: str) -> str:
    if value is not True:
        raise ConfigError(f"{at}={value!r} is not true, which is all that it takes")
    return at


_METHODS: Mapping[str, Callable[[Any, str], Method]] = {
    one.name: one.parse for one in (Times, Guided, Integrate, Smooth, Cam, Relevance)
}


def divided(value: object, at: str) -> tuple[object, Method | None]:
    """Divide the value of a selector's key `gradient` into the target's part and the method.

    Raises:
        ConfigError: a method is wrong or does not exist, or there are several.
    """
    if not isinstance(value, Mapping):
        return value, None
    # Not `in (None, False)`: 0 equals False, and is a mistake.
    given = [name for name in _METHODS if (own := value.get(name)) is not None and own is not False]
    if len(given) > 1:
        raise ConfigError(
            f"{at}.{given[0]} and {at}.{given[1]} exclude each other. Give one method, and a "
            f"selector for each"
        )
    rest = {key: entry for key, entry in value.items() if key not in _METHODS}
    if "of" in rest and len(rest) > 1:
        other = next(str(key) for key in rest if key != "of")
        raise ConfigError(f"{at}.{other} does not exist. {choices(other, ['of', *_METHODS])}")
    if not given:
        return rest, None
    return rest, _METHODS[given[0]](value[given[0]], f"{at}.{given[0]}")


def method_text(written: Mapping[str, object]) -> str:
    """Return the method of a gradient in plain data as text; "gradient" if there is none."""
    found = next((name for name in _TITLES if name in written), None)
    return "gradient" if found is None else _TITLES[found]


_TITLES = {
    Times.name: "gradient × value",
    Guided.name: "guided gradient",
    Integrate.name: "integrated gradient",
    Smooth.name: "smoothed gradient",
    Cam.name: "Grad-CAM",
    Relevance.name: "relevance",
}
