"""Completion in real shells: what is typed, what is there after Tab, and what a shell gets."""

import json
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace

import keras
import pytest

import extractkit
from extractkit import cli
from extractkit.commands.completion import answer, completions
from extractkit.commands.verbs import VERBS
from extractkit.config import options
from extractkit.core.job import SETTINGS
from extractkit.core.selectors import SELECTOR_KEYS
from extractkit.engine import catalog_files
from extractkit.errors import ConfigError
from tests.cli.called import SOURCES

# Programs that a shell calls: this one, of which anything but a completion is written down.
_PROGRAM = f"""#!{sys.executable}
import json, sys
if sys.argv[1:2] == ["completion"]:
    from extractkit.__main__ import main
    main()
open("typed", "a").write(json.dumps(sys.argv[1:]) + "\\n")
"""
_STARTS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}
_SECONDS = 20


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    """A folder with a model that was listed, runs, and a cache of its own."""
    folder = tmp_path_factory.mktemp("completion")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.chdir(folder)
        inner = keras.Sequential(
            [keras.Input((4,)), keras.layers.Dense(3, name="first"), keras.layers.Dense(2)],
            name="encoder",
        )
        x = keras.Input((4,))
        keras.Model(x, keras.layers.Dense(1, name="head")(inner(x))).save("net.keras")
        patch.setattr(catalog_files, "sys", SimpleNamespace(modules={}))  # as if without Keras
        extractkit.catalog(["model=keras", "model.path=net.keras"])
        for run in ("runs/one", "runs/other"):
            Path(run).mkdir(parents=True)
            manifest = {"plan": {"tensors": [{"key": "encoder:output"}, {"key": "head:output"}]}}
            Path(run, "manifest.json").write_text(json.dumps(manifest), "utf-8")
        for name in ("with space.txt", "dollar$(id)'", "line\nbreak", "\x1b[31mred"):
            Path(name).touch()
        yield folder


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tens"], ["tensors"]),
        (["sel"], ["selectors=", "selectors."]),
        (["plan", "selectors=att"], [f"selectors={one}" for one in options("selectors")[:3]]),
        (
            ["selectors=[layers,att"],
            [f"selectors=[layers,{one}" for one in options("selectors")[:3]],
        ),
        (["plan", "--ex"], ["--exact"]),
        (["verify", "--re"], ["--recompute"]),
        (["model=bert", "model.max"], ["model.max_length="]),
        (["net.keras", "model.sta"], ["model.state="]),
        (["runtime.comp"], ["runtime.compile="]),
        (["runtime.compile=o"], ["runtime.compile=openvino"]),
        (["runtime.deterministic="], ["runtime.deterministic=true", "runtime.deterministic=false"]),
        (["+selectors.mine.op"], ["+selectors.mine.op_type="]),
        (["+selectors.mine.path=x", "selectors.mine.kin"], ["selectors.mine.kind="]),
        (["show", "ru"], ["runs/"]),
        (["diff", "runs/one", "runs/"], ["runs/one", "runs/other"]),
        (["show", "runs/one", "--tensor", "h"], ["head:output"]),
        (["diff", "--only", "e"], []),
        (["report", "runs/one", "runs/oth"], ["runs/other"]),
        (["export", "--reference", "runs/on"], ["runs/one"]),
        (["export", "--to", "tensorb"], ["tensorboard"]),
        (["diff", "runs/one", "runs/other", "--only=e"], ["--only=encoder:output"]),
        (
            ["resume", "runs/one", "runtime.work"],
            ["runtime.workers=", "runtime.worker_cpus=", "runtime.worker_gpus="],
        ),
        (["init", "n"], ["net.keras"]),
        (["model=n"], ["model=net.keras"]),
        (["model=keras", "model.path=n"], ["model.path=net.keras"]),
        (["tensors", "n"], ["net.keras"]),
        (["completion", "z"], ["zsh"]),
        (
            ["net.keras", "+selectors.a.path=hea"],
            [
                f"+selectors.a.path=head:{one}"
                for one in ("input", "op/", "output", "kernel", "bias")
            ],
        ),
        (
            ["net.keras", "+selectors.a.path=encoder/first:k"],
            ["+selectors.a.path=encoder/first:kernel"],
        ),
        (["net.keras", "+selectors.a.kind=w"], ["+selectors.a.kind=weight"]),
        (["net.keras", "+selectors.a.layer_type=D"], ["+selectors.a.layer_type=Dense"]),
        (
            ["model=keras", "model.path=net.keras", '+selectors.a.path="head:k'],
            ['+selectors.a.path="head:kernel"'],
        ),
        (["model=bert", "+selectors.a.path="], []),
    ],
)
@pytest.mark.usefixtures("listed")
def test_the_last_word_is_completed(words: list[str], expected: list[str]) -> None:
    assert list(completions(words)) == expected


