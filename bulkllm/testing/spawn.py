"""The fake provider in a process of its own, so that server and client do not share one interpreter lock.

What may live here: the parent's half (:class:`SpawnedProvider`) and the child's (:func:`serve_child`), and how options
get from one to the other: as one line of JSON on standard input. The child ends when that input ends, so it does not
outlive its parent, however the parent ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from ..errors import ConfigError
from .control import LIMITS, REPORT, RESET, REVOKE
from .dialects import checked_base
from .faults import Fault
from .limits import ProviderLimits
from .report import ProviderReport
from .server_thread import HOST

if TYPE_CHECKING:
    from .provider import FakeProvider

_TIMEOUT = 30.0


class SpawnedProvider:
    """A :class:`~bulkllm.testing.FakeProvider` in a child process, with the same addresses and questions.

    Args:
        options: FakeProvider's, all but those that are functions (``clock``, and a function for ``reply`` or
            ``latency``), which cannot be sent to another process.

    Raises:
        ConfigError: an option makes no sense, or cannot be sent.
    """

    def __init__(self, **options: Any) -> None:
        _provider()(**options)  # complains here and now, not in the child
        self._options = _packed(options)
        self._process: subprocess.Popen[str] | None = None
        self._port: int | None = None

    @property
    def port(self) -> int:
        """The port it listens at, or listened at."""
        if self._port is None:
            raise ConfigError("the server has not been started: use `with SpawnedProvider(...) as server:` or .start()")
        return self._port

    @property
    def url(self) -> str:
        """Where the server is: ``http://127.0.0.1:PORT``."""
        return f"http://{HOST}:{self.port}"

    @property
    def openai_base(self) -> str:
        """The ``api_base`` for ``openai/`` models."""
        return f"{self.url}/v1"

    @property
    def anthropic_base(self) -> str:
        """The ``api_base`` for ``anthropic/`` models."""
        return self.url

    def base_of(self, provider: str) -> str:
        """The ``api_base`` for a provider's models; see :meth:`FakeProvider.base_of`."""
        return checked_base(self.url, provider)

    @property
    def pid(self) -> int:
        """The child's process id."""
        if self._process is None:
            raise ConfigError("the server is not running")
        return self._process.pid

    def start(self) -> Self:
        """Start the child, and return when it accepts connections.

        Raises:
            ConfigError: it is running already, or the child could not start (its own words are on standard error).
        """
        if self._process is not None:
            raise ConfigError("the server is running already")
        process = subprocess.Popen(
            [sys.executable, "-m", "bulkllm.testing"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=_environment(),
        )
        self._process = process
        told = ""
        with contextlib.suppress(BrokenPipeError):  # it ended at once; its exit code says so below
            _pipe(process.stdin).write(self._options + "\n")
            _pipe(process.stdin).flush()
            told = _pipe(process.stdout).readline()
        answer: dict[str, Any] = json.loads(told) if told else {"error": "the child process ended at once"}
        if "port" not in answer:
            self.stop()
            raise ConfigError(answer["error"])
        self._port = answer["port"]
        return self

    def stop(self) -> None:
        """End the child, and wait for it; a second time does nothing."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(BrokenPipeError):
            _pipe(process.stdin).close()
        try:
            process.wait(_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _pipe(process.stdout).close()

    def report(self) -> ProviderReport:
        """What the server saw since it was started or reset."""
        return ProviderReport.from_dict(self._ask("GET", REPORT))

    def reset(self) -> None:
        """As FakeProvider's."""
        self._ask("POST", RESET)

    def set_limits(self, model: str | None = None, **limits: Any) -> None:
        """As FakeProvider's."""
        self._ask("POST", LIMITS, {"model": model, **limits})

    def revoke(self, key: str) -> None:
        """As FakeProvider's."""
        self._ask("POST", REVOKE, {"key": key})

    def __enter__(self) -> Self:
        return self if self._process is not None else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return self if self._process is not None else self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _ask(self, method: str, path: str, told: Mapping[str, Any] | None = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=_TIMEOUT)
        try:
            connection.request(method, path, json.dumps(told or {}))
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise ConfigError(answer["error"])
        return answer


def serve_child(told: IO[str], tell: IO[str]) -> int:
    """The child's whole life: options in, its port out, serving until the input ends. Tells the exit code.

    Ctrl-C in a terminal reaches the child too; it is the parent's to act on, which may want to finish first.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        server = _provider()(**_unpacked(told.readline())).start()
    except ConfigError as error:
        tell.write(json.dumps({"error": str(error)}) + "\n")
        tell.flush()
        return 2
    with server:
        tell.write(json.dumps({"port": server.port}) + "\n")
        tell.flush()
        told.read()
    return 0


def _provider() -> type[FakeProvider]:
    from .provider import FakeProvider  # late: that module needs this one

    return FakeProvider


def _packed(options: Mapping[str, Any]) -> str:
    plain = dict(options)
    if plain.get("limits"):
        plain["limits"] = {name: dataclasses.asdict(limits) for name, limits in plain["limits"].items()}
    if plain.get("faults"):
        plain["faults"] = [dataclasses.asdict(fault) for fault in plain["faults"]]
    for name in ("keys", "models"):
        if plain.get(name) is not None:
            plain[name] = list(plain[name])
    try:
        return json.dumps(plain)
    except TypeError:
        named = [name for name, value in plain.items() if callable(value)]
        raise ConfigError(
            f"{' and '.join(named) or 'an option'}: a function cannot be sent to another process"
        ) from None


def _unpacked(line: str) -> dict[str, Any]:
    options: dict[str, Any] = json.loads(line)
    if options.get("limits"):
        options["limits"] = {name: ProviderLimits(**limits) for name, limits in options["limits"].items()}
    if options.get("faults"):
        options["faults"] = [Fault(**fault) for fault in options["faults"]]
    return options


def _environment() -> dict[str, str]:
    """This process's, and where the package is if it was not installed but found in a checkout."""
    root = Path(__file__).parents[2]
    if root.name in ("site-packages", "dist-packages"):
        return dict(os.environ)
    known = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (known, str(root))))}


def _pipe(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise ConfigError("the server is not running")
    return stream
