"""Signatures of runs, in the format of OpenSSF model signing, by keys in files.

A signature is a file beside the run, and covers every file of the run. Nothing is sent anywhere.
"""

import hashlib
import json
import sys
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from extractkit.advice import command
from extractkit.core.component import require
from extractkit.core.trust import Trust
from extractkit.errors import ConfigError, RunDirectoryError
from extractkit.runs.checking import Check, Finding
from extractkit.runs.checking.files import GIVEN_FILES
from extractkit.runs.checking.verification import verify
from extractkit.runs.directory import Mark, check_place, path_of, run_path
from extractkit.runs.manifest import Status
from extractkit.runs.reader import sink_of
from extractkit.store.local import write_durably

_NAME = "signature"
_MARK = Mark("a signature", b"application/vnd.dev.sigstore.bundle")
_OF_FILES = ("files", "sha256")
_KIND = "of an elliptic curve (P-256, P-384 or P-521), as PEM"
_MAKE = "openssl ecparam -name prime256v1 -genkey -noout -out key.pem"
_PUBLIC = "openssl ec -in key.pem -pubout -out public.pem"


def sign(
    run: str | Path,
    key: str | Path,
    output: str | Path | None = None,
    *,
    trust: Sequence[str] = (),
) -> Path:
    """Sign a finished run, after checking that it is as it was written.

    Args:
        run: the run directory.
        key: a file with a private key of an elliptic curve (P-256, P-384 or P-521), as PEM without
            a password.
        output: the file for the signature; None: the run directory's name with the ending `.sig`,
            beside it. Of files that exist, only signatures are replaced.
        trust: modules whose callables the run's configuration may name.

    Returns:
        The file.

    Raises:
        MissingExtraError: model-signing is not installed.
        ConfigError: the key cannot be used, or a file cannot be written there.
        RunDirectoryError: there is no run, it is unfinished, or it has changed.
        JobError: the file could not be written.
    """
    directory = run_path(run)
    path = signature_file(directory) if output is None else path_of(output, "output")
    check_place(path, directory, "output", mark=_MARK)
    own = path_of(key, "key")
    with _loading(f"key={str(key)!r} is not a private key {_KIND} without a password", _MAKE):
        config = require("model_signing.signing", "sign").Config()
        config.use_elliptic_key_signer(private_key=own)
    check_whole(directory, trust, "signed")
    with TemporaryDirectory() as folder:
        made = Path(folder) / path.name
        try:
            config.sign(directory, made)
        except ValueError as error:
            raise RunDirectoryError(f"{directory} cannot be signed: {error}") from error
        write_durably(path, made.read_bytes())
    return path


def check_whole(directory: Path, trust: Sequence[str], done: str) -> None:
    """Check that a run is finished and as it was written.

    Args:
        trust: modules whose callables the run's configuration may name.
        done: what is not done with other runs, for messages.

    Raises:
        RunDirectoryError: it is not.
    """
    found = verify(directory, reader=partial(sink_of, trust=Trust(tuple(trust))))
    own = [one for check in found.checks if check.name != GIVEN_FILES for one in check.findings]
    if own:
        raise RunDirectoryError(
            f"{directory} is not as it was written, so it is not {done}: {own[0].message}. List "
            f"everything: {command('verify', directory)}"
        )
    if found.status is not Status.FINISHED:
        raise RunDirectoryError(
            f"{directory} is not finished, so it is not {done}. Finish it: "
            f"{command('resume', directory)}"
        )


def signature_file(run: Path) -> Path:
    """Return where the signature of a run is, unless its file is named."""
    return run.with_name(f"{run.name}.sig")


