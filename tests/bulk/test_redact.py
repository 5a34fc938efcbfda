from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkllm.bulk.redact import MAX_TEXT, redact

SECRET = "Zz9Yy8Xx7Ww6Vv5Uu4Tt3Ss2"


@pytest.mark.parametrize(
    "text",
    [
        "Incorrect API key provided: sk-proj-Zz9Yy8Xx7Ww6Vv5Uu4Tt3Ss2. You can find",
        "Authorization: Bearer Zz9Yy8Xx7Ww6Vv5Uu4Tt3Ss2",
        "{'Authorization': 'Basic Zz9Yy8Xx7Ww6Vv5Uu4Tt3Ss2='}",
        'headers={"x-api-key": "Zz9Yy8Xx7Ww6Vv5Uu4Tt3Ss2"}',
        "api_key=Zz9Yy8Xx7Ww6Vv5Uu4Tt3Ss2, model=x",
        "AIzaZz9Yy8Xx7Ww6Vv5Uu4Tt3Ss2 is not valid",
        "https://user:Zz9Yy8Xx7Ww6Vv5Uu4Tt3Ss2@host/v1 refused",
        "token eyJhbGciOiJIUzI1NiJ9.Zz9Yy8Xx7Ww6Vv5Uu4Tt3Ss2.Zz9Yy8Xx7Ww6Vv5Uu4Tt3Ss2",
        "gsk_Zz9Yy8Xx7Ww6Vv5Uu4Tt3Ss2 expired",
    ],
)
def test_whatever_looks_like_a_key_goes(text: str) -> None:
    shown = redact(text)
    assert SECRET not in shown
    assert "[redacted]" in shown


def test_a_key_in_use_goes_whatever_it_looks_like() -> None:
    assert redact("the word plain-key was refused", ["plain-key"]) == "the word [redacted] was refused"


@pytest.mark.parametrize(
    "text",
    [
        "litellm.NotFoundError: the model `gpt-5-mini` does not exist",
        "Rate limit reached for gpt-5-mini in organization org-1 on tokens per min (TPM): Limit 200000",
        "max_tokens is too large: 9999. This model supports at most 4096 completion tokens",
    ],
)
def test_an_ordinary_text_stays(text: str) -> None:
    assert redact(text) == text


@given(st.text(max_size=5000))
def test_a_text_is_bounded(text: str) -> None:
    assert len(redact(text * 3)) <= MAX_TEXT
