"""Endings that only a process of its own survives: signals, the garbage collector under a lock, the interpreter's end."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time

import pytest


def run(program: str, seconds: float = 90.0) -> str:
    """A program in a Python of its own, which must end by itself."""
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=seconds,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


DROPPED = """
    import faulthandler, gc, sys, threading, time
    from types import SimpleNamespace as Thing
    from bulkllm import Client, RateLimit, UsageTracker
    from bulkllm.accounting import Usage
    from bulkllm.calls.failure import failure_of
    from bulkllm.calls.lane import Answer, Target

    faulthandler.dump_traceback_later(40, exit=True)  # a deadlock tells where it is

    class Lane:
        def load(self): pass
        def target(self, model, options): return Target(model, "openai")
        def price(self, call): return None
        def send(self, call):
            if call.stream:
                return iter([Thing(choices=[], usage=None, model="m")] * 3)
            return Thing(_hidden_params={})
        def failure(self, error): return failure_of(error)
        def timed_out(self, call): return TimeoutError()
        def answer(self, call, response): return Answer(usage=Usage(3, 2), cost=0.0)
        def streamed_answer(self, call, fold, stream): return Answer(usage=Usage(3, 2), cost=0.0)

    limit = RateLimit(rpm=10**9, tpm=10**12, max_in_flight=10**6)
    client = Client(limits=limit, lane=Lane())
    messages = [{"role": "user", "content": "hi"}]
    end = time.monotonic() + 2.0
    dropped = [0]

    def drop():
        while time.monotonic() < end:
            circle = [client.completion("openai/m", messages, stream=True)]
            next(circle[0])
            circle.append(circle)
            dropped[0] += 1
            del circle

    def call():
        while time.monotonic() < end:
            client.completion("openai/m", messages, tags={"a": "b"})

    def look():
        while time.monotonic() < end:
            client.limiter.status()
            client.usage.total, client.usage.by_tag

    gc.set_threshold(3, 2, 2)
    threads = [threading.Thread(target=work) for work in (drop, drop, call, look)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    gc.collect()
    assert dropped[0] > 50, dropped
    assert client.limiter.status().in_flight == 0, client.limiter.status()
    assert client.usage.by_outcome["cancelled"].requests == dropped[0]
    print("done")
"""


def test_streams_dropped_in_circles_while_others_allocate_under_the_locks_do_not_deadlock() -> None:
    assert run(DROPPED).strip() == "done"


INTERRUPTED = """
    import os, signal, sys, threading, time
    import bulkllm
    from bulkllm import Client, RateLimit, RetryPolicy
    from bulkllm.testing import FakeProvider, Fault

    MESSAGES = [{"role": "user", "content": "hi"}]
    limit = RateLimit(max_in_flight=1)
    client = Client(limits=limit, retry=RetryPolicy(max_attempts=2, base_delay=60.0))

    def interrupted(name, begun, work):
        def later():
            while not begun():
                time.sleep(0.005)
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=later, daemon=True).start()
        began = time.monotonic()
        try:
            work()
        except KeyboardInterrupt:
            pass
        else:
            raise AssertionError("no interrupt: " + name)
        assert time.monotonic() - began < 15, name
        assert client.limiter.status().waiting == 0
        print(name, client.limiter.status().in_flight, flush=True)

    with FakeProvider(faults=[Fault("hang", match="hang"), Fault("status", status=500, match="fail")],
                      time_per_token=0.05, reply_tokens=(100, 100)) as server:
        def ask(text="hi", **more):
            return client.completion("openai/m", [{"role": "user", "content": text}],
                                     api_base=server.openai_base, api_key="k", **more)
        interrupted("sent", lambda: server.report().in_flight == 1, lambda: ask("hang"))
        held = client.limiter.reserve("openai/m").acquire()
        interrupted("in line", lambda: client.limiter.status().waiting == 1, lambda: ask())
        held.refund()
        interrupted("between", lambda: server.report().failed >= 1, lambda: ask("fail"))
        stream = ask(stream=True)
        next(stream)
        interrupted("stream", lambda: True, lambda: list(stream))
        assert bulkllm.record_of(stream).outcome == "cancelled"
        server.reset()
        assert ask(max_tokens=2).choices[0].message.content
        print({name: (t.requests, t.attempts, t.unpriced) for name, t in sorted(client.usage.by_outcome.items())})
        try:
            ask("hang", timeout=0.2, num_retries=0)
        except Exception as error:
            print(type(error).__name__, flush=True)
        # The thread of that call may hang for ever: it must not keep the interpreter.
"""


@pytest.mark.skipif(os.name == "nt", reason="signals go otherwise there")
def test_ctrl_c_ends_a_call_wherever_it_is() -> None:
    lines = run(INTERRUPTED).splitlines()
    assert lines[:4] == ["sent 0", "in line 1", "between 0", "stream 0"]
    assert lines[4] == "{'cancelled': (4, 3, 2), 'ok': (1, 1, 1)}"
    assert lines[5] == "Timeout"


LEFT = """
    import os, sys, threading, time
    from bulkllm import Client
    from bulkllm.testing import FakeProvider, Fault

    server = FakeProvider(faults=[Fault("hang")]).start()
    call = lambda: Client().completion("openai/m", [{"role": "user", "content": "hi"}],
                                       api_base=server.openai_base, api_key="k")
    threading.Thread(target=call, daemon=True).start()
    while not server.report().requests:
        time.sleep(0.01)
    print("leaving", flush=True)
"""


def test_a_call_under_way_does_not_hold_up_the_interpreters_end() -> None:
    began = time.monotonic()
    assert run(LEFT).strip() == "leaving"
    assert time.monotonic() - began < 60
