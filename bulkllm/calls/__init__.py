"""One call: the flow that decides, the drivers that obey it, the lane that carries it, and its books."""

from .account import record_of, record_of_error
from .retry import RetryPolicy

__all__ = ["RetryPolicy", "record_of", "record_of_error"]