def test_all_verbs_keys_and_settings_are_offered() -> None:
    assert set(VERBS) <= set(completions([""]))
    selectors = completions(["+selectors.mine.path=x", "selectors."])
    assert list(selectors) == [f"selectors.mine.{key}=" for key in SELECTOR_KEYS]
    settings = completions(["run", "runtime."])
    assert {key: about for key, about in settings.items() if about} == settings
    assert list(settings) == [f"runtime.{key.name}=" for key in SETTINGS]
    for verb, one in VERBS.items():
        flags = {option.flag for option in one.options}
        assert flags <= set(completions([verb, "-"])), verb


@pytest.mark.usefixtures("listed")
def test_the_operands_of_every_verb_are_offered() -> None:
    for verb, one in VERBS.items():
        words = [verb]
        for operand in one.operands:
            assert completions([*words, ""]), (verb, operand)
            words.append("runs/one")


def test_a_job_that_init_wrote_names_the_model(listed: Path) -> None:
    folder = listed / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("model:\n  path: net.keras\n", "utf-8")
    words = ["--config-dir", "conf", "experiment=mine", "selectors.first.path=head:k"]
    assert list(completions(words)) == ["selectors.first.path=head:kernel"]
    assert "experiment=mine" in completions(["--config-dir", "conf", "experiment="])


def test_a_model_that_has_changed_is_not_completed(listed: Path) -> None:
    words = ["net.keras", "+selectors.a.path=head:k"]
    before = (listed / "net.keras").stat()
    os.utime(listed / "net.keras")
    assert not completions(words)
    os.utime(listed / "net.keras", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert completions(words)
    (kept,) = (listed / "cache").rglob("completion/*.json")
    content = kept.read_bytes()
    for damaged in (b"", b"[]", content[:50], b'{"files": 3}'):
        kept.write_bytes(damaged)
        assert not completions(words)
    kept.write_bytes(content)


def test_nothing_is_offered_where_nothing_fits(tmp_path: Path) -> None:
    for words in (["show", str(tmp_path / "none") + "/"], ["--trust", ""], ["doctor", "a", ""]):
        assert not completions(words)


_BREAKS = " \t\n\"'@><=;|&(:"


@pytest.mark.usefixtures("listed")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("extractkit tens", ["tensors"]),
        (
            "extractkit  plan selectors=att",
            ["attention", "attention_gradient", "attention_rollout"],
        ),
        ("extractkit net.keras +selectors.a.path=head:k", ["kernel"]),
        ("extractkit net.keras '+selectors.a.path=head:k", ["+selectors.a.path=head:kernel"]),
        ("extractkit inputs.path=with", [r"with\ space.txt"]),
        (r"extractkit inputs.path=with\ s", [r"with\ space.txt"]),
        ("extractkit inputs.path=$(", []),
        ("extractkit inputs.path=line", []),
        ("extractkit inputs.path=d", [r"dollar\$\(id\)\'"]),
        ('extractkit "inputs.path=d', [r"inputs.path=dollar\$(id)'"]),
        ("extractkit 'inputs.path=d", []),
        ("extractkit completion z", ["zsh"]),
        ("extractkit 'a' \"b", []),
    ],
)
def test_bash_gets_what_follows_the_last_character_that_divides(
    line: str, expected: list[str]
) -> None:
    assert answer("bash", [line, _BREAKS]).splitlines() == expected


def test_bash_gets_whole_words_if_nothing_divides_them() -> None:
    (found,) = answer("bash", ["extractkit runtime.compile=o", " \t\n"]).splitlines()
    assert found == "runtime.compile=openvino"


