"""The documents that a proxy merges: fetched when the application starts, again from time to time, and on demand."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

from attrs import define, field

from proxyroutes._build.compile import Compiled
from proxyroutes._operate.openapi.contract import find_breaches
from proxyroutes._operate.openapi.fetch import DocumentError, fetch_document
from proxyroutes._operate.openapi.merge import Merged, find_prefixes, merge
from proxyroutes._state.pools import UpstreamPool
from proxyroutes.typing import Clock

__all__ = ["Documents"]

_RETRY = 10.0
"""Seconds after which a document is asked for again that did not come."""
_REFRESH = 300.0
"""Seconds after which one is asked for again that did."""
_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_BROKEN = (AttributeError, KeyError, TypeError, ValueError, RecursionError)

_logger = logging.getLogger("proxyroutes.openapi")


@define(eq=False)
class _Wanted:
    """One document that is to be merged, and what has come of it."""

    pool: UpstreamPool
    path: str
    prefix: str
    document: dict[str, Any] | None = None
    failure: str | None = None


@define(eq=False)
class Documents:
    """What a proxy merges.

    Attributes:
        compiled: The compiled proxy.
        clock: The monitor's clock on the running loop.
        version: Raised whenever a document has changed.
    """

    compiled: Callable[[], Compiled]
    clock: Callable[[], Clock]
    version: int = 0
    _wanted: list[_Wanted] = field(factory=list)
    _running: set[asyncio.AbstractEventLoop] = field(factory=set)

    def add(self, pool: UpstreamPool, path: str, prefix: str | None) -> None:
        """Merge one more.

        Raises:
            ValueError: If the path is none, or the prefix is taken or cannot be part of a component's name.
        """
        if not path.startswith("/") or not path.isascii():
            raise ValueError(f"a document's path begins with a slash: {path!r}")
        name = _NAME.sub("_", pool.name).strip("_") if prefix is None else prefix
        if not name or _NAME.search(name):
            raise ValueError(f"a prefix has letters, digits, '.', '_' and '-': {name!r}")
        if any(one.prefix == name for one in self._wanted):
            raise ValueError(f"two documents cannot have the same prefix: {name!r}")
        self._wanted.append(_Wanted(pool, path, name))

    @contextlib.asynccontextmanager
    async def merged_into(self, app: Any) -> AsyncIterator[None]:
        """Merge into an application's document for as long as it runs."""
        loop = asyncio.get_running_loop()
        if not self._wanted or not callable(getattr(app, "openapi", None)):
            yield
            return
        if not isinstance(app.openapi, _MergedOpenAPI) or app.openapi.documents is not self:
            app.openapi = _MergedOpenAPI(app, app.openapi, self)
        if loop in self._running:
            # The router is included twice, and its lifespan entered twice.
            yield
            return
        self._running.add(loop)
        failed = await self.fetch()
        task = asyncio.create_task(self._refresh(failed=failed), name="proxyroutes-openapi")
        try:
            yield
        finally:
            self._running.discard(loop)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def fetch(self) -> bool:
        """Ask for every document; whether one did not come. What came before is kept then."""
        await asyncio.gather(*[self._fetch(wanted) for wanted in self._wanted])
        return any(wanted.failure is not None for wanted in self._wanted)

    async def _fetch(self, wanted: _Wanted) -> None:
        try:
            document = await fetch_document(wanted.pool, wanted.path)
        except DocumentError as error:
            if wanted.failure != str(error):
                _logger.warning(
                    "no document: pool=%s path=%s reason=%s", wanted.pool.name, wanted.path, error
                )
            wanted.failure = str(error)
            return
        wanted.failure = None
        if document != wanted.document:
            wanted.document = document
            self.version += 1

    async def _refresh(self, *, failed: bool) -> None:
        while True:
            await self.clock().sleep(_RETRY if failed else _REFRESH)
            failed = await self.fetch()

    def merge(self, own: dict[str, Any], app: Any) -> dict[str, Any]:
        """The application's document with all that has come in it; one that is broken is left out and logged."""
        compiled, prefixes = self.compiled(), find_prefixes(app)
        for wanted in self._wanted:
            if wanted.document is None:
                continue
            merged = Merged(pool=wanted.pool, prefix=wanted.prefix, document=wanted.document)
            try:
                own = merge(own, compiled, prefixes, [merged])
            except _BROKEN as error:
                _logger.warning(
                    "document not merged: pool=%s path=%s reason=%r",
                    wanted.pool.name,
                    wanted.path,
                    error,
                )
        return own

    def breaches(self) -> list[str]:
        """Each route that leads to an operation that its upstream does not have, and each document that did not come."""
        found: list[str] = []
        for wanted in self._wanted:
            if wanted.document is None:
                reason = wanted.failure or "it was not asked for"
                found.append(f"pool {wanted.pool.name!r}: no document at {wanted.path}: {reason}")
                continue
            try:
                found += find_breaches(self.compiled(), wanted.pool, wanted.document)
            except _BROKEN as error:
                found.append(f"pool {wanted.pool.name!r}: the document cannot be read: {error!r}")
        return found


class _MergedOpenAPI:
    """Takes the place of an application's ``openapi``, and keeps what it made until something has changed."""

    def __init__(
        self, app: Any, original: Callable[[], dict[str, Any]], documents: Documents
    ) -> None:
        self._app = app
        self._original = original
        self.documents = documents
        self._made: tuple[Any, int, dict[str, Any]] | None = None

    def __call__(self) -> dict[str, Any]:
        own, version = self._original(), self.documents.version
        made = self._made
        if made is None or made[0] is not own or made[1] != version:
            made = self._made = (own, version, self.documents.merge(own, self._app))
        return made[2]
