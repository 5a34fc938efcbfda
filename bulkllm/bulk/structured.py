"""Answers of a given form: parsed, checked, and asked for again when they are wrong.

What may live here: what a form is, and the asking again. It is bounded, the model is told what was wrong, and each
ask is counted and paid in the row. The cache forgets the answers of a row that has no good one in the end, and if all
of them came from there, the row is asked anew.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, TypeAlias

from pydantic_core import ValidationError

from ..accounting import UsageRecord
from ..errors import BulkLLMError, ConfigError, InvalidAnswer
from .asking import Call, Reply, attach_all, charge, forget_answer, secrets_in, together
from .extras import extra
from .request import BulkRequest
from .result import text_of

Parse: TypeAlias = Callable[[str], Any]
Validate: TypeAlias = Callable[[Any], Any]

_TOLD: Final = 5  # problems of one answer that are told
_WRAPPED: Final = ("json_schema", "json_object", "text")


class _WrongError(Exception):
    """What is wrong with an answer, in words for the model."""


class Structured:
    """A call whose answers have the form that ``response_format`` and ``validate`` ask for.

    Args:
        call: asks a row.
        validate: is given the parsed object, or the text where nothing is parsed; raises ValueError or AssertionError,
            or returns False, if it is wrong. May be a coroutine function.
        reasks: how often a wrong answer is asked for again.
        given: the run's own ``response_format``, to be looked through before the first call.

    Raises:
        ConfigError: an argument is wrong.
    """

    def __init__(self, call: Call, *, validate: Validate | None, reasks: int, given: Any = None) -> None:
        if reasks < 0:
            raise ConfigError(f"reasks={reasks!r} must be a whole number, 0 or more")
        if validate is not None and not callable(validate):
            raise ConfigError(f"validate= takes a function, not {validate!r}")
        self._call = call
        self._validate = validate
        self._reasks = reasks
        self._known: tuple[Any, Parse | None, Any] = (given, *_form_of(given))

    @property
    def secrets(self) -> tuple[str, ...]:
        """Keys that the call has."""
        return secrets_in(self._call)

    async def __call__(self, request: BulkRequest) -> tuple[Any, ...]:
        """Ask a row."""
        form = request.body.get("response_format")
        if form is None and self._validate is None:
            return await self._call(request)
        if request.operation == "embedding":
            raise ConfigError("validate= and response_format= check texts, and an embedding has none: leave them out")
        known, parse, sent = self._known
        if form is not known:
            parse, sent = _form_of(form)
        if parse is None and self._validate is None:
            return await self._call(request)
        if sent is not form:
            request = replace(request, body={**request.body, "response_format": sent})
        return await self._ask(request, parse)

    async def _ask(self, request: BulkRequest, parse: Parse | None) -> Reply:
        records: list[UsageRecord | None] = []
        found = await self._answer(request, parse, records)
        if isinstance(found, InvalidAnswer) and all(record is not None and record.cached for record in records):
            found = await self._answer(request, parse, records)
        if isinstance(found, InvalidAnswer):
            attach_all(found, records)
            raise found
        return found

    async def _answer(
        self, request: BulkRequest, parse: Parse | None, records: list[UsageRecord | None]
    ) -> Reply | InvalidAnswer:
        """An answer that fits, or what to say of those that do not: the cache has forgotten them then."""
        turned_down: list[BulkRequest] = []
        while True:
            try:
                answer = await self._call(request)
            except (Exception, asyncio.CancelledError) as error:  # given up between two asks, perhaps
                if records:
                    charge(error, records)
                raise
            records.append(answer[1])
            text, calls_tool = _said(answer[0])
            if not text and calls_tool:
                return Reply(answer[0], together(records))
            try:
                parsed = await self._checked(text, parse)
            except _WrongError as problem:
                turned_down.append(request)
                if len(turned_down) > self._reasks:
                    return await self._invalid(answer[0], problem, turned_down, records)
                request = _told(request, text, problem)
            except (Exception, asyncio.CancelledError) as error:  # the answers are paid all the same
                attach_all(error, records)
                raise
            else:
                return Reply(answer[0], together(records), parsed)

    async def _invalid(
        self, answer: Any, problem: _WrongError, turned_down: list[BulkRequest], records: list[UsageRecord | None]
    ) -> InvalidAnswer:
        try:
            for request in turned_down:
                await forget_answer(self._call, request)
        except (Exception, asyncio.CancelledError) as error:
            attach_all(error, records)
            raise
        times = f", after {len(turned_down)} asks" if len(turned_down) > 1 else ""
        return InvalidAnswer(f"the answer is not of the form asked for{times}: {problem}", answer=answer)

    async def _checked(self, text: Any, parse: Parse | None) -> Any:
        if not isinstance(text, str):
            raise _WrongError("there is no text in it")
        parsed = text if parse is None else _parsed(text, parse)
        if self._validate is None:
            return parsed
        try:
            verdict = self._validate(parsed)
            if inspect.isawaitable(verdict):
                verdict = await verdict
        except BulkLLMError:  # some are ValueErrors
            raise
        except (ValueError, AssertionError) as problem:
            raise _WrongError(str(problem) or "it does not pass the check") from None
        except Exception as problem:
            raise ConfigError(f"validate= raised {type(problem).__name__}: {problem}") from problem
        if verdict is False:
            raise _WrongError("it does not pass the check")
        return None if parse is None else parsed


def _parsed(text: str, parse: Parse) -> Any:
    """What an answer's text holds.

    Raises:
        _WrongError: the answer is not of the form.
        ConfigError: the form itself is at fault: a validator that raises, a reference that leads nowhere.
    """
    try:
        return parse(text)
    except _WrongError:
        raise
    except Exception as problem:
        raise ConfigError(f"response_format= raised {type(problem).__name__}: {problem}") from problem


def _form_of(form: Any) -> tuple[Parse | None, Any]:
    """What parses an answer of a form, and the form as it is sent."""
    if form is None:
        return None, form
    if isinstance(form, type) and hasattr(form, "model_validate_json"):
        return _by_model(form), form
    if not isinstance(form, Mapping):
        raise ConfigError(f"response_format= takes a pydantic model or a JSON schema, not {form!r}")
    kind = form.get("type")
    if kind == "json_object":
        return _json, form
    if kind == "text":
        return None, form
    if kind == "json_schema" and "json_schema" in form:
        return _by_schema(_read(form["json_schema"], "schema")), form
    if kind == "json_schema":
        raise ConfigError('response_format= of type "json_schema" needs "json_schema": {"name": ..., "schema": ...}')
    return _by_schema(form), {"type": "json_schema", "json_schema": {"name": "answer", "schema": form}}


def _by_model(model: Any) -> Parse:
    def parse(text: str) -> Any:
        try:
            return model.model_validate_json(_bare(text))
        except ValidationError as error:
            problems = error.errors(include_input=False, include_url=False, include_context=False)
            raise _WrongError(_listed([(problem["loc"], problem["msg"]) for problem in problems])) from None

    return parse


def _by_schema(schema: Any) -> Parse:
    jsonschema = extra("jsonschema", "checking answers against a JSON schema")
    if not isinstance(schema, Mapping):
        raise ConfigError(f"response_format= holds {schema!r:.80} where a JSON schema was expected")
    kind = jsonschema.validators.validator_for(schema)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ConfigError(f"response_format= is no valid JSON schema: {error.message}") from error
    validator = kind(schema)

    def parse(text: str) -> Any:
        value = _json(text)
        problems = sorted(validator.iter_errors(value), key=lambda problem: [str(part) for part in problem.path])
        if problems:
            raise _WrongError(_listed([(tuple(problem.absolute_path), problem.message) for problem in problems]))
        return value

    return parse


def _json(text: str) -> Any:
    try:
        return json.loads(_bare(text))
    except (ValueError, RecursionError) as error:
        raise _WrongError(f"it is no JSON: {error}") from None


def _bare(text: str) -> str:
    """The JSON in an answer that stands in a fence."""
    text = text.strip()
    if text.startswith("```") and text.endswith("```"):
        text = text[3:-3].partition("\n")[2]
    return text


def _listed(problems: list[tuple[Any, str]]) -> str:
    told = [
        f"{'.'.join(str(part) for part in place)}: {problem}" if place else problem
        for place, problem in problems[:_TOLD]
    ]
    more = len(problems) - _TOLD
    return "; ".join(told) + (f"; and {more} more" if more > 0 else "")


def _told(request: BulkRequest, text: Any, problem: _WrongError) -> BulkRequest:
    """The request with the wrong answer, and what is wrong with it."""
    again = [
        {"role": "assistant", "content": text if isinstance(text, str) and text else "(no text)"},
        {"role": "user", "content": f"This answer cannot be used: {problem}. Answer again, and with nothing else."},
    ]
    if request.operation == "responses":
        asked = request.body["input"]
        before = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
        return replace(request, body={**request.body, "input": [*before, *again]})
    return replace(request, body={**request.body, "messages": [*request.body["messages"], *again]})


def _said(response: Any) -> tuple[Any, bool]:
    """The text of an answer, and whether it calls a tool."""
    output = _read(response, "output")
    if isinstance(output, list):
        body = {"output": [item if isinstance(item, Mapping) else item.model_dump() for item in output]}
        return text_of(body), any(str(item.get("type")).endswith("_call") for item in body["output"])
    choices = _read(response, "choices")
    message = _read(choices[0], "message") if isinstance(choices, list) and choices else None
    return _read(message, "content"), bool(_read(message, "tool_calls"))


def _read(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
