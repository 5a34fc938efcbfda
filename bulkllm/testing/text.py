"""What a fake model reads and writes.

What may live here: counting tokens and making up text, both pure and the same on every machine.

**The counting rule**, of this server's own and cheap on purpose: a token is four characters. A text costs one token
for each four characters begun; each message costs 4 more, whatever it holds, and a chat 3 more; an image costs 85.
Replies are counted by the same rule, so that a reply of N tokens is N pieces of four characters, which is also how a
stream sends them.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any, TypeAlias

from ..errors import ConfigError

CHARACTERS_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 4
TOKENS_PER_CHAT = 3
TOKENS_PER_IMAGE = 85

ReplyText: TypeAlias = str | Callable[[dict[str, Any]], str] | None

_WORDS = re.findall(
    r"\w+",
    """
the a of to and in that it with for as on by from at this which their each more some other after where
while because data model answer question table column value number report month market river garden city
engine signal measure sample method result reason change growth price limit order paper letter window
bridge winter summer morning teacher student doctor farmer author reader island forest harbour station
shows gives takes keeps makes finds brings follows explains compares describes suggests covers changes
small large early late simple common clear useful recent quiet steady narrow broad second third whole
""",
)
_SENTENCES = 600

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=str).encode


def canonical(value: object) -> str:
    """The one JSON text of a value, whatever the order of its keys."""
    return _encode(value)


def digest(*parts: object) -> bytes:
    """Sixteen bytes that stand for a prompt, so that no prompt has to be kept."""
    return blake2b(canonical(parts).encode(), digest_size=16).digest()


def digest_of_chat(kind: str, model: str, messages: list[Any]) -> bytes:
    """The digest of a chat; quick for messages that are nothing but a role and a text."""
    parts = [kind, model]
    for message in messages:
        if len(message) == 2 and isinstance(text := message.get("content"), str):  # noqa: PLR2004 - role and content
            parts.append(f"{message['role']} {len(text)} {text}")
        else:
            return digest(kind, model, messages)
    return blake2b("\n".join(parts).encode(errors="surrogatepass"), digest_size=16).digest()


def count_text(text: str) -> int:
    """Tokens of a text: one for each four characters begun."""
    return -(-len(text) // CHARACTERS_PER_TOKEN)


def count_content(content: object) -> int:
    """Tokens of a message's content: a text, a list of parts, or any other JSON by its length."""
    if content is None:
        return 0
    if isinstance(content, str):
        return count_text(content)
    if isinstance(content, list):
        return sum(map(count_content, content))
    if isinstance(content, dict):
        if isinstance(text := content.get("text"), str):
            return count_text(text)
        if "image" in str(content.get("type")):
            return TOKENS_PER_IMAGE
    return count_text(canonical(content))


def count_messages(messages: list[Any]) -> int:
    """Tokens of a chat."""
    total = TOKENS_PER_CHAT
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else message
        counted = count_text(content) if isinstance(content, str) else count_content(content)
        total += TOKENS_PER_MESSAGE + counted
    return total


def plain_text(value: object) -> str:
    """All text in messages, content parts or inputs, for a fault's ``match``."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(filter(None, map(plain_text, value)))
    if isinstance(value, dict):
        return plain_text([value.get(key) for key in ("content", "text", "output")])
    return ""


def pieces(text: str) -> list[str]:
    """A text's tokens."""
    return [text[i : i + CHARACTERS_PER_TOKEN] for i in range(0, len(text), CHARACTERS_PER_TOKEN)]


class Writer:
    """Makes up replies: the same one for the same seed and prompt, in any order and in any process.

    Args:
        seed: another seed, other replies.
        reply_tokens: how long replies are, from and to, in tokens.
        reply: a text that every reply has, or a function that is given the request's body and returns the text.

    Raises:
        ConfigError: ``reply_tokens`` is no range of lengths.
    """

    def __init__(self, seed: int, reply_tokens: tuple[int, int] = (20, 80), reply: ReplyText = None) -> None:
        try:
            self._shortest, self._longest = (int(bound) for bound in reply_tokens)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"reply_tokens={reply_tokens!r}: give two lengths such as (20, 80)") from error
        if not 1 <= self._shortest <= self._longest:
            raise ConfigError(f"reply_tokens={reply_tokens!r}: give (shortest, longest), each from 1")
        self._reply = reply
        self._key = str(seed).encode()[:32]
        self._corpus, self._starts = _corpus(seed)

    def text(self, body: Mapping[str, Any], digest: bytes, variant: int = 0) -> str:
        """The whole reply to a prompt, before any cap on its length; ``variant`` tells several choices apart."""
        if callable(self._reply):
            return self._reply(dict(body))
        if self._reply is not None:
            return self._reply
        number = self.number(digest, variant)
        length = CHARACTERS_PER_TOKEN * (self._shortest + number % (self._longest - self._shortest + 1))
        start = self._starts[(number >> 20) % len(self._starts)]
        corpus = self._corpus
        if start + length > len(corpus):
            corpus *= 2 + length // len(corpus)
        return corpus[start : start + length - 1].rstrip(" .").ljust(length - 1, ".") + "."

    def number(self, digest: bytes, variant: int = 0) -> int:
        """A number of 64 bits that depends on the seed, the prompt and the variant, and on nothing else."""
        salt = variant.to_bytes(8, "big")
        return int.from_bytes(blake2b(digest, digest_size=8, key=self._key, salt=salt).digest())


def capped(text: str, max_tokens: int | None) -> tuple[str, bool]:
    """A reply as far as its cap allows, and whether it was cut."""
    if max_tokens is None or len(text) <= max_tokens * CHARACTERS_PER_TOKEN:
        return text, False
    return text[: max_tokens * CHARACTERS_PER_TOKEN], True


def _corpus(seed: int) -> tuple[str, list[int]]:
    """A few hundred sentences, and where each begins."""
    dice = random.Random(seed)  # noqa: S311 - made-up text is no secret
    text: list[str] = []
    starts: list[int] = []
    at = 0
    for _ in range(_SENTENCES):
        words = dice.choices(_WORDS, k=dice.randint(6, 14))
        sentence = " ".join(words).capitalize() + ". "
        text.append(sentence)
        starts.append(at)
        at += len(sentence)
    return "".join(text), starts
