"""The description of a job refuses what does not exist or does not fit."""

import sys
from pathlib import Path

import pytest

from extractkit.core.component import Component
from extractkit.core.job import MOST_THREADS, Runtime
from extractkit.core.trust import Trust
from extractkit.errors import ConfigError


def test_no_runtime_key_needs_to_be_given() -> None:
    assert Runtime.parse({}) == Runtime()


def test_an_automatic_shard_size_is_none() -> None:
    assert Runtime.parse({"shard_size": "auto"}).shard_size is None
    assert Runtime.parse({"shard_size": 7}).shard_size == 7


def test_what_is_given_is_kept() -> None:
    given = {
        "batch_size": 1, "batch_tokens": 10, "shard_size": 1, "compile": "xla",
        "device": "/CPU:0", "seed": 3, "deterministic": False, "threads": 2,
        "bad_samples": "skip", "bad_checkpoints": "skip",
        "non_finite": "fail", "keep_texts": False, "self_check": False, "reuse_from": "outputs",
        "engine": "ray", "workers": 3, "shard_timeout": 1.5, "ray_address": "auto",
        "worker_cpus": 0.5, "worker_gpus": 1, "part": None,
    }  # fmt: skip
    assert vars(Runtime.parse(given)) == given


OURS = Trust(modules=(__name__,))
MODES = "Available: 'auto', 'graph', 'openvino', 'xla'."


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {"batchsize": 3},
            "batchsize does not exist. Nearest: 'batch_size', 'batch_tokens', 'shard_size'.",
        ),
        ({"batch_size": 0}, "batch_size=0 is not a whole number of 1 or more or 'auto'"),
        ({"batch_size": None}, "batch_size=None is not a whole number of 1 or more or 'auto'"),
        ({"batch_size": True}, "batch_size=True is not a whole number of 1 or more or 'auto'"),
        ({"batch_size": 2.0}, "batch_size=2.0 is not a whole number of 1 or more or 'auto'"),
        ({"batch_size": [2]}, "batch_size=[2] is not a single value"),
        ({"batch_tokens": "many"}, "batch_tokens='many' is not a whole number of 1 or more"),
        ({"shard_size": "big"}, "shard_size='big' is not a whole number of 1 or more or 'auto'"),
        ({"seed": -1}, "seed=-1 is not a whole number of 0 or more"),
        ({"compile": "jit"}, f"compile='jit' does not exist. {MODES}"),
        ({"device": 0}, "device=0 is not a text, such as '/CPU:0'"),
        ({"reuse_from": 1}, "reuse_from=1 is not a text, such as 'outputs'"),
        ({"threads": 0}, "threads=0 is not a whole number of 1 or more"),
        ({"threads": 10**8}, f"threads=100000000 is too large: {MOST_THREADS:,} at most"),
        (
            {"non_finite": "drop"},
            "non_finite='drop' does not exist. Available: 'fail', 'skip', 'warn'.",
        ),
        ({"deterministic": "yes"}, "deterministic='yes' is not true or false"),
        ({"workers": 0, "engine": "ray"}, "workers=0 is not a whole number of 1 or more"),
        ({"worker_cpus": "all"}, "worker_cpus='all' is not a number of 0 or more"),
        ({"worker_gpus": -1}, "worker_gpus=-1 is not a number of 0 or more"),
        (
            {"shard_timeout": 0, "engine": "processes"},
            "shard_timeout=0 leaves no time. Give seconds, or null",
        ),
        (
            {"worker_gpus": 1, "engine": "processes"},
            "worker_gpus=1 has no effect with runtime.engine=processes. Add runtime.engine=ray, or "
            "leave it out",
        ),
        (
            {"ray_address": "ray://head:10001", "engine": "ray"},
            "ray_address='ray://head:10001' is not the address of a Ray cluster. Give that of its "
            "head, as in 10.0.0.1:6379, or auto, or null to start one here",
        ),
        ({"shards": "2/4"}, "shards is now runtime.part. Write: runtime.part=2/4"),
        ({"part": 2}, "part=2 is not a text, such as '1/4'"),
        *(
            (
                {"part": part},
                f"part='{part}' is not a part of a job. Give i/n, i from 1 to n: the parts of four "
                "are 1/4, 2/4, 3/4 and 4/4",
            )
            for part in ("0/4", "5/4", "1/0", "2-4", "x/4", "1/4/2", "")
        ),
        (
            {"part": "1/2", "reuse_from": "outputs"},
            "part=1/2 and runtime.reuse_from=outputs do not go together: what is reused is a "
            "whole run. Leave one of them out",
        ),
    ],
)
def test_a_runtime_that_does_not_fit(entries: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Runtime.parse(entries)
    assert str(caught.value) == f"runtime.{message}"


def callable_with(path: str, limit: int = 3) -> tuple[str, int]:
    return path, limit


def open_ended(**arguments: object) -> dict[str, object]:
    return arguments


def component(target: str, **arguments: object) -> Component:
    """One of the callables above, or any by its dotted path."""
    return Component("inputs", target if "." in target else f"{__name__}.{target}", arguments)


def test_a_component_calls_its_target() -> None:
    assert component("callable_with", path="x").build() == ("x", 3)
    assert component("open_ended", anything=1).build() == {"anything": 1}


def test_a_component_inside_another_is_handed_over_unbuilt() -> None:
    inner = {"_target_": f"{__name__}.open_ended", "a": 1}
    entry = {"_target_": f"{__name__}.open_ended", "factory": inner}
    outer = Component.parse("model", entry, OURS)
    assert outer.build() == {
        "factory": Component("model.factory", f"{__name__}.open_ended", {"a": 1})
    }


def test_instantiating_a_component_instantiates_what_is_inside() -> None:
    inner = {"_target_": f"{__name__}.open_ended", "a": 1}
    entry = {"_target_": f"{__name__}.open_ended", "b": [inner], "c": {"d": inner}, "e": 2}
    assert Component.parse("model", entry, OURS).instantiate() == {
        "b": [{"a": 1}], "c": {"d": {"a": 1}}, "e": 2,
    }  # fmt: skip


def test_a_partial_component_is_the_callable_itself() -> None:
    entry = {"_target_": f"{__name__}.callable_with", "_partial_": True, "limit": 5}
    component = Component.parse("model.factory", entry, OURS)
    assert component.instantiate()("x") == ("x", 5)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (3, "model.factory=3 is not a mapping with a _target_"),
        (
            {"a": 1},
            "model.factory._target_ is missing. "
            "Give the dotted path of a callable: model.factory._target_=…",
        ),
        (
            {"_target_": "builtins.dict", "_partial_": "yes"},
            "model.factory._partial_='yes' is not true or false",
        ),
    ],
)
def test_what_is_no_component(entry: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Component.parse("model.factory", entry)
    assert str(caught.value) == message


def test_the_working_directory_is_importable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here_17.py").write_text("def build():\n    return 17\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in sys.path if entry])
    assert Component("model.factory", "only_here_17.build").instantiate() == 17


