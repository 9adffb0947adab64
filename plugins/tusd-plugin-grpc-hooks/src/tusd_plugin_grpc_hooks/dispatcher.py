"""The channel to the service, and the calls. To be imported after the fork."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from urllib.parse import quote

import grpc
import grpc.aio

from tusd import plugin
from tusd.plugin import Head, HookError, HookEvent, HookResponse

from . import LONGEST_WAIT, GrpcHooks, Tls
from .messages import decoded, encoded

METHOD = "/proto.HookHandler/InvokeHook"

_AGAIN = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED})
"""Another attempt may soon succeed."""
_BROKEN = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
    }
)
"""The service has failed, as one that raises does; it has not said that it will never take this event."""
_TOO_LARGE = "message larger than max"
"""How gRPC itself says that an answer is, as received or once decompressed, with the status RESOURCE_EXHAUSTED: asking again would not help."""
_MOST_SHOWN = 500
"""Characters of a failed call's details that the log gets."""
_RECONNECT = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1000))
"""How soon gRPC connects again. By itself it would wait for up to two minutes, and fail all calls meanwhile."""
_NOTICE_SILENCE = (("grpc.keepalive_time_ms", 300_000), ("grpc.keepalive_timeout_ms", 10_000))
"""A connection whose other end has vanished, as behind a firewall that forgets, ends after 10 s (TCP_USER_TIMEOUT), not after 15 minutes.
Pings come no more often than services allow by default."""
_PRINTABLE = bytes(range(0x20, 0x7F))


def channel(options: GrpcHooks.Options) -> grpc.aio.Channel:
    """A channel to the service; it connects when it is first used. Raises `OSError`, saying which file cannot be used and why."""
    arguments: list[tuple[str, object]] = [*_RECONNECT, *_NOTICE_SILENCE, ("grpc.max_receive_message_length", options.size_limit)]
    if options.tls is None:
        return grpc.aio.insecure_channel(options.endpoint, arguments)
    if options.tls.server_name is not None:
        arguments.append(("grpc.ssl_target_name_override", options.tls.server_name))
    return grpc.aio.secure_channel(options.endpoint, _credentials(options.tls), arguments)


def _credentials(tls: Tls) -> grpc.ChannelCredentials:
    # gRPC takes any bytes, and then fails every call without saying why: the files are tried with Python's ssl first.
    trial = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca = certificate = key = None
    if tls.ca is not None:
        ca = tls.ca.read_bytes()
        try:
            trial.load_verify_locations(tls.ca)
        except ssl.SSLError:
            raise OSError(f"tls.ca: {tls.ca} holds no certificate in PEM") from None
    if tls.certificate is not None and tls.key is not None:
        certificate, key = tls.certificate.read_bytes(), tls.key.read_bytes()
        try:
            trial.load_cert_chain(tls.certificate, tls.key, password="")  # nobody is asked for one at the terminal
        except ssl.SSLError as error:
            raise OSError(
                f"tls.certificate: {tls.certificate} and tls.key: {tls.key} are no pair in PEM, or the key is encrypted ({error.reason})"
            ) from None
    return grpc.ssl_channel_credentials(ca, key, certificate)


def pause(backoff: float, attempt: int) -> float:
    """Seconds to wait after an attempt: twice as long after each, less up to a half, so that what failed together does not return together."""
    whole: float = min(backoff * 2 ** (attempt - 1), LONGEST_WAIT)
    return whole * random.uniform(0.5, 1)


class GrpcDispatcher(plugin.Dispatcher):
    """Calls the service with every event, again while that may help."""

    def __init__(self, options: GrpcHooks.Options, channel: grpc.aio.Channel, logger: logging.Logger) -> None:
        self.events = options.wanted
        self._options = options
        self._logger = logger
        self._invoke: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)

    async def dispatch(self, event: HookEvent) -> HookResponse | None:
        request, metadata = encoded(event), self._metadata(event.head)
        attempt = 1
        while True:
            try:
                answer = await self._invoke(request, timeout=self._options.timeout, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                details = " ".join((error.details() or "").split())
                said = f"{self._options.endpoint} answered {error.code().name}: {details[:_MOST_SHOWN]}"
                if _TOO_LARGE in details:
                    self._useless(event, said)
                    return None
                if error.code() not in _AGAIN:
                    raise HookError(said, permanent=error.code() not in _BROKEN) from None
                if attempt == self._options.attempts:
                    raise HookError(f"{said} (attempt {attempt} of {attempt})") from None
            else:
                try:
                    return decoded(answer)
                except HookError as error:
                    self._useless(event, f"{self._options.endpoint}: {error}")
                    return None
            self._logger.info("%s (attempt %d of %d)", said, attempt, self._options.attempts)
            await asyncio.sleep(pause(self._options.backoff, attempt))
            attempt += 1

    def _useless(self, event: HookEvent, why: str) -> None:
        """The service has taken the event, and its answer cannot be used. Raises `HookError` where an answer counts."""
        if event.answers:
            raise HookError(why) from None
        self._logger.warning("the event %s is delivered; its answer is left: %s", event.name, why)

    def _metadata(self, head: Head) -> list[tuple[str, str | bytes]]:
        """The forwarded headers with all their values. A key that ends in -bin has bytes, others have printable ASCII (gRPC over HTTP/2,
        Custom-Metadata): what is not is percent-encoded."""
        found: list[tuple[str, str | bytes]] = []
        for name in self._options.forward_headers:
            for text in head.headers.getall(name, []):
                value = text.encode("utf-8", "surrogateescape")
                found.append((name, value if name.endswith("-bin") else quote(value, safe=_PRINTABLE)))
        return found
