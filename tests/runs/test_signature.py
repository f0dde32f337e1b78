"""Signatures: read by model-signing itself, refused for another key, and failing after changes."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

import extractkit
from extractkit import cli
from extractkit.errors import ConfigError, MissingExtraError, RunDirectoryError
from extractkit.runs import manifest
from extractkit.runs.manifest import Status
from tests.runs.trajectory_examples import made

pytest.importorskip("model_signing")


def write_keys(
    folder: Path, name: str, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
) -> None:
    pem = serialization.Encoding.PEM
    (folder / f"{name}.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    (folder / f"{name}.pub").write_bytes(key.public_key().public_bytes(pem, form))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    write_keys(folder, "own", ec.generate_private_key(ec.SECP256R1()))
    write_keys(folder, "other", ec.generate_private_key(ec.SECP384R1()))
    write_keys(folder, "bitcoin", ec.generate_private_key(ec.SECP256K1()))
    write_keys(folder, "rsa", rsa.generate_private_key(65537, 2048))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return made(tmp_path / "run").path


def test_the_format_is_that_of_model_signing(run: Path, keys: Path) -> None:
    signature = extractkit.sign(run, keys / "own.pem")
    assert signature == run.with_name("run.sig")
    command = (
        *("-m", "model_signing", "verify", "key", str(run), "--signature", str(signature)),
        *("--public_key", str(keys / "own.pub")),
    )
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = extractkit.verify(run, key=keys / "own.pub")
    assert not found.failed
    assert found.checks[0].name == "signature"
    assert [one.name for one in found.checks[1:]] == [
        one.name for one in extractkit.verify(run).checks
    ]


def test_a_signature_holds_wherever_the_run_is(run: Path, keys: Path) -> None:
    signature = extractkit.sign(run, keys / "own.pem", run.with_name("my.sig"))
    moved = run.with_name("elsewhere")
    shutil.move(run, moved)
    assert not extractkit.verify(moved, key=keys / "own.pub", signature=signature).failed


def test_of_files_that_exist_only_signatures_are_replaced(run: Path, keys: Path) -> None:
    first = extractkit.sign(run, keys / "own.pem").read_bytes()
    assert extractkit.sign(run, keys / "other.pem").read_bytes() != first
    key = (keys / "own.pem").read_bytes()
    with pytest.raises(ConfigError, match=r"own\.pem' exists and is not a signature, which alone "):
        extractkit.sign(run, keys / "own.pem", keys / "own.pem")
    assert (keys / "own.pem").read_bytes() == key


def test_another_key_is_refused_with_the_reason(run: Path, keys: Path) -> None:
    extractkit.sign(run, keys / "own.pem")
    with pytest.raises(ConfigError, match=r"^key='.*other.pub' is not the key that signed: .* SHA"):
        extractkit.verify(run, key=keys / "other.pub")


@pytest.mark.parametrize(
    ("file", "what"),
    [
        ("journal.jsonl", "is not as it was signed"),
        ("new.txt", "was not there when the run was signed"),
        (".hydra/more", "was not there when the run was signed"),
    ],
)
def test_a_change_after_signing_is_found(run: Path, keys: Path, file: str, what: str) -> None:
    extractkit.sign(run, keys / "own.pem")
    (run / file).parent.mkdir(exist_ok=True)
    with (run / file).open("a", encoding="utf-8") as opened:
        opened.write("more")
    check = extractkit.verify(run, key=keys / "own.pub").checks[0]
    assert [(one.file, one.message) for one in check.findings] == [(file, f"{run / file} {what}")]


def test_a_file_that_is_gone_is_found(run: Path, keys: Path) -> None:
    (run / "note.txt").write_text("signed too", "utf-8")
    extractkit.sign(run, keys / "own.pem")
    (run / "note.txt").unlink()
    (finding,) = extractkit.verify(run, key=keys / "own.pub").checks[0].findings
    assert finding.message == f"{run / 'note.txt'} is missing, and was signed"


def test_a_changed_signature_is_not_valid(run: Path, keys: Path) -> None:
    signature = extractkit.sign(run, keys / "own.pem")
    bundle = json.loads(signature.read_text("utf-8"))
    other = extractkit.sign(run, keys / "other.pem", run.with_name("other.sig"))
    theirs = json.loads(other.read_text("utf-8"))["dsseEnvelope"]["signatures"]
    bundle["dsseEnvelope"]["signatures"] = theirs
    signature.write_text(json.dumps(bundle), "utf-8")
    check = extractkit.verify(run, key=keys / "own.pub").checks[0]
    assert check.findings[0].message.endswith("what is in it is not what the key signed")


@pytest.mark.parametrize("part", ["dsseEnvelope", "mediaType", "signatures"])
def test_a_signature_that_lacks_a_part_says_nothing_about_the_run(
    run: Path, keys: Path, part: str
) -> None:
    signature = extractkit.sign(run, keys / "own.pem")
    bundle = json.loads(signature.read_text("utf-8"))
    if part == "signatures":
        bundle["dsseEnvelope"][part] = []
    else:
        del bundle[part]
    signature.write_text(json.dumps(bundle), "utf-8")
    if part == "mediaType":
        (finding,) = extractkit.verify(run, key=keys / "own.pub").checks[0].findings
        assert finding.file == str(signature)
        assert finding.message.startswith(f"{signature} does not hold for {run}: ")
        return
    with pytest.raises(ConfigError, match=r"run.sig' is not a signature of OpenSSF model signing"):
        extractkit.verify(run, key=keys / "own.pub")


def test_changed_and_unfinished_runs_are_not_signed(run: Path, keys: Path) -> None:
    finished = manifest.read(run)
    manifest.write(run, replace(finished, status=Status.INTERRUPTED, actual=None))
    with pytest.raises(RunDirectoryError, match=r"not finished, so it is not signed\. Finish it: "):
        extractkit.sign(run, keys / "own.pem")
    manifest.write(run, finished)
    with (run / "samples.jsonl").open("a", encoding="utf-8") as file:
        file.write("{}\n")
    with pytest.raises(RunDirectoryError, match=r"not as it was written, so it is not signed: .*s"):
        extractkit.sign(run, keys / "own.pem")
    assert not run.with_name("run.sig").exists()


def test_keys_of_other_kinds_are_refused(run: Path, keys: Path) -> None:
    for name in ("own.pub", "rsa.pem", "bitcoin.pem", "missing.pem"):
        with pytest.raises(ConfigError, match=rf"^key='.*{name}' is not a private key of an ell"):
            extractkit.sign(run, keys / name)
    extractkit.sign(run, keys / "own.pem")
    for name in ("own.pem", "rsa.pub", "bitcoin.pub", "missing.pub"):
        with pytest.raises(ConfigError, match=rf"^key='.*{name}' is not a public key of an elli"):
            extractkit.verify(run, key=keys / name)


def test_a_signature_that_is_none_is_refused(run: Path, keys: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"cannot be read: No such file .* extractkit sign .*run "
    ):
        extractkit.verify(run, key=keys / "own.pub")
    with pytest.raises(ConfigError, match=r"own.pub' is not a signature of OpenSSF model signing"):
        extractkit.verify(run, key=keys / "own.pub", signature=keys / "own.pub")
    with pytest.raises(ConfigError, match=r"^signature='x' is checked by a public key\. Give it"):
        extractkit.verify(run, signature="x")
    with pytest.raises(ConfigError, match=r"^output='.*' is inside the run, whose files do not"):
        extractkit.sign(run, keys / "own.pem", run / "run.sig")


def test_the_commands_print_the_signature_and_the_check(
    run: Path, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=r"^sign: --key is missing\. Give the file of a private"):
        cli.execute(["sign", str(run)])
    assert cli.execute(["sign", str(run), "--key", str(keys / "own.pem")]) == cli.DONE
    assert capsys.readouterr().out == f"{run}.sig\n"
    assert cli.execute(["verify", str(run), "--key", str(keys / "own.pub")]) == cli.DONE
    assert "signature" in capsys.readouterr().out


def test_a_missing_package_is_named_with_its_command(
    run: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    monkeypatch.delitem(sys.modules, "model_signing.signing", raising=False)
    with pytest.raises(MissingExtraError, match=r"^sign needs model_signing, .*extractkit\[sign\]"):
        extractkit.sign(run, keys / "own.pem")
