"""Other models for a row, in order, when its own fails.

What may live here: whom to ask next, and when not to ask somebody at all. LiteLLM's own fallbacks are refused
elsewhere (`request`): there is one layer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from .. import models
from ..accounting import UsageRecord
from ..calls import record_of_error
from ..errors import ConfigError
from .asking import Call, Reply, charge, secrets_in, together
from .options import is_another_s_secret
from .pools import Breaker, Refusal, last_word
from .request import BulkRequest, secrets_of
from .variants import from_preset
from .verdict import judge

# What speaks of one provider's account and address, and is no business of another provider's.
PLACE: Final = (
    "api_base", "base_url", "api_key", "api_version", "api_type", "organization", "deployment_id", "headers",
    "extra_headers", "custom_llm_provider", "region_name",
)  # fmt: skip

_PROVIDER: Final = "custom_llm_provider"


@dataclass(frozen=True, slots=True)
class Alternative:
    """A model that may be asked in a row's own model's place.

    Attributes:
        model: LiteLLM's name.
        options: its own, which go before the row's. May hold a key.
        breaker: stops asking it when it refuses everybody.
    """

    model: str
    options: Mapping[str, Any]
    breaker: Breaker

    def request(self, request: BulkRequest) -> BulkRequest:
        """The row's request to this model. Another provider is not told the first one's key and address."""
        body = dict(request.body)
        if not self._stays(request) or any(name in self.options for name in PLACE[:2]):
            told = provider_of(self.model, self.options)
            body = {
                name: value for name, value in body.items() if name not in PLACE and not is_another_s_secret(name, told)
            }
        body.update(self.options)
        body["model"] = self.model
        return replace(request, model=self.model, body=body)

    def _stays(self, request: BulkRequest) -> bool:
        """Whether it is surely the provider that the row itself goes to: one that is not known is taken for another."""
        if self.model == request.model and not self.options.get(_PROVIDER):
            return True
        provider = provider_of(self.model, self.options)
        return provider is not None and provider == provider_of(request.model, request.body)


def alternatives(fallbacks: Any) -> list[Alternative]:
    """The models to fall back on, from names, presets, or dicts with ``model`` and its options.

    Raises:
        ConfigError: it is no list of these.
    """
    if isinstance(fallbacks, str | Mapping) or not isinstance(fallbacks, Sequence):
        raise ConfigError(f"fallbacks= takes a list of models in order, not {type(fallbacks).__name__}")
    found = []
    for one in fallbacks:
        options: Mapping[str, Any]
        options = given = dict(one) if isinstance(one, Mapping) else {}
        model, options, _ = from_preset(given.pop("model", None) if isinstance(one, Mapping) else one, options)
        if not isinstance(model, str) or not model:
            raise ConfigError("fallbacks= takes names, presets, and dicts with a model and its options")
        found.append(Alternative(model, options, Breaker()))
    return found


class Fallbacks:
    """A call that asks other models, in order, where the row's own fails.

    Args:
        call: asks a row.
        others: whom to ask then.
    """

    def __init__(self, call: Call, others: Sequence[Alternative]) -> None:
        self._call = call
        self._others = tuple(others)
        self._own: dict[tuple[str, str | None, Any], Breaker] = {}  # with their keys: not to be told

    @property
    def secrets(self) -> tuple[str, ...]:
        """Keys of the other models, and those that the call has."""
        return tuple(key for other in self._others for key in secrets_of(other.options)) + secrets_in(self._call)

    async def __call__(self, request: BulkRequest) -> tuple[Any, ...]:
        """Ask a row. If nobody answers, then the last error is raised, or that of a model that is sound."""
        own = self._own.setdefault((request.model, request.endpoint, request.body.get("api_key")), Breaker())
        steps = [(own, request), *((other.breaker, other.request(request)) for other in self._others)]
        open_ = [step for step in steps if step[0].stopped is None] or steps[:1]
        records: list[UsageRecord | None] = []
        refusals: list[Refusal] = []
        for breaker, asked in open_:
            try:
                reply = await self._call(asked)
            except asyncio.CancelledError as error:  # given up between two models, perhaps
                if records:
                    charge(error, records)
                raise
            except Exception as error:
                verdict = judge(error)
                breaker.failed(verdict, asked.model, type(error).__name__)
                if verdict.ends_run or verdict.too_large:
                    charge(error, records)
                    raise
                refusals.append(Refusal(breaker, verdict, error))
                records.append(record_of_error(error))
            else:
                breaker.answered(reply[1])
                if not records:
                    return reply
                return Reply(reply[0], together([*records, reply[1]]), reply[2] if len(reply) > 2 else None)  # noqa: PLR2004 - a Reply
        raise last_word(refusals, records, untried=len(open_) < len(steps))


def provider_of(model: str, options: Mapping[str, Any]) -> Any:
    """Who is asked: whom the options name, or else whom the model's name means; None where it tells nobody."""
    said = options.get(_PROVIDER)
    if said:
        return said
    name = models.registry().canonical(model)  # most names of the large providers stand without them
    return name.partition("/")[0] if "/" in name else None
