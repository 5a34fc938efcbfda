"""Finding models by name: LiteLLM's map and the layers over it, merged and indexed.

What may live here: what names mean and how an entry is put together. An index is made for one state of the map and
the layers and thrown away when either changes; it makes its parts when they are first needed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .litellm_map import Catalogue, is_model

if TYPE_CHECKING:
    from .info import ModelInfo
    from .layers import Layer, Statement
    from .rules import Rules

_MOST_HOPS = 8
_ENDPOINT = ("api_base", "base_url", "custom_llm_provider")


def has_endpoint(options: Mapping[str, Any]) -> bool:
    """Whether a call with these options says where its model is: then a name means that server's model."""
    return any(options.get(name) for name in _ENDPOINT)


class Index:
    """Every name that means a model, and what it means.

    Args:
        catalogue: LiteLLM's map.
        layers: the layers over it, the later one winning.
        rules: what names say by themselves.
    """

    def __init__(self, catalogue: Catalogue, layers: Sequence[Layer], rules: Rules) -> None:
        self.catalogue = catalogue
        self._meanings: dict[tuple[str, bool], tuple[str, str | None]] = {}
        self.found: dict[str, str] = {}
        self._infos: dict[str, tuple[dict[str, Any], ModelInfo]] = {}
        self._rules = rules
        self.overlays: dict[str, list[tuple[str, Statement]]] = {}
        self.shorts: dict[str, str] = {}
        self.slugs: set[str] = set()
        self._bare: dict[str, list[str]] | None = None
        self._aliases: dict[str, str] = {}
        """Each alias, and the kind of the layer that it is from."""
        self._own: set[str] = set()
        self._aliases_of: dict[str, list[str]] | None = None
        for layer in layers:
            for name, statements in layer.statements.items():
                key = self._in_catalogue(name) or name
                self.overlays.setdefault(key, []).extend((layer.kind, statement) for statement in statements)
            slugs = {slug: model for table, _ in layer.presets for slug, model in _slugs(table)}
            self.shorts |= slugs | layer.aliases
            self.slugs = (self.slugs | slugs.keys()) - layer.aliases.keys()
            self._aliases |= dict.fromkeys(layer.aliases, layer.kind)
            if layer.kind in ("user", "program"):
                self._own |= slugs.keys() | layer.aliases.keys()

    def names(self) -> Iterator[str]:
        """Every model's name: LiteLLM's map in its order, then what the layers add."""
        yield from filter(is_model, self.catalogue)
        yield from (name for name in self.overlays if name not in self.catalogue)

    def key(self, name: str) -> str | None:
        """The entry that a LiteLLM name means, or None: "gpt-5" and "openai/gpt-5" mean the same one.

        Where LiteLLM cannot call a name of its map without its provider, the entry with the provider is meant.
        """
        key = self._in_catalogue(name) or (name if name in self.overlays else None)
        if key is not None and "/" not in key:
            prefixed = self.callable(key)
            if prefixed != key and prefixed in self.catalogue:
                return prefixed
        return key

    def _in_catalogue(self, name: str) -> str | None:
        if name in self.catalogue:
            return name if is_model(name) else None
        provider, slash, rest = name.partition("/")
        if slash and rest in self.catalogue and is_model(rest):
            told = self.catalogue[rest].get("litellm_provider")
            if isinstance(told, str) and self._rules.provider(told) == self._rules.provider(provider):
                return rest
        return None

    def callable(self, key: str) -> str:
        """What a call has to say for an entry: its name, with the provider where LiteLLM does not find it by itself."""
        if "/" in key:
            return key
        prefix = self._rules.prefix_needed.get(str(self.catalogue.get(key, {}).get("litellm_provider")))
        return f"{prefix}/{key}" if prefix else key

    def resolve(self, name: str, *, own_endpoint: bool = False) -> str:
        """The LiteLLM name that ``name`` means; itself where nothing is known of it."""
        return self._meaning(name, own_endpoint)[0]

    def slug(self, name: str, *, own_endpoint: bool = False) -> str | None:
        """The slug of the preset that ``name`` stands for, itself or as an alias; None where it stands for a model."""
        return self._meaning(name, own_endpoint)[1]

    def _meaning(self, name: str, own_endpoint: bool) -> tuple[str, str | None]:
        found = self._meanings.get((name, own_endpoint))
        if found is None:
            if len(self._meanings) > 10_000:  # noqa: PLR2004 - made-up names must not fill the memory
                self._meanings.clear()
            found = self._meanings[name, own_endpoint] = self._find_meaning(name, own_endpoint)
        return found

    def _find_meaning(self, name: str, own_endpoint: bool) -> tuple[str, str | None]:
        """The LiteLLM name, and the slug of the preset that was met on the way to it."""
        slug: str | None = None
        if own_endpoint and name not in self._own:
            return name, None
        for _ in range(_MOST_HOPS):  # an alias may lead to an alias, or round in a circle
            if self.key(name) is not None:
                return self.callable(name), slug
            if name not in self.shorts:
                break
            if slug is None and name in self.slugs:
                slug = name
            name = self.shorts[name]
        if "/" not in name:
            candidates = self.candidates(name)
            if len(candidates) == 1:
                return self.callable(candidates[0]), slug
        return name, slug

    def find(self, name: str) -> str:
        """The entry that any kind of name means.

        Raises:
            ConfigError: nothing or several things are called that; the text has the nearest or all of them.
        """
        found = self.found.get(name)
        if found is None:
            found = self.found[name] = self._find(name)
        return found

    def _find(self, name: str) -> str:
        resolved = self.resolve(name)
        key = self.key(resolved)
        if key is not None:
            return key
        candidates = self.candidates(resolved) if "/" not in resolved else []
        if candidates:
            raise ConfigError(f"{name!r} is served by several providers: {_few(candidates)}; say which")
        folded = self._folded(resolved)
        if folded is not None:
            return folded
        meant = f" (which {name!r} stands for)" if resolved != name else ""
        raise ConfigError(f"no model is called {resolved!r}{meant}; {self._near(resolved)}")

    def candidates(self, name: str) -> list[str]:
        """The entries whose last part is ``name``: the one at its maker's own provider if that has it, or else all."""
        found = self._by_last_part().get(name.lower(), [])
        for provider in self._rules.home(self._rules.company(name)):
            at_home = [key for key in found if self.provider(key) == provider]
            if at_home:
                return [min(at_home, key=len)]
        return found

    def provider(self, key: str) -> str | None:
        """Who serves an entry."""
        told = self.entry(key).get("litellm_provider") or (key.split("/", 1)[0] if "/" in key else None)
        return self._rules.provider(told) if isinstance(told, str) else None

    def entry(self, key: str) -> dict[str, Any]:
        """An entry in LiteLLM's shape, all layers laid over each other."""
        entry = dict(self.catalogue.get(key, {}))
        for _, statement in self.overlays.get(key, ()):
            entry.update(statement.fields)
        return entry

    def info(self, key: str) -> ModelInfo:
        """An entry as a value. The same one, until LiteLLM changes its entry in place."""
        kept = self._infos.get(key)
        entry = self.catalogue.get(key, {})
        if kept is not None and kept[0] == entry:
            return kept[1]
        from .info import Origin, build

        origins: dict[str, Any] = {}
        for kind, statement in self.overlays.get(key, ()):
            origins.update(dict.fromkeys(statement.fields, Origin(kind, statement.source, statement.as_of)))
        aliases = self.aliases_of(key)
        if aliases:
            origins["aliases"] = Origin(" and ".join(dict.fromkeys(self._aliases[alias] for alias in aliases)))
        info = build(self.callable(key), self.entry(key), rules=self._rules, aliases=aliases, origins=origins)
        self._infos[key] = (dict(entry), info)
        return info

    def aliases_of(self, key: str) -> tuple[str, ...]:
        """The aliases of an entry; presets' slugs are none."""
        if self._aliases_of is None:
            found: dict[str, list[str]] = {}
            for alias in self._aliases:
                target = self.key(self.resolve(alias))
                if target is not None and self.key(alias) is None:
                    found.setdefault(target, []).append(alias)
            self._aliases_of = found  # whole, for other threads are looking
        return tuple(self._aliases_of.get(key, ()))

    def _by_last_part(self) -> dict[str, list[str]]:
        if self._bare is None:
            found: dict[str, list[str]] = {}
            for name in self.names():
                if "/" in name:
                    found.setdefault(name.rsplit("/", 1)[-1].lower(), []).append(name)
            self._bare = found  # whole, for other threads are looking
        return self._bare

    def _folded(self, name: str) -> str | None:
        """The one entry of that name, whatever the case."""
        lowered = name.lower()
        found = [key for key in self.names() if key.lower() == lowered]
        found += [
            target for short in self.shorts if short.lower() == lowered and (target := self.key(self.shorts[short]))
        ]
        return found[0] if len(set(found)) == 1 else None

    def _near(self, name: str) -> str:
        every = {**dict.fromkeys(self.names()), **dict.fromkeys(self.shorts)}
        near = difflib.get_close_matches(name, every, 5, 0.6)
        lowered = name.lower()
        inside = sorted((key for key in every if lowered in key.lower()), key=len)[:5]
        found = list(dict.fromkeys([*near, *inside]))[:5]
        return f"nearest: {_few(found)}" if found else "nothing is named like it"


def _slugs(table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The slugs that a preset's table makes, and their model; one that is wrong makes none."""
    slug, model, efforts = table.get("slug"), table.get("model"), table.get("efforts", ())
    if isinstance(slug, str) and isinstance(model, str):
        yield slug, model
        if isinstance(efforts, list):
            yield from ((f"{slug}-{effort}", model) for effort in efforts)


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:6])
    return f"{shown} and {len(names) - 6} more" if len(names) > 6 else shown  # noqa: PLR2004 - what fits in a message
