"""Signed notes: text, a blank line, signatures (PROTOCOL §4, *Note*)."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from goproxy_vm.errors import ContentError

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST_SIGNATURES: Final = 100
"""A note with more signature lines is malformed: checking signatures is not free."""

KEY_ID_BYTES: Final = 4
_ED25519: Final = b"\x01"
_PUBLIC_BYTES: Final = 32
_SIGNATURE_MARK: Final = "— "
_CONTROL: Final = re.compile("[\x00-\x09\x0b-\x1f]")
_HEX_ID: Final = re.compile("[0-9A-Fa-f]{8}")


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key that signs notes, written ``NAME+hash8hex+base64(0x01‖public)``."""

    name: str
    key_id: bytes
    """The first four bytes of sha256(NAME LF 0x01 public): tells keys of one name apart."""
    public: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a verifier key; raises ValueError with a sentence that names what is expected."""
        parts = text.split("+", 2)
        if len(parts) != 3 or not _valid_name(parts[0]) or not _HEX_ID.fullmatch(parts[1]):
            raise ValueError(f"{text!r} is not a verifier key; expected NAME+8 hex digits+base64")
        name, key_id = parts[0], bytes.fromhex(parts[1])
        try:
            key = base64.b64decode(parts[2], validate=True)
        except ValueError:
            raise ValueError(f"the verifier key of {name} is not valid base64") from None
        if key[:1] != _ED25519 or len(key) != 1 + _PUBLIC_BYTES:
            raise ValueError(f"the verifier key of {name} is not an Ed25519 key")
        if key_id != make_key_id(name, key[1:]):
            raise ValueError(f"the verifier key of {name} does not have the hash that it states")
        return cls(name, key_id, key[1:])

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(_ED25519 + self.public).decode()}"

    def verifies(self, text: bytes, signature: bytes) -> bool:
        """Whether ``signature`` is this key's over ``text``."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, text)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Note:
    """A note with at least one good signature by a known key."""

    text: str
    """What was signed, with its final line feed."""
    signers: tuple[VerifierKey, ...]
    """The known keys that signed it, in the note's order."""
    unknown: int
    """How many different signature lines are by other keys; they prove nothing."""


def make_key_id(name: str, public: bytes) -> bytes:
    """The four bytes that identify an Ed25519 key in a note's signature lines."""
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + public).digest()[:KEY_ID_BYTES]


def open_note(data: bytes, keys: Iterable[VerifierKey]) -> Note:
    """Check a signed note against the known keys.

    Raises ContentError if it is malformed, if any signature by a known key is bad, or if no known key
    has signed it.
    """
    known = {(key.name, key.key_id): key for key in keys}
    text, signature_lines = _split(data)
    signers: dict[VerifierKey, None] = {}
    unknown = 0
    for line in dict.fromkeys(signature_lines):  # repeated lines say nothing new
        name, signature = _parse_signature(line)
        key = known.get((name, signature[:KEY_ID_BYTES]))
        if key is None:
            unknown += 1
        elif key.verifies(text, signature[KEY_ID_BYTES:]):
            signers[key] = None
        else:
            raise ContentError(f"the signature by {name}+{key.key_id.hex()} on the signed note is invalid")
    if not signers:
        wanted = ", ".join(f"{key.name}+{key.key_id.hex()}" for key in known.values()) or "any known key"
        raise ContentError(f"the signed note has no signature by {wanted}")
    return Note(text.decode(), tuple(signers), unknown)


def _split(data: bytes) -> tuple[bytes, list[str]]:
    """Cut a note at its last blank line: the signed bytes, and the signature lines."""
    try:
        characters = data.decode()
    except UnicodeDecodeError:
        raise ContentError("the signed note is not UTF-8") from None
    if _CONTROL.search(characters):
        raise ContentError("the signed note has control characters")
    text, blank, signatures = data.rpartition(b"\n\n")
    if not blank or not signatures.endswith(b"\n"):
        raise ContentError("the signed note is malformed; expected text, a blank line and signature lines")
    lines = signatures[:-1].decode().split("\n")
    if len(lines) > MOST_SIGNATURES:
        raise ContentError(f"the signed note has {len(lines)} signatures; at most {MOST_SIGNATURES} expected")
    return text + b"\n", lines


def _parse_signature(line: str) -> tuple[str, bytes]:
    """The signer's name, and its key id followed by the signature itself."""
    name, _, encoded = line.removeprefix(_SIGNATURE_MARK).partition(" ")
    try:
        signature = base64.b64decode(encoded, validate=True)
    except ValueError:
        signature = b""
    if not line.startswith(_SIGNATURE_MARK) or not _valid_name(name) or len(signature) <= KEY_ID_BYTES:
        raise ContentError("the signed note has a malformed signature line")
    return name, signature


def _valid_name(name: str) -> bool:
    return name != "" and "+" not in name and not any(character.isspace() for character in name)
