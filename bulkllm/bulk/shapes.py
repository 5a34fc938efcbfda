"""The shapes of a row that are understood.

What may live here: taking a raw row apart into what is asked, its options and its columns. Pure; what the run adds to
it is told in `request`. The shapes are:

- text (in code only): a prompt;
- a list of messages (in code only);
- ``{"prompt": ..., "system": ...}``, ``{"messages": [...]}``, ``{"input": ...}`` (an embedding), each with
  ``custom_id``, options and columns beside it;
- OpenAI's Batch shape: ``{"custom_id": ..., "method": "POST", "url": "/v1/chat/completions", "body": {...}}``.

An option that is null counts as not given: the run's holds. So does a blank cell of a table of texts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

from ..errors import RequestFileError
from .options import CACHE_SAMPLE, ROW_OPTIONS, is_secret, likely_misspelt
from .parts import OBJECT, checked_messages, custom_id_of

logger = logging.getLogger(__name__)

Operation: TypeAlias = Literal["completion", "embedding", "responses"]

URLS: dict[str, Operation] = {
    "/chat/completions": "completion",
    "/embeddings": "embedding",
    "/responses": "responses",
}

_EXPECTED = 'expected {"prompt": "..."}, {"messages": [...]}, {"input": ...} or {"custom_id", "method", "url", "body"}'


class Cells(dict[str, Any]):
    """A row of a table of texts, in which a blank prompt or input is none, but for a template's sake."""

    @property
    def asked(self) -> Cells:
        """The row without a blank prompt and a blank input."""
        blank = [name for name in ("prompt", "input") if name in self and not self[name].strip()]
        return Cells({name: cell for name, cell in self.items() if name not in blank}) if blank else self


class Shape(NamedTuple):
    """A row, taken apart.

    Attributes:
        custom_id: its own name, or None.
        operation: which kind of call it is.
        own: its keyword arguments for LiteLLM.
        carried: its other columns, which go through to the result.
        system: its system prompt, if it has one besides its messages.
    """

    custom_id: str | None
    operation: Operation
    own: dict[str, Any]
    carried: dict[str, Any]
    system: object = None


class Shapes:
    """Takes the rows of a run apart, and says once of each odd column what becomes of it.

    Args:
        template: makes the prompt out of a row's columns, for rows that are not whole requests.
    """

    def __init__(self, template: Callable[[Mapping[str, Any]], str] | None) -> None:
        self._template = template
        self._known_columns: set[str] = set()

    def read(self, raw: object) -> Shape:
        """Take a row apart.

        Raises:
            RequestFileError: it is not a row, with what was expected; the place is for the caller to add.
        """
        if isinstance(raw, str):
            raw = {"prompt": raw}
        elif isinstance(raw, (list, tuple)):
            raw = {"messages": list(raw)}
        elif isinstance(raw, Cells) and self._template is None:
            raw = raw.asked
        if not isinstance(raw, OBJECT):
            raise RequestFileError(f"a row cannot be a {type(raw).__name__}; {_EXPECTED}")
        body = raw.get("body")
        if isinstance(body, OBJECT) and ("url" in raw or "method" in raw or "messages" in body or "input" in body):
            return self._batch_row(raw, body)
        return self._plain_row(raw)

    def _plain_row(self, raw: Mapping[Any, Any]) -> Shape:
        own: dict[str, Any] = {}
        carried: dict[str, Any] = {}
        prompt = messages = system = data = None
        for name, value in raw.items():
            if name in ROW_OPTIONS:
                if value is not None:
                    own[name] = value
            elif name == "messages":
                messages = value
            elif name == "custom_id":
                pass
            elif self._template is None and name == "prompt":
                prompt = value
            elif self._template is None and name == "input":
                data = value
            elif name == "system":
                system = value
            else:
                self._carry(carried, name, value)
        if messages is None and self._template is not None:
            prompt = self._template(raw)
        given = [name for name, v in (("prompt", prompt), ("messages", messages), ("input", data)) if v is not None]
        if len(given) != 1:
            what = " and ".join(given) + " exclude each other" if given else "nothing to ask"
            raise RequestFileError(f"{what}; {_EXPECTED}")
        if data is not None:
            own["input"] = data
            return Shape(custom_id_of(raw), "embedding", own, carried, system)
        if prompt is not None:
            if not isinstance(prompt, str):
                raise RequestFileError(f'"prompt" must be text, not {type(prompt).__name__}')
            messages = [{"role": "user", "content": prompt}]
        own["messages"] = checked_messages(messages)
        return Shape(custom_id_of(raw), "completion", own, carried, system)

    def _batch_row(self, raw: Mapping[Any, Any], body: Mapping[str, Any]) -> Shape:
        method = raw.get("method", "POST")
        if method != "POST":
            raise RequestFileError(f'"method" must be "POST", not {method!r}')
        own = {name: value for name, value in body.items() if value is not None}
        operation: Operation | None = "completion" if "messages" in own else "embedding"
        if "url" in raw:
            path = str(raw["url"]).partition("?")[0].rstrip("/")
            operation = next((kind for end, kind in URLS.items() if path.endswith(end)), None)
        if operation is None:
            known = ", ".join("/v1" + end for end in URLS)
            raise RequestFileError(f'"url" {raw["url"]!r} is none of those that can be asked: {known}')
        wanted = "messages" if operation == "completion" else "input"
        if wanted not in own:
            # LiteLLM asks for the input of a stored prompt, too.
            beside = ' beside its "prompt", which is a stored template' if "prompt" in own else ""
            raise RequestFileError(f'the "body" of a request to {raw.get("url", operation)} needs "{wanted}"{beside}')
        if operation == "completion":
            own["messages"] = checked_messages(own["messages"])
        carried: dict[str, Any] = {}
        for name, value in raw.items():
            if name not in ("custom_id", "method", "url", "body"):
                self._carry(carried, name, value)
        return Shape(custom_id_of(raw), operation, own, carried)

    def _carry(self, carried: dict[str, Any], name: object, value: object) -> None:
        if not isinstance(name, str):
            raise RequestFileError(f"column names must be text, not {type(name).__name__} ({name!r})")
        if name not in self._known_columns:
            self._known_columns.add(name)
            if is_secret(name) and name != "token":
                logger.warning("column %r looks like a key or a header: it is not carried to the results", name)
            elif name == "sample":
                logger.warning(
                    "column 'sample' is carried to the results; if it is to keep several answers apart in the cache, "
                    "call it %r",
                    CACHE_SAMPLE,
                )
            elif meant := likely_misspelt(name):
                logger.warning("column %r is carried to the results; if the option %r was meant, mend it", name, meant)
        if name == "token" or not is_secret(name):
            carried[name] = value
