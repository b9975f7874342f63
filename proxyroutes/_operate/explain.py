"""``explain``: the way of a request up to the point where it would be sent.

The verdicts are those of the engine itself: the same index matches, the same guard refuses, the same rules compose the
head. Only the words for why a route lost are made here. The balancer is asked as a copy, so that its turns stay where
they are.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast
from urllib.parse import unquote_to_bytes

from attrs import evolve, fields, frozen

from proxyroutes._build.compile import Compiled
from proxyroutes._build.inclusions import Prefixed, match_prefix
from proxyroutes._declare.specs import RouteSpec, WebSocketSpec
from proxyroutes._declare.templates import parse_template
from proxyroutes._operate.attempts_words import describe_attempts, find_home
from proxyroutes._operate.explanation import (
    CandidateView,
    Explanation,
    ForwardedView,
    RivalView,
)
from proxyroutes._serve.head import make_head, read_request
from proxyroutes._serve.http import timeouts_of
from proxyroutes._serve.match import (
    Found,
    RouteIndex,
    path_parameters,
    redirect_location,
    route_start,
    split_path,
)
from proxyroutes._serve.plan import Plan
from proxyroutes._serve.steps.forwarded import ForwardedRequest
from proxyroutes._serve.steps.messages import edit_for_pool
from proxyroutes._serve.steps.protocols import Split
from proxyroutes._serve.websocket import SessionPlan
from proxyroutes._state.clock import SystemClock
from proxyroutes._state.destinations import DestinationState
from proxyroutes._state.pools import PoolState, UpstreamPool
from proxyroutes.exceptions import BuildError, ClientRequestError, NoDestinationError
from proxyroutes.settings import Timeouts
from proxyroutes.typing import ForwardedHead, Scope

__all__ = ["HeaderValues", "explain", "explain_scope", "make_scope"]

HeaderValues = Mapping[str, str] | Iterable[tuple[str, str]]


def explain(compiled: Compiled, method: str, url: str, headers: HeaderValues) -> Explanation:
    """Say what a compiled proxy would do with a request, were its router included without a prefix.

    Raises:
        BuildError: If a declaration is wrong.
    """
    if compiled.problems:
        raise BuildError("the gateway cannot be built", compiled.problems)
    return explain_scope(compiled, make_scope(method, url, headers), url)


def make_scope(method: str, url: str, headers: HeaderValues) -> Scope:
    """The scope of a request as a server would give it.

    Args:
        method: Its method.
        url: A path with its query, or a whole URL; ``ws`` and ``wss`` ask for a session.
        headers: Its fields; ``Host`` is the URL's where they have none.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "http", url
        authority, path = "localhost", url
    else:
        authority, slash, path = rest.partition("/")
        path = slash + path or "/"
    raw_path, _, query = path.partition("?")
    pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
    lines = [
        (name.lower().encode("latin-1"), value.strip().encode("latin-1")) for name, value in pairs
    ]
    if not any(name == b"host" for name, _ in lines):
        lines.insert(0, (b"host", authority.encode("latin-1")))
    session = scheme in {"ws", "wss"}
    return {
        "type": "websocket" if session else "http",
        "method": method,
        "scheme": {"ws": "http", "wss": "https"}.get(scheme, scheme),
        "http_version": "1.1",
        "path": unquote_to_bytes(raw_path).decode("utf-8", "replace"),
        "raw_path": raw_path.encode("utf-8"),
        "query_string": query.encode("utf-8"),
        "headers": lines,
        "client": ("127.0.0.1", 0),
        "root_path": "",
    }


@frozen
class _Declared:
    """One declared route of either kind."""

    spec: RouteSpec | WebSocketSpec
    plan: Plan


