"""AWS Signature Version 4 in headers, as the SDK makes it for S3: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

UNSIGNED = "UNSIGNED-PAYLOAD"
"""Instead of the payload's SHA-256: it is not signed."""
_ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class Keys:
    """Credentials at one moment."""

    access: str
    secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    """Of temporary credentials."""


def path_of(key: str) -> str:
    """An object's key as it stands in a URL."""
    return quote(key, safe="/-_.~")


def query_of(parameters: Iterable[tuple[str, str]]) -> str:
    """A query as it is sent and signed: sorted, so that both are the same."""
    pairs = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in parameters)
    return "&".join(f"{name}={value}" for name, value in pairs)


class Signer:
    """Signs requests to one service in one region."""

    def __init__(self, region: str, service: str = "s3") -> None:
        self._scope = f"{region}/{service}/aws4_request"
        self._made: tuple[str, str, bytes] = ("", "", b"")
        """The last (day, secret, key): a key is good for a day, and making it is half of the work."""

    def sign(
        self,
        keys: Keys,
        moment: str,
        method: str,
        path: str,
        headers: Mapping[str, str],
        query: str = "",
        payload: str = UNSIGNED,
    ) -> dict[str, str]:
        """The headers to send. `moment`: now, as 20261128T120000Z; `path` and `query`: as they are sent; `headers`: with lower-case names, `host`
        among them, all of which are signed; `payload`: its SHA-256 in hexadecimal digits, or `UNSIGNED`."""
        sent = {**headers, "x-amz-content-sha256": payload, "x-amz-date": moment}
        if keys.token:
            sent["x-amz-security-token"] = keys.token
        names = sorted(sent)
        listed = ";".join(names)
        lines = "".join(f"{name}:{' '.join(sent[name].split())}\n" for name in names)
        request = f"{method}\n{path}\n{query}\n{lines}\n{listed}\n{payload}"
        scope = f"{moment[:8]}/{self._scope}"
        text = f"{_ALGORITHM}\n{moment}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        signature = hmac.digest(self._key(moment[:8], keys.secret), text.encode(), "sha256").hex()
        sent["authorization"] = f"{_ALGORITHM} Credential={keys.access}/{scope}, SignedHeaders={listed}, Signature={signature}"
        return sent

    def _key(self, day: str, secret: str) -> bytes:
        made_for, made_of, key = self._made
        if (made_for, made_of) != (day, secret):
            key = b"AWS4" + secret.encode()
            for word in (day, *self._scope.split("/")):
                key = hmac.digest(key, word.encode(), "sha256")
            self._made = (day, secret, key)
        return key
