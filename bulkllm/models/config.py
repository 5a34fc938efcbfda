"""A preset: a model together with the options that a call to it is to be made with.

What may live here: :class:`LLMConfig`, its checks, and how it becomes LiteLLM's keywords. It holds no keys, so it may
be stored, logged and compared; a key comes with the call or from the environment variable that ``api_key_env`` names.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ..config import is_secret
from ..errors import ConfigError
from ._default import registry
from .index import has_endpoint
from .reasoning import Wish, keywords

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

_OWN = frozenset(
    {"model", "messages", "temperature", "top_p", "max_tokens", "max_completion_tokens", "timeout", "stream"}
)
_ONE_THING = (("max_tokens", "max_completion_tokens"), ("reasoning_effort", "thinking"), ("verbosity",))
_CHAT_ONLY = ("max_tokens", "max_completion_tokens", "reasoning_effort", "thinking", "verbosity", "system_prompt")
_NOT_HASHED = frozenset({"slug", "display_name", "variant_of", "api_key_env", "timeout"})


class LLMConfig(BaseModel):
    """A model and its options, under a short name. Frozen.

    Example:
        >>> config = LLMConfig(slug="mini", model="openai/gpt-5-mini", reasoning_effort="low", max_tokens=500)
        >>> config.completion_kwargs()
        {'model': 'openai/gpt-5-mini', 'max_tokens': 500, 'reasoning_effort': 'low'}

    Raises:
        ConfigError: a value is wrong; the text names it and what it should be.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    slug: str = Field(min_length=1)
    """The preset's name; letters, digits and ``. _ - / : @``, so that it can stand in a selector."""
    model: str = Field(min_length=1)
    """LiteLLM's name of the model, or any name that the registry knows."""
    display_name: str | None = None
    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, ge=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    """The most tokens of output. LiteLLM renames it where a model wants ``max_completion_tokens``."""
    max_completion_tokens: int | None = Field(default=None, ge=1)
    reasoning_effort: Effort | None = None
    """How hard the model is to think; "none" turns it off. Spelt as the model's provider wants it."""
    thinking: bool | int | None = None
    """In place of an effort: True and False turn thinking on and off, a number is a budget of tokens for it."""
    verbosity: Literal["low", "medium", "high"] | None = None
    system_prompt: str | None = None
    """Put before the messages by :meth:`with_system_prompt`; no part of the keywords."""
    timeout: float | None = Field(default=None, gt=0)
    """Seconds for one attempt."""
    api_key_env: str | None = None
    """The environment variable that holds the key, where LiteLLM's usual one is not meant."""
    variant_of: str | None = None
    """The preset that this one is a variant of; selectors leave variants out unless they are asked for."""
    extra: Mapping[str, Any] = Field(default_factory=dict)
    """Anything else for LiteLLM, as it is (``api_base``, ``extra_body``, ``seed``, ...). It wins over the fields."""

    if not TYPE_CHECKING:  # the type checker keeps the fields' own signature

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise ConfigError(_said(values, error)) from None

    @field_validator("slug")
    @classmethod
    def _slug(cls, slug: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*", slug):
            raise ValueError("expected letters, digits and . _ - / : @, starting with a letter or a digit")
        return slug

    @field_validator("extra")
    @classmethod
    def _extra(cls, extra: Mapping[str, Any]) -> Mapping[str, Any]:
        for name in _names(extra):
            if is_secret(name):
                raise ValueError(
                    f"{name} looks like a key, and presets hold none: pass it to the call, or name its environment "
                    "variable in api_key_env"
                )
        own = sorted(_OWN & extra.keys())
        if own:
            raise ValueError(f"{own[0]} is not for extra: it is a field of the preset or belongs to the call")
        try:
            json.dumps(extra)
        except (TypeError, ValueError):
            raise ValueError("expected what JSON knows: text, numbers, true, false, lists and tables") from None
        return copy.deepcopy(dict(extra))

    @model_validator(mode="after")
    def _together(self) -> LLMConfig:
        if self.reasoning_effort is not None and self.thinking is not None:
            raise ValueError("reasoning_effort and thinking are two ways to say one thing: give one of them")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("max_tokens and max_completion_tokens are two names of one thing: give one of them")
        budget = self.thinking if not isinstance(self.thinking, bool) else None
        limit = self.max_tokens or self.max_completion_tokens
        if budget is not None and budget < 1:
            raise ValueError("thinking: expected True, False or a number of tokens of at least 1")
        if budget is not None and limit is not None and budget >= limit:
            raise ValueError(f"thinking ({budget} tokens) must stay below max_tokens ({limit}), which it counts in")
        return self

    def completion_kwargs(self) -> dict[str, Any]:
        """The keywords for ``completion``: everything but the messages, as LiteLLM's provider takes it.

        Raises:
            ConfigError: the model's provider cannot be asked for this reasoning, or the environment variable in
                ``api_key_env`` is not set.
        """
        return self._keywords(self.model, own_endpoint=self.has_endpoint)

    def with_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The keywords for a call that says something itself: its word goes before the preset's.

        A limit of tokens takes the place of the preset's under either name, ``reasoning_effort`` and ``thinking`` that
        of its reasoning however it is spelt, and tables such as ``extra_body`` are laid over each other.

        Raises:
            ConfigError: as :meth:`completion_kwargs`.
        """
        said = {field: None for fields in _ONE_THING if not options.keys().isdisjoint(fields) for field in fields}
        if options.get("api_key"):
            said["api_key_env"] = None
        left = self.model_copy(update=said)
        own_endpoint = self.has_endpoint or has_endpoint(options)
        return _laid_over(left._keywords(left.model, own_endpoint=own_endpoint), options)

    def _keywords(self, model: str, *, own_endpoint: bool) -> dict[str, Any]:
        """With an endpoint of its own a name is, short of an alias, that server's name."""
        named: dict[str, Any] = {"model": registry().resolve(model, own_endpoint=own_endpoint)}
        for name in ("temperature", "top_p", "max_tokens", "max_completion_tokens", "timeout"):
            value = getattr(self, name)
            if value is not None:
                named[name] = value
        wish = Wish(self.reasoning_effort, self.thinking, self.verbosity)
        if wish != Wish():
            named.update(keywords(registry().canonical(named["model"]), wish))
        named = _laid_over(named, copy.deepcopy(dict(self.extra)))
        if self.api_key_env is not None:
            key = os.environ.get(self.api_key_env)
            if not key:
                raise ConfigError(
                    f"{self.slug}: the environment variable {self.api_key_env} is not set; it should hold the key"
                )
            named["api_key"] = key
        return named

    @property
    def has_endpoint(self) -> bool:
        """Whether the preset says where its model is, rather than leaving that to LiteLLM."""
        return has_endpoint(self.extra)

    @property
    def only_for_completion(self) -> tuple[str, ...]:
        """The fields that are set and that only ``completion`` knows: the other calls spell them otherwise or not."""
        return tuple(name for name in _CHAT_ONLY if getattr(self, name) is not None)

    def with_system_prompt(self, messages: str | Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The messages with the preset's system prompt before them, unless they bring one; a text is a prompt."""
        given: list[Mapping[str, Any]] = (
            [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        )
        if self.system_prompt is None or any(message.get("role") in ("system", "developer") for message in given):
            return given
        return [{"role": "system", "content": self.system_prompt}, *given]

    @property
    def content_hash(self) -> str:
        """A hash of all that can change an answer, the same in every process and version; names are not in it."""
        content = {name: value for name, value in self if name not in _NOT_HASHED and value is not None and value != {}}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=dict)
        return hashlib.sha256(text.encode()).hexdigest()

    def __hash__(self) -> int:
        return hash((self.slug, self.content_hash))


def _laid_over(named: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords over keywords, tables into tables."""
    laid = dict(named)
    for name, value in more.items():
        mine = laid.get(name)
        laid[name] = {**mine, **value} if isinstance(mine, dict) and isinstance(value, Mapping) else value
    return laid


def _names(value: object) -> list[str]:
    """Every key in a nest of tables and lists."""
    if isinstance(value, Mapping):
        return [str(name) for name in value] + [name for inner in value.values() for name in _names(inner)]
    return [name for inner in value for name in _names(inner)] if isinstance(value, list | tuple) else []


def _said(values: Mapping[str, Any], error: ValidationError) -> str:
    """A validation error in one line, without the values: one of them may be a secret in the wrong place."""
    told = []
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        where = ".".join(str(part) for part in problem["loc"] if part not in ("bool", "int"))
        message = problem["msg"]
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(where, LLMConfig.model_fields, 1)
            message = f"not a field of a preset; did you mean {near[0]}?" if near else "not a field; put it into extra"
        told.append(f"{where}: {message}" if where else message)
    slug = values.get("slug")
    named = f"preset {slug!r}: " if isinstance(slug, str) else "preset: "
    return named + "; ".join(dict.fromkeys(line.replace("Value error, ", "") for line in told))
