"""The command ``proxyroutes``: what it prints, and with which status it ends."""

import asyncio
import contextlib
import inspect
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import webbrowser

import httpx
import pytest
import websockets
from fastapi import APIRouter, FastAPI
from rich.console import Console

import proxyroutes
from proxyroutes import Proxy, __main__
from proxyroutes._operate import demo, demo_script
from proxyroutes.testing import run_gateway

# Older releases of websockets have no such keyword, and know of no proxies.
DIRECT = {"proxy": None} if "proxy" in inspect.signature(websockets.connect).parameters else {}

GATEWAY = """
from typing import Annotated

from fastapi import Depends, FastAPI

from proxyroutes import Proxy


def login() -> str: ...


def make() -> Proxy:
    proxy = Proxy()

    @proxy.get("/users/<path>", upstream="http://127.0.0.1:9001", rewrite="/v2/<path>")
    async def users(user: Annotated[str, Depends(login)]) -> None: ...

    @proxy.route("/<path>", upstream="http://[::1]:9002")
    async def rest() -> None: ...

    return proxy


def make_broken() -> Proxy:
    proxy = Proxy()

    @proxy.get("/users/<pth:rest>", upstream="http://127.0.0.1:9001")
    async def users() -> None: ...

    @proxy.get("/orders", upstream="127.0.0.1:9001")
    async def orders() -> None: ...

    return proxy


proxy = make()
app = FastAPI()
app.include_router(make().build_router(), prefix="/v1")


class settings:
    proxy = make()


async def make_late() -> Proxy:
    return make()


def make_for(name: str) -> Proxy:
    return make()


def fail() -> Proxy:
    raise KeyError("no such setting")


def make_text() -> str:
    return ""


bare = FastAPI()
number = 3
"""

TABLE = """\
methods  path           stub   upstream        destinations           rewrite     dependencies
GET      /users/<path>  users  127.0.0.1:9001  http://127.0.0.1:9001  /v2/<path>  login
any      /<path>        rest   [::1]:9002      http://[::1]:9002      -           -
"""


