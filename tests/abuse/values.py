"""Requests of tus whose values are hostile: numbers, ids, what comes back in an answer, heads and bodies that do not fit together."""

from __future__ import annotations

import base64
from collections.abc import Iterable

from tests.web.raw import OCTETS, chunked, patch, post, request

from .shape import ANY_4XX, LENGTH, UPLOAD, VICTIM, Shape, accepted, refused

# --- numbers

NUMBERS = {
    "2**63": str(2**63),
    "2**64": str(2**64),
    "2**64 + 5": str(2**64 + 5),
    "10**30": str(10**30),
    "thousands of digits": "9" * 5000,
    "negative": "-1",
    "minus zero": "-0",
    "plus": "+5",
    "exponent": "1e3",
    "hex": "0x10",
    "octal": "0o7",
    "point": "5.0",
    "comma": "5,0",
    "underscore": "1_0",
    "space within": "1 0",
    "Arabic digits": "\u0665",
    "full-width digits": "\uff15",
    "superscript": "\u00b2",
    "infinity": "inf",
    "nan": "NaN",
    "null": "null",
    "list": "5, 5",
    "quoted": '"5"',
    "words": "five",
    "vertical tab": "\x0b5",
    "form feed": "5\x0c",
}
_STRANGE = {"empty": "", "spaces": "   "}
_PLAIN = {"2**63 - 1": str(2**63 - 1), "leading space": "  5", "trailing space": "5  ", "zeros": "0005"}


def _numbered(value: str) -> dict[str, bytes]:
    return {
        "offset": patch(UPLOAD, value, b"x"),
        "length": post({"Upload-Length": value}),
        "length with a body": post({"Upload-Length": value}, b"x"),
        "length in a patch": patch(UPLOAD, 0, b"x", {"Upload-Length": value}),
    }


BAD_NUMBERS = refused(
    {f"{where}: {name}": stream for name, value in {**NUMBERS, **_STRANGE}.items() for where, stream in _numbered(value).items()}
) | {f"{where}: {name}": accepted(stream, 201) for name, value in _PLAIN.items() for where, stream in _numbered(value).items()}
BAD_NUMBERS |= refused(
    {
        f"defer: {name}": post({"Upload-Defer-Length": value})
        for name, value in {**NUMBERS, **_STRANGE, "two": "2", "zero": "0"}.items()
    }
)

# --- ids that lead elsewhere

TRAVERSALS = refused(
    {
        f"{method} {name}": (
            request("POST", "/files/", {"Upload-Concat": f"final;/files/{name}", "Connection": "close"})
            if method == "CONCAT"
            else request(method, f"/files/{name}", {"Connection": "close", "Upload-Offset": 0, "Content-Type": OCTETS})
        )
        for method in ("HEAD", "GET", "DELETE", "PATCH", "CONCAT")
        for name in [
            *(
                f"{dots}{slash}secret"
                for dots in ("..", "%2e%2e", "%2E%2e", ".%2e", "%252e%252e")
                for slash in ("/", "%2f", "%5c", "\\")
            ),
            "%c0%ae%c0%ae/secret",
            "%c0%ae%c0%ae%c0%afsecret",
            "..%c0%afsecret",
            "..%e0%80%afsecret",
            "..%f0%80%80%afsecret",
            "..%c1%9csecret",
            "%u002e%u002e/secret",
            "%ef%bc%8e%ef%bc%8e/secret",
            "\uff0e\uff0e/secret",
            "\u2025/secret",
            "\u2024\u2024\u2215secret",
            "./../secret",
            "a/../../secret",
            "a/%2e%2e/%2e%2e/secret",
            "/secret",
            "//secret",
            "/../secret",
            "%2f..%2fsecret",
            "%2fetc%2fpasswd",
            "/etc/passwd",
            "C:%5csecret",
            "file:///secret",
            "%00",
            "secret%00",
            "secret%00.txt",
            "..%00/secret",
            "..;/secret",
            "....//secret",
            "~",
            "~root/secret",
            ".hidden",
            ".",
            "..",
            "%2e",
            "a%0d%0aX-Injected:%20b",
            "a%0aX-Injected:%20b",
            "%ff%fe",
            "%",
            "%zz",
            "%2",
            "x.info",
            "X.INFO",
            "x.lock",
            "x.info%20",
            "x.info%00",
            "a" * 300,
            "a/" * 400,
            "%61" * 1000,
        ]
    }
)

# --- values that come back in an answer

_LINES = b"X-Injected: 1"


def _b64(text: bytes) -> str:
    return base64.b64encode(text).decode()


