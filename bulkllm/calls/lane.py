"""What the flow needs of whatever carries a call to its provider.

LiteLLM is one lane (:mod:`.gateway`). Another, such as direct HTTP to an OpenAI-shaped endpoint, can stand beside it
without the flow or the client knowing which one they have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from ..accounting import Usage
from .call import Call
from .failure import Failure
from .fold import StreamFold


@dataclass(frozen=True, slots=True)
class Target:
    """Whom a model's name means.

    Attributes:
        model: the canonical name, provider first.
        provider: the provider's name; empty where it is not known.
    """

    model: str
    provider: str


class Rates(NamedTuple):
    """What is charged for an attempt, in US dollars: the plain prices, without tiers and without caches.

    Attributes:
        per_input: for a token of input.
        per_output: for a token of output.
        per_request: for the request itself.
    """

    per_input: float
    per_output: float
    per_request: float = 0.0

    def cost(self, input_tokens: float, output_tokens: float) -> float:
        """What an attempt costs that takes so many tokens."""
        return self.per_request + input_tokens * self.per_input + output_tokens * self.per_output


@dataclass(frozen=True, slots=True)
class Answer:
    """What is to be known of a response for the books.

    Attributes:
        usage: its tokens; None where the provider told none.
        cost: USD; None where the price is unknown.
        cost_note: why the cost is unknown.
        model: the model that answered, by the provider's word.
        endpoint: the base URL that was asked, without credentials.
        from_cache: whether LiteLLM answered from a cache of its own: then nothing was sent and nothing is owed.
    """

    usage: Usage | None
    cost: float | None
    cost_note: str | None = None
    model: str | None = None
    endpoint: str | None = None
    from_cache: bool = False


class Lane(Protocol):
    """Carries calls. Its methods raise LiteLLM's exceptions, or errors with the same class names."""

    def load(self) -> None:
        """Import what carrying needs; done before quota is reserved."""

    def target(self, model: str, options: Mapping[str, Any]) -> Target:
        """Whom a model's name means. Cheap after the first time."""

    def price(self, call: Call) -> Rates | None:
        """What an attempt is charged, for estimates; None where that is not known. Cheap.

        It never raises: it is asked after calls that were paid, too.
        """

    def longest_answer(self, call: Call) -> int | None:
        """Output tokens that the model can give at most; None where that is not known. Cheap."""

    def send(self, call: Call) -> Any:
        """Make one attempt, blocking. Returns the response, or a provider's stream."""

    async def asend(self, call: Call) -> Any:
        """Make one attempt. Returns the response, or a provider's stream."""

    def failure(self, error: BaseException) -> Failure:
        """What an error that this lane raised means."""

    def timed_out(self, call: Call) -> Exception:
        """The error for an attempt that took longer than its wall-clock limit."""

    def headers(self, response: Any) -> Mapping[str, str] | None:
        """The provider's headers of a response or of a stream, with names in lower case, as far as they are known."""

    def answer(self, call: Call, response: Any) -> Answer:
        """Read a whole response."""

    def streamed_answer(self, call: Call, fold: StreamFold, stream: Any) -> Answer:
        """Read and price what a stream added up to."""

    def from_cache(self, stream: Any) -> bool:
        """Whether a stream comes from a cache of the lane's own, so that nothing of it is owed. Cheap; never waits."""
