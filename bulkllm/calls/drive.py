"""The two drivers that obey a flow: one in a thread, one in a task. Nothing else may live here."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

from .blocking import refuse_to_block
from .effects import Effect

Result = TypeVar("Result")

Flow = Generator[Effect, Any, Result]


def drive(flow: Flow[Result]) -> Result:
    """Obey a flow in this thread, blocking.

    Raises:
        ConfigError: a bulk run goes on in this thread's event loop; and what the flow raises.
    """
    refuse_to_block()
    try:
        effect = next(flow)
        while True:
            try:
                value = effect.perform()
            except BaseException as error:  # noqa: BLE001 - the flow decides what each error means
                thrown = error
            else:
                effect = flow.send(value)
                continue
            try:
                effect = flow.throw(thrown)
            finally:
                del thrown  # or the error's traceback would hold this frame, and this frame the error
    except StopIteration as done:
        result: Result = done.value
        return result


async def adrive(flow: Flow[Result]) -> Result:
    """Obey a flow in this task."""
    try:
        effect = next(flow)
        while True:
            try:
                value = await effect.aperform()
            except BaseException as error:  # noqa: BLE001 - the flow decides what each error means
                thrown = error
            else:
                effect = flow.send(value)
                continue
            try:
                effect = flow.throw(thrown)
            finally:
                del thrown  # or the error's traceback would hold this frame, and this frame the error
    except StopIteration as done:
        result: Result = done.value
        return result
