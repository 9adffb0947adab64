"""Every way in which a request or a start can fail.

    TusError                      code, status (of tus 1.0), message; facts on the instance
    |-- RequestError              what the client sent is wrong; sending it again will not help
    |   |-- UnsupportedVersion  MethodNotAllowed  InvalidUploadLength  InvalidUploadLengthDefer
    |   |-- AmbiguousUploadLength  InvalidOffset  InvalidContentType  InvalidMetadata  InvalidConcat
    |   |-- ConcatenationUnsupported  InvalidChecksum  UnsupportedChecksum  InvalidId  OriginNotAllowed
    |   |-- NotSupported  MaxSizeExceeded  UploadSizeExceeded  InvalidRequest
    |   `-- RangeNotSatisfiable  PreconditionFailed  UnsupportedHttpVersion
    |-- StateError                the request does not fit the upload as it stands
    |   |-- UploadNotFound  UploadExists  MismatchedOffset  ModifyFinal  UploadNotFinished
    |   `-- IncompleteUpload  ChecksumMismatch  UploadCompleted  DigestMismatch
    |-- BodyError                 the body ended badly; what arrived is kept
    |   `-- UnexpectedEof  ReadTimeout
    |-- Refused                   an operator's hook said no
    |   `-- UploadRejected  TerminationRejected  AccessRejected  UploadStopped
    |-- Full                      no room
    |   `-- StorageFull  QuotaExceeded
    |-- TryLater                  temporary: the same request may succeed soon
    |   |-- UploadLocked  UploadInterrupted  FinishPending  ServerShutdown  TooManyRequests
    |   `-- TooManyConnections  StorageUnavailable  LockUnavailable  LeaseLost
    `-- InternalError             a bug or an outage; its text stays in the log
        `-- HookError
    StartError                    only before the server runs; the command line prints it and exits with 2
    |-- ConfigError               the configuration file: with file, line, column and option
    `-- PluginError               a plugin cannot be found, imported or used

Errors carry facts, never headers: a dialect's `refuse` makes status, headers and body of them.
"""

from __future__ import annotations

from typing import ClassVar

from .model import Answer, Eviction, UploadInfo


class TusError(Exception):
    """A failure that has an answer. `str(error)` is safe to show to a client, except for an `InternalError`."""

    code: ClassVar[str] = "ERR_INTERNAL_SERVER_ERROR"
    status: ClassVar[int] = 500
    message: ClassVar[str] = "the server failed; its log has the details under this request's id"
    temporary: ClassVar[bool] = False
    """The same request may succeed later; clients should try again and not start over."""
    gone: bool = False
    """The upload was removed because of it."""

    def __init__(
        self,
        message: str | None = None,
        *,
        info: UploadInfo | None = None,
        retry_after: float | None = None,
        hook: Answer | None = None,
    ) -> None:
        super().__init__(message or self.message)
        self.info = info
        """The upload as it now stands, if there is one."""
        self.retry_after = retry_after
        """Seconds after which trying again is worth it."""
        self.hook = hook
        """The `HookResponse` that refused, if one did."""


class RequestError(TusError):
    """What the client sent is wrong; sending it again will not help."""

    code = "ERR_INVALID_REQUEST"
    status = 400
    message = "the request is not valid"


class InvalidRequest(RequestError):
    """The request cannot be understood."""


class UnsupportedVersion(RequestError):
    """`Tus-Resumable` is missing or names another version (tus 1.0.0, Core Protocol, Tus-Resumable)."""

    code = "ERR_UNSUPPORTED_VERSION"
    status = 412
    message = "missing, invalid or unsupported Tus-Resumable header"


class MethodNotAllowed(RequestError):
    """The resource has no such method."""

    code = "ERR_METHOD_NOT_ALLOWED"
    status = 405
    message = "method not allowed"

    def __init__(self, allow: str) -> None:
        super().__init__()
        self.allow = allow
        """The methods that are, for the `Allow` header."""


