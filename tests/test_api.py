"""The library without the command line."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import extractkit
from extractkit.errors import ConfigError, RunDirectoryError, SelectionError
from extractkit.runs.directory import HYDRA
from extractkit.runs.manifest import Status
from extractkit.testing.reference import ReferenceModel

MODEL = ReferenceModel()
HIDDEN = "+selectors.mine.path=embedding:output"


def modules_after(code: str) -> set[str]:
    """Top-level modules that a new Python has imported once it has run this."""
    show = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_all_is_what_the_package_exposes() -> None:
    assert (
        extractkit.__all__
        == ["Run", "diff", "extract", "open", "rerun", "resume", "verify"]
        == dir(extractkit)
    )
    for name in extractkit.__all__:
        assert getattr(extractkit, name).__doc__
    with pytest.raises(AttributeError, match=r"^module 'extractkit' has no attribute 'extarct'$"):
        _ = extractkit.extarct  # type: ignore[attr-defined]


def test_neither_importing_nor_opening_a_run_needs_tensorflow_or_hydra(tmp_path: Path) -> None:
    extractkit.extract([HIDDEN], model=MODEL, inputs=["ab"], run_dir=tmp_path / "run")
    reading = f"extractkit.open({str(tmp_path / 'run')!r})['embedding:output'].sample(0)"
    for code in ("", f"print({reading}.shape)"):
        imported = modules_after(f"import extractkit\n{code}")
        assert not imported & {"tensorflow", "keras", "hydra", "omegaconf"}


def test_a_live_model_and_texts(tmp_path: Path) -> None:
    run = extractkit.extract([HIDDEN], model=MODEL, inputs=["abc", "z"], run_dir=tmp_path / "run")
    assert isinstance(run, extractkit.Run)
    assert (run.status, run.path) == (Status.FINISHED, tmp_path / "run")
    np.testing.assert_array_equal(
        run["embedding:output"].sample(1), MODEL.weights["embedding:embeddings"][[ord("z") % 50]]
    )
    assert run.manifest.job_given == (HIDDEN,)
    assert {path.name for path in (tmp_path / "run" / HYDRA).iterdir()} == {
        "config.yaml", "hydra.yaml", "overrides.yaml",
    }  # fmt: skip


@pytest.mark.parametrize("named", [False, True])
def test_live_arrays(tmp_path: Path, named: bool) -> None:
    tokens = np.arange(6, dtype=np.int32).reshape(2, 3)
    inputs = {"tokens": tokens} if named else tokens
    run = extractkit.extract([HIDDEN], model=MODEL, inputs=inputs, run_dir=tmp_path / "run")
    np.testing.assert_array_equal(
        np.asarray(run["embedding:output"]), MODEL.weights["embedding:embeddings"][tokens]
    )


def test_configured_inputs_for_a_live_model(tmp_path: Path) -> None:
    overrides = [HIDDEN, "inputs=random", "inputs.samples=3", "inputs.length=5"]
    run = extractkit.extract(overrides, model=MODEL, run_dir=tmp_path / "run")
    assert run["embedding:output"].shape == (3, 5, 4)


def test_the_directory_may_be_composed_too(tmp_path: Path) -> None:
    overrides = [HIDDEN, f"hydra.run.dir={tmp_path}/here"]
    assert extractkit.extract(overrides, model=MODEL, inputs=["a"]).path == tmp_path / "here"


def test_a_directory_that_holds_a_run_is_left_alone(tmp_path: Path) -> None:
    def extract() -> None:
        extractkit.extract([HIDDEN], model=MODEL, inputs=["a"], run_dir=tmp_path / "run")

    extract()
    with pytest.raises(RunDirectoryError, match=r"run holds a finished run of .* \(1 samples, 1 t"):
        extract()


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (
            ["+selectors.mine.pth=x"],
            ConfigError,
            "selectors.mine.pth does not exist. Nearest: 'path', 'depth', 'port'.",
        ),
        (
            [HIDDEN, "runtime.batch_size=0"],
            ConfigError,
            "runtime.batch_size=0 is not a whole number of 1 or more",
        ),
        (
            ["+selectors.mine.path=embeding:output"],
            SelectionError,
            "selectors.mine.path='embeding:output' matched 0 of 11 tensors of model 'reference'. "
            "Nearest: 'embedding:output', 'attention:output', ':output'. "
            "List them: extractkit tensors model=reference",
        ),
    ],
)
def test_a_mistake_is_told_as_on_the_command_line_and_leaves_nothing(
    tmp_path: Path, overrides: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        extractkit.extract(overrides, model=MODEL, inputs=["ab"], run_dir=tmp_path / "run")
    assert str(caught.value) == message
    assert not any(tmp_path.iterdir())


def test_a_model_that_is_not_given_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model"):
        extractkit.extract([HIDDEN], run_dir=tmp_path / "run")
