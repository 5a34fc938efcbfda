"""A row of a bulk run as a request: what is asked, who it is, what it carries along.

What may live here: the value `BulkRequest`, and `Shaper`, which makes drafts of requests out of raw rows. Pure; no
file is opened and nothing is sent. How a row is read is told in `shapes`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from .. import models
from ..errors import ConfigError, RequestFileError
from .endpoints import base_of, endpoint_in_environment, endpoint_of
from .identity import fingerprint, key_of_body, key_of_id, tokens
from .options import BASE_NAMES, CACHE_SAMPLE, LITELLM_FALLBACKS, is_secret
from .parts import with_system, wrong_sample
from .shapes import Operation, Shapes

_POOLED = ("api_key", *BASE_NAMES)
"""Options by which rows are put into pools."""


@dataclass(frozen=True, slots=True, eq=False)
class BulkRequest:
    """One row's request, ready to be sent.

    Attributes:
        index: the row's position in the input, from 0; blank lines do not count.
        custom_id: the row's own name, or None.
        key: what identifies the row from run to run (16 bytes; hexadecimal in the results file).
        fingerprint: digest of everything that can change the answer (16 bytes).
        operation: which kind of call it is.
        model: LiteLLM's name of the model.
        endpoint: the base URL without credentials, or the declared endpoint's name, or None for the provider's own.
        body: LiteLLM's keyword arguments, the run's and the row's together. May hold a key: never log or store it.
        carried: the row's other columns, which go through to the result.
        variant: which of the run's models this is, if there are several.
    """

    index: int
    custom_id: str | None
    key: bytes
    fingerprint: bytes
    operation: Operation
    model: str
    endpoint: str | None
    body: Mapping[str, Any] = field(repr=False)
    carried: Mapping[str, Any] = field(repr=False)
    variant: str | None = None


class Meant(NamedTuple):
    """What a row means by the model that it names.

    Attributes:
        model: LiteLLM's name.
        options: of a preset, with all that the run and the row say themselves; None where it is a plain name.
        system: the preset's system prompt.
        slug: the preset's name.
        chat_only: what the preset sets that no other call than a completion knows.
    """

    model: str
    options: dict[str, Any] | None = None
    system: str | None = None
    slug: str | None = None
    chat_only: tuple[str, ...] = ()


Meaning: TypeAlias = Callable[[str, Mapping[str, Any]], Meant]
"""Tells what a row means by its model, given the name and the row's own options."""


@dataclass(slots=True)
class Draft:
    """A row that has been understood, before it is known whether it will be asked for.

    Attributes:
        own: the row's own keyword arguments; the run's are not in it.
        preset: the name of the preset that the row asks for. Its options stand between the run's and the row's, so that
            ``own`` holds all three.
        written: the row's own keyword arguments as they were written, where it names its own model.
    """

    custom_id: str | None
    operation: Operation
    own: dict[str, Any]
    carried: dict[str, Any]
    model: str
    endpoint: str | None
    preset: str | None = None
    written: dict[str, Any] | None = None

    @property
    def pool(self) -> tuple[str, str | None, str | None]:
        """Rows of one pool share their luck: model, endpoint, and the row's own key if it has one."""
        written = self.own if self.written is None else self.written
        return self.model, self.endpoint, written.get("api_key")


