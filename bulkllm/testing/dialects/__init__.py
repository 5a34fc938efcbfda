"""The providers' languages: how a request's body is read, and how a reply and an error look.

What may live here: one module for each shape of endpoint, each pure: JSON in, bytes out. No sockets, no limits.
"""

from __future__ import annotations

from .accepts import check, checked_base
from .base import Ask, Endpoint, Event, Family, Reply, RequestError, error_body, quota_error, refusal_body, sse
from .routes import Kind, Route, endpoints, family_of, find_route, listed_models

__all__ = [
    "Ask",
    "Endpoint",
    "Event",
    "Family",
    "Kind",
    "Reply",
    "RequestError",
    "Route",
    "check",
    "checked_base",
    "endpoints",
    "error_body",
    "family_of",
    "find_route",
    "listed_models",
    "quota_error",
    "refusal_body",
    "sse",
]
