"""Hooks over HTTP, as tusd has always sent them: every event is POSTed as JSON to one URL, whose answer is JSON.

    POST /hooks
    Content-Type: application/json
    Hook-Name: pre-create
    webhook-id: 4e3a...                            names the event; the same in every attempt
    webhook-timestamp: 1767225600                  when this attempt was made, in seconds since 1970
    webhook-signature: v1,K5oZfzN9... v1,hnO3...   one for each secret

The signature is that of Standard Webhooks (spec/standard-webhooks.md, "Signature scheme"): HMAC-SHA256 of id, timestamp and body with
dots between them. The requests themselves are made by `http_dispatcher`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, field_validator, model_validator
from yarl import URL

from tusd import plugin

LONGEST_WAIT = 60.0
"""Seconds between two attempts at the most, whatever `backoff` and `Retry-After` come to."""
_MASK = "********"
_SHORTEST_KEY = 24
"""Bytes that a secret has at the least (Standard Webhooks, "Signature scheme")."""
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_OURS = re.compile(
    # Those of one connection (RFC 9110, 7.6.1), those that say what the body is or may be, and those that we set.
    "host|connection|keep-alive|te|trailer|transfer-encoding|upgrade|expect|proxy-.*|content-.*|accept|accept-encoding|hook-name|webhook-.*",
    re.IGNORECASE,
).fullmatch


def _endpoint(text: str) -> str:
    """Raises `ValueError`, never with the text: there may be a password in it."""
    try:
        url = URL(text)
        usable = url.scheme in ("http", "https") and bool(url.host) and not url.fragment
    except ValueError:
        usable = False
    if not usable or not text.isprintable() or " " in text:
        raise ValueError("not the URL of a hook; write https://app.example.com/hooks")
    return text


def bare(url: URL) -> URL:
    """An endpoint without what may be secret in it: credentials and query."""
    return url.with_user(None).with_query(None)


def has_credentials(url: URL) -> bool:
    """Whether a user or a password stands in it."""
    return bool(url.user or url.password)


def _masked(text: str) -> str:
    url = URL(text)
    shown = bare(url).with_user(_MASK) if has_credentials(url) else bare(url)
    return str(shown) + (f"?{_MASK}" if url.query_string else "")


def key_of(secret: str) -> bytes:
    """The key that a secret stands for: what its base64 means after `whsec_`, otherwise its text. Raises `ValueError`."""
    key = secret.encode()
    if secret.startswith("whsec_"):
        text = secret.removeprefix("whsec_")
        try:
            key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except ValueError:
            raise ValueError("what stands after whsec_ is not base64") from None
    if len(key) < _SHORTEST_KEY:
        raise ValueError(f"shorter than {_SHORTEST_KEY} bytes; make one: echo whsec_$(openssl rand -base64 32)")
    return key


def _secret(text: str) -> str:
    key_of(text)
    return text


def _each(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _header(name: str) -> str:
    """A header that a hook may be sent besides ours. Raises `ValueError`."""
    if not _TOKEN(name):
        raise ValueError("not the name of a header; write Authorization, X-Tenant")
    if _OURS(name):
        raise ValueError(f"{name} is set by the server itself; leave it out")
    return name


def _value(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise ValueError("not the value of a header: control characters, or spaces at its ends")
    return text


_Secret = Annotated[plugin.Secret, AfterValidator(_secret)]
_Headers = dict[Annotated[str, AfterValidator(_header)], Annotated[plugin.Secret, AfterValidator(_value)]]


class HttpHooks:
    """POST events as JSON to a URL, signed, with retries."""

    api_version = 1

    class Options(plugin.HookOptions):
        """The block in `hooks:`."""

        endpoint: Annotated[str, AfterValidator(_endpoint), PlainSerializer(_masked, when_used="json")]
        """The URL that gets every event, http or https. A user and password in it are sent as Basic authentication."""
        timeout: Annotated[plugin.Duration, Field(gt=0)] = 15
        """How long one attempt may take, from connecting to the end of the answer."""
        attempts: Annotated[int, Field(ge=1, le=20)] = 3
        """How often an event is sent at the most. Whoever is asked (pre-) waits `attempts` × `timeout` at the most in all."""
        backoff: Annotated[plugin.Duration, Field(le=LONGEST_WAIT)] = 1
        """How long to wait before the second attempt, half of it by chance; twice as long before each further one, 60 s at the most."""
        concurrency: Annotated[int, Field(ge=1)] = 64
        """How many requests that ask (pre-), and how many that tell (post-), run at once in one worker; further events wait."""
        size_limit: plugin.Size = 1 << 20
        """The most that an answer may have."""
        secret: Annotated[
            tuple[_Secret, ...], BeforeValidator(_each, json_schema_input_type=plugin.Secret | list[plugin.Secret])
        ] = ()
        """Sign requests with it: `whsec_` and base64, or text. Several, while a new one replaces an old one: each signs."""
        headers: _Headers = {}  # noqa: RUF012 (pydantic copies it)
        """Headers to send besides, such as an API key."""
        ca: Path | None = None
        """A PEM file with the authorities that sign the endpoint's certificate, instead of the system's."""
        certificate: Path | None = None
        """A PEM file with the certificate to show to the endpoint, followed by those that it was signed with."""
        key: Path | None = None
        """A PEM file with its private key, not encrypted. Not set: it is in the file of `certificate`."""
        verify: bool = True
        """`false`: accept any certificate, so that anybody on the way can read and answer."""

        @field_validator("forward_headers")
        @classmethod
        def _check_forwarded(cls, names: list[str]) -> list[str]:
            return [_header(name) for name in names]

        @model_validator(mode="after")
        def _check_together(self) -> Self:
            names = [name.lower() for name in (*self.forward_headers, *self.headers)]
            names += ["authorization"] if has_credentials(URL(self.endpoint)) else []
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise ValueError(
                    f"the header {twice} has two values, from forward_headers, headers or the endpoint's credentials; keep one"
                )
            if self.key and not self.certificate:
                raise ValueError("key is without its certificate; name both")
            if self.ca and not self.verify:
                raise ValueError("ca says what to verify with, and verify: false not to; keep one")
            if URL(self.endpoint).scheme == "http" and (self.ca or self.certificate or not self.verify):
                raise ValueError(
                    "ca, certificate, key and verify are for https; write the endpoint as https://, or leave them out"
                )
            return self

    def __init__(self, options: Options) -> None:
        self.options = options

    @plugin.hookimpl
    @asynccontextmanager
    async def open_hooks(self, worker: plugin.Worker) -> AsyncIterator[plugin.Dispatcher]:
        """Read the certificates; nobody is connected to before the first event. Raises `OSError`."""
        from .http_dispatcher import opened  # brings in aiohttp, which `tusd plugins` can do without

        async with opened(self.options, worker.logger) as dispatcher:
            yield dispatcher
