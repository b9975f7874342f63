"""The way of a request whose route or pool adds something to it: admissions, a copy, edits, filters, attempts by rules."""

from __future__ import annotations

from proxyroutes._serve.exchange import Exchange
from proxyroutes._serve.match import Found
from proxyroutes._serve.plan import Plan
from proxyroutes._serve.relay import Answer
from proxyroutes._serve.steps.further import attempts_by_rules
from proxyroutes._serve.steps.messages import begin, outgoing
from proxyroutes._state.pools import PoolState
from proxyroutes.settings import Timeouts
from proxyroutes.typing import Body, ForwardedHead

__all__ = ["ask_in_steps"]


async def ask_in_steps(
    exchange: Exchange,
    plan: Plan,
    found: Found | None,
    state: PoolState,
    head: ForwardedHead,
    body: Body | None,
    timeouts: Timeouts,
) -> Answer:
    """Forward a request and give its response, ready to be relayed; see ``http.ask``.

    Raises:
        GatewayError: If there is no response.
        ClientLeft: If the client left.
    """
    steps, shadow = plan.steps, None
    if steps is not None:
        for admission in steps.admissions:
            await admission(exchange, plan, found, head)
        if steps.mirror is not None:
            shadow = steps.mirror.copy(exchange, plan, head, body)
            body = body if shadow is None else shadow.body
    if steps is not None or state.transforms is not None:
        try:
            head, body = outgoing(exchange, plan, state, head, body)
        except BaseException:
            if shadow is not None:
                shadow.give_up()
            raise
    asking = attempts_by_rules(exchange, state, head, body, timeouts, steps)
    answer = await (asking if shadow is None else shadow.follow(asking))
    answer.prepare(plan, found)
    if answer.filtered is not None:
        await begin(answer)
    return answer