def line_of(text):
    """The number of the first line with this text."""
    return GATEWAY[: GATEWAY.index(text)].count("\n") + 1


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the command in this process, in a directory with the module ``shop_gateway``."""
    (tmp_path / "shop_gateway.py").write_text(GATEWAY, encoding="utf-8")
    (tmp_path / "shop_broken.py").write_text(
        "from shop_gateway import make_broken\nmake_broken().build_router()\n"
    )
    (tmp_path / "shop_incomplete.py").write_text("import not_installed\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            __main__.main(arguments)
        output = capsys.readouterr()
        return ended.value.code, output.out, output.err

    yield run
    for name in [name for name in sys.modules if name.startswith("shop_")]:
        del sys.modules[name]


# routes


@pytest.mark.parametrize("attribute", ["proxy", "make", "settings.proxy"])
def test_the_route_table_is_printed(run, attribute):
    """A proxy, a function that makes one, and one inside of another object have the same table."""
    actual = run("routes", f"shop_gateway:{attribute}")

    assert (0, TABLE, "") == actual


def test_an_apps_table_has_its_prefixes(run):
    """Paths are those of the app."""
    _, output, _ = run("routes", "shop_gateway:app")
    actual = [line.split()[1] for line in output.splitlines()]

    assert ["path", "/v1/users/<path>", "/v1/<path>"] == actual


def test_a_terminal_gets_lines_around_the_table(run, monkeypatch):
    """The same cells are drawn with rich, brackets of addresses included."""
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    status, output, _ = run("routes", "shop_gateway:proxy")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", output)

    assert (0, True, True) == (status, "┃ path" in plain, "│ http://[::1]:9002 " in plain)


@pytest.mark.parametrize("place", ["shop_gateway:make_broken", "shop_broken:app"])
def test_a_build_error_is_printed_as_it_reads(run, tmp_path, place):
    """Every mistake has a line with its file, and there is no traceback."""
    status, output, error = run("routes", place)
    lines = error.splitlines()
    starts = [
        "proxyroutes: the gateway cannot be built (2)",
        f"  - {tmp_path}/shop_gateway.py:{line_of('/users/<pth')}: unknown converter 'pth'; did you mean 'path'?",
        f"  - {tmp_path}/shop_gateway.py:{line_of('/orders')}: upstream: ",
    ]
    actual = [line[: len(start)] for line, start in zip(lines, starts, strict=True)]

    assert (1, "", starts) == (status, output, actual)


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("shop_gateway:aap", "shop_gateway has no 'aap'; did you mean shop_gateway:app?"),
        (
            "shop_gateway:settings.prxy",
            "shop_gateway has no 'settings.prxy'; did you mean shop_gateway:settings.proxy?",
        ),
        ("shop_gateway:zzz", "shop_gateway has no 'zzz'; it has proxy, app, bare"),
        ("json:zzz", "json has no 'zzz'"),
        (
            "shop_gatway:app",
            (
                "no module 'shop_gatway' in the current directory and on sys.path; "
                "did you mean 'shop_gateway'?"
            ),
        ),
        ("qqqq:app", "no module 'qqqq' in the current directory and on sys.path"),
        ("xml.domm:app", "no module 'xml.domm' in package 'xml'; did you mean 'xml.dom'?"),
        ("json.x.y:app", "no module 'json.x' in package 'json'"),
        ("shop_gateway.x:app", "no module 'shop_gateway.x' in package 'shop_gateway'"),
        ("shop_gateway", "write MODULE:ATTR, such as shop_gateway:app, not 'shop_gateway'"),
        (
            "shop_gateway.app",
            "write MODULE:ATTR, such as shop_gateway:app, not 'shop_gateway.app'",
        ),
        ("./shop.py", "write MODULE:ATTR, such as shop:app, not './shop.py'"),
        ("shop.py:proxy", "write MODULE:ATTR, such as shop:proxy, not 'shop.py:proxy'"),
        (":proxy", "write MODULE:ATTR, such as gateway:proxy, not ':proxy'"),
        (
            "shop_gateway:number",
            (
                "shop_gateway:number is of type 'int': "
                "a Proxy, an app or a function that makes one is meant"
            ),
        ),
        (
            "shop_gateway:make_for",
            (
                "shop_gateway:make_for cannot be called without arguments: "
                "missing a required argument: 'name'"
            ),
        ),
        (
            "shop_gateway:make_late",
            (
                "shop_gateway:make_late returned 'coroutine': "
                "a function that makes a Proxy or an app is meant"
            ),
        ),
        (
            "shop_gateway:make_text",
            (
                "shop_gateway:make_text returned 'str': "
                "a function that makes a Proxy or an app is meant"
            ),
        ),
    ],
)
def test_a_place_that_is_not_meant_is_explained(run, place, expected):
    """The message says what would be right, and the status is that of misuse."""
    actual = run("routes", place)

    assert (2, "", f"proxyroutes: {expected}\n") == actual


def test_an_app_without_gateway_routes_is_a_failure(run):
    """It says what is missing instead of printing an empty table."""
    actual = run("routes", "shop_gateway:bare")

    assert (
        1,
        "",
        (
            "proxyroutes: shop_gateway:bare has no gateway route: "
            "declare one, and include proxy.build_router() in the app\n"
        ),
    ) == actual


@pytest.mark.parametrize(
    ("place", "last_line", "first_frame"),
    [
        ("shop_gateway:fail", "KeyError: 'no such setting'", "shop_gateway.py"),
        (
            "shop_incomplete:app",
            "ModuleNotFoundError: No module named 'not_installed'",
            "shop_incomplete.py",
        ),
    ],
)
def test_a_failure_of_the_users_code_is_shown_without_ours(run, place, last_line, first_frame):
    """The traceback begins where the user's own code does."""
    status, _, error = run("routes", place)
    lines = error.splitlines()

    assert (1, last_line, True) == (status, lines[-1], f"/{first_frame}" in lines[1])


# The command itself


def test_the_version_is_printed(run):
    """It is the package's."""
    actual = run("--version")

    assert (0, f"proxyroutes {proxyroutes.__version__}\n", "") == actual


@pytest.mark.parametrize(
    ("extra", "arguments"),
    [("typer", ["--version"]), ("uvicorn", ["demo", "--check"])],
)
def test_a_missing_extra_is_named(run, monkeypatch, extra, arguments):
    """The message has the command that installs it."""
    monkeypatch.setitem(sys.modules, extra, None)
    actual = run(*arguments)

    assert (
        2,
        "",
        f'proxyroutes: {extra} is not installed: pip install "proxyroutes[standard]"\n',
    ) == actual


def test_any_other_import_error_is_not_explained_away(monkeypatch):
    """What is no extra of ours is raised as it is."""

    def fail() -> None:
        raise ImportError("broken", name="something")

    monkeypatch.setattr(__main__, "_make_app", fail)
    with pytest.raises(ImportError) as raised:
        __main__.main([])

    assert "something" == raised.value.name


