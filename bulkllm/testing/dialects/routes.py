"""Which path is which endpoint, in whose dialect. What may live here: paths, and the lists of models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, TypeAlias
from urllib.parse import unquote

from .base import Endpoint, Family, to_json
from .chat import ChatCompletions, TextCompletions
from .embeddings import Embeddings
from .messages import Messages
from .responses import Responses

Kind: TypeAlias = Literal["chat", "text", "embeddings", "responses", "messages", "models"]

_PATHS: dict[str, Kind] = {
    "chat/completions": "chat",
    "completions": "text",
    "embeddings": "embeddings",
    "responses": "responses",
    "messages": "messages",
    "models": "models",
}
_AZURE = "/openai/"


class Route(NamedTuple):
    """Where a path leads: which endpoint, whose dialect, and Azure's deployment if the path names one."""

    kind: Kind
    family: Family
    deployment: str | None = None


def endpoints(dimensions: int) -> Mapping[Kind, Endpoint]:
    """The endpoints of models, by kind."""
    return {
        "chat": ChatCompletions(),
        "text": TextCompletions(),
        "embeddings": Embeddings(dimensions),
        "responses": Responses(),
        "messages": Messages(),
    }


def find_route(path: str, headers: Mapping[str, str]) -> Route | None:
    """Where a path leads, or None.

    Models may be listed in OpenAI's and in Anthropic's shape at the same path; the version header tells which.
    """
    if path.startswith("/v1/"):
        kind = _PATHS.get(path[4:])
        if kind is None:
            return None
        anthropic = kind == "messages" or (kind == "models" and "anthropic-version" in headers)
        return Route(kind, "anthropic" if anthropic else "openai")
    if path.startswith(_AZURE):
        rest = path[len(_AZURE) :]
        deployment = None
        if rest.startswith("deployments/"):
            name, _, rest = rest[len("deployments/") :].partition("/")
            deployment = unquote(name)
        kind = _PATHS.get(rest.removeprefix("v1/") if deployment is None else rest)
        return None if kind is None or kind == "messages" else Route(kind, "azure", deployment)
    return None


def family_of(path: str) -> Family:
    """Whose error shape a path gets, also if it leads nowhere."""
    if path.startswith("/v1/messages"):
        return "anthropic"
    return "azure" if path.startswith(_AZURE) else "openai"


def listed_models(family: Family, names: Iterable[str]) -> bytes:
    """The list of models in the provider's shape."""
    if family == "anthropic":
        entries: list[dict[str, object]] = [
            {"type": "model", "id": name, "display_name": name, "created_at": "2026-01-01T00:00:00Z"} for name in names
        ]
        ids = [entry["id"] for entry in entries]
        ends = {"first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None}
        return to_json({"data": entries, "has_more": False, **ends}).encode()
    entries = [{"id": name, "object": "model", "created": 1767225600, "owned_by": "bulkllm"} for name in names]
    return to_json({"object": "list", "data": entries}).encode()