def check_signature(run: Path, key: str | Path, signature: str | Path | None = None) -> Check:
    """Check that a run is as the owner of a key signed it.

    Args:
        run: the run directory.
        key: a file with the public key, as PEM.
        signature: the file with the signature; None: beside the run.

    Raises:
        MissingExtraError: model-signing is not installed.
        ConfigError: there is no signature, it is not one by a key, or it is by another key.
    """
    directory = run_path(run)
    path = signature_file(directory) if signature is None else path_of(signature, "signature")
    public = path_of(key, "key")
    with _loading(f"key={str(key)!r} is not a public key {_KIND}", _PUBLIC):
        verifier = require("model_signing.verifying", "verify --key").Config()
        verifier.use_elliptic_key_verifier(public_key=public)
        own = _digest_of(public)
    signer = _signer(path, directory)
    if signer != own:
        raise ConfigError(
            f"key={str(key)!r} is not the key that signed: {path} was made with the key whose "
            f"SHA-256 is {signer[:16]}…, and the given one has {own[:16]}…"
        )
    invalid = require("cryptography.exceptions", "verify --key").InvalidSignature
    detail = f"by the key {own[:16]}…"
    try:
        with redirect_stdout(sys.stderr):  # the library prints its warnings
            verifier.verify(directory, path)
    except invalid:
        message = f"{path} is not valid: what is in it is not what the key signed"
        return Check.of(_NAME, detail, [Finding(str(path), message)])
    except ValueError as error:
        differing = [*_differing(directory, path)]
        whole = Finding(str(path), f"{path} does not hold for {directory}: {error}")
        return Check.of(_NAME, detail, differing or [whole])
    return Check.of(_NAME, detail)


def _differing(directory: Path, path: Path) -> Iterator[Finding]:
    """Yield the files that are not as they were signed, if each has a SHA-256 in the signature."""
    try:
        statement = json.loads(b64decode(json.loads(path.read_bytes())["dsseEnvelope"]["payload"]))
        about = statement["predicate"]
        kind = about["serialization"]
        if (kind["method"], kind["hash_type"]) != _OF_FILES:
            return
        signed = {one["name"]: one["digest"] for one in about["resources"]}
    except (ValueError, LookupError, TypeError):
        return  # of another form, which the library has refused
    hashed = require("model_signing.hashing", "verify --key").Config().hash(directory)
    found = {one.identifier: one.digest.digest_hex for one in hashed.resource_descriptors()}
    for name in sorted({*signed, *found}):
        if name not in found:
            yield Finding(name, f"{directory / name} is missing, and was signed")
        elif name not in signed:
            yield Finding(name, f"{directory / name} was not there when the run was signed")
        elif signed[name] != found[name]:
            yield Finding(name, f"{directory / name} is not as it was signed")


def signature_of(
    key: str | Path | None, signature: str | Path | None
) -> Callable[[Path], Check] | None:
    """Return the check of a signature for `verify`; None if no key is given.

    Raises:
        ConfigError: a signature is named, and no key.
    """
    if key is not None:
        return partial(check_signature, key=key, signature=signature)
    if signature is not None:
        raise ConfigError(
            f"signature={str(signature)!r} is checked by a public key. Give it too: key=…"
        )
    return None


@contextmanager
def _loading(refusal: str, remedy: str) -> Iterator[None]:
    """Turn what the library raises for a key that it cannot load into a message.

    Raises:
        ConfigError: the key cannot be loaded.
    """
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{refusal}: {error.strerror}. Make one: {remedy}") from error
    except (ValueError, TypeError, AttributeError) as error:
        # For a key of another kind, the library does not find the name of a curve.
        reason = "" if isinstance(error, AttributeError) else f": {str(error).rstrip('. ')}"
        raise ConfigError(f"{refusal}{reason}. Make one: {remedy}") from error


def _digest_of(key: Path) -> str:
    """Return the SHA-256 of a public key, as signatures name it."""
    serialization = require("cryptography.hazmat.primitives.serialization", "verify --key")
    pem: bytes = serialization.load_pem_public_key(key.read_bytes()).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(pem).hexdigest()


def _signer(path: Path, run: Path) -> str:
    """Return the SHA-256 of the key that made a signature.

    Raises:
        ConfigError: there is no signature by a key.
    """
    try:
        bundle: Any = json.loads(path.read_bytes())
        _ = bundle["dsseEnvelope"]["signatures"][0]["sig"]
        return str(bundle["verificationMaterial"]["publicKey"]["hint"])
    except OSError as error:
        raise ConfigError(
            f"signature={str(path)!r} cannot be read: {error.strerror}. Name the file of the "
            f"signature, or sign the run: {command('sign', run, '--key', 'key.pem')}"
        ) from error
    except (ValueError, TypeError, LookupError) as error:
        raise ConfigError(
            f"signature={str(path)!r} is not a signature of OpenSSF model signing by a key"
        ) from error