# demo


SCRIPT = [
    r"ok      start two upstreams: red on http://\S+ and blue on http://\S+",
    r"ok      start the gateway: 2 of 2 upstreams are up, live status page on http://\S+/_proxy/",
    r"ok      let clients send: red and blue take turns, 0 of \d+ requests failed",
    r"ok      stream an upload: 16 blocks arrive one by one, and are echoed whole",
    r"ok      stream events: 5 of 5 events arrive one by one",
    r"ok      kill red: red is (down|ejected), 0 of \d+ requests failed",
    r"ok      start red again: red is back in rotation, 0 of \d+ requests failed",
]


def test_the_check_is_a_command():
    """As a process of its own it goes through the whole script, prints a line for each step, and exits with 0."""
    command = [sys.executable, "-m", "proxyroutes", "demo", "--check"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    lines = ended.stdout.splitlines()

    assert (0, "") == (ended.returncode, ended.stderr)
    assert len(SCRIPT) == len(lines)
    assert [] == [
        line for line, step in zip(lines, SCRIPT, strict=True) if not re.fullmatch(step, line)
    ]


class _Altered:
    """A proxy whose routes get other keywords than the demo says."""

    def __init__(self, **options):
        self.proxy, self.options = Proxy(), options
        self.status_router, self.build_router = self.proxy.status_router, self.proxy.build_router

    def route(self, path, **options):
        return self.proxy.route(path, **{**options, **self.options})


class _Deaf(_Altered):
    """A proxy that serves nothing."""

    def __init__(self):
        self.route = lambda path, **options: lambda stub: stub
        self.status_router = self.build_router = lambda **options: APIRouter()


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (_Deaf, "FAILED  start the gateway: the status page answers 404"),
        (
            lambda: _Altered(rewrite="/nowhere/<path>"),
            "FAILED  let clients send: clients see status 404",
        ),
        (lambda: _Altered(max_body_bytes=10), "FAILED  stream an upload: TimeoutError"),
    ],
    ids=["deaf", "astray", "small"],
)
async def test_a_gateway_that_does_not_do_its_work_fails_the_check(monkeypatch, make, expected):
    """The step says what it saw instead; none waits for ever, and nothing is tried after it."""
    monkeypatch.setattr(demo_script, "_STEP_SECONDS", 3.0)
    said = []
    passed = await demo.check_demo(make(), say=said.append)

    assert not passed
    assert said[-1].startswith(expected)
    assert ["ok"] * (len(said) - 1) == [line.split()[0] for line in said[:-1]]


def test_a_failed_check_ends_with_1(run, monkeypatch):
    """After the line of the step."""

    async def check_demo(proxy, *, port, say):
        say("FAILED  kill red: TimeoutError")
        return False

    monkeypatch.setattr(__main__, "check_demo", check_demo)
    actual = run("demo", "--check")

    assert (
        1,
        "FAILED  kill red: TimeoutError\n",
        "proxyroutes: a step was not as it should be\n",
    ) == actual


@pytest.mark.parametrize(
    ("arguments", "expected"), [(["demo"], None), (["demo", "--open"], webbrowser.open)]
)
def test_a_browser_is_opened_only_where_it_is_asked_for(run, monkeypatch, arguments, expected):
    """And a demo in which a step has failed ends with 1."""
    seen = []

    async def run_demo(proxy, *, open_page, **options):
        seen.append(open_page)
        return False

    monkeypatch.setattr(__main__, "run_demo", run_demo)
    status, _, _ = run(*arguments)

    assert (1, [expected]) == (status, seen)


def test_the_check_needs_no_rich():
    """Lines are printed all the same."""
    program = (
        "import sys; sys.modules['rich'] = sys.modules['rich.console'] = None;"
        "from proxyroutes.__main__ import main; main(['demo', '--check'])"
    )
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)

    assert (0, "", len(SCRIPT)) == (ended.returncode, ended.stderr, ended.stdout.count("ok  "))