class InvalidUploadLength(RequestError):
    """`Upload-Length` is missing, not a decimal number, or contradicts what is known."""

    code = "ERR_INVALID_UPLOAD_LENGTH"
    message = "missing or invalid Upload-Length header"


class InvalidUploadLengthDefer(RequestError):
    """`Upload-Defer-Length` has a value other than 1."""

    code = "ERR_INVALID_UPLOAD_LENGTH_DEFER"
    message = "invalid Upload-Defer-Length header; its only value is 1"


class AmbiguousUploadLength(RequestError):
    """Both a length and the wish to defer it."""

    code = "ERR_AMBIGUOUS_UPLOAD_LENGTH"
    message = "provided both Upload-Length and Upload-Defer-Length"


class InvalidOffset(RequestError):
    """`Upload-Offset` is missing or not a decimal number."""

    code = "ERR_INVALID_OFFSET"
    message = "missing or invalid Upload-Offset header"


class InvalidContentType(RequestError):
    """A body that is not `application/offset+octet-stream`."""

    code = "ERR_INVALID_CONTENT_TYPE"
    status = 415
    message = "missing or invalid Content-Type header; it must be application/offset+octet-stream"


class InvalidMetadata(RequestError):
    """`Upload-Metadata` has a duplicate key, a bad value, or is too long."""

    code = "ERR_INVALID_METADATA"
    message = "invalid Upload-Metadata header"


class InvalidConcat(RequestError):
    """`Upload-Concat` cannot be understood, or names something that cannot be a part."""

    code = "ERR_INVALID_CONCAT"
    message = "invalid Upload-Concat header"


class ConcatenationUnsupported(RequestError):
    """Concatenation is switched off, or the store cannot do it."""

    code = "ERR_CONCATENATION_UNSUPPORTED"
    message = "Upload-Concat header is not supported by server"


class InvalidChecksum(RequestError):
    """`Upload-Checksum` cannot be understood."""

    code = "ERR_INVALID_CHECKSUM"
    message = "invalid Upload-Checksum header; it is an algorithm, a space and a digest in base64"


class UnsupportedChecksum(RequestError):
    """`Upload-Checksum` names an algorithm that is not among `Tus-Checksum-Algorithm` (400, tus 1.0.0, Checksum)."""

    code = "ERR_UNSUPPORTED_CHECKSUM"
    message = "this checksum algorithm is not supported by the server"


class InvalidId(RequestError):
    """A hook chose an upload id that cannot be one."""

    code = "ERR_INVALID_ID"
    message = "invalid upload id"


class OriginNotAllowed(RequestError):
    """The request's `Origin` is not among those that may upload."""

    code = "ERR_ORIGIN_NOT_ALLOWED"
    status = 403
    message = "request origin is not allowed"


class NotSupported(RequestError):
    """An extension that is switched off or that the store cannot do, or a transfer coding other than `chunked`."""

    code = "ERR_NOT_IMPLEMENTED"
    status = 501
    message = "feature not implemented"


class MaxSizeExceeded(RequestError):
    """The length declared is more than the server takes."""

    code = "ERR_MAX_SIZE_EXCEEDED"
    status = 413
    message = "maximum size exceeded"


class UploadSizeExceeded(RequestError):
    """A body that goes past the upload's length."""

    code = "ERR_UPLOAD_SIZE_EXCEEDED"
    status = 413
    message = "upload's size exceeded"


class RangeNotSatisfiable(RequestError):
    """A `Range` that begins after the end (RFC 9110 section 15.5.17)."""

    code = "ERR_RANGE_NOT_SATISFIABLE"
    status = 416
    message = "the requested range lies outside the upload"


class PreconditionFailed(RequestError):
    """`If-Match` or `If-Unmodified-Since` does not hold (RFC 9110 section 13.1)."""

    code = "ERR_PRECONDITION_FAILED"
    status = 412
    message = "the upload is not in the state that the request asks for"


