"""``proxyroutes demo``: two upstreams and a gateway with a pool over them, in one process and on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING

from proxyroutes._operate.demo_script import Registry, Stage, Step, perform

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["check_demo", "render", "run_demo"]

_DWELL = 2.0
_FRAME = 0.125
_MARKS = {"waiting": "  ", "running": "> ", "ok": "ok", "failed": "!!"}
_COLOURS = {"waiting": "dim", "running": "yellow", "ok": "green", "failed": "bold red"}


@contextlib.asynccontextmanager
async def _open(proxy: Registry, port: int, pause: float, interval: float) -> AsyncIterator[Stage]:
    import uvicorn  # noqa: F401, PLC0415 - an extra: its lack is told before anything is shown

    # A port that is taken is told before anything is shown, too.
    with socket.create_server(("127.0.0.1", port)):
        pass
    # What pools log is what the steps show.
    quiet = logging.NullHandler()
    logger = logging.getLogger("proxyroutes")
    logger.addHandler(quiet)
    try:
        async with contextlib.AsyncExitStack() as stack:
            yield Stage(proxy, port, stack, pause, interval)
    finally:
        logger.removeHandler(quiet)


def _to_line(step: Step) -> str:
    return f"{'FAILED' if step.state == 'failed' else step.state:6}  {step.title}: {step.seen}"


async def check_demo(proxy: Registry, *, port: int = 0, say: Callable[[str], None]) -> bool:
    """Go through the whole script as fast as it goes. It ends by itself, whatever the gateway does.

    Args:
        proxy: A new ``Proxy``; the demo's route is declared on it.
        port: The gateway's TCP port on 127.0.0.1; 0 for a free one.
        say: Is given a line for each step.

    Returns:
        Whether each step was as it should be.

    Raises:
        OSError: If the port cannot be listened on.
        ImportError: If uvicorn is not installed.
    """

    def tell(step: Step) -> None:
        if step.state != "running":
            say(_to_line(step))

    async with _open(proxy, port, 0.0, 0.05) as stage:
        return await perform(stage, tell)


async def run_demo(
    proxy: Registry,
    *,
    port: int,
    say: Callable[[str], None],
    console: Console | None = None,
    open_page: Callable[[str], object] | None = None,
    dwell: float = _DWELL,
) -> bool:
    """Go through the script for a reader, then serve until the process is interrupted.

    Args:
        proxy: A new ``Proxy``; the demo's route is declared on it.
        port: The gateway's TCP port on 127.0.0.1; 0 for a free one.
        say: Is given what a reader should see, where there is no console.
        console: The terminal that shows the steps live.
        open_page: Is called once with the status page's address, in a thread.
        dwell: Seconds after each step.

    Returns:
        Whether no step has failed.

    Raises:
        OSError: If the port cannot be listened on.
        ImportError: If uvicorn is not installed.
    """
    opening: list[asyncio.Task[object]] = []

    def tell(step: Step) -> None:
        if step.state != "running" and console is None:
            say(_to_line(step))
        if step.state == "ok" and step.title == "start the gateway":
            if console is None:
                say("\n".join(_tries(stage)))
            if open_page is not None:
                opened = asyncio.to_thread(open_page, stage.page)
                opening.append(asyncio.create_task(opened, name="demo: open the page"))

    async def play() -> None:
        await perform(stage, tell, dwell)
        if console is None:
            say("Ctrl-C stops it.")

    async with _open(proxy, port, 0.1, 0.5) as stage, _interruption() as interrupted:
        with _shown(stage, console):
            playing = asyncio.create_task(play(), name="demo: script")
            waiting = asyncio.create_task(interrupted.wait(), name="demo: interruption")
            try:
                await asyncio.wait({playing, waiting}, return_when=asyncio.FIRST_COMPLETED)
                if playing.done():
                    playing.result()
                await waiting
            finally:
                for task in (playing, waiting):
                    task.cancel()
                await asyncio.gather(playing, waiting, *opening, return_exceptions=True)
    say("stopped")
    return all(step.state != "failed" for step in stage.steps)


def _tries(stage: Stage) -> list[str]:
    url = stage.url
    tries = {
        f"curl {url}/api/hello": "again and again: the two take turns",
        f"curl -N {url}/api/events": "event by event",
        f"echo hello | curl -X POST -T - {url}/api/echo": "streamed there and back",
    }
    width = max(map(len, tries))
    return [
        f"gateway        {url}",
        f"status page    {stage.page}",
        *(f"  {command:{width}}  # {comment}" for command, comment in tries.items()),
    ]


@contextlib.asynccontextmanager
async def _interruption() -> AsyncIterator[asyncio.Event]:
    """Set by Ctrl-C or a request to terminate."""
    loop = asyncio.get_running_loop()
    interrupted = asyncio.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    # Where the loop handles no signals (Windows), Ctrl-C cancels the running task.
    with contextlib.suppress(NotImplementedError):
        for one in signals:
            loop.add_signal_handler(one, interrupted.set)
    try:
        yield interrupted
    finally:
        with contextlib.suppress(NotImplementedError):
            for one in signals:
                loop.remove_signal_handler(one)


# In a terminal.


@contextlib.contextmanager
def _shown(stage: Stage, console: Console | None) -> Iterator[None]:
    if console is None:
        yield
        return
    import rich.live  # noqa: PLC0415 - an extra

    # Drawn by the loop: a thread of its own could not ask the pool.
    with rich.live.Live(render(stage), console=console, auto_refresh=False) as live:

        async def draw() -> None:
            while True:
                await asyncio.sleep(_FRAME)
                live.update(render(stage), refresh=True)

        drawing = asyncio.create_task(draw(), name="demo: screen")
        try:
            yield
        finally:
            drawing.cancel()
            live.update(render(stage), refresh=True)


def render(stage: Stage) -> RenderableType:
    """The stage for a terminal: the steps, the upstreams, what clients got."""
    import rich.console  # noqa: PLC0415 - an extra
    import rich.progress_bar  # noqa: PLC0415 - an extra
    import rich.table  # noqa: PLC0415 - an extra
    import rich.text  # noqa: PLC0415 - an extra

    steps = rich.table.Table(box=None, show_header=False)
    for step in stage.steps:
        cells = (_MARKS[step.state], step.title, step.seen)
        steps.add_row(*(rich.text.Text(cell, style=_COLOURS[step.state]) for cell in cells))
    done = sum(step.state == "ok" for step in stage.steps)
    parts: list[RenderableType] = [
        rich.progress_bar.ProgressBar(total=len(stage.steps), completed=done, width=40),
        steps,
    ]
    if stage.pool is not None and stage.pool.entered():
        names = {one.url: name for name, one in stage.upstreams.items()}
        shown = rich.table.Table(box=None, header_style="bold")
        for title in ("upstream", "address", "rotation", "requests", "why"):
            shown.add_column(title, overflow="fold")
        for one in stage.pool.status():
            style = "green" if one.available else "red"
            cells = (names[one.url], one.url, "in" if one.available else "out")
            texts = (*cells, str(one.requests), one.reason)
            shown.add_row(*(rich.text.Text(text, style=style) for text in texts))
        asked = f"{stage.answers.total()} requests answered, {len(stage.failures)} failed"
        lines = (asked, *_tries(stage), "Ctrl-C stops it.")
        parts += [shown, *(rich.text.Text(line) for line in lines)]
    return rich.console.Group(*parts)
