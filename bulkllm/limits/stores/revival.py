"""What becomes of a state that a store lost, or had brought back as it was some time ago: who remembers brings it back.

Whoever was served remembers the state as it then was, and whose memory is the newest is not known before all have
come. So the first to come brings the state back, and for a moment nothing is booked and nothing granted while the
others come: of what they remember the newest takes its place, and what they did in between they tell afterwards. What
others had begun anew by then, who remembered nothing, is added to it.

Pure: the moments come in, in the store's seconds. What may live here: who lacks what, and how a state is taken up.
``lease.lua`` says the same in the language of Redis.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .gauge import Gauge

if TYPE_CHECKING:
    from .ledger import Ledger

SETTLES: Final = 2.0
"""Seconds for which those are waited for who used a state before it was lost. Whoever finds a store away tries it again
within 1.5 s."""

SAME_CLOCK: Final = 1.0
"""Two readings of a store's clock that differ by less than this from what passed in between are of one clock."""

_LIVES: Final = 8
"""So many earlier lives of a state are known by name."""


class Settling(NamedTuple):
    """A state that was brought back, while others may have a newer one.

    Attributes:
        until: when they are waited for no longer.
        written: how often it had been written, as it was remembered.
        before: the meters that others had begun anew by then, as plain data.
    """

    until: float
    written: int
    before: dict[str, list[Any]]


def lacks(ledger: Ledger, epoch: str, written: int) -> bool:
    """Whether a state that somebody remembers, of that life and written so often, is newer than this one."""
    if epoch == ledger.epoch:
        return written > ledger.written
    if epoch in ledger.past:
        return ledger.settling is not None and written > ledger.settling.written
    return True


def take_up(ledger: Ledger, earlier: Ledger, elapsed: float, clock: float) -> None:
    """Go on from a state of ``elapsed`` seconds ago, which the ledger lacks."""
    now = ledger.tick(clock)
    shift = now - elapsed - earlier.now
    if abs(shift) < SAME_CLOCK:
        shift = 0.0
    settling = ledger.settling
    lives = {earlier.epoch, *earlier.past}
    if ledger.epoch in lives:  # it was to become what is remembered
        ledger.past = [*ledger.past, ledger.epoch]
        ledger.epoch = secrets.token_hex(8)
        ledger.closed.clear()
        settling = Settling(now + SETTLES, earlier.written, {})
    elif lives.isdisjoint(ledger.past):  # others began anew
        before = {key: gauge.dump() for key, gauge in ledger.gauges.items()}
        settling = Settling(now + SETTLES, earlier.written, before)
    elif settling is None or earlier.written <= settling.written:  # it goes on from a later one already
        _add_lives(ledger, earlier)
        return
    ledger.settling = settling = settling._replace(written=earlier.written)
    ledger.written = max(ledger.written, earlier.written)
    ledger.gauges = {key: Gauge.load(data) for key, data in settling.before.items()}
    for key, gauge in earlier.gauges.items():
        if key not in ledger.gauges:
            ledger.gauges[key] = Gauge(gauge.definition, now)
        if gauge.kind == "bucket":
            gauge.level, gauge.at = gauge.left(earlier.now), earlier.now
        ledger.gauges[key].inherit(gauge, shift, now)
    for name, tenant in earlier.tenants.items():
        mine = ledger.tenants.get(name)
        if mine is None or mine.serial <= tenant.serial:
            if tenant.until + shift <= now:
                tenant.held.clear()  # its lease has run out; what it reported is still not to be booked twice
            tenant.until = max(tenant.until + shift, settling.until + SETTLES)
            tenant.demands.clear()
            ledger.tenants[name] = tenant
    for pool, until in earlier.closed.items():
        ledger.closed[pool] = max(until + shift, ledger.closed.get(pool, until + shift))
    _add_lives(ledger, earlier)


def _add_lives(ledger: Ledger, earlier: Ledger) -> None:
    lives = [*ledger.past, *earlier.past, earlier.epoch]
    ledger.past = list(dict.fromkeys(life for life in lives if life != ledger.epoch))[-_LIVES:]


def settles_in(ledger: Ledger, clock: float) -> float:
    """Seconds until a state that was brought back may be used; 0 if there is nothing to wait for."""
    settling = ledger.settling
    if settling is None:
        return 0.0
    wait = settling.until - ledger.tick(clock)
    if wait > 0:
        return wait
    ledger.settling = None
    return 0.0
