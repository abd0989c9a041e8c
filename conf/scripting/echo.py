"""Echo and discard: the smallest servers there are."""

from ngxstream.scripting import Session


async def echo(s: Session) -> None:
    """Send back what comes: bytes over TCP, each datagram over UDP."""
    async for data in s:
        s.send_to_client(data)
        await s.drain()


async def discard(s: Session) -> None:
    """Take what comes and say nothing."""
    async for _ in s:
        pass
