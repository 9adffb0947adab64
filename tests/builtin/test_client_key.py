"""Whose request is it?"""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import TypeAdapter, ValidationError
from tests.builtin.limiters import by, upload

from tusd.builtin.client_key import By, ClientKey
from tusd.model import Metadata
from tusd.protocol.messages import Head


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8:1:2::1", "2001:DB8:1:2:ffff:ffff:ffff:ffff", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2", True),
        (None, None, True),
        (None, "192.0.2.1", False),
        ("no:address", "another:one", False),
    ],
)
def test_addresses(one: str | None, other: str | None, same: bool) -> None:
    key = ClientKey("address")
    assert (key.of(by(one)) == key.of(by(other))) == same


def test_a_header() -> None:
    key = ClientKey("header X-Account")
    assert key.of(by("192.0.2.1", **{"X-Account": "a"})) == key.of(by("192.0.2.2", **{"X-Account": "a"}))
    assert key.of(by(**{"X-Account": "a"})) != key.of(by(**{"X-Account": "b"}))
    assert not key.needs_upload


def test_metadata_and_notes() -> None:
    for name, owner in (("metadata", upload(team="a")), ("note", replace(upload(), notes={"team": "a"}))):
        key = ClientKey(f"{name} team")
        assert key.needs_upload
        assert key.of(by("192.0.2.1"), owner) == key.of(by("192.0.2.2"), owner) != key.of(by("192.0.2.1"))
    key = ClientKey("metadata team")
    broken = [replace(upload(), metadata=Metadata({"team": value})) for value in (b"\xff", b"\xfe")]
    assert key.of(by(), broken[0]) != key.of(by(), broken[1])


@pytest.mark.parametrize("name", ["header", "metadata", "note"])
@pytest.mark.parametrize("head", [by("192.0.2.1"), by("192.0.2.1", X="")])
def test_who_lacks_it_goes_by_the_address(name: str, head: Head) -> None:
    key = ClientKey(f"{name} X")
    assert key.of(head, upload(X="")) == ClientKey("address").of(head)
    assert key.of(head, upload()) != key.of(by("192.0.2.2"), upload())


def test_nobody_can_pass_for_an_address() -> None:
    key = ClientKey("header X")
    assert key.of(by("192.0.2.2", X="192.0.2.1")) != key.of(by("192.0.2.1"))


@pytest.mark.parametrize("text", ["address", "header X-Account", "metadata team", "note tenant"])
def test_what_may_be_written(text: str) -> None:
    assert TypeAdapter(By).validate_python(text) == text


@pytest.mark.parametrize("text", ["", "header", "note ", "metadata a b", "address X", "cookie X", "header X\n"])
def test_what_may_not(text: str) -> None:
    with pytest.raises(ValidationError, match="write address, header NAME"):
        TypeAdapter(By).validate_python(text)
