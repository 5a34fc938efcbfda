"""What becomes of a request: read, checked, limited, spoiled or answered, and counted.

What may live here: decisions and the state behind them, under one lock, so that any thread may look and change. No
sockets and no waiting: an :class:`Answer` says what is to be sent, and the connection sends it and tells how it went.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

from .answer import Answer, Ticket
from .dialects import (
    Ask,
    Endpoint,
    Family,
    Kind,
    RequestError,
    Route,
    check,
    error_body,
    family_of,
    find_route,
    listed_models,
    quota_error,
    refusal_body,
)
from .faults import INSTEAD_OF_REPLY, Fault, FaultPlan
from .headers import Headers, HeaderStyle, limit_headers, refusal_headers, retry_headers
from .keys import Keys
from .limits import ChargeRule, charge_for
from .pools import Pools
from .report import Ending, Ledger, ProviderReport
from .text import Writer, plain_text
from .wire import Request

_log = logging.getLogger(__name__)

Latency: TypeAlias = float | tuple[float, float] | Callable[[dict[str, Any]], float]

_CACHED_PREFIXES = 100_000
_CHARGED_BY: dict[Family, ChargeRule] = {
    "openai": "max_tokens", "azure": "prompt+max_tokens", "anthropic": "actual", "google": "actual",
}  # fmt: skip
_from_json = json.JSONDecoder().decode
# LiteLLM tells some errors apart by these words.
_MESSAGES = {
    400: "Invalid request.",
    401: "Incorrect API key provided.",
    403: "You do not have permission to use this model.",
    404: "The model does not exist or you do not have access to it.",
    408: "Request timed out.",
    429: "Rate limit reached.",
    500: "The server had an error while processing your request.",
    502: "Bad gateway.",
    503: "The server is currently overloaded.",
    504: "Gateway timeout.",
    529: "Overloaded.",
}
_JSON = ("content-type", "application/json")
_EVENTS = ("content-type", "text/event-stream; charset=utf-8")


class Engine:
    """A fake provider without its sockets; :class:`~bulkllm.testing.FakeProvider` documents the options."""

    def __init__(
        self,
        *,
        pools: Pools,
        faults: Callable[[], FaultPlan],
        writer: Writer,
        keys: Keys,
        endpoints: Mapping[Kind, Endpoint],
        models: tuple[str, ...] | None,
        charge: ChargeRule | None,
        headers: HeaderStyle | Literal["auto"] | None,
        refused_count: bool,
        latency: Latency,
        record_times: bool,
        clock: Callable[[], float],
    ) -> None:
        self._pools = pools
        self._new_faults = faults
        self._writer = writer
        self._keys = keys
        self._endpoints = endpoints
        self._models = models
        self._charge = charge
        self._headers = headers
        self._refused_count = refused_count
        self._latency = latency
        self._record_times = record_times
        self._clock = clock
        self._lock = threading.Lock()
        self._serial = 0
        self._begin()

    def _begin(self) -> None:
        self._ledger = Ledger(record_times=self._record_times)
        self._faults = self._new_faults()
        self._prefixes: OrderedDict[bytes, None] = OrderedDict()

    # For other threads.

    def report(self) -> ProviderReport:
        """What was seen up to now."""
        with self._lock:
            return self._ledger.report()

    def reset(self) -> None:
        """Begin anew: counts, limits, faults and prompt cache. Revoked keys stay revoked."""
        with self._lock:
            self._begin()
            self._pools.reset(self._clock())

    def set_limits(self, model: str | None, changes: Mapping[str, Any]) -> None:
        """Change some limits."""
        with self._lock:
            self._pools.change(model, changes, self._clock())

    def revoke(self, key: str) -> None:
        """Refuse a key from now on."""
        with self._lock:
            self._keys.revoke(key)

    # For the connection.

    def respond(self, request: Request) -> Answer:
        """Decide what a request gets."""
        route = find_route(request.path, request.headers)
        if route is None:
            message = (
                f"Unknown path {request.path}: OpenAI's are below /v1 (openai_base), Anthropic's is /v1/messages, and "
                "others are below /as/<provider> (base_of)."
            )
            return self._reject(request, 404, message, code="unknown_url")
        if not self._keys.accept(request.headers):
            return self._reject(request, 401, "Incorrect API key provided.")
        if route.kind == "models":
            if request.method != "GET":
                return self._reject(request, 405, "Models are listed by GET.")
            names = self._models or ("fake-model",)
            return Answer(200, [_JSON], listed_models(route.family, names), counted=False)
        if request.method != "POST":
            return self._reject(request, 405, "This endpoint takes POST.")
        endpoint = self._endpoints[route.kind]
        try:
            body = _body(request, route)
            ask = endpoint.read(body)
            if route.provider is not None:
                by_path = ("model", "stream") if route.kind == "google" else ()
                told = {field: value for field, value in body.items() if field not in by_path}
                check(route.provider, route.kind, ask.model, told)
        except RequestError as error:
            return self._reject(request, error.status, str(error), param=error.param)
        except RecursionError:
            return self._reject(request, 400, "The JSON body of your request is nested too deeply.")
        if self._models is not None and ask.model not in self._models:
            message = f"The model `{ask.model}` does not exist or you do not have access to it."
            return self._reject(request, 404, message, code="model_not_found", param="model", model=ask.model)
        return self._limited(ask, endpoint, route.family)

    def reject(self, path: str, status: int, message: str) -> Answer:
        """Answer what was no HTTP request."""
        return self._reject(Request("", path, {}, keep_alive=False), status, message)

    def answered(self, answer: Answer) -> None:
        """The head of an answer was sent."""
        with self._lock:
            self._begun(answer)

    def sent(self, ticket: Ticket, tokens: int) -> None:
        """Tokens of output were sent."""
        with self._lock:
            self._produced(ticket, tokens)

    def ended(self, ticket: Ticket, ending: Ending) -> None:
        """A request that had been let in has ended; the first word counts, later ones are ignored."""
        with self._lock:
            self._ended(ticket, ending)

    def sent_whole(self, answer: Answer) -> None:
        """An answer without any wait was sent: head, body and all."""
        with self._lock:
            self._begun(answer)
            ticket = answer.ticket
            if ticket is not None:
                if answer.reply is not None and answer.reply.output_tokens:
                    self._produced(ticket, answer.reply.output_tokens)
                self._ended(ticket, "failed" if answer.is_bad else "successes")

    # Below this line each function that changes something is called with the lock held, or takes it.

    def _begun(self, answer: Answer) -> None:
        ticket = answer.ticket
        ledger = self._ledger if ticket is None else ticket.ledger
        if answer.counted:
            ledger.answered(answer.status)
        if ticket is not None and answer.reply is not None:
            ask = ticket.ask
            ledger.replied(ask.model, ask.input_tokens, ask.cache_read, ask.cache_write)
            for prefix in ask.prefixes:
                if prefix.marked:
                    self._prefixes[prefix.digest] = None
                    self._prefixes.move_to_end(prefix.digest)
            while len(self._prefixes) > _CACHED_PREFIXES:
                self._prefixes.popitem(last=False)

    def _produced(self, ticket: Ticket, tokens: int) -> None:
        ticket.ledger.produced(ticket.ask.model, tokens)
        if ticket.charge.late_output:
            ticket.pool.produced(ticket.charge, tokens, self._clock())

    def _ended(self, ticket: Ticket, ending: Ending) -> None:
        if not ticket.ended:
            ticket.ended = True
            ticket.pool.in_flight -= 1
            ask = ticket.ask
            ticket.ledger.ended(ask.model, ask.digest, ending, stream_cut=ask.stream and ending != "successes")

    def _reject(
        self,
        request: Request,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        model: str | None = None,
    ) -> Answer:
        with self._lock:
            self._ledger.arrived(model, None, self._clock())
            self._ledger.turned_away(model, "rejected")
        return Answer(status, [_JSON], error_body(family_of(request.path), status, message, code=code, param=param))

    def _limited(self, ask: Ask, endpoint: Endpoint, family: Family) -> Answer:
        """Ask the limits, and go on if they allow it."""
        wall = time.time()
        style = self._headers
        if style == "auto":
            style = None if family == "google" else family  # Gemini's API tells nothing in headers
        fault: Fault | None = None
        with self._lock:
            now = self._clock()
            self._serial += 1
            serial = self._serial
            ledger = self._ledger
            ledger.arrived(ask.model, ask.digest, now)
            if ask.prefixes:
                ask = self._look_up(ask)
            charge = charge_for(self._charge or _CHARGED_BY[family], ask.input_tokens - ask.cache_read, ask.max_output)
            pool = self._pools.of(ask.model, now)
            refusal = pool.admit(charge, now, count_refused=self._refused_count)
            if refusal is not None:
                ledger.turned_away(ask.model, "refused")
            else:
                asked_before = ledger.admitted(ask.model, ask.digest, now)
                prompt = plain_text(ask.prompt) if self._faults.needs_text else ""
                fault = self._faults.choose(ask.model, prompt, ask.digest, asked_before, stream=ask.stream)
                if fault is not None:
                    ledger.met(fault.kind)
            headers = [_JSON, ("request-id" if family == "anthropic" else "x-request-id", f"req_{serial:08x}")]
            if style is not None:
                headers += limit_headers(style, pool, now, wall)
                if refusal is not None:
                    headers += refusal_headers(style, refusal, wall)
        if refusal is not None:
            return Answer(429, headers, refusal_body(family, ask.model, refusal))
        ticket = Ticket(ask, charge, pool, ledger)
        if fault is not None and fault.kind in INSTEAD_OF_REPLY:
            return _failing(fault, ticket, family, headers, wall)
        return self._replying(ticket, endpoint, family, headers, fault, serial, int(wall))

    def _replying(
        self,
        ticket: Ticket,
        endpoint: Endpoint,
        family: Family,
        headers: Headers,
        fault: Fault | None,
        serial: int,
        created: int,
    ) -> Answer:
        ask = ticket.ask
        empty = fault is not None and fault.kind == "empty_choices"
        try:
            reply = endpoint.reply(ask, self._writer, serial, created, empty=empty)
            wait = self._wait_for(ask)
        except Exception as error:  # noqa: BLE001 - a user's own reply= may raise anything; it is logged and told
            _log.exception("no reply could be made; have a look at reply= and latency=")
            message = f"No reply could be made: reply= or latency= raised {type(error).__name__} (the log has more)."
            return Answer(500, headers, error_body(family, 500, message), ticket=ticket)
        if fault is not None and fault.kind != "trickle":
            wait += fault.delay
        if reply.events is not None:
            headers[0] = _EVENTS
        return Answer(200, headers, reply.body, reply, wait, fault, ticket)

    def _look_up(self, ask: Ask) -> Ask:
        """How much of the prompt is in the prompt cache, and how much goes into it."""
        read = next((prefix.tokens for prefix in reversed(ask.prefixes) if prefix.digest in self._prefixes), 0)
        return ask._replace(cache_read=read, cache_write=ask.prefixes[-1].tokens - read)

    def _wait_for(self, ask: Ask) -> float:
        latency = self._latency
        if callable(latency):
            return float(latency(dict(ask.body)))
        if isinstance(latency, tuple):
            share = self._writer.number(ask.digest, variant=1 << 32) / 2**64
            return latency[0] + (latency[1] - latency[0]) * share
        return latency


def _failing(fault: Fault, ticket: Ticket, family: Family, headers: Headers, wall: float) -> Answer:
    """An answer that is a fault from the beginning."""
    if fault.kind == "quota":
        status, body = quota_error(family)
    else:
        status = fault.status
        body = error_body(family, status, f"{_MESSAGES.get(status, 'Error')} (A fault of FakeProvider's.)")
        if fault.body is not None:
            body = fault.body.encode()
            headers = [("content-type", "text/html" if fault.body.lstrip().startswith("<") else _JSON[1]), *headers[1:]]
    headers = headers + retry_headers(fault.retry_after, wall)
    return Answer(status, headers, body, wait=fault.delay, fault=fault, ticket=ticket)


def _body(request: Request, route: Route) -> dict[str, Any]:
    if route.family == "anthropic" and "anthropic-version" not in request.headers:
        raise RequestError("anthropic-version: header is required")
    try:
        value = _from_json(request.body.decode())
    except (ValueError, RecursionError):
        raise RequestError("We could not parse the JSON body of your request.") from None
    if not isinstance(value, dict):
        raise RequestError("The JSON body of a request must be an object.")
    if route.deployment is not None:
        value["model"] = route.deployment
    if route.streams:
        value["stream"] = True
    return value
