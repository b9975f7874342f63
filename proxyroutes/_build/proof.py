"""The proof that a route may be served the short way: that nothing stands between the client and the stub.

FastAPI's full path runs what an author has put there: dependencies of route, router, inclusion and app, parameters of the
stub, body limits, exception handlers. A route is served without that path only where its effective context shows that
there is none of it. Whatever is unknown: full path (DESIGN §3).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

from proxyroutes._build.responses import is_ours
from proxyroutes._build.stubs import wraps
from proxyroutes._serve.plan import Plan
from proxyroutes.exceptions import ProxyRoutesError
from proxyroutes.typing import Scope

__all__ = [
    "asks_for_pool",
    "exception_handlers",
    "handles_failures",
    "is_silent",
    "plans_of",
    "prove",
]

_PARAMETERS = ("path_params", "query_params", "header_params", "cookie_params", "body_params")
_KNOWN = frozenset(
    {
        "app",
        "body_field",
        "callbacks",
        "dependant",
        "dependencies",
        "dependency_overrides_provider",
        "deprecated",
        "description",
        "endpoint",
        "frontend_prefix",
        "generate_unique_id_function",
        "include_in_schema",
        "is_json_stream",
        "is_sse_stream",
        "max_body_size",
        "methods",
        "name",
        "openapi_extra",
        "operation_id",
        "original_route",
        "param_convertors",
        "path",
        "path_format",
        "path_regex",
        "starlette_route",
        "status_code",
        "stream_item_field",
        "stream_item_type",
        "strict_content_type",
        "summary",
        "tags",
        "unique_id",
    }
)
"""What an effective context says that either puts nothing in front of a stub, or is looked at below."""
_PLACES = ("background_tasks_param_name", "security_scopes_param_name")


def prove(contexts: Iterable[Any]) -> dict[Plan, Any]:
    """The plans among these effective route contexts that may be served the short way, each with its dependant.

    That holds while the dependant has no dependencies: FastAPI reads the list at every request, and who adds to it is heard.
    """
    return {
        context.original_route.plan: context.dependant for context in contexts if _is_bare(context)
    }


def plans_of(contexts: Iterable[Any]) -> dict[Plan, Any]:
    """The effective contexts of the plans among them; each is one route's, with every dependency in front of it."""
    found = ((_plan_of(context), context) for context in contexts)
    return {plan: context for plan, context in found if plan is not None}


def is_silent(plan: Plan, context: Any) -> bool:
    """Whether FastAPI's path does nothing for a route but to run dependencies, before it is forwarded.

    What they are is not looked at here; see ``dependencies``.
    """
    if plan.speaks or plan.max_body_bytes is not None or asks_for_pool(plan):
        return False
    if wraps(context.original_route.endpoint):
        return False
    return (
        getattr(context, "body_field", None) is None
        and getattr(context, "max_body_size", None) is None
        and _is_known(context)
    )


def _is_known(context: Any) -> bool:
    """Whether nothing is said of a route that is not known here: a later release may have more in front of it."""
    kind = type(context)
    if not dataclasses.is_dataclass(kind):
        return False
    return not any(getattr(context, name, None) for name in _unknown_names(kind))


@functools.cache
def _unknown_names(kind: Any) -> tuple[str, ...]:
    return tuple(
        each.name
        for each in dataclasses.fields(kind)
        # How a response is described and made of what an endpoint returns: a silent stub returns nothing.
        if each.name not in _KNOWN and not each.name.startswith(("response", "_"))
    )


def _plan_of(context: Any) -> Plan | None:
    plan = getattr(getattr(context, "original_route", None), "plan", None)
    return plan if isinstance(plan, Plan) else None


def _is_bare(context: Any) -> bool:
    plan = _plan_of(context)
    if plan is None or not plan.plain or asks_for_pool(plan):
        return False
    dependant = getattr(context, "dependant", None)
    if dependant is None or getattr(dependant, "dependencies", None) != []:
        return False
    if any(getattr(dependant, name, None) != [] for name in _PARAMETERS):
        return False
    if any(getattr(dependant, name, None) is not None for name in _PLACES):
        return False
    if getattr(context, "body_field", None) is not None or not _is_known(context):
        return False
    # Releases before the limit do not have the attribute, and no limit either.
    return getattr(context, "max_body_size", None) is None


def asks_for_pool(plan: Plan) -> bool:
    """Whether user code chooses the pool of each request."""
    return plan.pool is None and (plan.split is None or not plan.split.quick)


def handles_failures(handlers: Mapping[Any, Any]) -> bool:
    """Whether an application has a handler of its own for one of our errors."""
    return any(
        isinstance(key, type) and issubclass(key, ProxyRoutesError) and not is_ours(handler)
        for key, handler in handlers.items()
    )


def exception_handlers(scope: Scope) -> Mapping[Any, Any] | None:
    """The handlers of the application that a request has reached, or None where they are not known."""
    found = scope.get("starlette.exception_handlers")
    return None if found is None else found[0]
