"""Who does something, as far as the server knows it; every act is written with this."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from pipeline.api.deps import Api, Served
from pipeline.api.guard import SESSION_KEY
from pipeline.api.problems import ProblemError
from pipeline.books.acts import Outbox


def _actor(request: Request) -> str:
    """`operator` after a login, `program` with the bearer token, `local` on loopback without
    either; a name that the caller gives stands behind it, in brackets, since nobody checks it."""
    api: Api = request.app.state.api
    if request.scope.get(SESSION_KEY) is not None:
        known = "operator"
    else:
        known = "program" if api.access.login_required else "local"
    said = "".join(c for c in request.headers.get("x-petawatch-actor", "") if c.isprintable())
    return f"{known} ({said[:64]})" if said else known


Actor = Annotated[str, Depends(_actor)]


def acts_of(api: Served) -> Outbox:
    """Where acts are written.  Raises ProblemError (503) on a server without books."""
    if api.deps.acts is None:
        raise ProblemError(503, "This server has no books; ask one that runs the role books.")
    return api.deps.acts


Acts = Annotated[Outbox, Depends(acts_of)]