ECHOES = {
    "metadata crlf": accepted(post({"Upload-Length": 1, "Upload-Metadata": "a YQ==\r\nX-Injected: 1"}), 201),
    "metadata lf": accepted(post({"Upload-Length": 1, "Upload-Metadata": "a YQ==\nX-Injected: 1"}), 201),
    "metadata cr": Shape(post({"Upload-Length": 1, "Upload-Metadata": "a YQ==\rX-Injected: 1"})),
    "metadata folded": Shape(post({"Upload-Length": 1, "Upload-Metadata": "a YQ==\r\n ,b YQ=="})),
    "metadata nul": Shape(post({"Upload-Length": 1, "Upload-Metadata": "a\0 YQ=="})),
    "metadata octets": Shape(post({"Upload-Length": 1, "Upload-Metadata": "\u00fc YQ=="})),
    "metadata escape": Shape(post({"Upload-Length": 1, "Upload-Metadata": "\x1b[2J YQ=="})),
    "metadata no base64": Shape(post({"Upload-Length": 1, "Upload-Metadata": "a %0d%0aX-Injected:1"})),
    "metadata twice a key": Shape(post({"Upload-Length": 1, "Upload-Metadata": "a YQ==,a YQ=="})),
    "metadata with lines in its value": accepted(
        post({"Upload-Length": 1, "Upload-Metadata": f"filename {_b64(b'a' + bytes([13, 10]) + _LINES)}"}, b"x"), 201
    ),
    "request id": accepted(request("HEAD", "/files/nothing", {"X-Request-ID": "a\r\nX-Injected: 1"})),
    "origin": accepted(request("OPTIONS", "/files/", {"Origin": "http://a\r\nX-Injected: 1"}), 200),
    "asked headers": accepted(
        request(
            "OPTIONS",
            "/files/",
            {"Origin": "http://a", "Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "a\x01b"},
        ),
        200,
    ),
    "forwarded host": accepted(
        post({"Upload-Length": 1, "X-Forwarded-Host": "a\r\nX-Injected: 1", "Forwarded": 'host="a\\\r"'}), 201
    ),
    "host": Shape(post({"Upload-Length": 1, "Host": "a%0d%0aX-Injected:1"})),
}

# --- bodies and heads of tus that do not fit together


def _checksums() -> Iterable[tuple[str, bytes]]:
    for name, value in {
        "no algorithm": "AAAA",
        "unknown": "sha3 AAAA",
        "upper case": "SHA1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
        "short": "sha1 AAAA",
        "no base64": "sha1 ????",
        "wrong": "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu1=",
        "two": "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=,md5 AAAA",
        "empty": "",
        "unicode": "sha1 \u00e4",
        "spaces": "sha1" + " " * 5000,
    }.items():
        yield name, patch(UPLOAD, 0, b"hullo", {"Upload-Checksum": value})
        yield (
            f"{name}, chunked",
            patch(UPLOAD, 0, chunked(b"hullo", 2), {"Upload-Checksum": value, "Transfer-Encoding": "chunked"}),
        )


CONTRADICTIONS = refused(
    {
        **{f"checksum {name}": stream for name, stream in _checksums()},
        "body longer than the upload": patch(UPLOAD, 0, b"x" * (LENGTH + 1)),
        "chunked body longer than the upload": patch(
            UPLOAD, 0, chunked(b"x" * (LENGTH * 1000), 1000), {"Transfer-Encoding": "chunked"}
        ),
        "body of 2**63 - 1": patch(UPLOAD, 0, announce=2**63 - 1),
        "body of another type": patch(UPLOAD, 0, b"hello", {"Content-Type": "text/plain"}),
        "body without a type": request("PATCH", UPLOAD, {"Upload-Offset": 0}, b"hello"),
        "patch of the base": patch("/files/", 0, b"hello"),
        "patch without an offset": request("PATCH", UPLOAD, {"Content-Type": OCTETS}, b"hello"),
        "two offsets": request("PATCH", UPLOAD, [("Upload-Offset", 0), ("Upload-Offset", 0), ("Content-Type", OCTETS)], b"hello"),
        "offset ahead": patch(UPLOAD, 7, b"hello"),
        "length and no length": post({"Upload-Length": 5, "Upload-Defer-Length": 1}),
        "neither": post({}),
        "no version": request("HEAD", UPLOAD, {"Tus-Resumable": "0.2.2"}),
        "version of words": request("HEAD", UPLOAD, {"Tus-Resumable": "1.0.0, 1.0.0"}),
        "concat of itself": post({"Upload-Concat": f"final;{UPLOAD}"}),
        "concat of nothing": post({"Upload-Concat": "final;"}),
        "concat of what is no part": post({"Upload-Concat": f"final;{UPLOAD} {VICTIM}"}),
        "concat of others": post({"Upload-Concat": "final;http://example.test/x"}),
        "concat of a bad URL": post({"Upload-Concat": "final;http://[::1"}),
        "concat unknown": post({"Upload-Concat": "whole", "Upload-Length": 5}),
        "concat with a body": post({"Upload-Concat": f"final;{UPLOAD}"}, b"hello"),
        "concat upper case": post({"Upload-Concat": "PARTIAL", "Upload-Length": 5}),
    }
)

# --- the IETF's protocol at the same URLs


def _draft(method: str, path: str, headers: dict[str, object], body: bytes = b"hello") -> bytes:
    return request(method, path, {"Upload-Draft-Interop-Version": 8, **headers}, body, tus=False)


_PART = {"Content-Type": "application/partial-upload", "Upload-Offset": 0, "Upload-Complete": "?0"}
INTEROP = refused(
    {
        **{
            f"offset {name}": _draft("PATCH", UPLOAD, {**_PART, "Upload-Offset": value})
            for name, value in NUMBERS.items()
            if name != "minus zero"  # a zero, says RFC 9651
        },
        "offset of a list": _draft("PATCH", UPLOAD, {**_PART, "Upload-Offset": "(0)"}),
        "no offset": _draft("PATCH", UPLOAD, {"Content-Type": "application/partial-upload", "Upload-Complete": "?0"}),
        "offset twice": request(
            "PATCH", UPLOAD, [("Upload-Draft-Interop-Version", 8), *_PART.items(), ("Upload-Offset", 0)], b"hello", tus=False
        ),
        "longer than the upload": _draft("PATCH", UPLOAD, _PART, b"x" * (LENGTH + 1)),
        "wrong digest": _draft("PATCH", UPLOAD, {**_PART, "Content-Digest": f"sha-256=:{'A' * 43}=:"}),
        "patch of the base": _draft("PATCH", "/files/", _PART),
        "concat": _draft("PATCH", VICTIM, {"Upload-Concat": f"final;{UPLOAD}"}),
    }
) | {
    name: accepted(stream, 200, 201, 204, 104, most=2)
    for name, stream in {
        "parentheses": _draft("PATCH", UPLOAD, {**_PART, "Content-Digest": "(" * 60_000}),
        "parameters": _draft("PATCH", UPLOAD, {**_PART, "Content-Digest": "a=1;" + ";".join(f"k{n}" for n in range(9000))}),
        "members": _draft("PATCH", UPLOAD, {**_PART, "Want-Repr-Digest": ", ".join(f"k{n}=1" for n in range(7000))}),
        "quotes": _draft("PATCH", UPLOAD, {**_PART, "Repr-Digest": 'sha-256="' + "\\" * 60_000}),
        "digits": _draft("POST", "/files/", {"Upload-Complete": "?0", "Upload-Length": "9" * 60_000}),
        "version of digits": request("HEAD", UPLOAD, {"Upload-Draft-Interop-Version": "9" * 60_000}, tus=False),
        "version of none": request("HEAD", UPLOAD, {"Upload-Draft-Interop-Version": "?1"}, tus=False),
        "version below zero": request("HEAD", UPLOAD, {"Upload-Draft-Interop-Version": "-8"}, tus=False),
        "completeness of words": _draft("POST", "/files/", {"Upload-Complete": "yes"}),
        "completeness twice": _draft("POST", "/files/", {"Upload-Complete": "?1, ?0"}),
        "disposition": _draft(
            "POST", "/files/", {"Upload-Complete": "?1", "Content-Disposition": 'a; filename="' + "%0d%0a" * 3000}
        ),
        "disposition with lines": _draft(
            "POST", "/files/", {"Upload-Complete": "?1", "Content-Disposition": "a; filename*=utf-8''a%0d%0aX-Injected:%201"}
        ),
    }.items()
}
UNFINISHED = {
    name: Shape(stream, ANY_4XX | {100}, waits=True)
    for name, stream in {
        "half a body": patch(UPLOAD, 0, b"hello", announce=50),
        "half a body with a checksum": patch(
            UPLOAD, 0, b"hello", {"Upload-Checksum": "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0="}, announce=50
        ),
        "no body": patch(UPLOAD, 0, announce=50),
        "body that waits to be asked for": patch(UPLOAD, 0, headers={"Expect": "100-continue"}, announce=50),
        "half a chunk": patch(UPLOAD, 0, b"5\r\nhe", {"Transfer-Encoding": "chunked"}),
        "half a chunk size": patch(UPLOAD, 0, b"5", {"Transfer-Encoding": "chunked"}),
        "no last chunk": patch(UPLOAD, 0, b"5\r\nhello\r\n", {"Transfer-Encoding": "chunked"}),
        "half a trailer": patch(UPLOAD, 0, b"5\r\nhello\r\n0\r\nX: ", {"Transfer-Encoding": "chunked"}),
    }.items()
}
