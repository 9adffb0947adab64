"""server/logs.py: one event, one line, whatever a client sends."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import threading
import warnings
from collections.abc import Iterator

import pytest

from tusd.server import logs
from tusd.web.requests import Entry

ID = "24e533e02ec3bc40c387f1a0e460e216"
FORGED = "x\n2026-01-01T00:00:00.000Z ERROR forged\r\x1b[31m\u2028\u202e"


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root, access = logging.getLogger(), logging.getLogger("aiohttp.access")
    handlers, levels, raising = root.handlers, (root.level, access.level), logging.raiseExceptions
    yield
    root.handlers, logging.raiseExceptions = handlers, raising
    root.setLevel(levels[0])
    access.setLevel(levels[1])
    logging.captureWarnings(False)


def log_to(
    format: logs.Format, *, level: str = "info", full_upload_ids: bool = False, worker: int | None = None
) -> tuple[logging.Logger, io.StringIO]:
    stream = io.StringIO()
    logs.set_up(level=level, format=format, full_upload_ids=full_upload_ids, worker=worker, stream=stream)
    return logging.getLogger("tusd"), stream


def without_times(stream: io.StringIO) -> list[str]:
    return [re.sub(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ", "", line) for line in stream.getvalue().splitlines()]


def test_text_has_time_level_message_and_fields() -> None:
    logger, stream = log_to("text")
    logger.info("upload created", extra={"upload": ID, "length": 1024, "file": "a b", "hook": None})
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO ", stream.getvalue())
    assert without_times(stream) == ['INFO upload created upload=24e533e0 length=1024 file="a b"']


def test_text_names_who_speaks_unless_it_is_the_core() -> None:
    _, stream = log_to("text")
    logging.getLogger("tusd.storage:file").warning("disk is slow")
    logging.getLogger("botocore").error("no credentials")
    assert without_times(stream) == ["WARNING storage:file: disk is slow", "ERROR botocore: no credentials"]


def test_json_has_one_object_for_each_event() -> None:
    logger, stream = log_to("json", worker=3)
    logger.info("upload %s", "created", extra={"upload": ID, "length": 1024, "done": True})
    event = json.loads(stream.getvalue())
    assert event.pop("time").endswith("Z")
    assert event == {
        "level": "info",
        "logger": "tusd",
        "message": "upload created",
        "upload": "24e533e0",
        "length": 1024,
        "done": True,
        "worker": 3,
    }


def test_json_fields_never_replace_the_standard_ones() -> None:
    logger, stream = log_to("json")
    logger.info("true", extra={"level": "forged", "time": "forged"})
    event = json.loads(stream.getvalue())
    assert event["level"] == "info"
    assert event["time"] != "forged"


@pytest.mark.parametrize("format", ["text", "json"])
def test_nothing_that_a_client_sends_makes_a_line(format: logs.Format) -> None:
    logger, stream = log_to(format)
    logger.info(FORGED, extra={"file": FORGED, FORGED: "value"})
    assert len(stream.getvalue().splitlines()) == 1
    assert stream.getvalue().rstrip("\n").isprintable()


def test_text_fields_cannot_forge_fields() -> None:
    logger, stream = log_to("text")
    logger.info("hook", extra={"a": "x b=y", "c": 'say "hi"', "d": "", "e": "back\\slash"})
    assert without_times(stream) == [r'INFO hook a="x b=y" c="say \"hi\"" d="" e="back\\slash"']


@pytest.mark.parametrize("format", ["text", "json"])
def test_tracebacks_cannot_forge_lines(format: logs.Format) -> None:
    logger, stream = log_to(format)
    try:
        raise ValueError(FORGED)
    except ValueError:
        logger.exception("failed")
    lines = stream.getvalue().splitlines()
    if format == "json":
        assert "ValueError" in json.loads(lines[0])["traceback"]
        assert len(lines) == 1
    else:
        assert "    ValueError: x" in lines
        assert all(line.startswith("    ") and line.isprintable() for line in lines[1:])


@pytest.mark.parametrize("format", ["text", "json"])
@pytest.mark.parametrize("upload", [ID, ID + "+multipart", "chosen-by-a-hook", f"2026/{ID}"])
def test_upload_ids_are_cut(format: logs.Format, upload: str) -> None:
    logger, stream = log_to(format)
    logger.info("saved", extra={"upload": upload})
    assert upload[:8] in stream.getvalue()
    assert upload[:9] not in stream.getvalue()


# --- requests


def entry(**changes: object) -> Entry:
    found = Entry("a1", id_given=False)
    shown = {"method": "PATCH", "path": f"/files/{ID}", "id_at": 7, "upload": ID, "status": 204, "received": 5, "seconds": 0.0123}
    for name, value in {**shown, "peer": "127.0.0.1", **changes}.items():
        setattr(found, name, value)
    return found


async def test_a_request_has_a_line_of_text() -> None:
    _, stream = log_to("text", worker=1)
    log = logs.request_log()
    assert log is not None
    log(entry())
    log(entry(code="ERR_X", outcome="refused", upload=None, peer=None, path=f"/elsewhere/{ID}", id_at=0))
    assert stream.getvalue() == ""
    await asyncio.sleep(0)
    assert without_times(stream) == [
        "INFO requests: PATCH /files/24e533e0 status=204 outcome=ok ms=12.3 received=5 sent=0 request_id=a1 upload=24e533e0 "
        "peer=127.0.0.1 worker=1",
        "INFO requests: PATCH /elsewhere/24e533e0 status=204 outcome=refused ms=12.3 received=5 sent=0 request_id=a1 code=ERR_X worker=1",
    ]


async def test_a_request_has_an_object() -> None:
    _, stream = log_to("json", worker=1, full_upload_ids=True)
    log = logs.request_log()
    assert log is not None
    log(entry(code="ERR_X"))
    await asyncio.sleep(0)
    event = json.loads(stream.getvalue())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event.pop("time"))
    assert event == {
        "level": "info",
        "logger": "tusd.requests",
        "message": f"PATCH /files/{ID}",
        "status": 204,
        "outcome": "ok",
        "ms": 12.3,
        "received": 5,
        "sent": 0,
        "request_id": "a1",
        "code": "ERR_X",
        "upload": ID,
        "peer": "127.0.0.1",
        "worker": 1,
    }


@pytest.mark.parametrize("format", ["text", "json"])
@pytest.mark.parametrize("path", [FORGED, "/files/\udcff\ud800", '/"x\\', "/é", "/" + "long" * 1000, ""])
async def test_no_path_makes_or_breaks_a_line(format: logs.Format, path: str) -> None:
    _, stream = log_to(format)
    log = logs.request_log()
    assert log is not None
    log(entry(path=path, id_at=0))
    await asyncio.sleep(0)
    (line,) = stream.getvalue().splitlines()
    assert line.isprintable() and line.isascii() and len(line) < 1000
    if format == "json":
        assert json.loads(line)["status"] == 204


async def test_requests_and_events_keep_their_order() -> None:
    logger, stream = log_to("text")
    log = logs.request_log()
    assert log is not None
    log(entry(path="/1", id_at=0))
    logger.info("2")
    log(entry(path="/3", id_at=0))
    logging.getLogger().handlers[0].flush()
    assert [line.split("PATCH /")[-1].split()[-1 if "INFO 2" in line else 0] for line in without_times(stream)] == ["1", "2", "3"]


async def test_requests_are_written_in_pieces_that_a_pipe_takes_whole() -> None:
    class Pieces(io.StringIO):
        def write(self, text: str) -> int:
            pieces.append(text)
            return len(text)

    pieces: list[str] = []
    logs.set_up(level="info", format="json", full_upload_ids=False, stream=Pieces())
    log = logs.request_log()
    assert log is not None
    for _ in range(100):
        log(entry())
    await asyncio.sleep(0)
    assert 2 < len(pieces) < 20
    assert all(piece.endswith("}\n") and len(piece) <= 4096 for piece in pieces)
    assert sum(piece.count("\n") for piece in pieces) == 100


async def test_requests_written_while_another_thread_logs() -> None:
    logger, stream = log_to("text")
    log = logs.request_log()
    assert log is not None

    def other() -> None:
        for n in range(2000):
            logger.info("other %d", n)

    thread = threading.Thread(target=other)
    thread.start()
    for n in range(2000):
        log(entry(path=f"/{n}", id_at=0))
        if n % 10 == 0:
            await asyncio.sleep(0)
    thread.join()
    await asyncio.sleep(0)
    lines = without_times(stream)
    assert [line.split()[3] for line in lines if "PATCH" in line] == [f"/{n}" for n in range(2000)]
    assert [line for line in lines if "other" in line] == [f"INFO other {n}" for n in range(2000)]


async def test_requests_at_a_reader_that_went_away() -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    logs.set_up(level="info", format="text", full_upload_ids=False, stream=Broken())
    log = logs.request_log()
    assert log is not None
    log(entry())
    await asyncio.sleep(0)


def test_no_log_of_requests_above_info() -> None:
    log_to("text", level="warning")
    assert logs.request_log() is None


def test_upload_ids_are_cut_in_messages_and_tracebacks() -> None:
    logger, stream = log_to("text")
    try:
        raise KeyError(ID)
    except KeyError:
        logger.exception("upload %s of http://host/files/%s", ID, ID, extra={"path": f"/files/{ID}"})
    assert without_times(stream)[0] == "ERROR upload 24e533e0 of http://host/files/24e533e0 path=/files/24e533e0"
    assert ID not in stream.getvalue()


def test_full_upload_ids_on_demand() -> None:
    logger, stream = log_to("text", full_upload_ids=True)
    logger.info("upload %s", ID, extra={"upload": ID})
    assert without_times(stream) == [f"INFO upload {ID} upload={ID}"]


def test_level() -> None:
    logger, stream = log_to("text", level="warning")
    logger.info("quiet")
    logger.warning("loud")
    assert without_times(stream) == ["WARNING loud"]


def test_clients_that_went_away_are_no_errors() -> None:
    _, stream = log_to("text")
    logging.getLogger("asyncio").warning("socket.send() raised exception.")
    for name in ("asyncio", "aiohttp.server"):
        try:
            raise ConnectionResetError
        except ConnectionResetError:
            logging.getLogger(name).exception("Unhandled exception")
    assert stream.getvalue() == ""
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        logging.getLogger("aiohttp.server").exception("Unhandled exception")
    assert "ZeroDivisionError" in stream.getvalue()


def test_warnings_of_libraries_are_events() -> None:
    _, stream = log_to("json")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", FutureWarning, stacklevel=1)
    event = json.loads(stream.getvalue())
    assert event["level"] == "warning"
    assert "FutureWarning: old" in event["message"]


def test_a_reader_that_went_away_disturbs_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    logs.set_up(level="info", format="text", full_upload_ids=False, stream=Broken())
    logging.getLogger("tusd").info("anybody?")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("text", "escaped"), [("plain ü", "plain ü"), ("a\nb", r"a\nb"), ("\x1b[0m", r"\x1b[0m"), ("\x7f", r"\x7f")]
)
def test_escape(text: str, escaped: str) -> None:
    assert logs.escape(text) == escaped
