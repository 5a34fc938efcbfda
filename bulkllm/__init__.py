"""Bulk LLM calls through LiteLLM."""

__version__ = "0.1.0"
