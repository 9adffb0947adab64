"""POST: a new upload."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import UploadInterrupted
from ..limiting import Allowance
from ..model import Final, UploadInfo, utcnow
from ..protocol import digests
from ..protocol.messages import Announced, Create, Created
from ..protocol.rules import body_limit, plan_create, starting_state
from ..storage import Upload
from .announce import merge
from .complete import asks, complete
from .concatenate import create_final
from .context import UNSHARED, Context, Exchange, telling
from .new import asked, created, new_id
from .receive import receive


async def create(context: Context, exchange: Exchange, request: Create, allowances: Sequence[Allowance]) -> Created:
    """Create an upload, with the first of its bytes when they came along."""
    plan_create(request, context.policy)
    length = request.length
    if isinstance(request.concat, Final):
        return await create_final(context, exchange, request.concat, request.metadata, allowances)
    now = utcnow()
    notes = {digests.KEY: request.digest} if request.digest is not None else {}
    state, explicit = starting_state(request.completes, request.body.size if request.body else 0, asks=asks(context, notes))
    info = UploadInfo(
        id=new_id(),
        length=length,
        created=now,
        modified=now,
        metadata=request.metadata,
        concat=request.concat,
        state=state,
        explicit=explicit,
        notes=notes,
    )
    info, answer = await asked(context, exchange, info, request.body, allowances)
    upload: Upload | None = None
    try:
        empty = request.body is None or (request.body.size == 0 and request.body.checksum is None)
        if empty and (request.completes is False or (request.completes is None and length != 0)):
            upload = await created(context, exchange, info, None)
            return Created(upload.info, request.body is not None, answer)

        def wanted() -> None:
            exchange.source.stop(UploadInterrupted())

        # A body that is here already is stored before anybody can learn of an upload whose random id nobody has been told.
        secret = exchange.source.arrived and context.announcer.silent and exchange.interim is None
        async with UNSHARED if secret else context.lock(info.id, wanted) as lease:
            upload = await created(context, exchange, info, lease)
            if exchange.interim is not None and request.body is not None:
                exchange.interim(Announced(upload.info))
            with telling(upload):
                if request.body is None:
                    finished = await complete(context, upload, exchange.head)
                else:
                    room = body_limit(upload.info, length, context.policy)
                    finished = await receive(context, exchange, upload, request, room, lease, allowances)
                return Created(upload.info, request.body is not None, merge(answer, finished))
    except BaseException:
        if upload is None:
            await context.settle_anew(info, 0)
        raise
