"""How fast to go where nobody tells a limit: as fast as one can until refused, then just below what was let in.

As long as nothing is refused there is no pace, and a refusal now and then sets none. Where refusals follow each other
the provider was empty at each of them: what it let in between two, by the time between them, is what it gives. The
pace is set just below that, and grows with each request that it holds up: so slowly at first that about one in two
hundred is refused near a limit, and faster the more go well, so that a limit that was raised is followed. It never
grows far beyond what the last minute confirms.

Most providers count minutes. So what was let in before the very first refusal is taken for a minute's quota, if what
is let in afterwards does not speak against it. Where nothing goes for longer than a bucket of that pace would take, the
provider counts a window: what went in a burst may go in a burst again when that has left the window. After some minutes
of that the pace becomes an even one, which no provider minds. Only arithmetic may live here, as in :mod:`.bucket`.
"""

from __future__ import annotations

import math
from typing import Final

from .bucket import Grain, Meter, SlidingWindow, TokenBucket
from .chance import Chance
from .spec import REQUESTS, Window
from .trail import GRAIN, MINUTE, Mark, Trail

# After a refusal: a little below what was measured.
_STEP_BACK: Final = 0.96

# So many let in between two refusals, and they may be due to chance: one in two hundred is what trying costs anyway.
_TOLERABLE: Final = 200

# With fewer than that between two refusals, the one that was refused counts as let in, for it may nearly have been.
_FEW: Final = 10

# A minute's quota explains what is let in afterwards if that is no more than so many times less or more. It looks like
# more when little was let in yet, for a bucket that is refused from may have nearly a whole one left.
_ALIKE: Final = 2.0
_MUCH_MORE: Final = 4.0

# Less let in than between the two refusals before, and yet a good many: it was not for want of anything. That counts
# every other time.
_LESS: Final = 0.985
_MANY: Final = 50

# Growth with each request that the pace holds up, and with each second; it doubles with so many of both that go well.
# Growing back by a step takes about a hundred of them, doubling the pace three hundred.
_GROWTH: Final = 0.0002
_DOUBLES_WITH: Final = 60.0
_LARGEST_GROWTH: Final = 0.25  # a second

# Once refusals are known to come by chance: so much faster at once, and then it grows.
_TAKE_HEART: Final = 1.5

# What the last minute let in confirms a pace that is at most so much above it; only then it may grow.
_CONFIRMED: Final = 1.25

# Requests that may go at once after a pause, in seconds of the pace.
_BURST: Final = 0.5

_SLOWEST: Final = 0.1

# At two refusals by a window of a minute, the minute before each let in the same, but for a share or a few requests.
_SAME: Final = 0.005
_SAME_REQUESTS: Final = 2.0

# A bucket has refilled by so many requests, and still nothing goes: it is none.
_NO_BUCKET: Final = 5.0

# Whoever was not held up by the pace for so many seconds has not gone too fast.
_SHORT: Final = 5.0

# Some providers say how long to wait in whole seconds.
_ROUNDED: Final = 1.5

# After a refusal that says no time nothing goes until so many may have come free, and at most for so many seconds;
# twice as long each time that nothing was let in, up to a bound.
_COMES_FREE: Final = 2.0
_LONGEST_FIRST: Final = 0.5
_LONGEST_PAUSE: Final = 30.0

# After so many refusals with nothing let in between them it may be closed: a few do not show that it is open.
_SHUT: Final = 3

# While nothing goes the pace is at most cut to this each time: it may be closed for another reason.
_LARGEST_CUT: Final = 0.25

# What the last minute let in has become so much less while nothing went. It becomes less and less for whatever reason
# nothing goes, so that it is no quota if a few go well afterwards.
_DRAINED: Final = 0.9

# Bursts are allowed for so many seconds. Then the pace becomes even when so much of a minute is about to come free, and
# in the end without that: only an even one grows.
_BURSTS_LAST: Final = 170.0
_BURSTS_END: Final = 2 * _BURSTS_LAST
_EVEN: Final = 1 / 6

# A request leaves the provider's window that much later than it left here, in seconds.
_LATER: Final = 0.3


