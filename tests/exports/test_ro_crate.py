"""RO-Crate: the metadata of a run, read by rocrate where that is installed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import extractkit
from extractkit import cli
from extractkit.errors import ConfigError, RunDirectoryError
from extractkit.runs import manifest
from extractkit.runs.manifest import Status
from extractkit.runs.reader import Run
from extractkit.testing.reference import ReferenceModel
from tests.reports.examples import EVERYTHING

LICENCE = "https://creativecommons.org/licenses/by/4.0/"
ORCID = "https://orcid.org/0000-0002-1825-0097"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "texts.txt").write_text("abc\nde\n", "utf-8")
    return extractkit.extract(
        ["inputs=texts", f"inputs.path={tmp_path / 'texts.txt'}"],
        model=ReferenceModel(),
        selectors=EVERYTHING,
        run_dir=tmp_path / "run",
    )


def graph(path: Path) -> dict[str, dict[str, Any]]:
    return {one["@id"]: one for one in json.loads(path.read_text("utf-8"))["@graph"]}


def test_it_describes_the_run_and_nothing_else_changes(run: Run) -> None:
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    path = extractkit.crate(run.path, license=LICENCE, author=ORCID)
    assert path == run.path / "ro-crate-metadata.json"
    assert all(one.read_bytes() == content for one, content in before.items())
    found = graph(path)
    assert found["ro-crate-metadata.json"]["about"] == {"@id": "./"}
    listed = {one["@id"].rstrip("/") for one in found["./"]["hasPart"]}
    assert listed == {one.name for one in run.path.iterdir()} - {path.name}
    for one in listed & {file.name for file in before}:
        assert found[one]["contentSize"] == str((run.path / one).stat().st_size)
    assert found["#extractkit"]["softwareVersion"] == run.manifest.versions["extractkit"]
    (origin,) = run.manifest.origins
    assert found["#inputs.path"]["identifier"] == f"sha256:{origin.sha256}"
    ids = {one["@id"] for entity in found.values() for one in _references(entity)}
    assert {one for one in ids if not one.startswith("http")} <= found.keys()
    verified = extractkit.verify(run.path)
    assert not verified.failed
    assert "0 found" in [one.detail for one in verified.checks]
    content = path.read_bytes()
    extractkit.crate(run.path, license=LICENCE, author=ORCID)
    assert path.read_bytes() == content


def test_a_signature_beside_the_run_keeps_holding(run: Run) -> None:
    signature = run.path.with_name("run.sig")
    signature.touch()
    with pytest.raises(ConfigError, match=r"run\.sig signs all .* extractkit sign .*run --key"):
        extractkit.crate(run.path, license=LICENCE, author=ORCID)
    assert not (run.path / "ro-crate-metadata.json").exists()
    signature.unlink()
    path = extractkit.crate(run.path, license=LICENCE, author=ORCID)
    signature.touch()
    assert extractkit.crate(run.path, license=LICENCE, author=ORCID) == path


def _references(value: object) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        own = [value] if set(value) == {"@id"} else []
        return own + [one for entry in value.values() for one in _references(entry)]
    return [one for entry in value for one in _references(entry)] if isinstance(value, list) else []


@pytest.mark.oracle
def test_rocrate_reads_it(run: Run) -> None:
    rocrate = pytest.importorskip("rocrate.rocrate")
    extractkit.crate(run.path, license=LICENCE, author="Ada Lovelace")
    read = rocrate.ROCrate(run.path)
    assert read.license["@id"] == LICENCE
    action = read.get("#run")
    assert action["instrument"]["name"] == "extractkit"
    assert {one.id for one in action["result"]} == {"tensors.h5", "shards/"}
    assert {one.id for one in read.data_entities} >= {"manifest.json", "samples.jsonl"}


def test_changed_and_unfinished_runs_are_refused(run: Run) -> None:
    finished = manifest.read(run.path)
    manifest.write(run.path, replace(finished, status=Status.INTERRUPTED, actual=None))
    with pytest.raises(RunDirectoryError, match=r"not finished, so it is not described as a crate"):
        extractkit.crate(run.path, license=LICENCE, author=ORCID)
    manifest.write(run.path, finished)
    with (run.path / "samples.jsonl").open("a", encoding="utf-8") as file:
        file.write("{}\n")
    with pytest.raises(RunDirectoryError, match=r"so it is not described as a crate: .*samples"):
        extractkit.crate(run.path, license=LICENCE, author=ORCID)
    assert not (run.path / "ro-crate-metadata.json").exists()


def test_licence_and_author_are_needed(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"^license='MIT' is not the address of a licence\. Give"):
        extractkit.crate(run.path, license="MIT", author=ORCID)
    with pytest.raises(ConfigError, match=r"^author is empty\. Give a name, or an ORCID: https"):
        extractkit.crate(run.path, license=LICENCE, author=" ")
    for licence in (
        'https://a.org/"><script>',
        "https://a.org/a b",
        "https://a.org/\n",
        "https://",
    ):
        with pytest.raises(ConfigError, match="is not the address of a licence"):
            extractkit.crate(run.path, license=licence, author=ORCID)
    bare = ORCID.rpartition("/")[2]
    for author, message in (
        (bare, f"^author='{bare}' is not a name. Give the address: {ORCID}$"),
        ("Ada\n<b>", r"^author='Ada\\n<b>' has characters that names do not have\. "),
        ("<b>Ada", "has characters that names do not have"),
        (f"{ORCID}/x", f"^author='{ORCID}/x' is not an ORCID, as in https"),
    ):
        with pytest.raises(ConfigError, match=message):
            extractkit.crate(run.path, license=LICENCE, author=author)
    assert not (run.path / "ro-crate-metadata.json").exists()
    with pytest.raises(ConfigError, match=r"\. For an RO-Crate: extractkit crate /"):
        extractkit.export(run.path, "ro-crate")
    with pytest.raises(ConfigError, match=r"^crate: --author is missing\. Give it: --author 'Ada"):
        cli.execute(["crate", str(run.path), "--license", LICENCE])
    given = ["crate", str(run.path), "--license", LICENCE, "--author", "Ada Lovelace"]
    capsys.readouterr()
    assert cli.execute(given) == cli.DONE
    assert capsys.readouterr().out == f"{run.path / 'ro-crate-metadata.json'}\n"
