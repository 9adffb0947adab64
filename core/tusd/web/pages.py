"""What is served besides uploads: health, a word of welcome, a profile, and the routes of plugins."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from ..errors import InvalidRequest, UploadNotFound
from ..model import UploadId
from ..plugin import Handler, Routes
from ..protocol.messages import Head, Response
from ..protocol.urls import Origins
from .health import PROBES, Health
from .profile import Profile

_PROFILE = "/debug/profile"

Pages = Mapping[str, Handler]
"""Path -> what answers its GET and HEAD. Pages within the upload path come before uploads."""


def public_pages(routes: Routes, origins: Origins, health: Health, *, details: bool, index: bool, admin: bool) -> Pages:
    """For the public listeners. `admin`: there is an admin listener, which has what is for operators only."""
    found: dict[str, Handler] = {"/": _welcome(origins)} if index else {}
    return {**found, **routes.found, **({} if admin else routes.admin), **health.pages(details=details)}


def admin_pages(routes: Routes, health: Health, *, profile: bool) -> Pages:
    """For the admin listener."""
    found = {**routes.admin, **health.pages(details=True)}
    return {**found, _PROFILE: Profile()} if profile else found


def ids_of_pages(routes: Routes, origins: Origins) -> frozenset[UploadId]:
    """The ids whose upload nobody could reach, because a page is answered at its URL."""
    found = set()
    for path in (*routes.found, *routes.admin, *PROBES):
        if origins.holds(path):
            with suppress(UploadNotFound):  # no upload can be there
                found.add(origins.upload_id(path))
    return frozenset(one for one in found if one is not None)


def _welcome(origins: Origins) -> Handler:
    async def welcome(head: Head) -> Response:
        try:
            where = origins.base_url(head)
        except InvalidRequest:
            where = origins.base_path
        text = f"This is tusd, a server for resumable uploads (https://tus.io).\nUploads go to {where}\n"
        return Response(200, [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")], text.encode())

    return welcome