def test_a_port_in_use_is_named(run):
    """It ends with 1 and no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        actual = run("demo", "--port", str(port))

    assert (
        1,
        "",
        f"proxyroutes: cannot listen on port {port} of 127.0.0.1: Address already in use\n",
    ) == actual


@pytest.mark.parametrize(("arguments", "expected"), [(["demo"], 0), (["demo", "--check"], 130)])
def test_an_interrupted_command_has_no_traceback(run, monkeypatch, arguments, expected):
    """To stop the demo is its proper end; a check that was stopped has not passed."""

    async def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(__main__, "run_demo", interrupt)
    monkeypatch.setattr(__main__, "check_demo", interrupt)
    actual = run(*arguments)

    assert (expected, "", "") == actual


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_demo_serves_until_a_signal_comes(number):
    """It tells its addresses and each step before, opens the page where that is asked for, and says that it has stopped."""
    said, opened = [], []

    def say(text):
        said.append(text)
        if text == "Ctrl-C stops it.":
            os.kill(os.getpid(), number)

    passed = await demo.run_demo(Proxy(), port=0, say=say, open_page=opened.append, dwell=0.0)
    lines = "\n".join(said).splitlines()
    steps = [line for line in lines if line.startswith("ok")]
    pages = [line.split()[-1] for line in lines if line.startswith("status page")]
    commands = [line for line in lines if line.startswith("  ") and "curl " in line]

    assert (True, 3, "stopped") == (passed, len(commands), lines[-1])
    assert [True] * len(SCRIPT) == [
        re.fullmatch(step, line) is not None for line, step in zip(steps, SCRIPT, strict=True)
    ]
    assert (1, opened) == (len(opened), pages)


async def test_a_terminal_sees_the_steps_and_the_loss():
    """Live: the killed upstream is out of rotation in some frame, and in again in the last one."""
    console = Console(
        file=io.StringIO(), force_terminal=True, width=160, height=60, _environ={"TERM": "xterm"}
    )

    task = asyncio.create_task(
        demo.run_demo(Proxy(), port=0, say=lambda text: None, console=console, dwell=0.3)
    )
    while console.file.getvalue().count("is back in rotation") < 1:
        done, _ = await asyncio.wait({task}, timeout=0.05)
        assert not done
    os.kill(os.getpid(), signal.SIGINT)
    passed = await task
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())

    assert passed
    assert re.search(r"red +http://\S+ +out +\d+", shown)
    assert re.search(r"red is (down|ejected), 0 of \d+ requests failed", shown)
    last = shown[shown.rindex("start two upstreams") :]
    assert re.search(r"red +http://\S+ +in +\d+", last)
    assert re.search(r"\d+ requests answered, 0 failed", last)
    assert re.search(r"status page +http://\S+/_proxy/", last)


@pytest.mark.parametrize("lacks", [False, True])
def test_without_what_draws_or_a_terminal_lines_do(monkeypatch, lacks):
    """A console is used only where both are there."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    if lacks:
        monkeypatch.setitem(sys.modules, "rich.console", None)

    assert lacks == (__main__._console() is None)