def explain_scope(
    compiled: Compiled,
    scope: Scope,
    url: str,
    *,
    prefix: str = "",
    dependencies: Callable[[Plan], Sequence[str]] | None = None,
) -> Explanation:
    """Say what a compiled proxy would do with a request.

    Args:
        compiled: The proxy.
        scope: The request.
        url: As it was given.
        prefix: The prefix of the router and its inclusions.
        dependencies: Gives the names of what FastAPI solves first, where more is known than the declaration says.
    """
    session = scope["type"] == "websocket"
    declared: list[_Declared]
    if session:
        declared = [_Declared(one.spec, one.plan) for one in compiled.websockets]
    else:
        declared = [_Declared(spec, plan) for spec, plan, _ in compiled.routes]
    index = compiled.sessions if session else compiled.index
    found = Prefixed(prefix, index).locate(scope)
    winner = None if found is None else found.plan
    blank = Explanation(
        method=scope["method"],
        url=url,
        rivals=tuple(_rivals(declared, winner, found, scope, prefix)),
    )
    if found is None:
        return evolve(blank, status=404, answer="no route has this path")
    chosen = next(one for one in declared if one.plan is found.plan)
    named = evolve(
        blank,
        route=found.plan.name,
        path=prefix + found.plan.template,
        location=chosen.spec.facts.location,
        steps=tuple(_steps(chosen)),
        notes=tuple(_notes(chosen, [] if dependencies is None else dependencies(found.plan))),
    )
    return _explain_found(named, found, scope)


# Matching.


def _rivals(
    declared: Sequence[_Declared],
    winner: Plan | None,
    found: Found | None,
    scope: Scope,
    prefix: str,
) -> Iterator[RivalView]:
    for one in declared:
        plan = one.plan
        if plan is winner:
            continue
        alone = Prefixed(prefix, RouteIndex([plan], redirect_slashes=False)).locate(scope)
        if alone is None:
            reason = _why_not(plan, scope, prefix)
        elif not alone.method_allowed:
            reason = f"does not serve {scope['method']}"
        elif winner is not None and found is not None and found.full:
            reason = f"fits too, but {winner.name} was declared first"
        else:
            reason = "fits"
        methods = None if plan.methods is None else tuple(sorted(plan.methods))
        yield RivalView(
            route=plan.name, path=prefix + plan.template, methods=methods, reason=reason
        )


def _why_not(plan: Plan, scope: Scope, prefix: str) -> str:
    """Words for a route that does not fit: its ``match``, or its path."""
    if plan.condition is not None:
        wider = RouteIndex([evolve(plan, condition=None)], redirect_slashes=False)
        if Prefixed(prefix, wider).locate(scope) is not None:
            return "its match does not hold"
    return _why_not_its_path(plan, scope, prefix)


def _why_not_its_path(plan: Plan, scope: Scope, prefix: str) -> str:
    """Words for what the index has found; it alone decides."""
    parts = split_path(scope["raw_path"])
    root_path = scope.get("root_path", "")
    start = route_start(parts, root_path) if root_path else 0
    if prefix:
        segments = parse_template(prefix).segments
        if match_prefix(parts, start, segments) is None:
            return f"the path is not below {prefix}"
        start += len(segments)
    own = [unquote_to_bytes(part).decode("utf-8", "replace") for part in parts[start:]]
    captures = {capture.position: capture for capture in plan.captures}
    for position, literal in enumerate(plan.literals):
        capture = captures.get(position)
        if capture is not None and capture.rest:
            break
        if position >= len(own):
            return f"the path ends after {len(own)} of its {len(plan.literals)} segments"
        text = own[position]
        if literal is not None and text.encode() != literal:
            wanted = literal.decode("utf-8", "replace")
            return f"segment {position + 1} is {text!r}, not {wanted!r}"
        if capture is not None and (not text or (capture.takes and not capture.takes(text))):
            return f"segment {position + 1} is {text!r}, which <{capture.name}> does not take"
    else:
        return f"the path has {len(own)} segments, not {len(plan.literals)}"
    return "the path does not fit"


# What is found.


