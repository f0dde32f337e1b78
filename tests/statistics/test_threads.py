"""Statistics of several tensors are computed at once, each by one thread of BLAS."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import extractkit
from extractkit.core.transforms import one_thread
from extractkit.engine import shard_contents

BATCHES = np.random.default_rng(0).normal(size=(8, 40, 24)).astype("float32")
LAYERS = ("hidden", "further", "last")


def blas() -> set[int]:
    """The threads that each BLAS in this process may use."""
    return {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def _several() -> Iterator[None]:
    """Have two threads to begin with; the gate has one (`tests/conftest.py`)."""
    with threadpool_limits(2, "blas"):
        yield


def test_the_limit_holds_until_the_last_of_several_threads_leaves() -> None:
    before = blas()
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with one_thread():
            entered.set()
            leave.wait()

    other = threading.Thread(target=hold)
    with one_thread():
        other.start()
        assert entered.wait(10)
        assert blas() == {1}
    within = blas()
    leave.set()
    other.join()
    assert within == {1}
    assert blas() == before


def test_the_limit_holds_in_a_thread_while_another_controls_the_library() -> None:
    before = blas()
    within: list[set[int]] = []

    def limited() -> None:
        with one_thread():
            within.append(blas())

    with threadpool_limits(2, "blas"):
        other = threading.Thread(target=limited)
        other.start()
        other.join()
        assert blas() == {2}
    assert within == [{1}]
    assert blas() == before


def test_the_limit_is_lifted_after_an_error() -> None:
    before = blas()
    with pytest.raises(ZeroDivisionError), one_thread():
        _ = 1 / 0
    assert blas() == before


def test_results_do_not_depend_on_the_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(32, "tanh", name=name) for name in LAYERS]
    model = keras.Sequential([keras.Input((40, 24)), *layers])
    found = {}
    for threads in (1, 4):
        monkeypatch.setattr(shard_contents, "inter_op_threads", lambda threads=threads: threads)
        run = extractkit.extract(
            model=model,
            inputs=BATCHES,
            selectors={
                "s": {
                    "path": [f"{name}:output" for name in LAYERS],
                    "statistics": ["covariance", "moments", {"top": {"k": 3}}],
                }
            },
            runtime={"shard_size": 3},
            run_dir=tmp_path / str(threads),
        )
        assert set(run.statistics) == {f"{name}:output" for name in LAYERS}
        found[threads] = (tmp_path / str(threads) / "statistics.npz").read_bytes()
        rows = np.concatenate(BATCHES).astype("float64")
        dense = model.layers[0]
        expected = np.tanh(rows @ dense.kernel.numpy() + dense.bias.numpy())
        covariance = np.cov(expected.T, bias=True)
        np.testing.assert_allclose(
            run.statistics["hidden:output"].covariance.covariance, covariance, atol=1e-6
        )
    assert found[1] == found[4]
