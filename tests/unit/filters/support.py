"""What the tests of filtered contents have alike."""


async def read_all(stream):
    """Everything that comes out."""
    pieces = []
    while piece := await stream.read():
        pieces.append(piece)
    return pieces


async def same(chunks):
    """Pass everything."""
    async for chunk in chunks:
        yield chunk
