"""What is known about one model, as a value.

What may live here: :class:`ModelInfo` and :class:`Origin`, and how LiteLLM's field names become theirs. Every field can
be unknown (None), for LiteLLM's map, which most of it comes from, is not complete; None is never a zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, PlainSerializer

from .rules import Rules

_MILLION = 1_000_000
_LADDER = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_USUAL = frozenset({"low", "medium", "high"})

_ABILITIES = {
    "tools": "supports_function_calling",
    "vision": "supports_vision",
    "reasoning": "supports_reasoning",
    "response_schema": "supports_response_schema",
    "prompt_caching": "supports_prompt_caching",
    "streaming": "supports_native_streaming",
    "pdf": "supports_pdf_input",
    "audio": "supports_audio_input",
    "web_search": "supports_web_search",
}
"""Our word for an ability, and LiteLLM's field."""

FIELDS = {
    **_ABILITIES,
    "provider": "litellm_provider",
    "sampling": "supports_sampling_params",
    "batch": "supports_batch",
    "reasoning_efforts": "reasoning_effort_levels",
}
"""Our fields that LiteLLM names otherwise; the rest has LiteLLM's names."""


class Origin(NamedTuple):
    """Where a fact comes from."""

    layer: str
    """"litellm", "packaged", "refreshed", "user" or "program", or "name" for what the name itself says."""
    source: str | None = None
    """An address, a file, or whatever the layer was told."""
    as_of: date | None = None
    """The day for which the source is quoted."""

    def __str__(self) -> str:
        day = f" ({self.as_of.isoformat()})" if self.as_of else ""
        return f"{self.layer}{': ' + self.source if self.source else ''}{day}"


class Frozen(Mapping[str, Any]):
    """A mapping that cannot be changed, and that can be hashed where its values can, compared and pickled."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, Any] | None = None) -> None:
        self._items = dict(items or {})

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return repr(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items))  # the values may be lists; equal mappings have equal keys

    def __reduce__(self) -> tuple[type[Frozen], tuple[dict[str, Any]]]:
        return Frozen, (self._items,)


def _plain(items: Frozen) -> dict[str, Any]:
    return {key: str(value) if isinstance(value, Origin) else value for key, value in items.items()}


_FrozenField = Annotated[Frozen, PlainSerializer(_plain)]


class ModelInfo(BaseModel):
    """A model as the registry knows it. Frozen; two that say the same are equal.

    ``origin`` tells where each field comes from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str
    """LiteLLM's name: what a call is made with."""
    provider: str | None = None
    company: str | None = None
    """Who made it, which need not be who serves it."""
    family: str | None = None
    version: str | None = None
    mode: str | None = None
    """LiteLLM's word: "chat", "responses", "embedding", "image_generation" and so on."""
    display_name: str | None = None
    max_input_tokens: int | None = None
    max_output_tokens: int | None = None
    prices: _FrozenField = Frozen()
    """As LiteLLM has them, under its names: US dollars for one token (or image, second, ...)."""
    tools: bool | None = None
    vision: bool | None = None
    reasoning: bool | None = None
    response_schema: bool | None = None
    prompt_caching: bool | None = None
    streaming: bool | None = None
    batch: bool | None = None
    pdf: bool | None = None
    audio: bool | None = None
    web_search: bool | None = None
    sampling: bool | None = None
    """False where the model refuses a temperature other than 1, top_p and the like."""
    reasoning_efforts: tuple[str, ...] = ()
    """The levels that ``reasoning_effort`` may have, lowest first; empty where none are known."""
    default_reasoning_effort: str | None = None
    thinking_always_on: bool | None = None
    rpm: float | None = None
    tpm: float | None = None
    """Requests and tokens a minute, where LiteLLM's map has them: a provider's usual limits, hardly yours."""
    release_date: date | None = None
    deprecation_date: date | None = None
    """The day from which the provider may stop serving it."""
    deprecated: bool | None = None
    """What the provider's own list says, apart from any date."""
    replacement: str | None = None
    """What the provider advises to use instead."""
    aliases: tuple[str, ...] = ()
    known: bool = True
    """False where no layer has the model, and all that is known is what its name says."""
    origins: _FrozenField = Frozen()
    """Origins of the fields that do not come from LiteLLM's map; ask :meth:`origin`."""

    @property
    def context(self) -> int | None:
        """How many tokens of input it reads."""
        return self.max_input_tokens

    @property
    def input_price(self) -> float | None:
        """US dollars for a million input tokens, or None."""
        return _per_million(self.prices.get("input_cost_per_token"))

    @property
    def output_price(self) -> float | None:
        """US dollars for a million output tokens, or None."""
        return _per_million(self.prices.get("output_cost_per_token"))

    @property
    def price(self) -> float | None:
        """US dollars for a million tokens, three parts input to one part output, or None: one number to compare by."""
        given, taken = self.input_price, self.output_price
        return None if given is None or taken is None else round((3 * given + taken) / 4, 9)

    def is_deprecated(self, today: date) -> bool:
        """Whether its provider has deprecated it by ``today``."""
        return bool(self.deprecated) or (self.deprecation_date is not None and self.deprecation_date <= today)

    def has_limits(self, kind: Literal["tokens", "rate"]) -> bool:
        """Whether its limits are known: how many tokens go in and come out, or how many requests or tokens a minute."""
        if kind == "tokens":
            return self.max_input_tokens is not None and self.max_output_tokens is not None
        return self.rpm is not None or self.tpm is not None

    def origin(self, field: str) -> Origin | None:
        """Where a field's value (or a price's, under LiteLLM's name for it) comes from; None where there is none.

        What no layer above LiteLLM's map said comes from that map.
        """
        value = self.prices.get(field) if is_price(field) else getattr(self, field)
        if value is None or value == ():
            return None
        found = self.origins.get(FIELDS.get(field, field))
        return found if isinstance(found, Origin) else Origin("litellm", self.origins.get("source"))

    def to_dict(self) -> dict[str, Any]:
        """All of it in what JSON knows."""
        return self.model_dump(mode="json")