def test_nothing_is_offered_where_nothing_is_asked() -> None:
    assert [answer(shell, []) for shell in ("bash", "zsh", "fish")] == [""] * 3
    assert answer("bash", ["extractkit "]) == ""


def test_completion_needs_neither_numpy_nor_rich(listed: Path) -> None:
    code = (
        "import sys; from extractkit.__main__ import main\n"
        "sys.argv[1:] = ['completion', 'fish', '--', 'net.keras', '+selectors.a.path=h']\n"
        "try: main()\n"
        "except SystemExit: print(sorted({'numpy', 'rich', 'hydra', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=listed, capture_output=True, text=True, check=True
    )
    *offered, heavy = done.stdout.splitlines()
    assert offered[0] == "+selectors.a.path=head:input"
    assert heavy == "[]"


def test_an_unknown_shell_is_refused() -> None:
    with pytest.raises(ConfigError) as refused:
        cli.execute(["completion", "tcsh"])
    assert str(refused.value) == (
        "completion: 'tcsh' is not a known shell. Available: 'bash', 'fish', 'zsh'."
    )
    with pytest.raises(ConfigError, match=r"required: SHELL\. Usage: extractkit completion"):
        cli.execute(["completion"])


_LOADS = {
    "bash": 'eval "$(extractkit completion bash)"',
    "zsh": 'eval "$(extractkit completion zsh)"',
    "fish": "extractkit completion fish | source",
}
# Lines as they are typed, and the arguments that the program then gets.
_TYPED = {
    "extractkit tens\t net.k\t --js\t": ["tensors", "net.keras", "--json"],
    "extractkit plan net.k\t selectors=lay\t": ["plan", "net.keras", "selectors=layers"],
    "extractkit net.k\t +selectors.mine.path=enc\t/first:k\t": [
        *("net.keras", "+selectors.mine.path=encoder/first:kernel"),
    ],
    "extractkit net.k\t runtime.comp\topenv\t runtime.dete\tf\t": [
        *("net.keras", "runtime.compile=openvino", "runtime.deterministic=false"),
    ],
    "extractkit diff ru\ton\t runs/ot\t": ["diff", "runs/one", "runs/other"],
    "extractkit bert inputs.path=with\t": ["bert", "inputs.path=with space.txt"],
}


@pytest.mark.parametrize("shell", [one for one in _STARTS if shutil.which(one)])
def test_a_shell_completes_what_is_typed(shell: str, listed: Path, tmp_path: Path) -> None:
    program = tmp_path / "extractkit"
    program.write_text(_PROGRAM, "utf-8")
    program.chmod(0o755)
    (listed / "typed").unlink(missing_ok=True)
    screen = _Screen(
        _STARTS[shell],
        {
            **os.environ,
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "PYTHONPATH": SOURCES,
            "HOME": str(tmp_path),
            "TERM": "dumb",
            "COLUMNS": "200",
        },
    )
    screen.type(_LOADS[shell] + "\n")
    got = []
    for line in _TYPED:
        screen.type(f"{line}\n")
        got.append(screen.wait_for_line(listed / "typed", len(got)))
    screen.close()
    assert got == list(_TYPED.values())


class _Screen:
    """A shell at a terminal."""

    def __init__(self, arguments: list[str], variables: dict[str, str]) -> None:
        self._process, self._terminal = pty.fork()
        if self._process == 0:
            os.execvpe(arguments[0], arguments, variables)
        self._shown = b""

    def type(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def _read(self) -> None:
        """Read what the shell has written, which would otherwise wait."""
        while select.select([self._terminal], [], [], 0.05)[0]:
            try:
                self._shown += os.read(self._terminal, 65536)
            except OSError:  # the shell has ended
                return

    def wait_for_line(self, file: Path, number: int) -> list[str]:
        """Return a line of JSON that the program writes."""
        end = time.monotonic() + _SECONDS
        while time.monotonic() < end:
            lines = file.read_text("utf-8").splitlines() if file.exists() else []
            if len(lines) > number:
                return list(json.loads(lines[number]))
            self._read()
        pytest.fail(f"the program was not called: {self._shown.decode(errors='replace')}")

    def close(self) -> None:
        os.close(self._terminal)
        os.waitpid(self._process, 0)
