"""The values that every layer speaks of."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace
from datetime import UTC, datetime, timedelta

import pytest

from tusd.model import (
    NO_METADATA,
    Extension,
    Final,
    Metadata,
    Metric,
    Partial,
    Scope,
    State,
    UploadId,
    UploadInfo,
    utcnow,
)

MOMENT = datetime(2026, 3, 1, tzinfo=UTC)
FULL = UploadInfo(
    id=UploadId("a"),
    length=10,
    offset=4,
    state=State.RECEIVING,
    metadata=Metadata({"k": b"v"}, "k dg=="),
    concat=Partial(),
    created=MOMENT,
    modified=MOMENT,
    expires=MOMENT + timedelta(days=1),
    max_length=20,
    notes={"n": "1"},
    storage={"Path": "p"},
)
"""No field has its default, but `explicit`."""


# --- Metadata


def test_metadata_is_a_mapping() -> None:
    metadata = Metadata({"b": b"1", "a": b"\xff"}, "b MQ==,a /w==")
    assert list(metadata) == ["b", "a"]
    assert len(metadata) == 2
    assert metadata["a"] == b"\xff"
    assert metadata.get("c") is None
    with pytest.raises(KeyError):
        metadata["c"]
    assert metadata.header == "b MQ==,a /w=="
    assert repr(metadata) == "Metadata({'b': b'1', 'a': b'\\xff'})"


def test_metadata_does_not_follow_its_source() -> None:
    source = {"a": b"1"}
    metadata = Metadata(source)
    source["a"] = b"2"
    assert metadata["a"] == b"1"


def test_equal_metadata() -> None:
    assert Metadata({"a": b""}, "a") == Metadata({"a": b""}, "a")
    assert hash(Metadata({"a": b""}, "a")) == hash(Metadata({"a": b""}, "a"))
    assert Metadata({"a": b""}, "a") != Metadata({"a": b""}, "a ")
    assert Metadata({"a": b""}, "a") != Metadata({"a": b"1"}, "a")
    assert Metadata() != {}
    assert Metadata() == NO_METADATA
    assert not NO_METADATA


def test_metadata_as_text() -> None:
    assert Metadata({"a": "é".encode(), "b": b"x\xff", "c": b""}).text() == {"a": "é", "b": "x\ufffd", "c": ""}


# --- UploadInfo


@pytest.mark.parametrize(
    ("length", "offset", "state"),
    [
        (10, 0, State.RECEIVING),
        (10, 9, State.RECEIVING),
        (10, 10, State.COMPLETE),
        (0, 0, State.COMPLETE),
        (None, 0, State.RECEIVING),
        (None, 10, State.RECEIVING),
    ],
)
def test_the_state_follows_from_the_bytes(length: int | None, offset: int, state: State) -> None:
    info = UploadInfo(id=UploadId("a"), length=length).at(offset)
    assert (info.offset, info.state) == (offset, state)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("offset", [9, 10])
def test_an_explicit_state_stays(state: State, offset: int) -> None:
    assert UploadInfo(id=UploadId("a"), length=10, state=state, explicit=True).at(offset).state is state


def test_a_complete_upload_that_was_cut_back_is_not_complete() -> None:
    assert UploadInfo(id=UploadId("a"), length=10).at(10).at(5).state is State.RECEIVING


@pytest.mark.parametrize("explicit", [False, True])
def test_at_keeps_all_else(explicit: bool) -> None:
    info = replace(FULL, explicit=explicit)
    later = MOMENT + timedelta(hours=1)
    assert info.at(7) == replace(info, offset=7)
    assert info.at(7, later) == replace(info, offset=7, modified=later)
    blank = UploadInfo(id=UploadId("b"), length=None, created=FULL.created)
    same = [
        f.name
        for f in fields(FULL)
        if f.name not in ("created", "explicit", "state") and getattr(FULL, f.name) == getattr(blank, f.name)
    ]
    assert same == [], "a new field: give it a value in FULL, and see that UploadInfo.at keeps it"


def test_values_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        FULL.offset = 5  # type: ignore[misc]


def test_a_new_upload_is_from_now() -> None:
    before = utcnow()
    info = UploadInfo(id=UploadId("a"), length=1)
    assert before <= info.created <= utcnow()
    assert info.created.tzinfo is UTC
    assert (info.offset, info.state, info.explicit, info.metadata, info.concat) == (0, State.RECEIVING, False, NO_METADATA, None)


# --- the others


def test_scopes_can_be_compared() -> None:
    assert Scope.PROCESS < Scope.HOST < Scope.CLUSTER


def test_extensions_have_the_names_of_the_specification() -> None:
    assert set(Extension) == {
        "creation",
        "creation-with-upload",
        "creation-defer-length",
        "expiration",
        "checksum",
        "termination",
        "concatenation",
        "concatenation-unfinished",
    }


def test_concatenations_are_values() -> None:
    assert Partial() == Partial()
    assert Final((UploadId("a"), UploadId("b"))) != Final((UploadId("b"), UploadId("a")))


def test_metrics_are_values() -> None:
    metric = Metric("tusd_x_total", "counter", "What it counts.")
    assert metric == Metric("tusd_x_total", "counter", "What it counts.", (), ())
    assert {metric: 1}[metric] == 1


def test_saving_keeps_what_an_upload_is_and_how_much_is_there() -> None:
    kept = UploadInfo(id=UploadId("a"), length=None, concat=Partial(), storage={"Path": "x"}).at(5)
    told = UploadInfo(id=UploadId("b"), length=5, max_length=9, notes={"k": "v"})
    now = kept.saved_as(told)
    assert (now.id, now.concat, now.storage, now.created) == (kept.id, kept.concat, kept.storage, kept.created)
    assert (now.length, now.max_length, now.notes) == (5, 9, {"k": "v"})
    assert (now.offset, now.state) == (5, State.COMPLETE)
    assert kept.saved_as(replace(told, explicit=True)).state is State.RECEIVING
