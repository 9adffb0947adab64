"""What the SDK's errors say, in words for a log."""

from __future__ import annotations

import re
from collections.abc import Iterator

from botocore.exceptions import ClientError

_OBJECT = re.compile(r"<?[\w.]+(?: object at 0x[0-9a-f]+>|\([^)]*\)): ")
"""How urllib3 names the connection in its errors."""
_LONGEST = 64
_SPACE = re.compile(r"\s+")


def code_of(error: BaseException) -> str:
    """A short name: what the server calls it, or the SDK's class."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", ""))[:_LONGEST] or str(status_of(error))
    return type(error).__name__


def status_of(error: ClientError) -> int:
    """The status of the answer; 0 when the SDK does not say."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def reason_of(error: BaseException) -> str:
    """One line, without the URL: that holds the key."""
    if isinstance(error, ClientError):
        found = error.response.get("Error", {})
        message = found.get("Message") or f"status {status_of(error)}"
        return _SPACE.sub(" ", f"{code_of(error)}: {message}")
    inner = [_OBJECT.sub("", str(one)) for one in causes(error)][1:]
    return _SPACE.sub(" ", f"{code_of(error)}: {inner[-1] if inner else error}")


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and what lies behind it."""
    seen: set[int] = set()
    following: object = error
    while isinstance(following, BaseException) and id(following) not in seen:
        seen.add(id(following))
        yield following
        kwargs = getattr(following, "kwargs", {})
        following = kwargs.get("error") or getattr(following, "reason", None) or following.__cause__ or following.__context__