def _explain_found(base: Explanation, found: Found, scope: Scope) -> Explanation:
    plan = found.plan
    try:
        received = read_request(scope, plan, found)
        if found.redirect:
            location = redirect_location(scope["raw_path"], scope["query_string"])
            return evolve(base, status=307, answer=f"to {location.decode('latin-1')}")
        if not found.method_allowed:
            allowed = found.allow.decode("ascii")
            return evolve(base, status=405, answer=f"the path serves {allowed} only")
        head = make_head(scope, plan, found, received)
    except ClientRequestError as error:
        return evolve(base, status=error.status_code, answer=error.detail)
    pool, note = (plan.pool, None) if plan.pool is not None else _choose(plan, found, scope, head)
    notes = base.notes if note is None else (*base.notes, note)
    if pool is None:
        forwarded = _view(head, None)
        return evolve(
            base, notes=notes, forwarded=forwarded, timeouts=_timeouts(plan.timeouts), answer=note
        )
    return _explain_pool(evolve(base, notes=notes), plan, pool, head)


def _choose(
    plan: Plan, found: Found, scope: Scope, head: ForwardedHead
) -> tuple[UpstreamPool | None, str | None]:
    """Ask the split, or the callable behind ``upstream=``, which is not run further than it comes without waiting."""
    if plan.split is not None:
        return _split(plan.split, plan, found, scope, head)
    host = next((value for name, value in scope["headers"] if name == b"host"), b"")
    request = ForwardedRequest(
        head,
        route=plan.name,
        client=scope["client"],
        scheme=scope["scheme"],
        path_params=path_parameters(found),
        received_host=host.decode("latin-1"),
    )
    coroutine = cast("Any", plan.choose)(request)
    try:
        coroutine.send(None)
    except StopIteration as chosen:
        return chosen.value, "the pool was chosen for this request by the callable of upstream="
    except Exception as error:  # noqa: BLE001 - what a user's callable raises is what the reader has to know.
        return None, f"the callable of upstream= raised {error!r}"
    coroutine.close()
    return None, "the callable of upstream= waits for something: only the request itself will tell"


def _split(
    split: Split, plan: Plan, found: Found, scope: Scope, head: ForwardedHead
) -> tuple[UpstreamPool | None, str | None]:
    shares = ", ".join(
        f"{one.name} (weight {weight})" for one, weight in split.recipe.weights.items()
    )
    key = split.key(plan, found, scope, head)
    if key is None:
        return None, f"chance decides between {shares}"
    pool = split.recipe.pick(key, random.Random())  # noqa: S311 - the key decides.
    return pool, f"the key of this request decides between {shares}"


def _explain_pool(
    base: Explanation, plan: Plan, pool: UpstreamPool, head: ForwardedHead
) -> Explanation:
    state = next(iter(pool.states()), None)
    notes = base.notes
    if state is None:
        notes = (*notes, "the pool is not running here: nothing is known of its health and load")
    destinations, available, balancer, reasons = _look_at(pool, state)
    if state is not None:
        head = edit_for_pool(state, head)
    elif pool.transforms is not None:
        notes = (*notes, "the pool edits each head that it sends; what comes of it is not shown")
    picked, doubt = find_home(pool, state, destinations, head), None
    if picked is None:
        picked, doubt = _pick(balancer, destinations, available, head)
    named = evolve(
        base,
        pool=pool.name,
        balancing=repr(pool.balancing),
        candidates=tuple(
            CandidateView(
                url=one.recipe.url, available=one in available, reason=reason, picked=one is picked
            )
            for one, reason in zip(destinations, reasons, strict=True)
        ),
        notes=notes if doubt is None else (*notes, doubt),
    )
    refusal = _refusal(state, available)
    if refusal is not None:
        return evolve(named, status=NoDestinationError("").status_code, answer=refusal)
    timeouts = (pool.timeouts if plan.pool_timeouts else None) or plan.timeouts
    return evolve(
        named,
        forwarded=_view(head, picked),
        timeouts=_timeouts(timeouts if state is None else timeouts_of(plan, state)),
        retry=describe_attempts(
            (plan.steps and plan.steps.retry) or pool.retry,
            head,
            len(destinations),
            session=isinstance(plan, SessionPlan),
        ),
    )