def test_ctrl_c_ends_the_demo_in_good_order():
    """As a process of its own it serves, and exits with 0 though a client still listens."""
    command = [sys.executable, "-m", "proxyroutes", "demo"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        lines = []
        while "status page  " not in "".join(lines[-1:]) and (line := process.stdout.readline()):
            lines.append(line)
        url = re.search(r"^gateway +(\S+)$", "".join(lines), re.MULTILINE)[1]
        with httpx.Client(base_url=url) as client:
            names = {client.get("/api/hello").json()["upstream"] for _ in range(2)}
            with client.stream("GET", "/api/events") as events:
                next(events.iter_lines())
                process.send_signal(signal.SIGINT)
                output, error = process.communicate(timeout=30)

    assert ({"red", "blue"}, 0, "") == (names, process.returncode, error)
    assert output.endswith("stopped\n")


# check, explain, diff, run, top

CHECKED = """
from fastapi import Depends, FastAPI

from proxyroutes import Proxy, Retry, Timeouts, UpstreamPool
from proxyroutes.policies import Hedge, LeastLatency

pool = UpstreamPool("users", ["http://127.0.0.1:9101"], balancing=LeastLatency())
spare = UpstreamPool("spare", ["http://127.0.0.1:9102"])


def make() -> Proxy:
    proxy = Proxy()

    @proxy.get("/api/<path>", upstream=pool)
    async def reads() -> None: ...

    @proxy.route("/api/users/<path>", upstream=pool, timeouts=Timeouts(first_byte=30, total=10))
    async def users() -> None: ...

    @proxy.post("/orders", upstream=pool, retry=Retry(methods={"POST"}, non_idempotent=True))
    async def orders() -> None: ...

    @proxy.websocket("/live", upstream=pool)
    async def live() -> None: ...

    return proxy


def login() -> None: ...


proxy = make()
app = FastAPI()
_built = make()
app.include_router(_built.build_router(), prefix="/v1", dependencies=[Depends(login)])
app.include_router(_built.metrics_router())


@app.get("/v1/api/health")
async def health() -> None: ...


@app.get("/own/{number:int}")
async def own() -> None: ...


idle = Proxy()
never = Proxy(retry=Retry(attempts=3), hedge=Hedge(1.0))
writes = UpstreamPool("writes", ["http://127.0.0.1:9101"], balancing=LeastLatency())


@idle.post("/a", upstream=writes, retry=Retry(attempts=3, on=[503]))
async def never_retried() -> None: ...


@idle.post("/c", upstream=writes, retry=Retry(attempts=1))
async def meant_so() -> None: ...


@never.post("/a", upstream="http://127.0.0.1:9101")
async def inherits() -> None: ...


@never.route("/b", methods=["GET", "POST"], upstream=pool, retry=Retry(), hedge=Hedge(1.0))
async def sometimes() -> None: ...


clean = Proxy(timeouts=Timeouts(total=10))


@clean.get("/a/<path>", upstream=[spare.destinations[0]])
async def one() -> None: ...


@clean.post("/a/<path>", upstream=[spare.destinations[0]])
async def two() -> None: ...
"""


@pytest.fixture
def checked(run, tmp_path):
    """A gateway with something to say of it."""
    (tmp_path / "shop_checked.py").write_text(CHECKED, encoding="utf-8")
    return run


def codes(output):
    """The codes of what was found, with their levels."""
    return sorted(re.findall(r": (error|warning): .* \[([\w-]+)\]$", output, re.MULTILINE))


def test_a_check_names_what_is_wrong_with_a_proxy(checked):
    """Errors make it fail; each finding has its place and its code."""
    status, output, _ = checked("check", "shop_checked:proxy")

    assert 1 == status
    assert [
        ("error", "try-over-total"),
        ("warning", "any-origin"),
        ("warning", "retry-not-idempotent"),
        ("warning", "unreachable-method"),
        ("warning", "unused-pool"),
        ("warning", "unused-pool"),
    ] == codes(output)
    assert "'/api/users/<path>' is never reached with GET, which reads takes first" in output
    assert output.endswith("shop_checked:proxy: 1 error, 5 warnings\n")


def test_a_check_of_an_app_sees_what_hides_its_own_routes(checked):
    """Also which pages of ours are open."""
    _, output, _ = checked("check", "shop_checked:app")
    found = set(codes(output))

    assert {("error", "shadowed-route"), ("warning", "open-page")} < found
    assert "route '/v1/api/health': error: the application's own route is never reached" in output
    assert "/own/" not in output


def test_a_check_names_what_never_happens(checked):
    """Where a route itself says it; what only its group says may be meant for others."""
    _, output, _ = checked("check", "shop_checked:idle")
    _, inherited, _ = checked("check", "shop_checked:never")

    assert [
        ("warning", "latency-unmeasured"),
        ("warning", "retry-unused"),
        *[("warning", "unused-pool")] * 2,
    ] == codes(output)
    assert "'/a': POST is tried again only with an Idempotency-Key" in output
    assert [("warning", "unused-pool")] * 2 == codes(inherited)


@pytest.mark.parametrize(("strict", "expected"), [((), 0), (("--strict",), 1)])
def test_warnings_fail_a_check_that_is_strict(checked, strict, expected):
    """Three pools here are used by no route of this proxy."""
    status, output, _ = checked("check", "shop_checked:clean", *strict)

    assert (expected, [("warning", "unused-pool")] * 3) == (status, codes(output))


def test_a_check_shows_what_the_build_refuses(run, tmp_path):
    """Each mistake is a finding."""
    status, output, _ = run("check", "shop_gateway:make_broken")

    assert (1, [("error", "declaration")] * 2) == (status, codes(output))
    assert f"{tmp_path}/shop_gateway.py:{line_of('/users/<pth')}: error: unknown converter" in (
        output
    )


def test_a_request_is_explained(checked):
    """By the proxy itself, with the fields that were given."""
    status, output, _ = checked(
        "explain", "shop_checked:proxy", "GET", "/api/users/7", "-H", "X-A: 1", "-H", "Host:b"
    )

    assert 0 == status
    assert "  route      reads  /api/<path>" in output
    assert "             x-a: 1\n" in output
    assert "x-forwarded-host: b" in output


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/v1/api/7", "solved first, and may answer instead: login"),
        ("/v1/orders", "405: the path serves POST only"),
        ("/own/7", "the application's own route 'own' is asked first and has it"),
        ("/own/x", "404: no route has this path"),
        ("/api/7", "the path is not below /v1"),
        ("ws://shop.example/v1/live", "live  /v1/live"),
    ],
)
def test_an_apps_own_routes_and_prefixes_are_explained_too(checked, url, expected):
    """In the order in which they are asked."""
    status, output, _ = checked("explain", "shop_checked:app", "GET", url)

    assert 0 == status
    assert expected in output


