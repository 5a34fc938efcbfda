"""The rate limiter: limits as values, counting over time, queues, and waiting in threads and event loops."""

from .configured import load_limits
from .fetch import fetch_limits
from .limiter import RateLimiter
from .profiles import HeaderNames, Profile, register_profile
from .published import published_limits
from .reservation import Reservation
from .sharing import Sharing
from .spec import RateLimit
from .status import LimitStatus, PoolStatus, QuotaStatus

__all__ = [
    "HeaderNames",
    "LimitStatus",
    "PoolStatus",
    "Profile",
    "QuotaStatus",
    "RateLimit",
    "RateLimiter",
    "Reservation",
    "Sharing",
    "fetch_limits",
    "load_limits",
    "published_limits",
    "register_profile",
]
