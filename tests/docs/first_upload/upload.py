"""Upload a file over a slow line. When it breaks off, run this again: it goes on where it stopped."""

import sys
import time

from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError
from tusclient.storage.filestorage import FileStorage

PIECE = 1_000_000  # bytes for one request
PAUSE = 0.1  # seconds; the slow line


def upload(path: str) -> None:
    client = TusClient("http://127.0.0.1:1080/files/")
    uploader = client.uploader(
        path,
        chunk_size=PIECE,
        metadata={"filename": path},
        store_url=True,  # remember the upload's URL in this file:
        url_storage=FileStorage("urls.json"),  # type: ignore[no-untyped-call]
    )
    size = uploader.get_file_size()  # type: ignore[no-untyped-call]
    print("begin at", uploader.offset, "of", size, flush=True)
    while uploader.offset < size:
        uploader.upload_chunk()  # type: ignore[no-untyped-call]
        print("safe:", uploader.offset, flush=True)
        time.sleep(PAUSE)
    print(uploader.url)


try:
    upload(sys.argv[1])
except TusCommunicationError as error:
    sys.exit(f"broken off: {(error.response_content or b'').decode() or error}")
