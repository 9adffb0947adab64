"""What may be done to an upload, as tables: request, what is known, policy -> plan or error."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocol.heads import ID, MOMENT, info

from tusd.errors import (
    ConcatenationUnsupported,
    IncompleteUpload,
    InvalidConcat,
    InvalidUploadLength,
    MaxSizeExceeded,
    MismatchedOffset,
    ModifyFinal,
    NotSupported,
    PreconditionFailed,
    RangeNotSatisfiable,
    TusError,
    UploadNotFinished,
    UploadNotFound,
    UploadSizeExceeded,
)
from tusd.model import Extension, Final, Partial, State, UploadId, UploadInfo
from tusd.protocol.headers import MAX_NUMBER, format_date
from tusd.protocol.messages import Append, BodyPlan, Checksum, Create, Read
from tusd.protocol.rules import (
    AppendPlan,
    Policy,
    ReadPlan,
    body_limit,
    check_alive,
    check_body,
    check_length,
    etag,
    expiry,
    plan_append,
    plan_create,
    plan_final,
    plan_read,
)

ALL = Policy()
SHA1 = Checksum("sha1", bytes(20))
FINAL = Final((UploadId("a"), UploadId("b")))


def without(*extensions: Extension) -> Policy:
    return Policy(extensions=frozenset(Extension) - set(extensions))


# --- extensions


def test_every_extension_is_on() -> None:
    assert all(ALL.has(extension) for extension in Extension)


@pytest.mark.parametrize("extension", Extension)
def test_an_extension_that_is_off(extension: Extension) -> None:
    assert not without(extension).has(extension)


@pytest.mark.parametrize(
    ("off", "gone"),
    [
        (
            Extension.CREATION,
            {
                Extension.CREATION,
                Extension.CREATION_WITH_UPLOAD,
                Extension.CREATION_DEFER_LENGTH,
                Extension.CONCATENATION,
                Extension.CONCATENATION_UNFINISHED,
            },
        ),
        (Extension.CONCATENATION, {Extension.CONCATENATION, Extension.CONCATENATION_UNFINISHED}),
        (Extension.CHECKSUM, {Extension.CHECKSUM}),
    ],
)
def test_what_cannot_be_without_another(off: Extension, gone: set[Extension]) -> None:
    assert {extension for extension in Extension if not without(off).has(extension)} == gone


# --- create


@pytest.mark.parametrize(
    ("create", "policy"),
    [
        (Create(length=0), ALL),
        (Create(length=MAX_NUMBER), ALL),
        (Create(length=None), ALL),
        (Create(length=10), Policy(max_size=10)),
        (Create(length=None), Policy(max_size=0)),
        (Create(length=None, concat=FINAL), without(Extension.CREATION_DEFER_LENGTH)),
        (Create(length=5, concat=Partial()), without(Extension.CONCATENATION_UNFINISHED)),
        (Create(length=5, body=BodyPlan(5, SHA1)), ALL),
        (Create(length=5, body=BodyPlan(None)), Policy(max_size=5)),
        (Create(length=None, body=BodyPlan(5)), Policy(max_size=5)),
        (Create(length=5, body=BodyPlan(5)), without(Extension.CHECKSUM)),
    ],
)
def test_may_be_created(create: Create, policy: Policy) -> None:
    plan_create(create, policy)


@pytest.mark.parametrize(
    ("create", "policy", "error"),
    [
        (Create(length=None), without(Extension.CREATION_DEFER_LENGTH), NotSupported),
        (Create(length=5, concat=Partial()), without(Extension.CONCATENATION), ConcatenationUnsupported),
        (Create(length=None, concat=FINAL), without(Extension.CONCATENATION), ConcatenationUnsupported),
        (Create(length=5, body=BodyPlan(5)), without(Extension.CREATION_WITH_UPLOAD), NotSupported),
        (Create(length=5, body=BodyPlan(5, SHA1)), without(Extension.CHECKSUM), NotSupported),
        (Create(length=11), Policy(max_size=10), MaxSizeExceeded),
        (Create(length=None, body=BodyPlan(11)), Policy(max_size=10), MaxSizeExceeded),
        (Create(length=5, body=BodyPlan(6)), ALL, UploadSizeExceeded),
        (Create(length=0, body=BodyPlan(1)), ALL, UploadSizeExceeded),
    ],
)
def test_may_not_be_created(create: Create, policy: Policy, error: type[TusError]) -> None:
    with pytest.raises(error) as caught:
        plan_create(create, policy)
    assert caught.value.info is None


@pytest.mark.parametrize(
    ("length", "max_length", "max_size", "most"),
    [
        (10, None, 10, None),
        (11, None, 10, 10),
        (11, 10, None, 10),
        (11, 5, 10, 5),
        (11, 10, 5, 5),
        (None, 1, 1, None),
        (11, None, None, None),
    ],
)
def test_check_length(length: int | None, max_length: int | None, max_size: int | None, most: int | None) -> None:
    policy = Policy(max_size=max_size)
    if most is None:
        check_length(length, info(max_length=max_length), policy)
    else:
        with pytest.raises(MaxSizeExceeded, match=f"at most {most} bytes") as caught:
            check_length(length, info(max_length=max_length), policy)
        assert caught.value.info is None  # it is asked before the upload exists, too


def test_check_body() -> None:
    check_body(None, 5, None, Policy(max_size=1))
    check_body(BodyPlan(None), 5, None, Policy(max_size=1))
    check_body(BodyPlan(5), 5, info(max_length=5), ALL)
    check_body(BodyPlan(5), None, None, ALL)
    with pytest.raises(MaxSizeExceeded):
        check_body(BodyPlan(5), None, info(max_length=4), ALL)
    with pytest.raises(UploadSizeExceeded):
        check_body(BodyPlan(6), 5, None, ALL)


# --- append


def append(offset: int = 40, size: int | None = 10, length: int | None = None, checksum: Checksum | None = None) -> Append:
    return Append(upload_id=ID, offset=offset, body=BodyPlan(size, checksum), length=length)


DEFERRED = info(length=None)


@pytest.mark.parametrize(
    ("request_", "upload", "policy", "plan"),
    [
        (append(), info(), ALL, AppendPlan(60, None)),
        (append(size=60), info(), ALL, AppendPlan(60, None)),
        (append(size=None), info(), ALL, AppendPlan(60, None)),
        (append(size=0), info(), ALL, AppendPlan(60, None)),
        (append(checksum=SHA1), info(), ALL, AppendPlan(60, None)),
        (append(), info(), without(Extension.CHECKSUM), AppendPlan(60, None)),
        (append(length=100), info(), ALL, AppendPlan(60, None)),
        (append(), info(concat=Partial()), ALL, AppendPlan(60, None)),
        (append(), DEFERRED, ALL, AppendPlan(MAX_NUMBER - 40, None)),
        (append(), DEFERRED, Policy(max_size=50), AppendPlan(10, None)),
        (append(size=None), DEFERRED, Policy(max_size=50), AppendPlan(10, None)),
        (append(), info(length=None, max_length=55), ALL, AppendPlan(15, None)),
        (append(length=50), DEFERRED, ALL, AppendPlan(10, 50)),
        (append(size=0, length=40), DEFERRED, ALL, AppendPlan(0, 40)),
        (append(length=50), DEFERRED, without(Extension.CREATION_DEFER_LENGTH), AppendPlan(10, 50)),
        (append(100, 0), info(offset=100), ALL, AppendPlan(0, None)),
        (append(100, None), info(offset=100), ALL, AppendPlan(0, None)),
        (append(size=0), info(), Policy(max_size=30), AppendPlan(0, None)),
        (append(size=None), info(), Policy(max_size=30), AppendPlan(0, None)),
        (append(100, 0), info(offset=100, explicit=True, state=State.FINISHING), Policy(max_size=30), AppendPlan(0, None)),
    ],
)
def test_append(request_: Append, upload: UploadInfo, policy: Policy, plan: AppendPlan) -> None:
    assert plan_append(request_, upload, policy) == plan


@pytest.mark.parametrize(
    ("request_", "upload", "policy", "error"),
    [
        (append(39), info(), ALL, MismatchedOffset),
        (append(41), info(), ALL, MismatchedOffset),
        (append(0), info(offset=100), ALL, MismatchedOffset),
        (append(39, 1000), info(), ALL, MismatchedOffset),
        (append(39, length=7), info(), ALL, MismatchedOffset),
        (append(), info(concat=FINAL), ALL, ModifyFinal),
        (append(39), info(concat=FINAL), ALL, ModifyFinal),
        (append(0, 0), info(concat=FINAL, offset=0, length=None), ALL, ModifyFinal),
        (append(checksum=SHA1), info(), without(Extension.CHECKSUM), NotSupported),
        (append(length=101), info(), ALL, InvalidUploadLength),
        (append(length=99), info(), ALL, InvalidUploadLength),
        (append(length=39), DEFERRED, ALL, InvalidUploadLength),
        (append(length=51), DEFERRED, Policy(max_size=50), MaxSizeExceeded),
        (append(length=51), info(length=None, max_length=50), ALL, MaxSizeExceeded),
        (append(size=61), info(), ALL, UploadSizeExceeded),
        (append(size=11, length=50), DEFERRED, ALL, UploadSizeExceeded),
        (append(size=11), DEFERRED, Policy(max_size=50), UploadSizeExceeded),
        (append(size=MAX_NUMBER), DEFERRED, ALL, UploadSizeExceeded),
        (append(100, 1), info(offset=100), ALL, UploadSizeExceeded),
        (append(size=1), info(), Policy(max_size=30), UploadSizeExceeded),
    ],
)
def test_no_append(request_: Append, upload: UploadInfo, policy: Policy, error: type[TusError]) -> None:
    with pytest.raises(error) as caught:
        plan_append(request_, upload, policy)
    if error in (MismatchedOffset, ModifyFinal, InvalidUploadLength, UploadSizeExceeded):
        assert caught.value.info is upload


@given(
    st.integers(0, 30),
    st.one_of(st.none(), st.integers(0, 30)),
    st.one_of(st.none(), st.integers(0, 30)),
    st.one_of(st.none(), st.integers(0, 30)),
    st.one_of(st.none(), st.integers(0, 30)),
    st.one_of(st.none(), st.integers(0, 30)),
)
def test_no_byte_goes_past_a_limit(
    offset: int, length: int | None, declared: int | None, size: int | None, max_size: int | None, max_length: int | None
) -> None:
    if length is not None and offset > length:
        return
    upload = info(offset=offset, length=length, max_length=max_length)
    try:
        plan = plan_append(append(offset, size, declared), upload, Policy(max_size=max_size))
    except TusError:
        return
    assert plan.room >= 0
    assert size is None or size <= plan.room
    if plan.room:
        limits = [length, plan.length, max_size, max_length]
        assert all(limit is None or offset + plan.room <= limit for limit in limits)
    if plan.length is not None:
        assert length is None
        assert plan.length == declared
        assert plan.length >= offset


def test_body_limit() -> None:
    assert body_limit(info(), None, ALL) == MAX_NUMBER
    assert body_limit(info(max_length=7), 8, Policy(max_size=9)) == 7
    assert body_limit(info(max_length=9), 7, Policy(max_size=8)) == 7
    assert body_limit(info(max_length=9), 8, Policy(max_size=7)) == 7


# --- concatenation


def part(length: int | None = 10, offset: int = 10, state: State = State.COMPLETE) -> UploadInfo:
    return info(length=length, offset=offset, state=state, concat=Partial())


UNFINISHED = part(10, 5, State.RECEIVING)
NO_LENGTH = part(None, 5, State.RECEIVING)


@pytest.mark.parametrize(
    ("parts", "length"),
    [
        ([part()], 10),
        ([part(), part(5, 5)], 15),
        ([part(0, 0)], 0),
        ([part(), UNFINISHED], 20),
        ([part(), NO_LENGTH], None),
        ([part(MAX_NUMBER, MAX_NUMBER)], MAX_NUMBER),
    ],
)
def test_final(parts: list[UploadInfo], length: int | None) -> None:
    assert plan_final(parts, ALL) == length


@pytest.mark.parametrize(
    ("parts", "policy", "error"),
    [
        ([info(offset=100, state=State.COMPLETE)], ALL, InvalidConcat),
        ([part(), info(concat=FINAL, state=State.COMPLETE)], ALL, InvalidConcat),
        ([part(), UNFINISHED], without(Extension.CONCATENATION_UNFINISHED), UploadNotFinished),
        ([part(state=State.FINISHING)], without(Extension.CONCATENATION_UNFINISHED), UploadNotFinished),
        ([part(), part()], Policy(max_size=19), MaxSizeExceeded),
        ([part(), part(), NO_LENGTH], Policy(max_size=19), MaxSizeExceeded),
        ([part(MAX_NUMBER, MAX_NUMBER), part(1, 1)], ALL, MaxSizeExceeded),
    ],
)
def test_no_final(parts: list[UploadInfo], policy: Policy, error: type[TusError]) -> None:
    with pytest.raises(error):
        plan_final(parts, policy)


# --- expiration

FIXED = datetime(2027, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("upload", "policy", "moment"),
    [
        (info(), ALL, None),
        (info(), Policy(expire_after=60), MOMENT + timedelta(seconds=60)),
        (info(), Policy(expire_after=0.5), MOMENT + timedelta(seconds=0.5)),
        (info(state=State.FINISHING), Policy(expire_after=60), MOMENT + timedelta(seconds=60)),
        (info(state=State.COMPLETE), Policy(expire_after=60), None),
        (info(), replace(without(Extension.EXPIRATION), expire_after=60), None),
        (info(expires=FIXED), Policy(expire_after=60), FIXED),
        (info(expires=FIXED, state=State.COMPLETE), ALL, FIXED),
        (info(), Policy(expire_after=1e12), None),
        (info(), Policy(expire_after=1e300), None),
    ],
)
def test_expiry(upload: UploadInfo, policy: Policy, moment: datetime | None) -> None:
    assert expiry(upload, policy) == moment


def test_check_alive() -> None:
    policy = Policy(expire_after=60)
    last = MOMENT + timedelta(seconds=60)
    check_alive(info(), ALL, datetime.max.replace(tzinfo=UTC))
    check_alive(info(), policy, last - timedelta(microseconds=1))
    for now in (last, last + timedelta(days=1)):
        with pytest.raises(UploadNotFound) as caught:
            check_alive(info(), policy, now)
        assert caught.value.info is None


# --- downloads

COMPLETE = info(offset=100, state=State.COMPLETE)
GROWING = Policy(unfinished_downloads=True)
TAG = str(etag(COMPLETE))
DATE = format_date(MOMENT)
BEFORE = format_date(MOMENT - timedelta(hours=1))
AFTER = format_date(MOMENT + timedelta(hours=1))


def test_etag() -> None:
    assert TAG[0] == TAG[-1] == '"'
    assert etag(info()) is None
    assert etag(info(state=State.FINISHING)) is None
    others = {etag(replace(COMPLETE, offset=99)), etag(replace(COMPLETE, modified=MOMENT + timedelta(microseconds=1)))}
    assert len(others | {TAG}) == 3


ALL_OF_IT = ReadPlan(0, 100)
UNCHANGED = ReadPlan(0, 100, unchanged=True)
SOME = ReadPlan(10, 20, partial=True)


@pytest.mark.parametrize(
    ("conditions", "plan"),
    [
        ({}, ALL_OF_IT),
        ({"range": "bytes=10-19"}, SOME),
        ({"range": "bytes=10-"}, ReadPlan(10, 100, partial=True)),
        ({"range": "bytes=-10"}, ReadPlan(90, 100, partial=True)),
        ({"range": "bytes=0-1000"}, ReadPlan(0, 100, partial=True)),
        ({"range": "bytes=0-1,5-6"}, ALL_OF_IT),
        ({"range": "lines=0-1"}, ALL_OF_IT),
        ({"range": "bytes=10-19", "if_range": TAG}, SOME),
        ({"range": "bytes=10-19", "if_range": DATE}, SOME),
        ({"range": "bytes=10-19", "if_range": f"W/{TAG}"}, ALL_OF_IT),
        ({"range": "bytes=10-19", "if_range": '"other"'}, ALL_OF_IT),
        ({"range": "bytes=10-19", "if_range": BEFORE}, ALL_OF_IT),
        ({"range": "bytes=10-19", "if_range": AFTER}, ALL_OF_IT),
        ({"range": "bytes=1000-", "if_range": '"other"'}, ALL_OF_IT),
        ({"if_range": TAG}, ALL_OF_IT),
        ({"if_none_match": TAG}, UNCHANGED),
        ({"if_none_match": f"W/{TAG}"}, UNCHANGED),
        ({"if_none_match": f'"other" , {TAG}'}, UNCHANGED),
        ({"if_none_match": "*"}, UNCHANGED),
        ({"if_none_match": '"other"'}, ALL_OF_IT),
        ({"if_none_match": TAG.strip('"')}, ALL_OF_IT),
        ({"if_none_match": TAG, "range": "bytes=10-19"}, UNCHANGED),
        ({"if_none_match": '"other"', "if_modified_since": AFTER}, ALL_OF_IT),
        ({"if_modified_since": DATE}, UNCHANGED),
        ({"if_modified_since": AFTER}, UNCHANGED),
        ({"if_modified_since": BEFORE}, ALL_OF_IT),
        ({"if_modified_since": "long ago"}, ALL_OF_IT),
        ({"if_match": TAG}, ALL_OF_IT),
        ({"if_match": "*"}, ALL_OF_IT),
        ({"if_match": f'"other",{TAG}'}, ALL_OF_IT),
        ({"if_match": TAG, "if_unmodified_since": BEFORE}, ALL_OF_IT),
        ({"if_match": TAG, "if_none_match": TAG}, UNCHANGED),
        ({"if_unmodified_since": DATE}, ALL_OF_IT),
        ({"if_unmodified_since": AFTER, "range": "bytes=10-19"}, SOME),
        ({"if_unmodified_since": "long ago"}, ALL_OF_IT),
    ],
)
def test_read(conditions: dict[str, str], plan: ReadPlan) -> None:
    """In the order of RFC 9110 section 13.2.2."""
    assert plan_read(Read(ID, **conditions), COMPLETE, ALL) == plan


@pytest.mark.parametrize(
    ("conditions", "error"),
    [
        ({"if_match": '"other"'}, PreconditionFailed),
        ({"if_match": f"W/{TAG}"}, PreconditionFailed),
        ({"if_match": '"other"', "if_none_match": TAG}, PreconditionFailed),
        ({"if_unmodified_since": BEFORE}, PreconditionFailed),
        ({"if_unmodified_since": BEFORE, "if_none_match": TAG}, PreconditionFailed),
        ({"range": "bytes=100-"}, RangeNotSatisfiable),
        ({"range": "bytes=-0"}, RangeNotSatisfiable),
        ({"range": "bytes=100-", "if_range": TAG}, RangeNotSatisfiable),
    ],
)
def test_no_read(conditions: dict[str, str], error: type[TusError]) -> None:
    with pytest.raises(error) as caught:
        plan_read(Read(ID, **conditions), COMPLETE, ALL)
    if error is RangeNotSatisfiable:
        assert caught.value.info is COMPLETE


@pytest.mark.parametrize(
    ("upload", "policy", "served"),
    [
        (COMPLETE, ALL, 100),
        (info(length=0, offset=0, state=State.COMPLETE), ALL, 0),
        (info(concat=FINAL, offset=100, state=State.COMPLETE), ALL, 100),
        (info(), ALL, None),
        (info(), GROWING, 40),
        (DEFERRED, GROWING, 40),
        (info(state=State.FINISHING), ALL, None),
        (info(offset=100, state=State.FINISHING, explicit=True), GROWING, None),
        (info(offset=100, state=State.RECEIVING, explicit=True), GROWING, None),
        (info(offset=40, state=State.RECEIVING, explicit=True), GROWING, 40),
    ],
)
def test_what_is_served(upload: UploadInfo, policy: Policy, served: int | None) -> None:
    if served is None:
        with pytest.raises(IncompleteUpload) as caught:
            plan_read(Read(ID), upload, policy)
        assert caught.value.info is upload
    else:
        assert plan_read(Read(ID), upload, policy) == ReadPlan(0, served)


@pytest.mark.parametrize(
    ("conditions", "plan"),
    [
        ({"if_none_match": TAG}, ReadPlan(0, 40)),
        ({"if_none_match": "*"}, ReadPlan(0, 40)),
        ({"if_modified_since": AFTER}, ReadPlan(0, 40)),
        ({"if_match": "*"}, ReadPlan(0, 40)),
        ({"range": "bytes=10-"}, ReadPlan(10, 40, partial=True)),
        ({"range": "bytes=10-", "if_range": DATE}, ReadPlan(10, 40, partial=True)),
        ({"range": "bytes=10-", "if_range": TAG}, ReadPlan(0, 40)),
    ],
)
def test_a_growing_upload_has_no_tag(conditions: dict[str, str], plan: ReadPlan) -> None:
    assert plan_read(Read(ID, **conditions), info(), GROWING) == plan


def test_a_growing_upload_matches_no_tag() -> None:
    with pytest.raises(PreconditionFailed):
        plan_read(Read(ID, if_match=TAG), info(), GROWING)
