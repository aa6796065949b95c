"""Checkpoints: the log's digest at one change, signed by Ed25519; kept in the database and anchored outside it."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from lte.memory.fault import MemoryFault

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


@dataclass(frozen=True)
class Checkpoint:
    """That the log of `memory` had `digest` at change `seq`, signed; key and signature are in hexadecimal."""

    memory: str
    seq: int
    digest: str
    time: str
    public_key: str
    signature: str = ""

    @property
    def key_id(self) -> str:
        """A short name of the key."""
        return key_id(self.public_key)

    @property
    def content(self) -> bytes:
        """What is signed."""
        said = {name: value for name, value in asdict(self).items() if name != "signature"}
        return json.dumps(said, sort_keys=True, separators=(",", ":")).encode()

    def holds(self) -> bool:
        """Whether the signature is that of its key over its content."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.public_key))
            key.verify(bytes.fromhex(self.signature), self.content)
        except (InvalidSignature, ValueError):
            return False
        return True


def key_id(public_key: str) -> str:
    """A short name of a public key: the first digits of its SHA-256."""
    return hashlib.sha256(public_key.encode()).hexdigest()[:16]


class Signer:
    """A private key in a file, made with the first signature; none but its owner may read it."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def sign(self, memory: str, seq: int, digest: str, time: str) -> Checkpoint:
        """A signed checkpoint."""
        key = self._key()
        bare = Checkpoint(memory, seq, digest, time, key.public_key().public_bytes_raw().hex())
        return Checkpoint(**{**asdict(bare), "signature": key.sign(bare.content).hex()})

    def public_key(self) -> str | None:
        """The public key in hexadecimal; None where there is no key yet."""
        return self._key().public_key().public_bytes_raw().hex() if self.file.exists() else None

    def public_pem(self) -> str:
        """The public key as PEM, to be kept where the memory's machine cannot write; the key is made where needed."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        return self._key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def _key(self) -> Ed25519PrivateKey:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            if not self.file.exists():
                _make(self.file)
            if stat.S_IMODE(self.file.stat().st_mode) & 0o077:
                raise MemoryFault(f"{self.file}: others may read this private key; chmod 600 {self.file}")
            key = load_pem_private_key(self.file.read_bytes(), password=None)
        except OSError as error:
            raise MemoryFault(f"{self.file}: the signing key cannot be read or made ({error.strerror})") from error
        except (ValueError, TypeError) as error:
            raise MemoryFault(f"{self.file}: holds no private key in PEM ({error}); name another key_file") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise MemoryFault(f"{self.file}: holds a {type(key).__name__}; wanted an Ed25519 key")
        return key


def public_key_of(pem: str) -> str:
    """The Ed25519 public key of a PEM text, in hexadecimal."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(pem.encode())
    except ValueError as error:
        raise MemoryFault(f"public key: not PEM ({error}); give what `lte memory checkpoint` wrote") from error
    if not isinstance(key, Ed25519PublicKey):
        raise MemoryFault(f"public key: a {type(key).__name__}; wanted an Ed25519 key")
    return key.public_bytes_raw().hex()


def untrue(memory: str, digests: Mapping[int, str], kept: Sequence[Checkpoint], trusted: Collection[str]) -> list[str]:
    """Which checkpoints of a memory do not fit its log, one line each.

    digests  of each change of the log
    trusted  public keys that may have signed; none: any, so the memory can only contradict itself
    """
    faults = []
    for checkpoint in kept:
        at = f"checkpoint at change {checkpoint.seq}"
        if checkpoint.memory != memory:
            faults.append(f"{at}: is of memory {checkpoint.memory:.12}, this is {memory:.12}; give this memory's own")
        elif not checkpoint.holds():
            faults.append(f"{at}: its signature does not hold; it was altered")
        elif trusted and checkpoint.public_key not in trusted:
            faults.append(f"{at}: signed by key {checkpoint.key_id}, which is not the one that is trusted")
        elif checkpoint.seq not in digests:
            faults.append(f"{at}: the log has no such change; its tail was cut, or an older copy put in place")
        elif digests[checkpoint.seq] != checkpoint.digest:
            faults.append(f"{at}: the log has another digest there; changes up to it were rewritten")
    return faults


def absent(anchored: Iterable[Checkpoint], kept: Collection[Checkpoint]) -> list[str]:
    """Which anchored checkpoints the memory holds no more, one line each."""
    return [f"checkpoint at change {c.seq}: anchored, but gone from the memory" for c in anchored if c not in kept]


def read_anchor(path: Path) -> list[Checkpoint]:
    """The checkpoints of an anchor file, one JSON object a line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MemoryFault(f"{path}: cannot be read ({error}); name a file that `lte memory anchor` wrote") from error
    found = []
    for n, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            found.append(Checkpoint(**{field.name: row[field.name] for field in fields(Checkpoint)}))
        except (ValueError, KeyError, TypeError) as error:
            raise MemoryFault(f"{path}:{n}: no checkpoint ({error}); the file is damaged: use another copy") from error
    if not found:
        raise MemoryFault(f"{path}: holds no checkpoint; name a file that `lte memory anchor` wrote")
    return found


def write_anchor(path: Path, checkpoint: Checkpoint) -> None:
    """Add a checkpoint to an anchor file, on disk on return; one that is there already is not written twice."""
    if path.exists() and checkpoint in read_anchor(path):
        return
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(checkpoint)) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise MemoryFault(f"{path}: cannot be written ({error.strerror}); name another file") from error


def _make(file: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(pem)
            out.flush()
            os.fsync(out.fileno())
        os.link(part, file)  # a link and no rename: of two processes that make a key at once, one is heard
    except FileExistsError:
        pass
    finally:
        part.unlink(missing_ok=True)
