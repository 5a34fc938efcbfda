"""Which path is which endpoint, in whose dialect. What may live here: paths, and the lists of models.

Below ``/as/<provider>`` are the same paths for a provider whose requests are held against what it accepts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, TypeAlias
from urllib.parse import unquote

from .accepts import providers
from .base import Endpoint, Family, to_json
from .chat import ChatCompletions, TextCompletions
from .cohere import CohereChat
from .embeddings import Embeddings
from .google import GenerateContent
from .messages import Messages
from .responses import Responses

Kind: TypeAlias = Literal["chat", "text", "embeddings", "responses", "messages", "google", "cohere", "models"]

_PATHS: dict[str, Kind] = {
    "chat/completions": "chat",
    "completions": "text",
    "embeddings": "embeddings",
    "responses": "responses",
    "messages": "messages",
    "models": "models",
}
_AZURE = "/openai/"
_AS = "/as/"
_GOOGLE = re.compile(r"(?:/v1beta|/v1)?/models/([^/:]+):(generateContent|streamGenerateContent)")


class Route(NamedTuple):
    """Where a path leads: which endpoint, in whose dialect.

    Attributes:
        kind: which endpoint.
        family: whose errors and headers.
        deployment: the model, where the path names it: Azure's deployment, Gemini's model.
        streams: the path says that the answer is a stream.
        provider: whose rules the request is held against; None for nobody's.
    """

    kind: Kind
    family: Family
    deployment: str | None = None
    streams: bool = False
    provider: str | None = None


def endpoints(dimensions: int) -> Mapping[Kind, Endpoint]:
    """The endpoints of models, by kind."""
    return {
        "chat": ChatCompletions(),
        "text": TextCompletions(),
        "embeddings": Embeddings(dimensions),
        "responses": Responses(),
        "messages": Messages(),
        "google": GenerateContent(),
        "cohere": CohereChat(),
    }


def find_route(path: str, headers: Mapping[str, str]) -> Route | None:
    """Where a path leads, or None.

    Models may be listed in OpenAI's and in Anthropic's shape at the same path; the version header tells which.
    """
    provider, path = _whose(path)
    if provider is not None:
        found = find_route(path, headers) if provider in providers() else None
        return None if found is None else found._replace(provider=provider)
    match = _GOOGLE.fullmatch(path)
    if match is not None:
        return Route("google", "google", unquote(match[1]), streams=match[2].startswith("stream"))
    if path == "/v2/chat":
        return Route("cohere", "openai")
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
    path = _whose(path)[1]
    if path.startswith("/v1/messages"):
        return "anthropic"
    if _GOOGLE.fullmatch(path):
        return "google"
    return "azure" if path.startswith(_AZURE) else "openai"


def _whose(path: str) -> tuple[str | None, str]:
    """The provider that a path names, and the path below."""
    if not path.startswith(_AS):
        return None, path
    provider, _, rest = path[len(_AS) :].partition("/")
    return unquote(provider), f"/{rest}"


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