class UnsupportedHttpVersion(RequestError):
    """Neither HTTP/1.1 nor HTTP/1.0 (RFC 9110 section 15.6.6)."""

    code = "ERR_UNSUPPORTED_HTTP_VERSION"
    status = 505
    message = "this server speaks HTTP/1.1 and HTTP/1.0"


class StateError(TusError):
    """The request does not fit the upload as it stands."""

    status = 409


class UploadNotFound(StateError):
    """Never existed, terminated, or expired."""

    code = "ERR_UPLOAD_NOT_FOUND"
    status = 404
    message = "upload not found"


class UploadExists(StateError):
    """The id asked for is taken; creation never overwrites."""

    code = "ERR_UPLOAD_EXISTS"
    message = "an upload with this id exists already"


class MismatchedOffset(StateError):
    """`Upload-Offset` is not where the upload stands; the answer says where that is."""

    code = "ERR_MISMATCHED_OFFSET"
    message = "mismatched offset"

    def __init__(self, message: str | None = None, *, info: UploadInfo | None = None, provided: int | None = None) -> None:
        super().__init__(message, info=info)
        self.provided = provided
        """The offset that the request named."""


class ModifyFinal(StateError):
    """A final upload takes no bytes (403, tus 1.0.0, Concatenation)."""

    code = "ERR_MODIFY_FINAL"
    status = 403
    message = "modifying a final upload is not allowed"


class UploadNotFinished(StateError):
    """A part of a final upload is not complete, and the server does not wait for parts."""

    code = "ERR_UPLOAD_NOT_FINISHED"
    status = 400
    message = "one of the partial uploads is not finished"


class IncompleteUpload(StateError):
    """A download of an upload that is not complete."""

    code = "ERR_INCOMPLETE_UPLOAD"
    message = "cannot stream non-finished upload"


class ChecksumMismatch(StateError):
    """The body is not what its checksum says; nothing of it was kept (460, tus 1.0.0, Checksum)."""

    code = "ERR_CHECKSUM_MISMATCH"
    status = 460
    message = "the body does not match its checksum; nothing of it was kept"


class UploadCompleted(StateError):
    """More bytes for an upload that is complete (IETF draft, Upload Append)."""

    code = "ERR_UPLOAD_COMPLETED"
    status = 400
    message = "the upload is complete and takes no more bytes"


class DigestMismatch(StateError):
    """All bytes are there and are not what `Repr-Digest` said; the upload was removed (IETF draft, Representation Digests)."""

    code = "ERR_DIGEST_MISMATCH"
    status = 400
    message = "the upload does not match its Repr-Digest and was removed"
    gone = True


class BodyError(TusError):
    """The body ended badly; what arrived is kept."""

    status = 400


class UnexpectedEof(BodyError):
    """The client went away in mid-body."""

    code = "ERR_UNEXPECTED_EOF"
    message = "server expected to receive more bytes"


class ReadTimeout(BodyError):
    """No byte came for `server.read_timeout`, or fewer than `server.min_transfer_rate`. 503: clients try again after a 5xx, after a 408 they give up."""

    code = "ERR_READ_TIMEOUT"
    status = 503
    message = "timeout while reading request body"
    temporary = True


class Refused(TusError):
    """An operator's hook said no; `hook` has its answer."""

    status = 400


class UploadRejected(Refused):
    """pre-create or pre-finish refused the upload."""

    code = "ERR_UPLOAD_REJECTED"
    message = "upload has been rejected by server"


class TerminationRejected(Refused):
    """pre-terminate refused."""

    code = "ERR_UPLOAD_TERMINATION_REJECTED"
    message = "upload termination has been rejected by server"


class AccessRejected(Refused):
    """pre-access refused. 403, unless the hook says otherwise (a HEAD that may succeed later is best answered 423)."""

    code = "ERR_ACCESS_REJECTED"
    status = 403
    message = "access to this upload is not allowed"


