"""Every spec of one proxy, in declared order, and proxies that are included in one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import define, evolve, field, frozen

from proxyroutes._declare.levels import DEFAULTS, OF_SESSIONS, UNSET, merge
from proxyroutes._declare.specs import RouteSpec, WebSocketSpec
from proxyroutes._state.on_error import OnError
from proxyroutes.exceptions import DeclarationError

if TYPE_CHECKING:
    from proxyroutes._state.monitor import HealthMonitor

__all__ = ["Included", "Registry", "concatenate", "flatten", "route_values", "session_values"]


@define(eq=False)
class Registry:
    """Every spec of one proxy, in declared order.

    Attributes:
        specs: What was declared.
        problems: Mistakes that belong to no single stub, such as a group's prefix.
        observers: The proxy's observers; the list may still grow.
        monitor: The monitor that the proxy was given, or None.
        on_error: The proxy's handlers of failures, in declared order.
        sealed: Set by the first build.
    """

    specs: list[RouteSpec | WebSocketSpec | Included] = field(factory=list)
    problems: list[str] = field(factory=list)
    observers: Sequence[Any] = ()
    monitor: HealthMonitor | None = None
    on_error: list[OnError] = field(factory=list)
    sealed: bool = False

    def add(self, spec: RouteSpec | WebSocketSpec | Included) -> None:
        """Record a spec, or a proxy that is included.

        Raises:
            DeclarationError: After the build.
        """
        if self.sealed:
            raise DeclarationError(
                "this route comes after the build and would never be served: "
                "declare it before build_router(), build_app() or explain()",
                location="" if isinstance(spec, Included) else spec.facts.location,
            )
        self.specs.append(spec)


@frozen(kw_only=True, eq=False)
class Included:
    """A proxy that another one has included; what it declares is read when the other one is built.

    Attributes:
        registry: Its registry.
        prefix: What is put in front of each of its paths.
        levels: What its routes inherit, the outermost first.
    """

    registry: Registry
    prefix: str
    levels: tuple[Mapping[str, Any], ...]

    def rebase(self, spec: RouteSpec | WebSocketSpec) -> RouteSpec | WebSocketSpec:
        """A spec of the included proxy as the including one has it."""
        levels = (*self.levels, *spec.levels)
        merged, _ = merge(levels)
        path = concatenate(self.prefix, spec.path)
        origins = (*spec.origins, self.registry)
        if isinstance(spec, WebSocketSpec):
            values = session_values(merged)
            options = {**spec.options, **values.pop("options")}
            return evolve(
                spec, path=path, levels=levels, origins=origins, options=options, **values
            )
        return evolve(spec, path=path, levels=levels, origins=origins, **route_values(merged))


def route_values(merged: Mapping[str, Any]) -> dict[str, Any]:
    """What an HTTP route takes of what was merged."""
    return {name: merged.get(name, default) for name, default in DEFAULTS.items()}


def session_values(merged: Mapping[str, Any]) -> dict[str, Any]:
    """What a WebSocket route takes of what was merged."""
    return {
        "upstream": merged.get("upstream", UNSET),
        "dependencies": merged.get("dependencies", ()),
        "options": {name: merged.get(name, DEFAULTS[name]) for name in OF_SESSIONS},
    }


def flatten(
    registry: Registry, within: tuple[Registry, ...] = ()
) -> tuple[list[RouteSpec | WebSocketSpec], list[str]]:
    """Every spec of a proxy and of those that it includes, in declared order, and what is wrong; nothing more is taken.

    Args:
        registry: The proxy's.
        within: Those that include it.
    """
    registry.sealed = True
    specs: list[RouteSpec | WebSocketSpec] = []
    problems = list(registry.problems)
    within = (*within, registry)
    for entry in registry.specs:
        if not isinstance(entry, Included):
            specs.append(entry)
        elif any(entry.registry is outer for outer in within):
            problems.append("a proxy includes itself, or one that includes it")
        else:
            inner, wrong = flatten(entry.registry, within)
            problems += wrong
            specs += [entry.rebase(spec) for spec in inner]
    return specs, problems


def concatenate(prefix: str, path: Any) -> Any:
    """A path behind a prefix."""
    # What is no path stays as it is, for the build to report; no path at all is the prefix itself.
    if not isinstance(path, str) or not (path.startswith("/") or (prefix and not path)):
        return path
    return prefix + path
