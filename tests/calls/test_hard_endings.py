"""Endings that need a process of their own: signals, the garbage collector under a lock, the interpreter's end."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

# A deadlock tells where it is.
ALARM = "import faulthandler; faulthandler.dump_traceback_later({seconds}, exit=True)"


def run(program: str, seconds: float) -> str:
    """A program in a Python of its own, which must end by itself."""
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = subprocess.run(
        [sys.executable, "-c", f"{ALARM.format(seconds=seconds)}\n{textwrap.dedent(program)}"],
        capture_output=True,
        text=True,
        timeout=seconds + 10,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-6000:]
    return done.stdout


DROPPED = """
    import gc, sys, threading, time
    from types import SimpleNamespace as Thing
    from bulkllm import Client, RateLimit, UsageTracker
    from bulkllm.accounting import Usage
    from bulkllm.calls.failure import failure_of
    from bulkllm.calls.lane import Answer, Target

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
        def headers(self, response: object) -> None:
            return None

        def answer(self, call, response): return Answer(usage=Usage(3, 2), cost=0.0)
        def streamed_answer(self, call, fold, stream): return Answer(usage=Usage(3, 2), cost=0.0)
        def from_cache(self, stream): return False

    limit = RateLimit(rpm=10**9, tpm=10**12, max_in_flight=10**6)
    client = Client(limits=limit, lane=Lane())
    messages = [{"role": "user", "content": "hi"}]
    end = time.monotonic() + 1.0
    dropped = []

    def more():  # a machine that stands still for all of the second shows nothing
        return time.monotonic() < end or len(dropped) <= 50

    def drop():
        while more():
            circle = [client.completion("openai/m", messages, stream=True)]
            next(circle[0])
            circle.append(circle)
            dropped.append(1)
            del circle
            client.limiter.status()  # a lock is held here, and much is allocated under it

    def call():
        while more():
            client.completion("openai/m", messages, tags={"a": "b"})

    def look():
        while more():
            client.limiter.status()
            client.usage.total, client.usage.by_tag

    gc.set_threshold(25, 2, 2)
    sys.setswitchinterval(1e-4)
    threads = [threading.Thread(target=work) for work in (drop, drop, call, look)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    gc.collect()
    assert len(dropped) > 50, dropped
    assert client.limiter.status().in_flight == 0, client.limiter.status()
    assert client.usage.by_outcome["cancelled"].requests == len(dropped)
    print("done")
"""


def test_streams_dropped_in_circles_while_others_allocate_under_the_locks_do_not_deadlock() -> None:
    assert run(DROPPED, 30.0).strip() == "done"


INTERRUPTED = """
    import signal, sys, threading, time
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
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # the thread that Ctrl-C goes to
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

    faults = [Fault("hang", match="hang"), Fault("status", status=500, match="fail")]
    server = FakeProvider(faults=faults, time_per_token=0.05, reply_tokens=(100, 100)).start()

    def ask(text="hi", **more):
        return client.completion("openai/m", [{"role": "user", "content": text}],
                                 api_base=server.openai_base, api_key="k", **more)

    ask(max_tokens=2)  # LiteLLM is imported
    server.reset()
    interrupted("sent", lambda: server.report().in_flight == 1, lambda: ask("hang"))
    held = client.limiter.reserve("openai/m").acquire()
    interrupted("in line", lambda: client.limiter.status().waiting == 1, lambda: ask())
    held.refund()
    def answered():
        return server.report().statuses.get(500) and client.limiter.status().in_flight == 0
    interrupted("between", answered, lambda: ask("fail"))
    stream = ask(stream=True)
    next(stream)
    pieces = []
    interrupted("stream", lambda: pieces, lambda: [pieces.append(piece) for piece in stream])
    assert bulkllm.record_of(stream).outcome == "cancelled"
    assert ask(max_tokens=2).choices[0].message.content
    print({name: (t.requests, t.attempts, t.unpriced) for name, t in sorted(client.usage.by_outcome.items())})
    try:
        ask("hang", timeout=0.2, num_retries=0)
    except Exception as error:
        print(type(error).__name__, flush=True)
    # The thread of that call may hang for ever, as may a call under way: they must not keep the interpreter.
    server.reset()
    threading.Thread(target=ask, args=("hang",), daemon=True).start()
    while not server.report().requests:
        time.sleep(0.01)
    print("leaving", flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="signals go otherwise there")
def test_ctrl_c_ends_a_call_wherever_it_is() -> None:
    lines = run(INTERRUPTED, 100.0).splitlines()
    assert lines[:4] == ["sent 0", "in line 1", "between 0", "stream 0"]
    assert lines[4] == "{'cancelled': (4, 3, 2), 'ok': (2, 2, 2)}"
    assert lines[5:] == ["Timeout", "leaving"]
