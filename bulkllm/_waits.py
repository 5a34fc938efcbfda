"""What calls wait for, in words: the names of reasons, and what to raise where most of the time goes. Pure.

A reason is ``"<what> of <limit>"``, such as ``"rpm of openai/*"``, as the limiter tells it; or one of those below that
belong to no limit. What may live here: these names, and the advice that follows from shares of the time. Who measures
the time is told elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

PROVIDER: Final = "provider"
"""No wait of ours: the provider was asked, and took this long."""
BUDGET: Final = "budget"
"""Waiting for room in a budget."""
RETRIES: Final = "retries"
"""Attempts that failed before the last one, and the pauses after them."""
IDENTICAL: Final = "identical call"
"""Waiting for an identical call under way, whose answer was then shared."""
PROGRAM: Final = "program"
"""Waiting until this program had started the calls that came before: its own work, and LiteLLM's."""
NOT_WAITED: Final = frozenset({RETRIES, IDENTICAL, PROGRAM})
"""Those that are no waiting for limits or budgets."""
LIMITS: Final = "limits"
"""Waiting for limits where nobody told which."""
OTHER: Final = "(other)"
"""The limit's name in reasons that were lumped together."""

_OF: Final = " of "

# What a reason's first part means, and what is to be done where it takes most of the time.
_ASK: Final = "if your account allows more; if not, ask the provider for more, or use a further account"
_SHORTER: Final = "or set a smaller max_tokens"
_MEANING: Final[Mapping[str, tuple[str, str]]] = {
    "rpm": ("requests per minute", f"raise rpm {_ASK}"),
    "tpm": ("tokens per minute", f"raise tpm {_ASK}, {_SHORTER}"),
    "itpm": ("input tokens per minute", f"raise itpm {_ASK}, or send shorter prompts"),
    "otpm": ("output tokens per minute", f"raise otpm {_ASK}, {_SHORTER}"),
    "rpd": ("requests per day", f"raise rpd {_ASK}"),
    "tpd": ("tokens per day", f"raise tpd {_ASK}"),
    "pace": (
        "a pace that was found by trying, for the provider tells no limit",
        "configure the limit if you know it, or ask the provider for more",
    ),
    "in flight": (
        "requests in flight",
        "raise max_in_flight; where none is configured, the provider lacked capacity and fewer were let go at once",
    ),
    "store": (
        "the store of shared limits, which was away",
        "see that it can be reached, or let each process go on with a share (Sharing(when_away='share'))",
    ),
    "closed": (
        "a limit that the provider had closed (429)",
        "configure what your account really has, so that nothing is refused, or ask the provider for more",
    ),
    "start": (
        "the start, when few go at once until answers tell the limits",
        "nothing is to be raised: it passes by itself, and weighs little in a longer run",
    ),
    LIMITS: ("limits", "raise them if the provider allows more"),
    BUDGET: (
        "room in a budget",
        "calls hold what they may cost at most: raise the budget, or bound answers by max_tokens",
    ),
    RETRIES: ("retries", "attempts fail: the outcomes and the errors of rows say why; fewer at once may help"),
    IDENTICAL: ("identical calls under way", "their answers were shared and cost nothing: nothing is to be raised"),
    PROGRAM: (
        "this program's own work",
        "each call takes some milliseconds of CPU: share the work among processes, with a store for their limits",
    ),
    PROVIDER: (
        "the provider's answers",
        "limits hold little up: let more requests be in flight (max_in_flight), or take a faster model",
    ),
}

# What a provider's refusal calls a quota of a day that is spent.
_DAYS: Final = {"requests per day": "rpd", "tokens per day": "tpd"}

_WORTH_SAYING: Final = 0.1
"""What takes a smaller share of the time than this is not spoken of."""
_NAMED: Final = 3  # limits that a sentence names


def reason_of(what: str, limit: str) -> str:
    """The reason of those who wait for a limit.

    Args:
        what: of the limit, as the limiter calls it. A burst (``rpm burst``) is refilled at its quota's rate: over any
            length of time that is what bounds it.
        limit: its name.
    """
    return f"{_DAYS.get(what, what).removesuffix(' burst')}{_OF}{limit}"


def kind_of(reason: str) -> str:
    """What a reason's time went on, whichever limit it was."""
    return reason.partition(_OF)[0]


def limit_of(reason: str) -> str:
    """The name of a reason's limit; empty where it belongs to none."""
    return reason.partition(_OF)[2]


def by_kind(amounts: Mapping[str, float]) -> dict[str, float]:
    """Seconds or shares by reason, added up by what they went on."""
    kinds: dict[str, float] = {}
    for reason, amount in amounts.items():
        kinds[kind_of(reason)] = kinds.get(kind_of(reason), 0.0) + amount
    return kinds


def lumped(reason: str) -> str:
    """The reason under which it is counted where there are too many to tell apart."""
    kind = kind_of(reason)
    if kind not in _MEANING:
        return OTHER
    return f"{kind}{_OF}{OTHER}" if limit_of(reason) else kind


def described(reason: str) -> str:
    """A reason in words: "requests per minute of openai/*"."""
    kind, limit = kind_of(reason), limit_of(reason)
    meaning = _MEANING[kind][0] if kind in _MEANING else kind
    return f"{meaning}{_OF}{limit}" if limit else meaning


def shares_of(spent: Mapping[str, float]) -> dict[str, float]:
    """Which share of the time went on what, the largest first; nothing where there was no time.

    Args:
        spent: seconds by reason.
    """
    total = sum(spent.values())
    if not total > 0:
        return {}
    found = {reason: part / total for reason, part in spent.items() if part > 0}
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def advice(shares: Mapping[str, float], of: str = "time") -> list[str]:
    """What most of the time went on, and what to raise: a sentence for each thing that matters, the largest first.

    There is one at least, where there was any time.

    Reasons of one kind are taken together, so that many models that each wait for their own requests per minute are
    seen as one thing.

    Args:
        shares: parts of the time by reason, as :func:`shares_of` gives them.
        of: what they are parts of.
    """
    ordered = sorted(by_kind(shares).items(), key=lambda item: (-item[1], item[0]))
    told = []
    for place, (kind, share) in enumerate(ordered):
        if place and (share < _WORTH_SAYING or kind == PROVIDER):
            continue
        meaning, cure = _MEANING.get(kind, (kind, "look at the limiter's status"))
        limits = sorted(
            (reason for reason in shares if kind_of(reason) == kind and limit_of(reason)),
            key=lambda reason: (-shares[reason], reason),
        )
        what = meaning + (_OF + _listed(map(limit_of, limits)) if limits else "")
        waiting = "" if kind in (PROVIDER, RETRIES) else "waiting for "
        if place:
            told.append(f"{share:.0%} of the {of} went on {waiting}{what}: {cure}.")
        else:
            most = "Most" if share > 0.5 else "The largest part"  # noqa: PLR2004 - more than half is most
            told.append(f"{most} of the {of} ({share:.0%}) went on {waiting}{what}: {cure}.")
    return told


def _listed(names: Iterable[str]) -> str:
    """Names in a sentence; those beyond the first few are only counted."""
    every = list(dict.fromkeys(names))
    if OTHER in every:
        return ", ".join([*[name for name in every if name != OTHER][:_NAMED], "many more"])
    shown = every[:_NAMED]
    if len(every) > _NAMED:
        return f"{', '.join(shown)} and {len(every) - _NAMED:,} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else shown[0]