def test_an_explanation_may_be_json(checked):
    """For a program."""
    _, output, _ = checked("explain", "shop_checked:proxy", "GET", "/api/7", "--json")
    actual = json.loads(output)

    assert ("reads", "http://127.0.0.1:9101") == (actual["route"], actual["picked"])


def test_a_header_that_is_none_is_explained(run):
    """It needs a colon."""
    actual = run("explain", "shop_gateway:proxy", "GET", "/", "-H", "nonsense")

    assert (2, "", "proxyroutes: write a header as 'Name: value', not 'nonsense'\n") == actual


def test_the_difference_of_two_tables_is_printed(run, tmp_path):
    """What has gone, come, changed and moved; and whether anything has."""
    _, output, _ = run("routes", "shop_gateway:proxy", "--json")
    rows = json.loads(output)
    (tmp_path / "same.json").write_text(output)
    rows[0]["upstream"] = "elsewhere"
    gone = {**rows[0], "path": "/gone", "stub": "gone"}
    (tmp_path / "old.json").write_text(json.dumps([rows[1], rows[0], gone]))

    assert (0, "", "") == run("diff", "same.json", "shop_gateway:proxy")
    assert (
        1,
        (
            "- GET /gone (gone) -> elsewhere\n"
            "~ /users/<path> (users): upstream: elsewhere -> 127.0.0.1:9001\n"
            "> /users/<path> (users): now asked before /<path> (rest)\n"
        ),
        "",
    ) == run("diff", "old.json", "shop_gateway:proxy")


@pytest.mark.parametrize("content", [None, "{}", "nonsense", '[{"path": "/"}]'])
def test_a_table_that_cannot_be_read_is_named(run, tmp_path, content):
    """With the reason."""
    if content is not None:
        (tmp_path / "old.json").write_text(content)
    status, _, error = run("diff", "old.json", "shop_gateway:proxy")

    assert 2 == status
    assert error.startswith("proxyroutes: cannot read old.json: ")


def test_completion_is_there(run, monkeypatch):
    """For the shell that asks, whichever the tests run under."""
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    status, output, _ = run("--show-completion", "bash")

    assert (0, True) == (status, "_PROXYROUTES_COMPLETE=complete_bash" in output)


def test_a_command_that_is_misspelt_is_guessed(run):
    """As a user would."""
    status, _, error = run("explian")

    assert 2 == status
    assert "explain" in error


RUN = """
import gc

from fastapi import FastAPI
from proxyroutes import Proxy
from starlette.responses import PlainTextResponse

proxy = Proxy()


@proxy.route("/<path>", upstream=PlainTextResponse("served"))
async def everything() -> None: ...


speaking = Proxy()


@speaking.route("/<path>", upstream=PlainTextResponse("served"))
async def speaks(path: str) -> None: ...


app = FastAPI(lifespan=proxy.lifespan)
gateway = Proxy()


@gateway.route("/<path>", upstream=PlainTextResponse("served"))
async def again() -> None: ...


built = gateway.build_app()
collected = Proxy()


async def count(scope, receive, send):
    await PlainTextResponse("served" if gc.get_freeze_count() > 1000 else "not frozen")(scope, receive, send)


@collected.route("/<path>", upstream=count)
async def counted() -> None: ...
"""