def test_what_cannot_tell_its_arguments_is_called_all_the_same() -> None:
    assert component("builtins.dict", a=1).build() == {"a": 1}


@pytest.mark.parametrize(
    ("target", "arguments", "message"),
    [
        ("callable_with", {"pth": "x"}, "inputs.pth does not exist. Available: 'limit', 'path'."),
        ("callable_with", {}, "inputs.path is missing. Give it: inputs.path=…"),
        (
            "no.such.module",
            {},
            "inputs._target_='no.such.module' cannot be imported: No module named 'no'. "
            "Give the dotted path of a callable, as in package.module.function or "
            "package.module.Class.method",
        ),
        (
            "math.sine",
            {},
            "inputs._target_='math.sine' cannot be imported: module 'math' has no attribute "
            "'sine'. Give the dotted path of a callable, as in package.module.function or "
            "package.module.Class.method",
        ),
        ("math.pi", {}, "inputs._target_='math.pi' is not callable"),
    ],
)
def test_a_component_that_cannot_be_called(
    target: str, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        component(target, **arguments).check()
    assert str(caught.value) == message


def test_a_target_without_a_dot_names_no_module() -> None:
    with pytest.raises(ConfigError, match=r"^model\._target_='build' cannot be imported: "):
        Component("model", "build").check()
