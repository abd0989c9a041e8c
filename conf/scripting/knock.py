"""Port knocking: how far an address has come is in a dict that all workers share."""

from ngxstream.scripting import Session, shared

STEPS = 3
OPEN_S = 60

knocks = shared("knocks")  # address: how many of the ports it has knocked at, in order


def knock(s: Session, step: int) -> None:
    """Note a connection to the port of a step, and end it."""
    address = str(s.client.ip)
    if step == 1:
        knocks[address] = 1
    elif knocks.get(address) == step - 1:
        knocks.set(address, step, OPEN_S if step == STEPS else None)
    else:
        knocks.pop(address, None)
    s.deny()


def first(s: Session) -> None:
    """The first port: `py_access`."""
    knock(s, 1)


def second(s: Session) -> None:
    """The second port."""
    knock(s, 2)


def third(s: Session) -> None:
    """The third port, which opens the door."""
    knock(s, 3)


def door(s: Session) -> None:
    """The service: who has not knocked is turned away."""
    if knocks.get(str(s.client.ip)) != STEPS:
        s.deny()
