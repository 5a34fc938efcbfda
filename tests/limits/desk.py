"""Claims in few words, for the tests of stores."""

from __future__ import annotations

import itertools

from bulkllm.limits.stores import Claim, Lease, Meter, Report, Spending, Store

RPM = Meter("rpm", "bucket", 60, whole=True)

_numbers = itertools.count()


class Clock:
    def __init__(self) -> None:
        self.now = 1_795_000_000.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """One group of one store, and claims in few words."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.store = store
        self.clock = clock
        self.group = f"group {next(_numbers)}"
        self.meters: tuple[Meter, ...] = (RPM,)
        self.ttl = 5.0
        self._serials = itertools.count(1)

    def claim(
        self,
        owner: str,
        want: float | dict[str, float] | None = None,
        *,
        least: float | dict[str, float] | None = None,
        keep: float | dict[str, float] | None = None,
        spent: list[tuple[str, float, float]] | None = None,
        serial: int | None = None,
        leaving: bool = False,
    ) -> Lease:
        key = self.meters[0].key

        def amounts(given: float | dict[str, float] | None) -> dict[str, float]:
            return {} if given is None else given if isinstance(given, dict) else {key: given}

        serial = next(self._serials) if serial is None else serial
        reports = (Report(serial, tuple(Spending(*each) for each in spent)),) if spent else ()
        claim = Claim(
            owner,
            self.meters,
            self.ttl,
            want=amounts(want),
            least=amounts(least),
            keep=amounts(keep),
            reports=reports,
            leaving=leaving,
        )
        return self.store.lease(self.group, claim)

    def use_up(self, **amounts: float) -> None:
        """Somebody spends this much, and goes."""
        self.claim("passer-by", amounts)
        self.claim("passer-by", spent=[(key, amount, 0.0) for key, amount in amounts.items()], leaving=True)

    def left(self) -> float:
        return self.store.look(self.group).left.get(self.meters[0].key, self.meters[0].size)

    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
