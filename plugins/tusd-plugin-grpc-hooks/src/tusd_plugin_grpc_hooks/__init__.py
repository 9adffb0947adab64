"""Hooks that are a gRPC service, with the messages of Go tusd (`hook.proto`)."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from tusd import plugin

LONGEST_WAIT = 60.0
"""Seconds between two attempts at the most, whatever `backoff` comes to."""
_ENDPOINT = re.compile(r"unix:[^\s?#]+|([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})")
_METADATA_KEY = re.compile(r"[a-z0-9_.-]+")
_RESERVED = frozenset(
    "connection content-length content-type host keep-alive proxy-connection te trailer transfer-encoding upgrade user-agent".split()
)
"""Headers that a gRPC call has for itself, or that HTTP/2 forbids (RFC 9113, section 8.2.2)."""


def _endpoint(text: str) -> str:
    match = _ENDPOINT.fullmatch(text)
    if not match or (match["port"] and not 0 < int(match["port"]) < 65536):
        raise ValueError("not the address of a gRPC service; write host:port, [v6 address]:port or unix:/path.sock")
    return text


def _metadata_key(text: str) -> str:
    key = text.lower()
    if not _METADATA_KEY.fullmatch(key) or key in _RESERVED or key.startswith("grpc-"):
        raise ValueError(f"{text!r} cannot be sent as metadata of a gRPC call; the event itself holds every header")
    return key


class Tls(plugin.Options):
    """How the service is verified, and what we show it. The files are read when the server starts."""

    ca: Path | None = None
    """A PEM file with the certificates that the service's must be signed by. Not set: those that gRPC trusts, as a rule the system's."""
    certificate: Path | None = None
    """A PEM file with our certificate, for a service that asks for one (mTLS). Needs `key`."""
    key: Path | None = None
    """A PEM file with its private key, not encrypted."""
    server_name: str | None = None
    """The name that the service's certificate must have. Not set: the host of `endpoint`."""

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together; set both, or none")
        return self


class GrpcHooks:
    """Call a gRPC service with each event, as Go tusd does."""

    api_version = 1

    class Options(plugin.HookOptions):
        """The block in `hooks:`."""

        endpoint: Annotated[str, AfterValidator(_endpoint)]
        """Where the service is: `host:port`, `[v6 address]:port` or `unix:/path.sock`."""
        tls: Tls | None = None
        """Speak TLS; `{}` is enough. Not set: in the clear."""
        timeout: Annotated[plugin.Duration, Field(gt=0)] = 15
        """How long one attempt may take."""
        attempts: Annotated[int, Field(ge=1, le=20)] = 3
        """How often the service is called at most while it cannot be reached, is too slow or asks to be called again."""
        backoff: Annotated[plugin.Duration, Field(le=LONGEST_WAIT)] = 1
        """How long to wait before the second attempt, half of it by chance; twice as long before each further one, 60 s at the most."""
        size_limit: plugin.Size = 1 << 20
        """The most bytes that an answer may have."""

        @field_validator("forward_headers")
        @classmethod
        def _metadata_keys(cls, names: list[str]) -> list[str]:
            return [_metadata_key(name) for name in names]

    def __init__(self, options: Options) -> None:
        self.options = options

    @plugin.hookimpl
    @asynccontextmanager
    async def open_hooks(self, worker: plugin.Worker) -> AsyncIterator[plugin.Dispatcher]:
        """Open a channel; the service need not be there yet. Raises `OSError` for a file of `tls` that cannot be used."""
        os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # below that it tells stderr, past the log, what our errors say anyway
        from . import dispatcher  # not before the fork: gRPC starts threads, and those stay behind

        async with dispatcher.channel(self.options) as channel:
            yield dispatcher.GrpcDispatcher(self.options, channel, worker.logger)
