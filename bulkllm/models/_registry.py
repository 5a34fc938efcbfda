"""The registry: models by name, from LiteLLM's map and the layers over it.

What may live here: :class:`Registry`, which holds the layers and answers. Importing this module loads neither LiteLLM
nor pydantic; answering :meth:`Registry.resolve` does not either.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .. import _litellm, config
from ..errors import ConfigError
from .index import Index, has_endpoint
from .layers import Statement, Table, expectation, in_program
from .litellm_map import LiteLLMMap
from .rules import Rules
from .stack import Stack

if TYPE_CHECKING:
    from .changes import Change, Estimate, Retirement
    from .config import LLMConfig
    from .info import ModelInfo
    from .providers import ProviderList
    from .refresh import RefreshResult


def _today() -> date:
    return datetime.now(UTC).date()


class Registry:
    """Everything that is known about models, in layers of which the later one wins.

    The layers are LiteLLM's own map, the facts that come with bulkllm, the lists that the user refreshed from the
    providers, the user's ``models.toml``, and what the program registers. Files are read when something is first asked;
    a mistake in the user's is logged once, kept in :attr:`problems`, and does not stop the rest.

    Safe to use from several threads.

    Args:
        config_dir: where ``models.toml`` is; by default :func:`bulkllm.config.config_dir`.
        cache_dir: where refreshed lists are kept; by default :func:`bulkllm.config.cache_dir`.
        litellm_map: where LiteLLM's map comes from; for tests.
        today: tells the day, for what is deprecated; for tests.
    """

    def __init__(
        self,
        *,
        config_dir: str | Path | None = None,
        cache_dir: str | Path | None = None,
        litellm_map: LiteLLMMap | None = None,
        today: Callable[[], date] = _today,
    ) -> None:
        self._stack = Stack(config_dir, cache_dir)
        self._map = litellm_map or LiteLLMMap()
        self.today = today
        self._lock = threading.RLock()
        self._rules: Rules | None = None
        self._index: Index | None = None
        self._index_of: tuple[int, ...] = ()
        self._presets: dict[str, LLMConfig] | None = None
        self._introduced: set[str] = set()
        self._introduced_at = 0

    # ---- names and models

    def get(self, name: str) -> ModelInfo:
        """What is known about a model.

        Args:
            name: LiteLLM's name, with or without the provider; a name without the provider that LiteLLM does not know
                so ("grok-4.7" means the model at its maker's own provider); an alias; a preset's slug.

        Raises:
            ConfigError: nothing, or more than one model, is called that; the text has the nearest or all of them.
        """
        index = self._current()
        try:
            return index.info(index.find(name))
        except ConfigError as error:
            if not self.problems:
                raise
            raise ConfigError(f"{error} ({self.problems[0]})") from None

    def resolve(self, name: str, *, own_endpoint: bool = False) -> str:
        """The LiteLLM name that a call with ``name`` should use. Unknown names come back unchanged.

        An exact LiteLLM name always means itself. Cheap enough for every call: a dict look-up after the first, and
        LiteLLM is not loaded for it.

        Args:
            name: any kind of name.
            own_endpoint: say True where the call has an endpoint or a provider of its own (``api_base``,
                ``custom_llm_provider``). There "kimi-k3" is that server's model and not Moonshot's, so that only
                aliases of the user's and the program's own count.
        """
        found = self._current().resolve(name, own_endpoint=own_endpoint)
        return name if found != name and self._litellm_follows(name) else found

    def called(self, name: str, options: Mapping[str, Any]) -> str | LLMConfig:
        """What a call with ``name`` means: a preset, where ``name`` is a slug or an alias of one, or a LiteLLM name.

        An exact LiteLLM name means itself and never a preset, and all else is as in :meth:`resolve`: names that nobody
        knows come back unchanged, and it is cheap enough for every call.

        Args:
            name: any kind of name.
            options: the call's keywords, for whether it has an endpoint of its own.

        Raises:
            ConfigError: the preset is wrong; a call without its options would not be what was meant.
        """
        own_endpoint = has_endpoint(options)
        slug = self._current().slug(name, own_endpoint=own_endpoint)
        if slug is None or self._litellm_follows(name):
            return self.resolve(name, own_endpoint=own_endpoint)
        preset = self.presets().get(slug)
        if preset is None:
            problems = [str(problem) for problem in self.problems]
            told = next((problem for problem in problems if repr(slug) in problem), "; ".join(problems[:1]))
            raise ConfigError(f"the preset {slug!r} cannot be used: {told}")
        return preset

    def _litellm_follows(self, name: str) -> bool:
        """Whether a name is one of LiteLLM's own aliases, which are LiteLLM's to follow."""
        litellm = self._map.loaded()
        return litellm is not None and name in (litellm.model_alias_map or ())

    def canonical(self, name: str) -> str:
        """A LiteLLM name with its provider: "openai/gpt-5-mini" for "gpt-5-mini". Unknown names come back unchanged."""
        index = self._current()
        key = index.key(name)
        if key is None or "/" in name:
            return name
        provider = index.provider(key)
        return f"{provider}/{name}" if provider else name

    def names(self) -> Iterator[str]:
        """Every model's name: LiteLLM's map in its order, then what the layers add."""
        return self._current().names()

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._current().key(name) is not None

    def describe(self, name: str) -> ModelInfo:
        """As :meth:`get`, but a model that nothing is known of is described by what its name says (``known`` False)."""
        index = self._current()
        resolved = index.resolve(name)
        key = index.key(resolved)
        if key is not None:
            return index.info(key)
        from .info import build

        return build(resolved, {}, rules=self.rules, known=False)

    # ---- presets and selections

    def presets(self) -> Mapping[str, LLMConfig]:
        """Every preset by its slug: the packaged ones in their order, then the user's, then the program's."""
        index = self._current()
        with self._lock:
            if self._presets is None:
                from .presets import build_presets

                files, problems = build_presets(self._stack.layers(), index)
                self._stack.add_problems(problems)
                self._presets = files
            return self._presets

    def preset(self, slug: str) -> LLMConfig | None:
        """The preset of that slug, or None."""
        return self.presets().get(slug)

    def select(self, *selectors: str, among: Literal["presets", "models"] = "presets") -> list[LLMConfig]:
        """Presets that fit every selector, in the registry's order.

        The grammar is in :mod:`bulkllm.models.selectors`. In short: several arguments narrow, a comma or ``|`` widens,
        ``!`` takes out; a selector is a word ("cheap", "current", "vision"), ``key:value`` ("company:openai"),
        a comparison ("price<1", "context>=200k"), a slug, a model's name, or a glob. Variants of a preset that differ
        in effort are left out unless they are asked for, by slug, glob or "effort:...".

        Args:
            selectors: what to look for; none means all.
            among: "presets", or "models" for every model that is known, each under its own name as a plain preset.

        Raises:
            ConfigError: a selector cannot be understood, or nothing fits: a run over no models is a mistake.
        """
        from .selectors import select

        return select(self, selectors, among)

    def find(self, *selectors: str) -> list[ModelInfo]:
        """Every model that fits the selectors, for looking around; see :meth:`select`. May be empty."""
        from .selectors import find

        return find(self, selectors)

    def groups(self) -> Mapping[str, Mapping[str, str]]:
        """The words that selectors may use: what each stands for (``rule``) and means (``meaning``)."""
        return {word: group for layer in self._stack.layers() for word, group in layer.groups.items()}

    # ---- what the program says

    def register(self, name: str, /, *, aliases: Iterable[str] = (), source: str | None = None, **fields: Any) -> None:
        """Make a model known, or say more about one; what is said here wins over every other layer.

        LiteLLM is told too: at once if it is loaded, or else by :meth:`tell_litellm`.

        Args:
            name: LiteLLM's name, such as "openai/my-model".
            aliases: short names for it.
            source: where it is known from.
            fields: LiteLLM's fields (``max_input_tokens``, ``input_cost_per_token`` in dollars, ``supports_vision``)
                and bulkllm's (``release_date``, ``company``, ``family``, ``display_name``, ``replacement``).

        Raises:
            ConfigError: a field is not known, or its value is of the wrong kind.
        """
        self.register_many({name: fields}, aliases=dict.fromkeys(aliases, name), source=source)

    def register_many(
        self,
        models: Mapping[str, Mapping[str, Any]],
        *,
        aliases: Mapping[str, str] | None = None,
        source: str | None = None,
    ) -> None:
        """Register many models in one go, which LiteLLM then learns in one batch; see :meth:`register`."""
        for name, fields in models.items():
            for key, value in fields.items():
                expected = expectation(key, value)
                if expected is not None:
                    raise in_program(("register", name))(key, f"expected {expected}, found {config.shown(key, value)}")
        with self._lock:
            for name, fields in models.items():
                facts = dict(fields)
                said = Statement(facts, facts.pop("source", source), facts.pop("as_of", self.today()))
                self._stack.program.say(name, said)
            self._stack.program.aliases.update(aliases or {})
            self._stack.generation += 1
        if self._map.loaded() is not None:
            self.tell_litellm(models)

    def register_preset(self, preset: LLMConfig) -> None:
        """Add a preset, or replace the one of its slug."""
        table = {key: value for key, value in preset.model_dump().items() if value is not None and value != {}}
        with self._lock:
            self._stack.program.presets.append(Table(table, in_program(("register_preset", preset.slug))))
            self._stack.generation += 1

    def tell_litellm(self, names: Iterable[str] | None = None) -> int:
        """Tell LiteLLM what the layers know and it does not, in one batch; what it knows already is skipped.

        A model without a price is not told: LiteLLM would book it as free of charge, where it leaves the cost of one
        that it does not know open. A model with a price for input and none for cached input is told the price for
        input for both, for LiteLLM would take the missing one for zero.

        Args:
            names: only these models; by default every one that a layer says something about.

        Returns:
            how many models LiteLLM was told about.
        """
        from .telling import news

        _litellm.load()
        index = self._current()
        keys = index.overlays if names is None else [key for name in names if (key := index.key(name))]
        batch = news(index, keys)
        if batch:
            self._map.register(batch)
        return len(batch)

    def introduce(self, name: str) -> int:
        """Tell LiteLLM about a model that is about to be called, as :meth:`tell_litellm` does.

        Meant for every call: after the first this is a look into a set, until the layers change.

        Returns:
            a number that changes when the layers do, and what LiteLLM says of a model with them.
        """
        if self._introduced_at != self._stack.generation or name not in self._introduced:
            with self._lock:
                if self._introduced_at != self._stack.generation:
                    self._introduced = set()  # before the number, for others look at that first
                    self._introduced_at = self._stack.generation
                self.tell_litellm([name])
                self._introduced.add(name)
        return self._introduced_at

    # ---- keeping up to date, and looking at what changed

    def providers(self) -> Mapping[str, ProviderList]:
        """The providers whose lists can be refreshed, by name."""
        return self._stack.providers()

    def refresh(
        self, *names: str, max_age: float = 86_400.0, force: bool = False, timeout: float = 30.0
    ) -> list[RefreshResult]:
        """Fetch the providers' lists of models and use them from now on; see :func:`bulkllm.models.refresh.refresh`.

        Args:
            names: the providers; none means every one whose key is set or that needs none.
            max_age: seconds for which a list is fresh enough not to be fetched again.
            force: fetch even so.
            timeout: seconds for each request.

        Returns:
            one result for each provider, with what went wrong where something did; nothing is raised for that.

        Raises:
            ConfigError: there is no provider of that name.
        """
        from .refresh import refresh

        results = refresh(self.providers(), names, self._stack.lists_dir, max_age=max_age, force=force, timeout=timeout)
        if any(result.status == "updated" for result in results):
            self.reload()
        return results

    def diff(self, *names: str) -> list[Change]:
        """What changed in the providers' lists between the last two refreshes that brought something new."""
        from .changes import diff

        return diff(self.providers(), names, self._stack.lists_dir)

    def deprecated(self, *, within_days: int = 90) -> list[Retirement]:
        """Presets whose model is gone, unknown, deprecated, or will be within so many days; soonest first."""
        from .changes import deprecated

        return deprecated(self, within_days)

    def without_limits(self, kind: Literal["tokens", "rate"] = "tokens") -> list[str]:
        """The slugs of presets whose model has no known limits: of tokens, or of requests and tokens a minute."""
        from .changes import without_limits

        return without_limits(self, kind)

    def estimate(
        self, names: Sequence[str], *, input_tokens: int, output_tokens: int, cache_read_tokens: int = 0
    ) -> list[Estimate]:
        """What one call with so many tokens would cost with each model, by LiteLLM's own calculator."""
        from .changes import estimate

        return estimate(self, names, input_tokens, output_tokens, cache_read_tokens)

    def listed(self, provider: str) -> frozenset[str] | None:
        """The LiteLLM names on a provider's refreshed list, or None where there is no list."""
        from .refresh import listed

        return listed(self.providers(), provider, self._stack.lists_dir)

    # ---- layers

    @property
    def problems(self) -> tuple[ConfigError, ...]:
        """What is wrong in the user's ``models.toml`` and in the refreshed lists; the rest of both counts."""
        return self._stack.problems

    @property
    def rules(self) -> Rules:
        """What names say by themselves."""
        if self._rules is None:
            self._rules = Rules.packaged()
        return self._rules

    def reload(self) -> None:
        """Read the files again; what the program registered stays."""
        self._stack.forget_files()

    def _current(self) -> Index:
        """The index for the map and the layers as they are now."""
        state = (self._stack.generation, *self._map.version())
        if self._index is None or self._index_of != state:
            with self._lock:
                state = (self._stack.generation, *self._map.version())
                if self._index is None or self._index_of != state:
                    self._index = Index(self._map.entries(), self._stack.layers(), self.rules)
                    self._index_of = state
                    self._presets = None
        return self._index
