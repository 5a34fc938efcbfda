"""Ten thousand lines, most of them broken, in every way that lines break: nothing is raised, no good row is lost."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bulkllm.bulk import run

COUNT = 10_000
BOM = b"\xef\xbb\xbf"

Kind = Callable[[int, random.Random], bytes]


def plain(number: int, **more: Any) -> bytes:
    return json.dumps({"prompt": f"p{number}", **more}).encode()


def mutated(number: int, rng: random.Random) -> bytes:
    line = bytearray(plain(number, n=[1, {"a": None}]))
    for _ in range(rng.randrange(1, 5)):
        line[rng.randrange(len(line))] = rng.randrange(256)
    return bytes(line).replace(b"\n", b"\xff") + b"\xff"


def cut_off(number: int, rng: random.Random) -> bytes:
    line = plain(number, text="words, words")
    return line[: rng.randrange(1, len(line))]


def wrong(number: int, rng: random.Random) -> bytes:
    """JSON, but no row."""
    body: list[Any] = [
        {"prompt": number}, {"prompt": None}, {"prompt": ["p"]}, {"messages": "p"}, {"messages": []},
        {"messages": [number]}, {"messages": [{"content": "p"}]}, {"prompt": "p", "messages": []}, {"text": "p"}, {},
        {"prompt": "p", "model": number}, {"prompt": "p", "custom_id": ""}, {"prompt": "p", "custom_id": [number]},
        {"prompt": "p", "custom_id": True}, {"prompt": "p", "stream": True}, {"prompt": "p", "system": 1},
        {"method": "GET", "url": "/v1/chat/completions", "body": {"messages": [{"role": "user", "content": "p"}]}},
        {"method": "POST", "url": "/v1/nothing", "body": {"messages": [{"role": "user", "content": "p"}]}},
        {"method": "POST", "url": "/v1/chat/completions", "body": {"messages": None}},
        [], [{"prompt": "p"}], "prompt", number, True, None, -1.5,
    ]  # fmt: skip
    return json.dumps(rng.choice(body)).encode()


BAD: dict[str, Kind] = {
    "mutated": mutated,
    "cut off": cut_off,
    "wrong": wrong,
    "not UTF-8": lambda number, rng: plain(number).replace(b"p", bytes([rng.randrange(0x80, 0x100)])),
    "half a character": lambda number, rng: '{"prompt":"é"}'.encode().replace(b"\xa9", b""),
    "UTF-16": lambda number, rng: plain(number).decode().encode("utf-16-le").replace(b"\n", b""),
    "NUL within": lambda number, rng: plain(number).replace(b"p", b"\0"),
    "only NULs": lambda number, rng: bytes(rng.randrange(1, 4096)),
    "huge": lambda number, rng: b'{"prompt":"' + b"x" * rng.randrange(100_000, 1_000_000),
    "not a number": lambda number, rng: plain(number)[:-1] + rng.choice([b',"n":NaN}', b',"n":-Infinity}']),
    "huge number": lambda number, rng: plain(number)[:-1] + b',"n":' + b"9" * 5000 + b"}",
    "half a pair": lambda number, rng: b'{"prompt":"\\ud83d %d"}' % number,
    "deep": lambda number, rng: rng.choice([b"[", b'{"a":', b'{"prompt":[']) * rng.randrange(2000, 100_000),
    "deep and closed": lambda number, rng: b'{"prompt":"p","a":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "mark in the middle": lambda number, rng: BOM + plain(number),
    "two rows": lambda number, rng: plain(number) + plain(number + COUNT),
    "single quotes": lambda number, rng: plain(number).replace(b'"', b"'"),
    "a tab": lambda number, rng: plain(number).replace(b"p", b"\t"),
    "CSV": lambda number, rng: b"p%d,some text,3" % number,
    "a repeat": lambda number, rng: plain(number, custom_id="the first"),
}
GOOD: dict[str, Kind] = {
    "plain": lambda number, rng: plain(number),
    "from Windows": lambda number, rng: plain(number) + b"\r",
    "blanks around": lambda number, rng: b" \t" + plain(number) + b"  ",
    "with its name": lambda number, rng: plain(number, custom_id=f"row {number}"),
    "unicode": lambda number, rng: json.dumps({"prompt": f"p{number}", "text": "é\u2028\U0001f600"}).encode(),
    "unescaped": lambda number, rng: f'{{"prompt":"p{number}","text":"é\u2028\u0085\U0001f600"}}'.encode(),
    "escaped NUL": lambda number, rng: plain(number, text="\0"),
    "a long one": lambda number, rng: plain(number, text="x" * 300_000),
    "twice the same name": lambda number, rng: b'{"prompt":"lost","prompt":"p%d"}' % number,
    "messages": lambda number, rng: json.dumps({"messages": [{"role": "user", "content": f"p{number}"}]}).encode(),
}


def written(path: Path, rng: random.Random) -> tuple[set[str], Counter[str]]:
    """Write the lines; the prompts of the good ones, and how many there are of each bad kind."""
    good = {"p-1"}
    bad: Counter[str] = Counter()
    with path.open("wb") as file:
        file.write(BOM + plain(-1, custom_id="the first") + b"\n")
        for number in range(COUNT):
            kinds = GOOD if rng.random() < 0.02 else BAD
            name = rng.choice(list(kinds)) if rng.random() < 0.5 else ("mutated" if kinds is BAD else "plain")
            if name in ("huge", "a long one", "deep and closed", "deep") and rng.random() < 0.8:
                name = "mutated" if kinds is BAD else "plain"
            if kinds is BAD:
                bad[name] += 1
            else:
                good.add(f"p{number}")
            file.write(kinds[name](number, rng) + b"\n")
            if rng.random() < 0.05:
                file.write(rng.choice([b"\n", b"\r\n", b"   \n"]))
    return good, bad


def test_ten_thousand_malformed_lines_lose_no_good_row(calls: Any, tmp_path: Path, out: Path) -> None:
    path = tmp_path / "in.jsonl"
    good, bad = written(path, random.Random(1))  # noqa: S311 - a seed for a test
    assert min(bad[name] for name in BAD) > 3
    result = run(path, call=calls, model="openai/m", output=out, skip_bad=True, progress=False)
    assert dict(calls.prompts) == dict.fromkeys(good, 1)
    assert (result.ok, result.failed, result.total) == (len(good), bad.total(), len(good) + bad.total())
    assert {row.error.code for row in result if row.error is not None} == {"RequestFileError"}
    assert all(row.error.message for row in result if row.error is not None)
    assert out.read_bytes().count(b"\n") == result.total
    calls.forget()
    again = run(path, call=calls, model="openai/m", output=out, skip_bad=True, progress=False)
    assert (again.skipped, calls.asked) == (result.total, 0)


class Odd:
    """Nothing that JSON knows."""


def odd_rows(rng: random.Random) -> Iterator[Any]:
    """Rows as a program may make them, of which every tenth is good."""
    circle: dict[str, Any] = {"prompt": "p"}
    circle["self"] = circle
    kinds: list[Any] = [
        None, 7, 1.5, True, b"bytes", Odd(), Odd, set(), range(3), [], [None], ["text"], {"prompt": Odd()}, {5: "p"},
        {"prompt": "p", "temperature": float("nan")}, {"prompt": "half \ud83d"}, {"prompt": "p", "custom_id": 1.5},
        {"messages": {"role": "user"}}, {"messages": [{"role": "user", "content": Odd()}]}, {"prompt": "p", 5: 6},
        {"input": Odd()}, {"prompt": "p", "extra_body": circle},
    ]  # fmt: skip
    for number in range(2000):
        yield f"p{number}" if number % 10 == 0 else rng.choice(kinds)


def test_two_thousand_odd_objects_lose_no_good_row(calls: Any, out: Path) -> None:
    rng = random.Random(3)  # noqa: S311 - a seed for a test
    result = run(odd_rows(rng), call=calls, model="openai/m", output=out, skip_bad=True, progress=False)
    assert dict(calls.prompts) == {f"p{number}": 1 for number in range(0, 2000, 10)}
    assert (result.ok, result.failed, result.total) == (200, 1800, 2000)
    assert {row.error.code for row in result if row.error is not None} == {"RequestFileError"}
