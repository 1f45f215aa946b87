"""Signed notes and their keys: every vector of ``note``, and what the vectors leave out."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goproxy_vm.errors import ContentError
from goproxy_vm.protocol.note import VerifierKey, make_key_id, open_note
from goproxy_vm.protocol.tlog import Head
from tests.fakes.sumdb import NAME, SEED, Signer

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors.json").read_text())["note"]
KEY = VerifierKey.parse(VECTORS["key"]["vkey"])
OTHER = VerifierKey.parse(VECTORS["second_vkey"])
SIGNER = Signer.make(NAME, SEED)
STRANGER = Signer.make("stranger.example.com", bytes(32))
TEXT = "go.sum database tree\n7\n"


@pytest.mark.parametrize("case", VECTORS["vkeys"], ids=lambda case: case["vkey"][:28])
def test_verifier_keys(case: dict[str, Any]) -> None:
    if not case["ok"]:
        with pytest.raises(ValueError, match="verifier key"):
            VerifierKey.parse(case["vkey"])
        return
    key = VerifierKey.parse(case["vkey"])
    assert str(key).lower() == case["vkey"].lower()
    assert key.key_id == make_key_id(key.name, key.public)


@pytest.mark.parametrize(
    ("vkey", "sentence"),
    [
        ("a+00000000+AQ=", "base64"),
        ("a+00000000+Ag==", "Ed25519"),
        ("a+00000000+" + base64.b64encode(b"\x02" + bytes(32)).decode(), "Ed25519"),
        ("a+00000000+" + base64.b64encode(b"\x01" + bytes(31)).decode(), "Ed25519"),
        ("a+00000000+" + base64.b64encode(b"\x01" + bytes(32)).decode(), "hash"),
    ],
)
def test_verifier_key_refusals_say_why(vkey: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        VerifierKey.parse(vkey)


def test_the_key_of_the_vectors() -> None:
    key = VECTORS["key"]
    assert (KEY.name, KEY.key_id.hex(), KEY.public.hex()) == (
        key["name"],
        key["key_hash_hex"],
        key["public_hex"],
    )
    assert bytes.fromhex(key["key_hash_input_hex"]) == key["name"].encode() + b"\n\x01" + KEY.public
    assert SIGNER.key == KEY
    assert bytes.fromhex(key["seed_hex"]) == SEED
    private = "PRIVATE+KEY+" + f"{NAME}+{KEY.key_id.hex()}+" + base64.b64encode(b"\x01" + SEED).decode()
    assert key["skey"] == private


@pytest.mark.parametrize("case", VECTORS["open_cases"], ids=lambda case: case["id"])
def test_open(case: dict[str, Any]) -> None:
    known = [key for key in (KEY, OTHER) if key.name in (case["known"] or [])]
    data = base64.b64decode(case["msg_b64"])
    if not case["ok"]:
        with pytest.raises(ContentError, match="signed note"):
            open_note(data, known)
        return
    note = open_note(data, known)
    assert note.text == case["text"]
    assert len(note.signers) == case["verified"]
    assert note.unknown == case["unverified"]
    if "tree_error" in case:
        with pytest.raises(ContentError, match="tree head is malformed"):
            Head.parse(note.text)
    else:
        root = base64.b64decode(case["tree"]["hash"])
        assert Head.parse(note.text) == Head(case["tree"]["n"], root)


def test_the_published_example() -> None:
    example = VECTORS["published_example"]
    note = open_note(example["msg"].encode(), [VerifierKey.parse(example["vkey"])])
    assert note.text.startswith("If you think cryptography is the answer")


def test_a_bad_signature_by_a_known_key_rejects_beside_a_good_one() -> None:
    good, bad = SIGNER.line(TEXT), SIGNER.line(TEXT + "x")
    with pytest.raises(ContentError, match="is invalid"):
        open_note(f"{TEXT}\n{good}{bad}".encode(), [KEY])


def test_unknown_signers_prove_nothing_and_hurt_nothing() -> None:
    same_name = Signer.make(NAME, bytes(32))  # another key under the known name
    note = f"{TEXT}\n{same_name.line(TEXT)}{STRANGER.line('other')}".encode()
    with pytest.raises(ContentError, match=f"no signature by {NAME}"):
        open_note(note, [KEY])
    assert open_note(note + SIGNER.line(TEXT).encode(), [KEY]).unknown == 2


def test_signatures_are_bounded() -> None:
    lines = [Signer.make(f"s{i}", bytes(32)).line("") for i in range(99)]
    assert open_note(f"{TEXT}\n{''.join(lines)}{SIGNER.line(TEXT)}".encode(), [KEY]).unknown == 99
    with pytest.raises(ContentError, match="101 signatures"):
        open_note(f"{TEXT}\n{''.join(lines)}{SIGNER.line(TEXT) * 2}".encode(), [KEY])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"\n\n",
        b"text\n\n",
        b"text\n\nno mark AAAAAAAA\n",
        "text\n\n— name\n".encode(),
        "text\n\n— name AAAA\n".encode(),
        "text\n\n— name AAAAAAA\n".encode(),
        "text\n\n— name AAAA AAAA\n".encode(),
        "text\n\n— na+me AAAAAAAA\n".encode(),
        "text\n\n—  AAAAAAAA\n".encode(),
        "text\n\n— na\u00a0me AAAAAAAA\n".encode(),
        "text\n\n— name \u00e9AAAAAAA\n".encode(),
        b"text\xff\n\n",
        b"text\x00\n\n",
    ],
)
def test_malformed_notes(data: bytes) -> None:
    with pytest.raises(ContentError, match="the signed note"):
        open_note(data, [KEY])


def test_keys_that_are_no_point_verify_nothing() -> None:
    key = VerifierKey("a", b"abcd", b"\xff" * 32)
    assert not key.verifies(b"text", bytes(64))
    assert not key.verifies(b"text", b"")


@given(position=st.integers(0), bit=st.integers(0, 7))
@settings(max_examples=150, deadline=None)
def test_any_changed_bit_of_a_note_is_refused_or_harmless(position: int, bit: int) -> None:
    note = SIGNER.sign(TEXT)
    changed = bytearray(note)
    changed[position % len(note)] ^= 1 << bit
    try:
        opened = open_note(bytes(changed), [KEY])
    except ContentError:
        return
    assert opened == open_note(note, [KEY])  # only the unused bits of the last base64 digit


@given(
    st.one_of(
        st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))
    )
)
@settings(max_examples=150, deadline=None)
def test_fuzzed_notes_fail_within_the_family(data: bytes) -> None:
    for prefix in (b"", f"{TEXT}\n— {NAME} ".encode(), f"{TEXT}\n— ".encode()):
        with pytest.raises(ContentError):
            open_note(prefix + data, [KEY])


@given(st.text(max_size=60))
@settings(max_examples=100, deadline=None)
def test_fuzzed_keys_fail_with_a_sentence(text: str) -> None:
    for vkey in (text, f"name+{text}", f"name+00000000+{text}"):
        with pytest.raises(ValueError, match="verifier key"):
            VerifierKey.parse(vkey)