class UploadStopped(Refused):
    """A post-receive hook stopped the upload; it was removed."""

    code = "ERR_UPLOAD_STOPPED"
    message = "upload has been stopped by server"
    gone = True


class Full(TusError):
    """No room. 507 (RFC 4918 section 11.5); HEAD answers 423, because room may be made."""

    status = 507


class StorageFull(Full):
    """The disk or bucket takes no more; what fitted is kept."""

    code = "ERR_STORAGE_FULL"
    message = "the server's storage is full"


class QuotaExceeded(Full):
    """A limiter has no room for the bytes asked for."""

    code = "ERR_QUOTA_EXCEEDED"
    message = "the quota does not allow this upload"

    def __init__(
        self,
        message: str | None = None,
        *,
        short_by: int = 0,
        evict: Eviction | None = None,
        info: UploadInfo | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, info=info, retry_after=retry_after)
        self.short_by = short_by
        """Bytes that are missing."""
        self.evict = evict
        """What the server may remove to make room; None: nothing."""


class TryLater(TusError):
    """Temporary: the same request may succeed soon, and clients must not start over because of it."""

    status = 503
    temporary = True


class UploadLocked(TryLater):
    """Another request works on this upload and did not let go in time."""

    code = "ERR_UPLOAD_LOCKED"
    status = 423
    message = "the upload is in use by another request; try again"


class UploadInterrupted(TryLater):
    """Another request for the same upload asked this one to stop; its bytes are kept."""

    code = "ERR_UPLOAD_INTERRUPTED"
    status = 423
    message = "upload has been interrupted by another request for this upload resource"


class FinishPending(TryLater):
    """All bytes are there, but the upload is not complete yet: finishing it is still under way or failed."""

    code = "ERR_FINISH_PENDING"
    status = 423
    message = "all bytes are stored; finishing the upload has not succeeded yet, try again"


class ServerShutdown(TryLater):
    """The server drains; what arrived is kept."""

    code = "ERR_SERVER_SHUTDOWN"
    message = "request has been interrupted because the server is shutting down"


class TooManyRequests(TryLater):
    """A limiter asks this client to slow down."""

    code = "ERR_TOO_MANY_REQUESTS"
    status = 429
    message = "too many requests; try again later"


class TooManyConnections(TryLater):
    """`server.max_connections` are open already; this one ends with the answer."""

    code = "ERR_TOO_MANY_CONNECTIONS"
    message = "the server has too many connections; try again later"


class StorageUnavailable(TryLater):
    """The store cannot be reached."""

    code = "ERR_STORAGE_UNAVAILABLE"
    message = "the server's storage is not available"


class LockUnavailable(TryLater):
    """The locker cannot be reached."""

    code = "ERR_LOCK_UNAVAILABLE"
    message = "the server's locking is not available"


class LeaseLost(TryLater):
    """The lock was lost while it was held; nothing more may be written."""

    code = "ERR_LEASE_LOST"
    message = "the lock on this upload was lost; try again"


class InternalError(TusError):
    """A bug or an outage. Its text stays in the log; clients get `message` and the id under which the log has it."""


class HookError(InternalError):
    """A hook could not be asked, or answered something that cannot be used."""

    code = "ERR_HOOK_FAILED"
    message = "a hook of this server failed"

    def __init__(
        self,
        message: str | None = None,
        *,
        permanent: bool = False,
        info: UploadInfo | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, info=info, retry_after=retry_after)
        self.permanent = permanent
        """Telling the same again will not help: whoever was told has said that it will never take it."""


class StartError(Exception):
    """The server cannot start. One line: where, what, and the cure."""


class ConfigError(StartError):
    """The configuration is wrong. `where` is `file:line:column`, `path` the option's, such as `storage.directory`."""

    def __init__(self, where: str, path: str, what: str) -> None:
        super().__init__(f"{where} {path}: {what}" if path else f"{where} {what}")
        self.where = where
        self.path = path
        self.what = what


class PluginError(StartError):
    """A plugin cannot be found, imported or used."""
