"""What `.info` files said that were read lately, for as long as they are the same files.

A file is the same while its inode, its size and its time of change are; nobody can set the last one. It has to be a second old
before that is believed: file systems count time in steps, and the number of an inode may come back.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime

from tusd.plugin import Sidecar, UploadId, UploadInfo

_MOST = 512
"""So many are remembered by one worker."""
_SETTLED = 1.0
"""Seconds after which a file's time of change tells it from any later one; the steps are up to 10 ms long."""


class Known:
    """What the `.info` files of a directory say."""

    def __init__(self) -> None:
        self._found: dict[UploadId, tuple[Sidecar, tuple[int, ...]]] = {}

    def get(self, upload_id: UploadId, path: str) -> Sidecar | None:
        """What an upload's `.info` file says, with the offset of now; None when it has to be read.

        The bytes are looked at first: the file that was there before that, and is there after it, was there all the time."""
        known = self._found.get(upload_id)
        if known is None:
            return None
        found, version = known
        info, mark = found.info, found.mark
        try:
            data = os.stat(info.storage["Path"])
            if _version(os.stat(path)) == version:
                return Sidecar(measured(info, data, mark), mark)
        except OSError:
            pass  # whoever reads it finds out what is wrong
        del self._found[upload_id]
        return None

    def put(self, upload_id: UploadId, found: Sidecar, file: os.stat_result) -> None:
        """Remember what a file says, if another in its place will have another time."""
        if time.time() - file.st_ctime > _SETTLED:
            while len(self._found) >= _MOST:
                del self._found[next(iter(self._found))]
            self._found[upload_id] = found, _version(file)


def _version(file: os.stat_result) -> tuple[int, ...]:
    return file.st_dev, file.st_ino, file.st_ctime_ns, file.st_size


def measured(info: UploadInfo, data: os.stat_result, mark: int | None = None) -> UploadInfo:
    """`info` with what the file of bytes tells: it never counts bytes behind the mark, nor behind the length."""
    offset = data.st_size
    if info.length is not None and info.length < offset:
        offset = info.length
    if mark is not None and mark < offset:
        offset = mark
    modified = datetime.fromtimestamp(data.st_mtime, UTC)
    return info.at(offset, modified if modified > info.created else info.created)
