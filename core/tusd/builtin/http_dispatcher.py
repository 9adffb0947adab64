"""The requests of HTTP hooks: sent, signed, tried again, and their answers read within bounds."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import random
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import NoReturn

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from tusd import __version__, plugin
from tusd.plugin import HookError, HookEvent, HookResponse

from .http_hooks import LONGEST_WAIT, HttpHooks, bare, has_credentials, key_of

_MOST_SHOWN = 200
"""Characters of a failed answer that the log gets."""
_MOST_PROMISED = 3600.0
"""Seconds of a `Retry-After` that are believed."""
_KEEPALIVE = 4.0
"""Seconds for which a connection waits for the next event: less than the 5 after which common servers (uvicorn, Node) close it, so
that hardly ever a request meets a connection that is being closed."""
_LATER = frozenset({408, 425, 429})
"""The 4xx that say: not now (RFC 9110, 15.5.9; RFC 8470, 5.2; RFC 6585, 4)."""


class _Again(HookError):
    """A failure that may be over in a moment."""


class _Unusable(HookError):
    """The hook has taken the event (2xx), and said something that cannot be used."""


@asynccontextmanager
async def opened(options: HttpHooks.Options, logger: logging.Logger) -> AsyncIterator[HttpDispatcher]:
    """A dispatcher with its connections. Raises `OSError` for certificates that cannot be used."""
    url = URL(options.endpoint)
    tls = tls_of(options) if url.scheme == "https" else False
    if not options.verify:
        logger.warning("verify is false: whoever is on the way to %s can read events and answer them", bare(url))
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=tls, keepalive_timeout=_KEEPALIVE),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),  # ours ends an attempt
        trust_env=False,
        auto_decompress=False,
    ) as session:
        yield HttpDispatcher(options, session, logger)


class HttpDispatcher(plugin.Dispatcher):
    """Sends one request for each event, or several until one is answered."""

    def __init__(self, options: HttpHooks.Options, session: aiohttp.ClientSession, logger: logging.Logger) -> None:
        url = URL(options.endpoint)
        self.events = options.wanted
        self._options = options
        self._session = session
        self._logger = logger
        self._url = url.with_user(None)
        self._name = str(bare(url))
        self._keys = [key_of(secret) for secret in options.secret]
        self._fixed = CIMultiDict(
            {
                "User-Agent": f"tusd/{__version__}",
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "Content-Type": "application/json",
                **_authorization(url),
            }
        )
        self._fixed.update(options.headers)
        # What is told never takes the places of what clients wait for.
        self._asking = asyncio.Semaphore(options.concurrency)
        self._telling = asyncio.Semaphore(options.concurrency)

    async def dispatch(self, event: HookEvent) -> HookResponse | None:
        patience = self._options.attempts * self._options.timeout
        try:
            async with asyncio.timeout(patience if event.asked else None) as limit:
                return await self._answer(event, self._asking if event.asked else self._telling, limit)
        except TimeoutError:
            raise HookError(f"{self._name} gave no answer within {patience:g} s, the wait for its turn included") from None
        except _Unusable as error:
            if event.answers:
                raise
            self._logger.warning("a %s hook has taken the event, but: %s", event.name, error, extra={"upload": event.upload.id})
            return None

    async def _answer(self, event: HookEvent, places: asyncio.Semaphore, limit: asyncio.Timeout) -> HookResponse | None:
        """The first answer that is one, after as many attempts as that takes."""
        body, attempt = plugin.encode_event(event), 1
        while True:
            try:
                async with places:
                    return await self._post(event, body)
            except _Again as error:
                wait = self._wait(attempt, error.retry_after)
                end = limit.when()
                if attempt == self._options.attempts or (end and end <= asyncio.get_running_loop().time() + wait):
                    raise
                self._logger.info(
                    "the hook %s failed in attempt %d of %d, the next is in %.1f s: %s",
                    event.name,
                    attempt,
                    self._options.attempts,
                    wait,
                    error,
                    extra={"upload": event.upload.id},
                )
            await asyncio.sleep(wait)
            attempt += 1

    def _wait(self, attempt: int, retry_after: float | None) -> float:
        backoff = self._options.backoff * 2.0 ** (attempt - 1) * random.uniform(0.5, 1)
        return min(max(backoff, retry_after or 0), LONGEST_WAIT)

    async def _post(self, event: HookEvent, body: bytes) -> HookResponse | None:
        """One attempt. Raises `_Again`, or another `HookError` when an attempt soon would end like this one."""
        try:
            async with (
                asyncio.timeout(self._options.timeout),
                self._session.post(self._url, data=body, headers=self._headers(event, body), allow_redirects=False) as response,
            ):
                if 200 <= response.status < 300:
                    return await self._read(response)
                said = (await _read(response.content, 4 * _MOST_SHOWN)).decode("utf-8", "replace")
                raise self._refusal(response.status, response.headers, said)
        except TimeoutError:
            raise _Again(f"{self._name} did not answer within {self._options.timeout:g} s") from None
        except aiohttp.ClientSSLError as error:
            raise HookError(f"{self._name} cannot be asked securely: {_reason(error)}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _Again(f"{self._name} cannot be asked: {_reason(error)}") from None

    async def _read(self, response: aiohttp.ClientResponse) -> HookResponse | None:
        """What a 2xx answers. Raises `_Unusable`."""
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise _Unusable(f"{self._name} answered with a Content-Encoding, though none was accepted")
        text = await _read(response.content, self._options.size_limit + 1)
        if len(text) > self._options.size_limit:
            raise _Unusable(f"{self._name} answered more than {self._options.size_limit} bytes")
        try:
            return plugin.decode_answer(text) if text.strip() else None
        except HookError as error:
            raise _Unusable(f"{self._name}: {error}") from None

    def _refusal(self, status: int, headers: Mapping[str, str], said: str) -> HookError:
        shown = " ".join(said.split())[:_MOST_SHOWN]
        what = f"{self._name} answered {status}" + (f": {shown}" if shown else "")
        if status in _LATER or status >= 500:
            return _Again(what, retry_after=_retry_after(headers) if status in (429, 503) else None)
        if 300 <= status < 400:
            return HookError(
                f"{self._name} answered {status}; redirects are not followed: set endpoint to its target", permanent=True
            )
        return HookError(what, permanent=True)

    def _headers(self, event: HookEvent, body: bytes) -> CIMultiDict[str]:
        headers = CIMultiDict(self._fixed)
        sent = {name.lower(): values for name, values in plugin.headers_of(event.head).items()}
        for name in self._options.forward_headers:
            if name.lower() in sent:
                headers.popall(name, None)
            for value in sent.get(name.lower(), ()):
                headers.add(name, value)
        now = str(int(time.time()))
        headers.update({"Hook-Name": event.name, "webhook-id": event.delivery_id, "webhook-timestamp": now})
        if self._keys:
            headers["webhook-signature"] = signature(self._keys, event.delivery_id, now, body)
        return headers


def signature(keys: Sequence[bytes], delivery_id: str, timestamp: str, body: bytes) -> str:
    """What `webhook-signature` holds: one signature for each key, spaces between them."""
    signed = f"{delivery_id}.{timestamp}.".encode() + body
    return " ".join("v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in keys)


def tls_of(options: HttpHooks.Options) -> ssl.SSLContext:
    """How to speak to an https endpoint. Raises `OSError`, saying which file is wrong."""
    try:
        context = ssl.create_default_context(cafile=options.ca)
    except OSError as error:
        raise _unusable("ca", options.ca, error) from None
    if not options.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if options.certificate:
        try:
            context.load_cert_chain(options.certificate, options.key, password=_refuse_to_ask)
        except OSError as error:
            raise _unusable("certificate and key", options.certificate, error) from None
    return context


def _unusable(option: str, path: Path | None, error: OSError) -> OSError:
    why = getattr(error, "reason", None) or error.strerror or str(error)
    return OSError(f"{option}: {path} cannot be used: {why.lower().replace('_', ' ')}; name PEM files that the server may read")


def _refuse_to_ask() -> NoReturn:
    raise OSError("it is encrypted: decrypt it (openssl pkey), and protect it by its permissions")


def _authorization(url: URL) -> dict[str, str]:
    """Basic authentication (RFC 7617) with the URL's credentials, if it has any."""
    if not has_credentials(url):
        return {}
    return {"Authorization": "Basic " + base64.b64encode(f"{url.user or ''}:{url.password or ''}".encode()).decode()}


async def _read(content: aiohttp.StreamReader, limit: int) -> bytes:
    """The first `limit` bytes of a body; the connection of one that has more is closed."""
    found = bytearray()
    async for piece in content.iter_any():
        found += piece
        if len(found) >= limit:
            break
    return bytes(found[:limit])


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, of a number of them or of a date (RFC 9110, 10.2.3); None for anything else."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), _MOST_PROMISED)
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), _MOST_PROMISED)


def _reason(error: Exception) -> str:
    """One line for the log. aiohttp's errors hold the whole request, credentials too, so they are nobody's `__cause__`."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            text = str(error.certificate_error)
        case aiohttp.ClientConnectorError():
            text = error.os_error.strerror or str(error.os_error)
        case aiohttp.ClientResponseError():
            text = error.message
        case _:
            text = str(error)
    return " ".join((text or type(error).__name__).split())[:_MOST_SHOWN]