def _look_at(
    pool: UpstreamPool, state: PoolState | None
) -> tuple[tuple[DestinationState, ...], tuple[DestinationState, ...], Any, list[str]]:
    """Destinations, those that are available, the balancer, and why; as at the start where the pool does not run."""
    if state is not None:
        reasons = [one.reason for one in state.status()]
        return state.destinations, state.available, state.balancer, reasons
    destinations = tuple(map(DestinationState.of, pool.destinations))
    level = min(one.recipe.priority for one in destinations)
    available = tuple(one for one in destinations if one.recipe.priority == level)
    balancer = pool.balancing.bind(clock=SystemClock(), random=random.Random())  # noqa: S311 - it balances.
    reasons = [
        "not probed yet" if one in available else "a lower-numbered priority comes first"
        for one in destinations
    ]
    return destinations, available, balancer, reasons


def _refusal(state: PoolState | None, available: Sequence[DestinationState]) -> str | None:
    """Why a pool asks nobody, or None."""
    circuit = None if state is None or state.rules is None else state.rules.circuit
    if circuit is not None and circuit.state == "open":
        return f"the pool's circuit is open: {circuit.reason}"
    if state is not None and state.queue.limits.max_queue and state.is_crowded():
        seconds = state.queue.limits.queue_timeout
        return f"no destination has room, and none has within {seconds:g} s, which is waited for"
    return None if available else "no destination is available"


def _pick(
    balancer: Any,
    destinations: Sequence[DestinationState],
    available: Sequence[DestinationState],
    head: ForwardedHead,
) -> tuple[DestinationState | None, str | None]:
    """Which one would be asked, by a copy of the balancer; and what is doubtful about that."""
    if len(available) < 2:
        return next(iter(available), None), None
    # The destinations themselves and the snapshot stay what they are: a balancer knows them by identity.
    known = {id(one): one for one in (*destinations, available)}
    try:
        return copy.deepcopy(balancer, known).pick(available, head), None
    except Exception as error:  # noqa: BLE001 - a policy of the user's own may hold what cannot be copied.
        return None, f"which one is asked cannot be tried without an effect: {error!r}"


def _view(head: ForwardedHead, picked: DestinationState | None) -> ForwardedView:
    authority = b"(the destination's)" if picked is None else picked.authority
    base_path = b"" if picked is None else picked.base_path
    return ForwardedView(
        method=head.method.decode("ascii"),
        target=(base_path + head.target).decode("latin-1"),
        host=(head.host or authority).decode("latin-1"),
        fields=tuple(
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in head.fields
        ),
    )


def _timeouts(timeouts: Timeouts) -> dict[str, float | None]:
    return {one.name: getattr(timeouts, one.name) for one in fields(Timeouts)}


def _notes(declared: _Declared, dependencies: Sequence[str]) -> Iterator[str]:
    spec = declared.spec
    names = list(dependencies) or [_name(one) for one in spec.dependencies]
    if names:
        yield f"solved first, and may answer instead: {', '.join(names)}"
    if spec.facts.speaks:
        yield f"the stub {spec.facts.name} is called first, and may answer instead"
    steps = declared.plan.steps
    if steps is not None and steps.admissions:
        yield "a rate limit is asked first, and may answer 429"
    if steps is not None and steps.mirror is not None:
        mirror = steps.mirror.recipe
        yield f"a copy goes to pool {mirror.to.name}, of a share of {mirror.share:g} of the requests"


_STEPS = (
    "match",
    "rate_limit",
    "limits",
    "request_headers",
    "query_rules",
    "request_filters",
    "hedge",
    "mirror",
    "response_headers",
    "cookies",
    "response_filters",
    "server_timing",
)


def _steps(declared: _Declared) -> Iterator[str]:
    """What a route does besides, in the order of the way, as it was declared."""
    spec = declared.spec
    options = spec.options if isinstance(spec, WebSocketSpec) else None
    for name in _STEPS:
        value = getattr(spec, name, None) if options is None else options.get(name)
        for one in value if isinstance(value, tuple) else (value,):
            if one is not None and one is not False:
                yield f"{name}: {one!r}"
    for handler in declared.plan.on_error:
        yield f"on_error: {_name(handler.handle)}, asked of {handler.kind.__name__}"


def _name(dependency: Any) -> str:
    call = getattr(dependency, "dependency", None) or dependency
    return str(getattr(call, "__name__", None) or type(call).__name__)
