from __future__ import annotations

import dataclasses
import inspect

from bulkllm.bulk.runner import arun, run, stream
from bulkllm.bulk.settings import Settings


def test_what_starts_a_run_takes_the_same_keywords_with_the_same_defaults() -> None:
    """Each of them hands all its keywords on, so none may have one that the others, or the settings, do not know."""
    asked = dict(inspect.signature(arun).parameters)
    assert dict(inspect.signature(run).parameters) == asked
    streamed = dict(inspect.signature(stream).parameters)
    assert set(asked) ^ set(streamed) == {"on_result", "handle_signals", "ordered"}
    assert {name for name in set(asked) & set(streamed) if asked[name] != streamed[name]} == {"progress"}
    others = {"requests", "budget", "client", "on_result", "call", "handle_signals", "options"}
    own = {name: parameter.default for name, parameter in (streamed | asked).items() if name not in others}
    assert own == {field.name: field.default for field in dataclasses.fields(Settings)}
