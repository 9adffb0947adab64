"""Requests for tests of limiters."""

from __future__ import annotations

from dataclasses import replace

from tusd.model import Metadata, UploadId, UploadInfo
from tusd.plugin import NO_REQUEST, Head
from tusd.protocol.messages import Append, BodyPlan, Inspect

LOOK = Inspect(UploadId("upload"))
SEND = Append(upload_id=UploadId("upload"), offset=0, body=BodyPlan(5))


def by(address: str | None = "192.0.2.1", **headers: str) -> Head:
    """The head of a client's request."""
    return replace(NO_REQUEST, client=address, headers=_Headers(headers))


def upload(**metadata: str) -> UploadInfo:
    """An upload with this metadata."""
    return UploadInfo(id=UploadId("upload"), length=5, metadata=Metadata({key: text.encode() for key, text in metadata.items()}))


class _Headers(dict[str, str]):
    """Headers of which each occurs once; case matters."""

    def getall(self, key: str, default: list[str], /) -> list[str]:
        return [self[key]] if key in self else default