class Pace:
    """Requests that may go, found by trying.

    Attributes:
        trail: what went, and how much of it was let in.
        even: lets them go evenly; None without such a pace.
        window: what may go within a minute; None where nothing speaks for it.
    """

    __slots__ = (
        "_before",
        "_began",
        "_bursts_since",
        "_chance",
        "_counted",
        "_drained",
        "_empty",
        "_filled",
        "_first_refused",
        "_gave",
        "_grain",
        "_grown_at",
        "_heard",
        "_heard_at",
        "_misses",
        "_no_bucket",
        "_noted",
        "_quota",
        "_shut_at",
        "_shut_with",
        "_spared",
        "even",
        "trail",
        "window",
    )

    def __init__(self, now: float) -> None:
        self.trail = Trail()
        self.even: TokenBucket | None = None
        self.window: SlidingWindow | None = None
        self._began = now
        self._empty: Mark | None = None  # the provider was empty: the last refusal that told something
        self._heard = 0  # requests that had been sent when that was heard
        self._heard_at = now
        self._first_refused = math.inf
        self._misses = 0  # refusals with nothing let in between them
        self._shut_at = now  # the first of those
        self._shut_with = 0.0  # what the last minute had let in then
        self._drained = False  # since then that has become less, and what may go with it
        self._noted = 0  # let in when ...
        self._before = (math.inf, math.inf)  # ... both quotas were noted: more than a few had been let in again
        self._no_bucket = False  # nothing went for longer than a bucket takes
        self._quota = math.inf  # what a minute had let in when it was full
        self._filled = False  # so is the window's own quota, which ...
        self._counted = 0  # ... counts the requests up to this number
        self._grain: Grain | None = None  # where the window counts the latest request
        self._gave = 0.0  # what was let in a second between the last two refusals that counted
        self._spared = False  # the last refusal did not
        self._grown_at = now
        self._bursts_since = now
        self._chance = Chance()

    @property
    def meters(self) -> tuple[Meter, ...]:
        """What lets requests go."""
        return tuple(meter for meter in (self.even, self.window) if meter is not None)

    @property
    def rate(self) -> float:
        """Requests a second; infinite without a limit."""
        return min((meter.quota / MINUTE for meter in self.meters), default=math.inf)

    # -- requests --------------------------------------------------------------------------------------------

    def took(self, now: float) -> bool:
        """A request is granted. Says whether the meters are others from now on."""
        self.trail.took(now)
        recalled = self._drained and self.trail.sent - self._heard > _FEW
        if recalled:
            self._recall(now)
        even, window = self.even, self.window
        if window is not None:
            window.take(1.0, now)
            self._grain = window.send(1.0, now + window.margin)
            if even is None:
                return self._smoothed(window, now) or recalled
        if even is not None:
            even.take(1.0, now)
            if even.remaining(now) < 1.0 or (window is not None and window.remaining(now) < 1.0):
                self._grow(even, now)
        return recalled

    def gave_back(self, now: float) -> None:
        """A granted request was never sent."""
        self.trail.sent -= 1
        if self.even is not None:
            self.even.give(1.0, now)
        self._uncount(now)

    def count_refused(self, number: int, now: float) -> None:
        """The request of this number was refused; until now it was taken for one that was let in."""
        self.trail.was_refused(number)
        if self._empty is not None and number <= self._empty.sent:
            self._empty.let_in -= 1
        self._uncount(now)
        if self._filled and self.window is not None and number <= self._counted:
            self._quota -= 1.0
            self.window.resize(max(1.0, self.window.quota - 1.0), now)

    def _uncount(self, now: float) -> None:
        if self.window is not None and self._grain is not None:
            self.window.give(1.0, self._grain, now)  # perhaps another's, but of about the same moment

    # -- refusals --------------------------------------------------------------------------------------------

    def refuse(
        self,
        number: int,
        sent_at: float,
        now: float,
        retry_after: float | None = None,
        window: Window | None = None,
        *,
        often: bool = True,
        bound: bool = False,
    ) -> float | None:
        """A request was refused, and no limit that we know of accounts for it.

        Args:
            number: which.
            sent_at: when it was sent.
            now: seconds.
            retry_after: how long the provider asks to wait, if it does.
            window: how the provider counts, if that is known.
            often: many of the last requests were refused, so that it is not by chance.
            bound: a limit that we know of bounds how fast requests go, so that a refusal says something already.

        Returns:
            How long to let nothing go; None if it was no news: one burst is one lesson.
        """
        self.count_refused(number, now)
        trail, before = self.trail, self._empty
        if before is not None and number <= self._heard:
            return None
        if self._chance.is_assumed(number, often=often):
            return None
        if not self.meters and not often and not bound and (retry_after is None or retry_after <= _SHORT):
            # Now and then a provider is busy. (Where it asks for more than that, it counts something.)
            self._empty = None
            return self._pause(now) if retry_after is None else retry_after
        empty = Mark(sent_at, number, trail.let_in - (trail.sent - number))
        long_ago = before is None or sent_at - self._heard_at >= MINUTE
        self._heard, self._heard_at = trail.sent, now
        went = math.inf if before is None else empty.let_in - before.let_in
        if 0 < went < _FEW and self._misses >= _SHUT:
            # They may be under way still and be refused too, for refusals overtake each other: they count next time.
            return self._pause(now) if retry_after is None else retry_after
        self._empty = empty
        seconds = math.inf if before is None else max(sent_at - before.at, 1e-3)
        if went > 0:
            self._misses = 0
            self._shut_at = sent_at
            self._drained = False
        else:
            self._misses += 1
        if before is not None and went > 0:
            as_fast_as = self._chance.lesson(went, self.rate, trail.sent)
            if as_fast_as is not None:
                if self.even is not None and self.window is None:
                    self.set_rate(min(as_fast_as, self.rate * _TAKE_HEART), now)
                return self._pause(now) if retry_after is None else retry_after
        # What was sent at about the same time may have come before it.
        self._counted = trail.sent_by(sent_at + GRAIN)
        self._filled = False
        minute = round(trail.let_in - (trail.sent - self._counted) - trail.before(sent_at - MINUTE))
        if not self.meters and long_ago:  # a first refusal says little
            self._first_refused = now
            if self._is_window(retry_after, minute, now, window):
                self._allow_bursts(minute, now)
        elif went > 0:
            self._learn(went, seconds, minute, now)
        else:
            self._shut(minute, now, window)
        if before is None or trail.let_in - self._noted >= _FEW:
            self._noted, self._before = trail.let_in, self._quotas
        return self._pause(now) if retry_after is None else retry_after

    def _is_window(self, retry_after: float | None, minute: float, now: float, window: Window | None) -> bool:
        """Whether the very first refusal shows it."""
        if window is not None:
            return window == "sliding" and minute >= _FEW
        if retry_after is None or retry_after <= _ROUNDED:
            return False
        # A bucket would have something again long before, and a window just then.
        until = self.trail.free_at(now) + _LATER - now
        return abs(until - retry_after) <= _ROUNDED and self._guess() * retry_after > _NO_BUCKET

    def _shut(self, minute: float, now: float, window: Window | None) -> None:
        """Nothing was let in since the last refusal."""
        if self._misses == 1:
            self._shut_with = minute
        if now - self._shut_at > MINUTE:
            self._recall(now)
        if minute < _FEW:
            return  # that is what was tried, and no quota
        if (now - self._shut_at) * self._guess() <= _NO_BUCKET:
            return  # too early to tell anything
        self._no_bucket = window != "bucket"
        self._drained = minute < _DRAINED * self._shut_with
        if self.window is not None:
            self._fill(self.window, minute, now)
        if self.even is not None:
            self.set_rate(min(self.rate, max(minute / MINUTE, self.rate * _LARGEST_CUT)), now)
        frees_in = self.trail.free_at(now) - now
        # Until then it is tried, less and less often, whether it is a window of a minute and not a shorter one.
        if self.window is None and self._no_bucket and self.trail.is_burst(now) and frees_in < 2 * self._backoff():
            self._allow_bursts(minute, now)

    def _learn(self, went: float, seconds: float, minute: float, now: float) -> None:
        """So many were let in between two refusals, in so many seconds, and so many in the minute before."""
        measured = (went + (went < _FEW)) / seconds
        if self.even is not None and went >= _MANY and measured < _LESS * self._gave and not self._spared:
            self._spared = True
            return
        quota = self._quota
        if went >= _FEW:
            self._quota = minute
        if self.window is not None:
            self._fill(self.window, minute, now)
            if self.even is None:
                return
        elif self._no_bucket:
            self._allow_bursts(minute, now)
            return
        if self.even is None and went >= _TOLERABLE:
            return
        if self.even is None or now - self._first_refused < _SHORT:
            guess = minute / MINUTE
            if now - self._began < MINUTE and measured / _MUCH_MORE <= guess <= measured * _ALIKE:
                measured = guess
        elif seconds > _SHORT and now - self._grown_at > _SHORT:
            return  # the pace held nobody up
        elif self.window is not None and abs(minute - quota) <= max(_SAME_REQUESTS, _SAME * quota):
            self.set_rate(min(self.rate, minute / MINUTE * _STEP_BACK), now)  # whatever came free lately
            return
        self._gave, self._spared = measured, False
        if now - self._began >= MINUTE:
            measured = min(measured, max(minute, 1) / MINUTE)
        self.set_rate(min(self.rate, measured) * _STEP_BACK, now)
        if self.window is None and now - self._first_refused > MINUTE:
            self._count_a_window(minute, now)

    def _guess(self) -> float:
        """What may come free a second, by what is known and by what the last minute had."""
        return self.rate if self.meters else max(1.0, self.trail.minute(self._heard_at)) / MINUTE

    def _backoff(self) -> float:
        first = min(_LONGEST_FIRST, _COMES_FREE / self._guess())
        return float(min(_LONGEST_PAUSE, first * 2.0 ** min(self._misses, 30)))

    def _pause(self, now: float) -> float:
        pause = self._backoff()
        full_for = 0.0 if self.window is None else self.window.ready_at(1.0, now) - now
        return min(pause, full_for) if full_for > 0 else pause

    # -- the meters ------------------------------------------------------------------------------------------

    @property
    def _quotas(self) -> tuple[float, float]:
        even, window = self.even, self.window
        return math.inf if even is None else even.quota, math.inf if window is None else window.quota

    def _recall(self, now: float) -> None:
        """It was closed for another reason: go on as before, for what was cut since says nothing."""
        self._drained = False
        even, window = self._before
        if self._quotas == self._before:
            return
        self._no_bucket = self._filled = False
        if window == math.inf:
            self.window = None
        elif self.window is not None:
            self.window.resize(window, now)
        if even == math.inf:
            self.even = None
        else:
            self.set_rate(even / MINUTE, now)

    def set_rate(self, rate: float, now: float) -> None:
        """Go at this pace from now on, with nothing saved up."""
        quota = max(rate, _SLOWEST) * MINUTE
        self.even = TokenBucket("pace", REQUESTS, quota, MINUTE, capacity=_capacity(quota))
        self.even.set_remaining(0.0, now)
        self._grown_at = now

    def _allow_bursts(self, quota: float, now: float) -> None:
        """Let go what a minute let in, within any minute."""
        self._count_a_window(quota, now)
        self.even = None
        self._bursts_since = now

    def _smoothed(self, window: SlidingWindow, now: float) -> bool:
        """Whether bursts have lasted long enough, and even requests will find room from now on."""
        lasted = now - self._bursts_since
        # Of a small window, or of one that is never full, hardly anything is ever about to come free.
        if lasted < _BURSTS_LAST or (lasted < _BURSTS_END and self.trail.leaving(now) < _EVEN * window.quota):
            return False
        self.set_rate(window.quota / MINUTE, now)
        return True

    def _count_a_window(self, quota: float, now: float) -> None:
        """Keep to so many within any minute, those of the last minute among them."""
        self.window = window = SlidingWindow("pace", REQUESTS, max(1.0, quota), MINUTE)
        window.margin = _LATER
        for mark, after in self.trail.pairs(now):
            window.take(after.let_in - mark.let_in, mark.at)
            self._grain = window.send(after.let_in - mark.let_in, mark.at + GRAIN + _LATER)
        self._filled = True

    def _fill(self, window: SlidingWindow, minute: float, now: float) -> None:
        """A window was full with what the last minute let in."""
        if minute < window.quota:
            window.resize(max(1.0, minute), now)
            self._filled = True

    def _grow(self, even: TokenBucket, now: float) -> None:
        """The pace holds requests up."""
        # A grant may be booked a little earlier than the last one.
        elapsed, self._grown_at = max(0.0, min(now - self._grown_at, _SHORT)), now
        went_well = self.trail.sent - self._heard + now - self._heard_at
        growth = _GROWTH * (1.0 + elapsed) * 2.0 ** min(went_well / _DOUBLES_WITH, 30.0)
        factor = 1.0 + min(growth, _LARGEST_GROWTH * elapsed)
        confirmed = _CONFIRMED * self.trail.minute(now)
        if even.quota <= confirmed or now - self._began < MINUTE:
            even.resize(even.quota * factor, _capacity(even.quota * factor), now)
        if self.window is not None and self.window.quota <= confirmed:
            self.window.resize(self.window.quota * factor, now)


def _capacity(quota: float) -> float:
    return max(1.0, quota / MINUTE * _BURST)