class Shaper:
    """Makes drafts of requests out of raw rows, with the run's own options behind each row's.

    Args:
        model: for rows that name none.
        options: LiteLLM's keyword arguments for every row; a row's own win.
        endpoint: a declared name which stands for the base URL where rows are compared with earlier ones.
        system: a system message for rows that have none of their own; for the Responses API, the instructions.
        run_system: the same, as far as the run says it and not the preset that is its model.
        template: makes the prompt out of a row's columns, for rows that are not whole requests.
        label: what the model is called among several: its preset's name, or its own.
        several: whether it is one of several that all rows are asked of.
        meaning: tells what rows mean that name their own model; without it, what they say.
    """

    def __init__(
        self,
        *,
        model: Any = None,
        options: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
        system: str | None = None,
        run_system: str | None = None,
        template: Callable[[Mapping[str, Any]], str] | None = None,
        label: str | None = None,
        several: bool = False,
        meaning: Meaning | None = None,
    ) -> None:
        self.label = label or (model if isinstance(model, str) else "")
        self.variant = self.label if several else None
        self._options = {name: value for name, value in (options or {}).items() if value is not None}
        if self._options.get("stream"):
            raise ConfigError("stream=True means nothing in a bulk run: a row's answer is collected whole; remove it")
        for name in LITELLM_FALLBACKS:
            if name in self._options:
                raise ConfigError(
                    f"{name}= would be a second layer, LiteLLM's; the run's own is fallbacks=[model, ...]"
                )
        for name in ("messages", "input"):
            if name in self._options:
                raise ConfigError(f"{name}= is what the rows are for; give it in each row")
        for name in _POOLED:
            if not isinstance(self._options.get(name, ""), str):  # never shown: it may hold a key
                raise ConfigError(f"{name}= must be text, not {type(self._options[name]).__name__}")
        if model is not None and (not isinstance(model, str) or not model):
            raise ConfigError(f"model= must be one model's name, not {model!r}")
        self._model = model
        self._endpoint = endpoint
        self._system = system
        self._run_system = run_system
        self._shapes = Shapes(template)
        if problem := wrong_sample(self._options):
            raise ConfigError(f"a run's {problem}")
        try:
            self._tokens = tokens({**self._options, "model": model})
        except (ValueError, RecursionError) as error:
            raise error if isinstance(error, ConfigError) else ConfigError(f"an option of the run: {error}") from error
        self._meaning = meaning
        self._run_base = base_of(self._options)
        try:
            self._run_endpoint = endpoint_of(self._options)
        except ConfigError as error:
            raise ConfigError(f"an option of the run: {error}") from None
        self._environment_bases: dict[str, str | None] = {}

    @property
    def options(self) -> Mapping[str, Any]:
        """The run's options. May hold a key."""
        return self._options

    @property
    def secrets(self) -> tuple[str, ...]:
        """Keys that the run's options hold, to be kept out of error texts."""
        return secrets_of(self._options)

    def draft(self, raw: object) -> Draft:
        """Understand a raw row.

        Raises:
            RequestFileError: it is not a row, with what was expected; the place is for the caller to add.
            ConfigError: the base URL in the environment is none.
        """
        custom_id, operation, own, carried, system = self._shapes.read(raw)
        if own.pop("stream", None):
            raise RequestFileError('a row cannot stream: its answer is collected whole; remove "stream"')
        own.pop("stream_options", None)
        for name in LITELLM_FALLBACKS:
            if name in own:
                raise RequestFileError(f'"{name}" is no option of a row; give fallbacks to the run (--fallback)')
        for name in _POOLED:
            if name in own and not isinstance(own[name], str):  # never shown: it may hold a key
                raise RequestFileError(f'"{name}" must be text, not {type(own[name]).__name__}')
        if problem := wrong_sample(own):
            raise RequestFileError(f"a row's {problem}")
        model = own.get("model") or self._model
        if model is None:
            raise RequestFileError('no model: give the run one, or the row a "model"')
        if not isinstance(model, str):
            raise RequestFileError(f'"model" must be text, not {type(model).__name__}')
        draft = Draft(custom_id, operation, own, carried, model, None)
        prompt = self._system
        if own.get("model") and self._meaning is not None:
            prompt = self._named(draft, self._meaning, system)
        if operation == "completion":
            draft.own["messages"] = with_system(draft.own["messages"], system, prompt)
        elif operation == "responses":
            self._instruct(draft, prompt)
        elif system not in (None, ""):
            raise RequestFileError('an embedding has no system prompt; remove "system" from the row')
        draft.endpoint = self._endpoint_of(draft)
        return draft

    def _named(self, draft: Draft, meaning: Meaning, system: object) -> str | None:
        """Put what a row means by its own model into its draft; the system prompt that holds then."""
        own = draft.own
        asked: dict[str, Any] = {name: own[name] for name in ("messages", "input") if name in own}
        try:
            meant = meaning(draft.model, {name: value for name, value in own.items() if name not in asked})
        except ConfigError as error:
            raise RequestFileError(f'"model" {draft.model!r:.80} cannot be used: {error}') from None
        prompt = self._system
        if meant.options is not None:
            if meant.chat_only and draft.operation != "completion":
                told = ", ".join(meant.chat_only)
                raise RequestFileError(f"preset {meant.slug!r} sets {told}, which {draft.operation} cannot be given")
            prompt = self._run_system
            draft.preset = meant.slug
            draft.own = {**meant.options, **asked}
        draft.written = dict(own)
        if draft.operation == "completion":
            draft.written["messages"] = with_system(asked["messages"], system, prompt)
        draft.model = draft.own["model"] = meant.model
        return prompt or meant.system

    def _instruct(self, draft: Draft, prompt: str | None) -> None:
        """Give the run's system prompt to the Responses API, unless the row or the run has something to say itself."""
        data = draft.own["input"]
        has_one = isinstance(data, list) and data and with_system(data, None, "") is data
        if prompt is None or has_one or "instructions" in self.body(draft):
            return
        draft.own["instructions"] = prompt
        if draft.written is not None:
            draft.written["instructions"] = prompt

    def body(self, draft: Draft) -> dict[str, Any]:
        """All keyword arguments of a draft: the run's, then its own. May hold a key."""
        options = self._options if draft.preset is None else {}
        body = {**options, **draft.own, "model": draft.model}
        if CACHE_SAMPLE in body:
            sample = body.pop(CACHE_SAMPLE)
            body.setdefault("sample", sample)
        return body

    def identify(self, draft: Draft) -> tuple[bytes, bytes]:
        """The key (of the first of equal bodies) and the fingerprint of a draft.

        Raises:
            RequestFileError: the row holds something that JSON, or UTF-8, cannot hold.
        """
        try:
            own = tokens(draft.own)
            asked = own if draft.preset is not None else {**self._tokens, **own}
            print_ = fingerprint(draft.operation, draft.endpoint, asked)
            if draft.custom_id is not None:
                return key_of_id(draft.custom_id), print_
            # What a name means may change: then the row has changed, and is not another one.
            written = own if draft.written is None else tokens(draft.written)
            return key_of_body(draft.operation, written), print_
        except UnicodeEncodeError:
            problem = "holds half of a surrogate pair (such as \\ud83d alone), which is no character and cannot be sent"
        except RecursionError:
            problem = "is nested too deeply"
        except ConfigError as error:
            problem = f"cannot be used: {error}"
        except (ValueError, TypeError) as error:
            problem = f"holds what JSON cannot: {error}"
        raise RequestFileError(f"the row {problem}; mend the row")

    def request(self, draft: Draft, *, index: int, key: bytes, print_: bytes) -> BulkRequest:
        """The finished request of a draft."""
        body = self.body(draft)
        variant = draft.preset if draft.own.get("model") else self.variant
        return BulkRequest(
            index,
            draft.custom_id,
            key,
            print_,
            draft.operation,
            draft.model,
            draft.endpoint,
            body,
            draft.carried,
            variant,
        )

    def _endpoint_of(self, draft: Draft) -> str | None:
        base, model = base_of(draft.own), draft.model
        if base is not None and (draft.preset is None or base != self._run_base):
            try:
                return endpoint_of(draft.own)
            except ConfigError as error:
                raise RequestFileError(str(error)) from None
        if self._endpoint is not None:
            return self._endpoint
        if self._run_endpoint is not None:
            return self._run_endpoint
        name = model if "/" in model else models.registry().canonical(model)
        provider = name.partition("/")[0] if "/" in name else "openai"
        if provider not in self._environment_bases:
            self._environment_bases[provider] = endpoint_in_environment(provider)
        return self._environment_bases[provider]


def secrets_of(options: Mapping[str, Any]) -> tuple[str, ...]:
    """The texts among some options that must not be shown."""
    found: list[str] = []
    for name, value in options.items():
        if is_secret(name):
            values = value.values() if isinstance(value, Mapping) else [value]
            found += [text for text in values if isinstance(text, str) and len(text) >= 6]  # noqa: PLR2004 - shorter ones would blank out words
    return tuple(found)
