"""What the engine hands to a connection. What may live here: values, no decisions."""

from __future__ import annotations

import dataclasses

from .dialects import Ask, Reply
from .faults import Fault
from .headers import Headers
from .limits import Charge, Pool
from .report import Ledger


class Ticket:
    """A request that was let in, until it has ended; it settles with the ledger and the pool that let it in."""

    __slots__ = ("ask", "charge", "ended", "ledger", "pool")

    def __init__(self, ask: Ask, charge: Charge, pool: Pool, ledger: Ledger) -> None:
        self.ask = ask
        self.charge = charge
        self.pool = pool
        self.ledger = ledger
        self.ended = False


@dataclasses.dataclass(slots=True)
class Answer:
    """What is to be sent.

    Attributes:
        status: the HTTP status.
        headers: without those that frame the body.
        body: the whole body, unless there are events.
        reply: the good reply behind it, if there is one.
        wait: seconds before the first byte.
        fault: what goes wrong on the way, if anything.
        ticket: to be settled, if the request was let in.
        counted: whether its status goes into the report.
    """

    status: int
    headers: Headers
    body: bytes = b""
    reply: Reply | None = None
    wait: float = 0.0
    fault: Fault | None = None
    ticket: Ticket | None = None
    counted: bool = True

    @property
    def is_bad(self) -> bool:
        """Whether this is no good answer even if it is sent whole."""
        return self.reply is None or (self.fault is not None and self.fault.spoils)
