"""Whether a row's task can be given up for nothing.

What may live here: that question. A row that waits for the limits, the budget, its turn or its next attempt has nothing
under way that is going to be paid for; a run that is to end need not wait for it, which can take many minutes.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import Any, Final

from ..calls.effects import Count, HoldBudget, Reserve, Sleep, Start

# Not Follow: the call that is followed is under way, and its answer is about to be had for nothing.
_RESTING: Final = frozenset(effect.aperform.__code__ for effect in (Count, HoldBudget, Reserve, Sleep, Start))

# What calls the user's `validate` and `on_result`. The row's answer is paid by then, and what these wait for, though it
# may be a call of ours, is not the row's. By name, for both stand above this module.
_USERS: Final = frozenset({"Structured._checked", "_emit.<locals>.emit"})


def at_rest(task: asyncio.Task[Any]) -> bool:
    """Whether a task has not begun, or waits in one of those effects of a call in which nothing is being asked.

    It is read off the coroutines that the task consists of. So nothing has to be told from below, and a call that
    does not come from the client never counts as resting; nor does a row while the user's own code looks at it.
    """
    inner: Any = task.get_coro()
    if inspect.iscoroutine(inner) and inspect.getcoroutinestate(inner) == inspect.CORO_CREATED:
        return True
    while inspect.iscoroutine(inner):
        code = inner.cr_code
        if code in _RESTING:
            return True
        if code.co_qualname in _USERS:
            return False
        inner = inner.cr_await
    return False
