"""Uploads for who has a JSON Web Token (RFC 7519) in `Authorization: Bearer` (RFC 6750): an upload is for its creator alone."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal, Self

import jwt
from pydantic import Field, model_validator

from tusd import plugin
from tusd.plugin import Changes, HookEvent, HookResponse, PreAccess, PreCreate


class JwtHooks:
    """Let in who has a JSON Web Token."""

    api_version = 1

    class Options(plugin.HookOptions):
        """The block in `hooks:`."""

        keys: Annotated[list[plugin.Secret], Field(min_length=1)]
        """Public keys in PEM, or secrets for HS256; a token signed with any of them is good."""
        algorithm: Literal["RS256", "ES256", "EdDSA", "HS256"] = "RS256"
        """The only one that tokens may be signed with, whatever they say themselves."""
        audience: str
        """What has to stand in their `aud`: tokens for other services do not count here."""
        issuer: str
        """What has to stand in their `iss`."""
        leeway: plugin.Duration = 0
        """How far the clocks of the issuer and this server may differ."""

        @model_validator(mode="after")
        def _checked(self) -> Self:
            self.prepared()
            if self.events is not None:
                raise ValueError("events cannot be chosen: whatever is not asked for is open to everybody")
            return self

        def prepared(self) -> list[Any]:
            """The keys as the algorithm needs them. Raises `ValueError`."""
            if self.algorithm == "HS256" and any(len(key.encode()) < 32 for key in self.keys):
                raise ValueError("a key for HS256 has 32 bytes at least (RFC 7518 section 3.2)")
            try:
                return [jwt.get_algorithm_by_name(self.algorithm).prepare_key(key) for key in self.keys]
            except (jwt.InvalidKeyError, ValueError, TypeError):
                raise ValueError(f"a key is not one for {self.algorithm}") from None

    def __init__(self, options: Options) -> None:
        self.options = options

    @plugin.hookimpl
    @asynccontextmanager
    async def open_hooks(self) -> AsyncIterator[plugin.Dispatcher]:
        yield JwtDispatcher(self.options)


class JwtDispatcher(plugin.Dispatcher):
    """Answers by the token of each request."""

    events = frozenset({PreCreate, PreAccess})

    def __init__(self, options: JwtHooks.Options) -> None:
        self._options = options
        self._keys = options.prepared()

    async def dispatch(self, event: HookEvent) -> HookResponse | None:
        tokens = event.head.headers.getall("Authorization", [])
        if not tokens:
            return refusal(401, "a token is needed", "Bearer")
        try:
            user = self._subject(tokens)
        except jwt.ExpiredSignatureError:
            return refusal(status_of_expired(event), "the token has expired", 'Bearer error="invalid_token"')
        except jwt.PyJWTError:
            return refusal(401, "the token is not valid", 'Bearer error="invalid_token"')
        match event:
            case PreCreate():
                return HookResponse(change=Changes(notes={"owner": user}))
            case PreAccess(upload=info) if info.notes.get("owner") == user:
                return None
            case _:
                return refusal(403, "this is somebody else's upload")

    def _subject(self, tokens: list[str]) -> str:
        """Whose request this is. Raises `jwt.PyJWTError`."""
        scheme, _, token = tokens[0].partition(" ")
        if len(tokens) > 1 or scheme.lower() != "bearer" or not token.isascii():
            raise jwt.InvalidTokenError
        for key in self._keys:
            try:
                claims = jwt.decode(
                    token.strip(),
                    key,
                    algorithms=[self._options.algorithm],
                    audience=self._options.audience,
                    issuer=self._options.issuer,
                    leeway=self._options.leeway,
                    options={"require": ["exp", "aud", "iss", "sub"]},
                )
            except jwt.InvalidSignatureError:
                continue  # perhaps with the next key
            return str(claims["sub"])
        raise jwt.InvalidSignatureError


def status_of_expired(event: HookEvent) -> int:
    """401. In the middle of an upload clients would give up, or start over, so they are told to come again, with a fresh token: by 423 in
    tus 1.0, by 503 in the IETF's draft."""
    if isinstance(event, PreAccess) and event.access in ("inspect", "append"):
        return 423 if "Tus-Resumable" in event.head.headers else 503
    return 401


def refusal(status: int, why: str, challenge: str = "") -> HookResponse:
    headers = {"WWW-Authenticate": challenge} if challenge else {}
    if status in (423, 503):
        headers["Retry-After"] = "1"
    return HookResponse(reject=True, status=status, headers=headers, body=f"{why}\n")
