"""The rate limiter: limits as values, counting over time, queues, and waiting in threads and event loops."""

from .limiter import RateLimiter
from .reservation import Reservation
from .spec import RateLimit
from .status import LimitStatus, PoolStatus, QuotaStatus

__all__ = ["LimitStatus", "PoolStatus", "QuotaStatus", "RateLimit", "RateLimiter", "Reservation"]