@pytest.mark.parametrize("attribute", ["proxy", "speaking", "built", "collected"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_gateway_is_run_until_it_is_told_to_stop(tmp_path, attribute, number):
    """In a process of its own, over a real socket, with or without FastAPI in front."""
    (tmp_path / "shop_run.py").write_text(RUN, encoding="utf-8")
    command = [sys.executable, "-m", "proxyroutes", "run", f"shop_run:{attribute}", "--port", "0"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            line = process.stdout.readline()
            url = re.search(r"http://\S+\d", line)[0]
            response = httpx.get(f"{url}/a", trust_env=False, timeout=20.0)
            process.send_signal(number)
            _, error = process.communicate(timeout=20.0)
        finally:
            process.kill()

    assert (200, "served", "") == (response.status_code, response.text, error)
    assert 0 == process.returncode


STREAMS = """
import asyncio

from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route, WebSocketRoute

from proxyroutes import Proxy


async def events(request):
    async def endless():
        yield b"data: first\\n\\n"
        await asyncio.Event().wait()

    return StreamingResponse(endless(), media_type="text/event-stream")


async def echo(websocket):
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


upstream = Starlette(routes=[Route("/events", events), WebSocketRoute("/echo", echo)])
proxy = Proxy()


@proxy.get("/events", upstream=upstream)
async def listen() -> None: ...


@proxy.websocket("/echo", upstream=upstream)
async def talk() -> None: ...
"""


async def test_streams_and_sessions_do_not_hold_a_gateway_that_is_told_to_stop(tmp_path):
    """The session is closed with its code, the endless stream is cut after the grace time, and the exit code is 0."""
    (tmp_path / "shop_streams.py").write_text(STREAMS, encoding="utf-8")
    command = [sys.executable, "-m", "proxyroutes", "run", "shop_streams:proxy", "--port=0"]
    with subprocess.Popen(
        [*command, "--grace=1"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            line = await asyncio.to_thread(process.stdout.readline)
            port = int(re.search(rb":(\d+),", line)[1])
            async with (
                httpx.AsyncClient(trust_env=False, timeout=20.0) as client,
                client.stream("GET", f"http://127.0.0.1:{port}/events") as response,
                websockets.connect(f"ws://127.0.0.1:{port}/echo", **DIRECT) as session,
            ):
                lines = response.aiter_lines()
                first = await anext(lines)
                await session.send("hello")
                echoed = await session.recv()
                process.send_signal(signal.SIGTERM)
                with pytest.raises(websockets.ConnectionClosed) as closed:
                    await session.recv()
                with pytest.raises(httpx.RemoteProtocolError):
                    async for _ in lines:
                        pass
            _, error = await asyncio.to_thread(process.communicate, timeout=20.0)
        finally:
            process.kill()

    assert ("data: first", "hello", 1012) == (first, echoed, closed.value.rcvd.code)
    assert 0 == process.returncode
    assert b"Cancel 1 running task(s)" in error
    assert b"Traceback" not in error


BREAKS = """
import asyncio

from proxyroutes import Proxy, exceptions

proxy = Proxy()


async def upstream(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"begun", "more_body": True})


@proxy.get("/broken", upstream=upstream)
async def broken() -> None: ...


@proxy.get("/wrong", upstream=upstream)
async def wrong() -> None:
    raise ZeroDivisionError
"""


@pytest.mark.parametrize(("target", "shows"), [("/broken", False), ("/wrong", True)])
def test_a_broken_relay_is_no_traceback(tmp_path, target, shows):
    """The gateway's own log says what has happened; what is the application's mistake is shown as ever."""
    (tmp_path / "shop_breaks.py").write_text(BREAKS, encoding="utf-8")
    command = [sys.executable, "-m", "proxyroutes", "run", "shop_breaks:proxy", "--port=0"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            url = re.search(r"http://\S+\d", process.stdout.readline())[0]
            with contextlib.suppress(httpx.RemoteProtocolError):
                httpx.get(f"{url}{target}", trust_env=False, timeout=20.0)
            process.send_signal(signal.SIGTERM)
            _, error = process.communicate(timeout=20.0)
        finally:
            process.kill()

    assert [shows, not shows] == ["Traceback" in error, "exchange failed: route=broken" in error]


LIFESPAN = """
from contextlib import asynccontextmanager

from fastapi import FastAPI

from proxyroutes import Proxy

proxy = Proxy()


@proxy.route("/<path>", upstream="http://127.0.0.1:9")
async def everything() -> None: ...


def make(fails):
    @asynccontextmanager
    async def lifespan(app):
        if fails == "start":
            raise RuntimeError("no database")
        yield
        raise RuntimeError("no database")

    app = FastAPI(lifespan=lifespan)
    app.include_router(proxy.build_router())
    return app


bad_start = make("start")
bad_end = make("end")
"""


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [("bad_start", "did not start"), ("bad_end", "did not stop in good order")],
)
def test_a_start_or_an_end_that_fails_is_no_success(tmp_path, attribute, expected):
    """Whoever started it is told by the exit code, and where to look."""
    (tmp_path / "shop_lifespan.py").write_text(LIFESPAN, encoding="utf-8")
    place = f"shop_lifespan:{attribute}"
    command = [sys.executable, "-m", "proxyroutes", "run", place, "--port", "0"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            line = process.stdout.readline()
            if attribute == "bad_end":
                url = re.search(r"http://\S+\d", line)[0]
                httpx.get(f"{url}/a", trust_env=False, timeout=20.0)
                process.send_signal(signal.SIGTERM)
            _, error = process.communicate(timeout=20.0)
        finally:
            process.kill()

    assert 1 == process.returncode
    assert error.splitlines()[-1].startswith(f"proxyroutes: {place} {expected}; ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_anything_is_asked_stops_in_good_order(tmp_path, number):
    """From the moment on in which the address is told."""
    (tmp_path / "shop_run.py").write_text(RUN, encoding="utf-8")
    command = [sys.executable, "-m", "proxyroutes", "run", "shop_run:proxy", "--port", "0"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            process.stdout.readline()
            process.send_signal(number)
            _, error = process.communicate(timeout=20.0)
        finally:
            process.kill()

    assert (0, "") == (process.returncode, error)


def test_a_port_that_is_taken_is_named_by_run(run, tmp_path):
    """Instead of a traceback."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, _, error = run("run", "shop_gateway:proxy", "--port", str(port))

    assert (1, f"cannot listen on port {port} of 127.0.0.1") == (
        status,
        error.removeprefix("proxyroutes: ").partition(":")[0],
    )


def test_a_gateway_that_cannot_be_built_is_not_run(run):
    """Its mistakes are told."""
    status, _, error = run("run", "shop_gateway:make_broken", "--port", "0")

    assert (1, True) == (status, "the gateway cannot be built (2)" in error)


CONTRACT = """
from fastapi import Depends, FastAPI

from proxyroutes import Proxy, UpstreamPool
from proxyroutes.transports import ASGITransport

users = FastAPI()


@users.get("/users")
def show() -> None: ...


pool = UpstreamPool("users", ["http://users.internal"], transport=ASGITransport(users))
proxy = Proxy()


@proxy.get("/api/users", upstream=pool, rewrite="/users")
async def right() -> None: ...


@proxy.get("/api/orders", upstream=pool, rewrite="/orders")
async def wrong() -> None: ...


proxy.merge_openapi(pool)
app = FastAPI()
app.include_router(proxy.build_router())
app.include_router(proxy.status_router(public=True), prefix="/_proxy")
"""


@pytest.mark.parametrize("attribute", ["proxy", "app"])
def test_a_check_of_the_contract_names_what_upstreams_do_not_have(run, tmp_path, attribute):
    """It is asked for, because it sends requests; a page that is meant to be open is none of its findings."""
    (tmp_path / "shop_contract.py").write_text(CONTRACT, encoding="utf-8")
    without = run("check", f"shop_contract:{attribute}")
    status, output, _ = run("check", f"shop_contract:{attribute}", "--contract")

    assert (0, []) == (without[0], codes(without[1]))
    assert (1, [("error", "contract")]) == (status, codes(output))
    assert re.search(r"shop_contract\.py:\d+: error: route 'wrong' .* leads to /orders", output)


async def test_a_running_gateway_is_looked_at(capsys):
    """Its status page's numbers, once, as a pipe gets them."""
    proxy = Proxy()

    @proxy.route("/<path>", upstream="http://127.0.0.1:9")
    async def everything() -> None: ...

    app = FastAPI()
    app.include_router(proxy.status_router(public=True), prefix="/_proxy")
    app.include_router(proxy.build_router())
    async with run_gateway(app) as gateway:
        with pytest.raises(SystemExit) as ended:
            await asyncio.to_thread(
                __main__.main, ["top", f"http://127.0.0.1:{gateway.port}/_proxy", "--once"]
            )
    output = capsys.readouterr().out

    assert 0 == ended.value.code
    assert "0.0 requests/s, 0 in flight" in output
    assert "http://127.0.0.1:9" in output


def test_a_gateway_that_is_not_there_is_named(run):
    """With the address."""
    status, output, error = run("top", "http://127.0.0.1:9/_proxy")

    assert (1, "") == (status, output)
    assert error.startswith("proxyroutes: nothing answers at http://127.0.0.1:9/_proxy: ")
