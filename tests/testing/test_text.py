from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkllm.errors import ConfigError
from bulkllm.testing.schema import fitting
from bulkllm.testing.text import (
    Writer,
    capped,
    count_messages,
    count_text,
    digest,
    digest_of_chat,
    pieces,
    plain_text,
)


@given(st.text(), st.one_of(st.none(), st.integers(1, 20)))
def test_a_text_is_as_many_tokens_as_it_has_pieces_and_a_cap_cuts_between_them(text: str, cap: int | None) -> None:
    assert "".join(pieces(text)) == text
    assert len(pieces(text)) == count_text(text)
    short, cut = capped(text, cap)
    assert text.startswith(short)
    assert count_text(short) == min(count_text(text), cap or count_text(text))
    assert cut == (short != text)


def test_a_chat_is_counted_as_the_rule_says() -> None:
    assert count_messages([{"role": "user", "content": "12345"}]) == 3 + 4 + 2
    parts = [{"type": "text", "text": "1234"}, {"type": "image_url", "image_url": {"url": "data:..."}}]
    assert (
        count_messages([{"role": "user", "content": parts}, {"role": "assistant", "content": None}]) == 3 + 8 + 1 + 85
    )


def test_replies_depend_on_seed_and_prompt_and_nothing_else() -> None:
    prompts = [digest(n) for n in range(50)]
    writer, twin, other = Writer(1), Writer(1), Writer(2)
    one = [writer.text({}, prompt) for prompt in prompts]
    assert one == [twin.text({}, prompt) for prompt in reversed(prompts)][::-1]
    assert len(set(one)) == 50
    assert not set(one) & {other.text({}, prompt) for prompt in prompts}
    assert writer.text({}, prompts[0], variant=1) != one[0]


def test_replies_are_as_long_as_was_asked() -> None:
    writer = Writer(0, (5, 8))
    lengths = {count_text(writer.text({}, digest(n))) for n in range(200)}
    assert lengths == {5, 6, 7, 8}
    long = Writer(0, (50_000, 50_000)).text({}, digest("long"))
    assert len(long) == 200_000
    assert long.endswith(".")


def test_a_reply_can_be_given_as_a_text_or_a_function() -> None:
    assert Writer(0, reply="always").text({}, digest(1)) == "always"
    assert Writer(0, reply=lambda body: body["model"] + "!").text({"model": "m"}, digest(1)) == "m!"


@pytest.mark.parametrize("bad", [(0, 5), (9, 3), 7, ("a", "b")])
def test_impossible_lengths_are_refused(bad: Any) -> None:
    with pytest.raises(ConfigError, match="reply_tokens"):
        Writer(0, bad)


def test_the_digest_of_a_chat_tells_chats_apart_but_not_the_order_of_keys() -> None:
    def of(*messages: dict[str, Any], model: str = "m") -> bytes:
        return digest_of_chat("chat", model, list(messages))

    plain = of({"role": "user", "content": "hi"})
    assert plain == of({"content": "hi", "role": "user"})
    others = [
        of({"role": "system", "content": "hi"}),
        of({"role": "user", "content": "hi\nuser 2 yo"}),
        of({"role": "user", "content": "hi"}, {"role": "user", "content": "yo"}),
        of({"role": "user", "content": [{"type": "text", "text": "hi"}]}),
        of({"role": "user", "content": "hi", "name": "x"}),
        of({"role": "user", "content": "hi"}, model="other"),
        of({"role": "user", "content": "\ud800"}),
    ]
    assert len({plain, *others}) == 8


def test_all_text_of_a_prompt_is_found_for_matching() -> None:
    prompt = [None, [{"role": "user", "content": [{"type": "text", "text": "find"}]}, {"content": "me"}], 7]
    assert plain_text(prompt) == "find\nme"


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["a", "b"]},
        "fixed": {"const": 3},
        "count": {"type": "integer", "minimum": 5, "maximum": 6},
        "share": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        "tags": {"type": "array", "items": {"type": "string", "minLength": 12, "maxLength": 14}, "minItems": 3},
        "maybe": {"anyOf": [{"$ref": "#/$defs/leaf"}, {"type": "null"}]},
        "both": {"allOf": [{"$ref": "#/$defs/leaf"}, {"properties": {"more": {"type": "boolean"}}}]},
        "tree": {"$ref": "#/$defs/tree"},
        "list": {"type": ["string", "null"]},
        "by": {"type": "integer", "multipleOf": 7, "minimum": 10},
        "low": {"type": "integer", "maximum": -5},
    },
    "required": ["kind"],
    "$defs": {
        "leaf": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
        "tree": {
            "type": "object",
            "properties": {
                "left": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]},
                "right": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
            },
            "required": ["left", "right"],
        },
    },
}


@pytest.mark.parametrize("seed", range(20))
def test_structured_output_fits_its_schema(seed: int) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    value = fitting(SCHEMA, seed)
    jsonschema.validate(value, SCHEMA)
    assert set(value) == set(SCHEMA["properties"])
    assert value == fitting(SCHEMA, seed)
    assert len(json.dumps(value)) < 100_000


@pytest.mark.parametrize(("schema", "value"), [({"type": "null"}, None), ({"type": "object"}, {})])
def test_schemas_that_say_little(schema: Any, value: Any) -> None:
    assert fitting(schema, 0) == value


@pytest.mark.parametrize("schema", [None, {}, "nonsense"])
def test_without_a_schema_there_is_an_answer(schema: Any) -> None:
    assert list(fitting(schema, 0)) == ["answer"]
