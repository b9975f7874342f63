"""State per loop: counted, opened lazily, and closed with its last user or with its loop."""

import asyncio
import gc
import threading
import weakref

import pytest

from proxyroutes._state.loops import LoopStates


class State:
    """Something that is held."""

    def __init__(self):
        self.closed = 0

    async def aclose(self):
        """Let go."""
        self.closed += 1


@pytest.fixture
def states():
    """No states yet."""
    return LoopStates()


async def test_the_last_user_closes(states):
    """A state is opened once for all who enter, and closed when the last of them leaves."""
    loop = asyncio.get_running_loop()
    first = states.enter(loop, State)
    second = states.enter(loop, State)
    await states.leave(loop)
    before = first.closed
    await states.leave(loop)

    assert (True, 0, 1, None) == (first is second, before, first.closed, states.get(loop))


async def test_a_state_may_be_opened_again(states):
    """After the last user a new state is made."""
    loop = asyncio.get_running_loop()
    first = states.enter(loop, State)
    await states.leave(loop)
    second = states.enter(loop, State)
    await states.leave(loop)

    assert (False, 1, 1) == (first is second, first.closed, second.closed)


async def test_a_lifespan_joins_what_was_opened_lazily(states):
    """It then ends with the lifespan, and the end of the loop has nothing left to do."""
    loop = asyncio.get_running_loop()
    state = State()
    states.open_lazily(loop, state)
    joined = states.enter(loop, State)
    await states.leave(loop)

    assert (True, 1, None) == (joined is state, state.closed, states.take(loop))


def test_a_lazy_state_is_closed_with_its_loop(states):
    """Nobody left it; the loop does."""
    state = State()

    async def use():
        states.open_lazily(asyncio.get_running_loop(), state)

    asyncio.run(use())

    assert (1, []) == (state.closed, states.all())


def test_a_used_state_is_not_closed_with_its_loop(states):
    """Who entered it leaves it."""
    state = State()

    async def use():
        loop = asyncio.get_running_loop()
        states.open_lazily(loop, state)
        states.enter(loop, State)

    asyncio.run(use())

    assert 0 == state.closed


def test_a_lazy_state_may_lose_its_owner(states):
    """A pool that is gone when its loop ends is nobody's to close."""
    state = State()
    owner = LoopStates()
    gone = weakref.ref(owner)

    async def use(owner):
        loop = asyncio.get_running_loop()
        owner.open_lazily(loop, state)
        return owner._closers.pop(loop)

    async def outlive(owners):
        closer = await use(owners.pop())
        gc.collect()
        await closer.aclose()

    owners = [owner]
    del owner
    asyncio.run(outlive(owners))

    assert (None, 0) == (gone(), state.closed)


async def test_closing_counts_no_users(states):
    """A state that is closed at once is closed for all of them."""
    loop = asyncio.get_running_loop()
    state = states.enter(loop, State)
    states.enter(loop, State)
    await states.close(loop)
    await states.leave(loop)

    assert (1, None) == (state.closed, states.get(loop))


@pytest.mark.requirement("R-46")
def test_two_loops_have_two_states(states):
    """State belongs to one loop."""
    opened = []

    async def use():
        loop = asyncio.get_running_loop()
        opened.append(states.enter(loop, State))
        await states.leave(loop)

    asyncio.run(use())
    asyncio.run(use())

    assert ([1, 1], False) == ([state.closed for state in opened], opened[0] is opened[1])


@pytest.fixture
def loops():
    """Two loops that do not run."""
    loops = [asyncio.new_event_loop() for _ in range(2)]
    yield loops
    for loop in loops:
        loop.close()


def test_every_state_can_be_asked_for_while_a_loop_opens_one(states, loops, monkeypatch):
    """A scrape asks in its own thread."""
    first = states.enter(loops[0], State)

    class Interrupted(weakref.WeakKeyDictionary):
        """Another thread has its turn in the middle of a look at all of them."""

        def values(self):
            found = super().values()
            yield next(found)
            other = threading.Thread(target=states.enter, args=(loops[1], State))
            other.start()
            other.join()
            yield from found

    monkeypatch.setattr(states, "_states", Interrupted(states._states))
    actual = states.all()

    assert [first, states.get(loops[1])] == actual
