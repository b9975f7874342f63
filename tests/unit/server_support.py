"""What the tests of a server in memory share: its transport, and turns of the event loop."""

import asyncio


class Wire(asyncio.Transport):
    """A transport that keeps each write by itself."""

    def __init__(self):
        super().__init__()
        self.written = []
        self.closed = False

    def write(self, data):
        assert not self.closed
        self.written.append(bytes(data))

    def is_closing(self):
        return self.closed

    def close(self):
        self.closed = True

    def pause_reading(self):
        """Nothing is read by itself."""

    def resume_reading(self):
        """Nothing is read by itself."""

    def get_extra_info(self, name, default=None):
        return default


async def turns(number=10):
    """Let the event loop turn."""
    for _ in range(number):
        await asyncio.sleep(0)
