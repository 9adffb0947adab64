"""Which dialect a request gets."""

from __future__ import annotations

import pytest
from tests.protocol.heads import BASE, ID, fields, head

from tusd.errors import UnsupportedVersion
from tusd.model import Extension
from tusd.protocol.dialects import Dialects
from tusd.protocol.ietf import INTEROP, NEWEST, VERSIONS, Ietf
from tusd.protocol.messages import Dialect, Discovered
from tusd.protocol.rules import Policy
from tusd.protocol.tus1 import Tus1
from tusd.protocol.urls import Origins

UPLOAD = f"/files/{ID}"
DIALECTS = Dialects(Policy(), Origins())
TUS_ONLY = Dialects(Policy(ietf=False), Origins())


def spoken(dialect: Dialect) -> int | None:
    """The interop version; None for tus 1.0."""
    if isinstance(dialect, Ietf):
        return dialect.version.number
    assert isinstance(dialect, Tus1)
    return None


@pytest.mark.parametrize(
    ("method", "path", "headers", "version"),
    [
        ("POST", BASE, {"Tus-Resumable": "1.0.0"}, None),
        ("POST", BASE, {"Tus-Resumable": "1.0.0", INTEROP: "8", "Upload-Complete": "?1"}, None),
        ("POST", BASE, {"Tus-Resumable": "9", INTEROP: "8"}, None),
        ("POST", BASE, {}, None),
        ("GET", UPLOAD, {}, None),
        ("OPTIONS", BASE, {}, None),
        ("PATCH", UPLOAD, {"Upload-Offset": "0"}, None),
        *[("POST", BASE, {INTEROP: str(number)}, number) for number in VERSIONS],
        *[("GET", UPLOAD, {INTEROP: str(number)}, number) for number in VERSIONS],
        # "implementations of the final RFC [...] will not check the existence of the Upload-Draft-Interop-Version header field"
        ("POST", BASE, {"Upload-Complete": "?1"}, 8),
        ("PUT", BASE, {"Upload-Complete": "?0"}, 8),
        ("PATCH", UPLOAD, {"Upload-Complete": "?0", "Upload-Offset": "0"}, 8),
        ("OPTIONS", BASE, {"Upload-Complete": "?0"}, 8),
        ("HEAD", UPLOAD, {}, 8),
        ("DELETE", UPLOAD, {}, 8),
        ("HEAD", UPLOAD, {"Tus-Resumable": "1.0.0"}, None),
        ("DELETE", UPLOAD, {"Tus-Resumable": "1.0.0"}, None),
        ("POST", BASE, {"Upload-Incomplete": "?0"}, None),  # version 3 alone has it, and names itself
        ("POST", BASE, {INTEROP: "5;a=b"}, 5),
    ],
)
def test_the_headers_say(method: str, path: str, headers: dict[str, str], version: int | None) -> None:
    request = head(method, path, headers, tus=False)
    assert spoken(DIALECTS.of(request)) == version
    assert spoken(TUS_ONLY.of(request)) is None


@pytest.mark.parametrize("stated", ["2", "9", "0", "-3", "3.0", "?1", "", "x", "8, 8", "08x", "10000000000000000"])
def test_a_version_that_nobody_speaks_is_refused_by_the_newest(stated: str) -> None:
    for method, path in (("POST", BASE), ("HEAD", UPLOAD), ("PATCH", UPLOAD), ("DELETE", UPLOAD), ("GET", UPLOAD)):
        request = head(method, path, {INTEROP: stated, "Upload-Complete": "?1", "Upload-Offset": "0"}, tus=False)
        dialect = DIALECTS.of(request)
        assert spoken(dialect) == NEWEST.number
        with pytest.raises(UnsupportedVersion, match="3, 4, 5, 6, 7, 8"):
            dialect.read(request)


def test_a_version_that_is_said_twice_is_none() -> None:
    request = head("POST", BASE, [(INTEROP, "8"), (INTEROP, "8"), ("Upload-Complete", "?1")], tus=False)
    with pytest.raises(UnsupportedVersion):
        DIALECTS.of(request).read(request)


def test_every_version_is_spoken_by_a_dialect_of_its_own() -> None:
    assert list(VERSIONS) == [3, 4, 5, 6, 7, 8]
    assert NEWEST.number == 8
    for number in VERSIONS:
        found = DIALECTS.of(head("POST", BASE, {INTEROP: str(number)}, tus=False))
        assert found is DIALECTS.of(head("HEAD", UPLOAD, {INTEROP: str(number)}, tus=False))


@pytest.mark.parametrize(
    ("policy", "limits"),
    [
        (Policy(), "min-size=0"),
        (Policy(max_size=100), "max-size=100"),
        (Policy(max_append_size=10, min_append_size=5, expire_after=60), "max-append-size=10, min-append-size=5, max-age=60"),
        (Policy(ietf=False), None),
        (Policy(extensions=frozenset(Extension) - {Extension.CREATION}), None),
    ],
)
def test_a_plain_options_tells_of_both(policy: Policy, limits: str | None) -> None:
    request = head("OPTIONS", tus=False)
    found = fields(Dialects(policy, Origins()).of(request).write(request, Discovered((), None)).headers)
    assert found["Tus-Version"] == "1.0.0"
    assert found.get("Upload-Limit") == limits