def build(
    name: str,
    entry: Mapping[str, Any],
    *,
    rules: Rules,
    aliases: tuple[str, ...] = (),
    origins: Mapping[str, Any] | None = None,
    known: bool = True,
) -> ModelInfo:
    """A :class:`ModelInfo` of an entry in LiteLLM's shape, with what the name says where the entry is silent.

    Values of the wrong type are taken for unknown: LiteLLM's map has some, and one bad number there must not make a
    model unusable. (Users' own files are checked before they come here.)
    """
    from_name: dict[str, Any] = {"version": Origin("name", name)}
    told: dict[str, Any] = {}
    for ours, theirs in _ABILITIES.items():
        told[ours] = _bool(entry.get(theirs))
    kin = rules.kin(name)
    released = _date(entry.get("release_date"))
    if released is None:
        released = rules.released(name)
        if released is not None:
            from_name["release_date"] = Origin("name", name)
    company = _text(entry.get("company"))
    if company is None:
        company = rules.company(name)
        from_name["company"] = Origin("name", name)
    family = _text(entry.get("family"))
    if family is None:
        family = kin.family if kin else None
        from_name["family"] = Origin("name", name)
    provider = _text(entry.get("litellm_provider"))
    if provider is None:
        provider = name.split("/", 1)[0] if "/" in name else None
        from_name[FIELDS["provider"]] = Origin("name", name)
    origin_of = {**from_name, **(origins or {})}
    if "source" not in origin_of and _text(entry.get("source")):
        origin_of["source"] = entry["source"]
    return ModelInfo(
        name=name,
        provider=rules.provider(provider) if provider else None,
        company=company,
        family=family,
        version=".".join(map(str, kin.version)) if kin and kin.version else None,
        mode=_text(entry.get("mode")),
        display_name=_text(entry.get("display_name")),
        max_input_tokens=_count(entry.get("max_input_tokens")),
        max_output_tokens=_count(entry.get("max_output_tokens")),
        prices=Frozen({key: value for key, value in entry.items() if is_price(key) and value is not None}),
        batch=_batch(entry),
        sampling=_bool(entry.get("supports_sampling_params")),
        reasoning_efforts=_efforts(entry),
        default_reasoning_effort=_text(entry.get("default_reasoning_effort")),
        thinking_always_on=_bool(entry.get("thinking_always_on")),
        rpm=_number(entry.get("rpm")),
        tpm=_number(entry.get("tpm")),
        release_date=released,
        deprecation_date=_date(entry.get("deprecation_date")),
        deprecated=_bool(entry.get("deprecated")),
        replacement=_text(entry.get("replacement")),
        aliases=aliases,
        known=known,
        origins=Frozen(origin_of),
        **told,
    )


def is_price(key: str) -> bool:
    """Whether a field of LiteLLM's map is a price."""
    return "cost" in key or key in ("tiered_pricing", "off_peak_pricing")


def _efforts(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """The levels of effort: as listed, or, for a model that reasons, the usual three and what the map says beyond."""
    listed = entry.get("reasoning_effort_levels")
    if isinstance(listed, list):
        return tuple(level for level in _LADDER if level in listed)
    flags = {level: entry.get(f"supports_{level}_reasoning_effort") for level in _LADDER}
    if not entry.get("supports_reasoning"):
        return ()
    return tuple(level for level in _LADDER if flags[level] or (level in _USUAL and flags[level] is not False))


def _batch(entry: Mapping[str, Any]) -> bool | None:
    said = _bool(entry.get("supports_batch"))
    if said is not None:
        return said
    endpoints = entry.get("supported_endpoints")
    if isinstance(endpoints, list) and "/v1/batch" in endpoints:
        return True
    return True if entry.get("input_cost_per_token_batches") is not None else None


def _per_million(price: object) -> float | None:
    number = _number(price)
    return None if number is None else round(number * _MILLION, 9)


def _number(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return float(value)
    return None


def _count(value: object) -> int | None:
    number = _number(value)
    return int(number) if number else None


def _bool(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _date(value: object) -> date | None:
    if isinstance(value, date):
        return value
    if isinstance(value, str):
        try:
            return date.fromisoformat(value[:10])
        except ValueError:
            return None
    return None
