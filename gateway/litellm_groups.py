"""Names in a LiteLLM file: entries that share one, aliases, and who stands in for whom.

LiteLLM balances load over the entries of a name. Here the first one answers and the others are its fallbacks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .litellm_reading import Reading, Translation, asks
from .problem import Path


class Groups:
    """The entries behind each name that clients ask for; the first one bears the name itself."""

    def __init__(self, entries: list[Any]) -> None:
        self.members: dict[str, list[str]] = {}
        self._written = {entry.get("model_name") for entry in entries if isinstance(entry, dict)}

    def join(self, name: str, path: Path, translation: Translation) -> str:
        """What the next entry of `name` is called among our models: `name`, then a free `name#2` and so on."""
        members = self.members.setdefault(name, [])
        if not members:
            members.append(name)
            return name
        number = len(members) + 1
        while f"{name}#{number}" in self._written:
            number += 1
        members.append(f"{name}#{number}")
        self._written.add(members[-1])
        cause = f"another entry for {name!r}: not balanced, but a fallback of the first, as {members[-1]!r}"
        translation.leave(path, cause)
        return members[-1]


def aliases(router: Reading, models: dict[str, Any]) -> None:
    section = router.section("model_group_alias")
    for alias, target in section.rest().items():
        path = (*section.path, alias)
        if isinstance(target, dict):
            if asks(target.get("hidden")):
                section.translation.leave((*path, "hidden"), "an alias is always listed")
            target = target.get("model")
        if target not in models:
            section.translation.wrong(path, f"stands for {target!r}, which is no model of this file")
            continue
        known = models[target].setdefault("aliases", [])
        section.translation.place(("models", target, "aliases", len(known)), path)
        known.append(alias)


def fallbacks(settings: Reading, router: Reading, models: dict[str, Any], groups: Groups) -> None:
    """`fallbacks` by name, `default_fallbacks` for the rest; a name in them means all of its entries."""
    chosen: dict[str, tuple[Path, list[Any]]] = {}
    usual: tuple[Path, list[Any]] = (), []
    for section in (router, settings):
        for path, name, wanted in _pairs(section, "fallbacks"):
            if name == "*":
                usual = path, wanted
            else:
                chosen.setdefault(name, (path, wanted))
        default = section.take("default_fallbacks")
        usual = ((*section.path, "default_fallbacks"), default) if isinstance(default, list) else usual
    entries = groups.members
    meant = {alias: name for name, entry in models.items() for alias in entry.get("aliases", ())}
    for name in chosen.keys() - entries.keys() - meant.keys():
        settings.translation.wrong(chosen[name][0], f"gives fallbacks to {name!r}, which is no model of this file")
    for name, own in entries.items():
        path, wanted = chosen.get(name, usual)
        names = [meant.get(other, other) for other in wanted if isinstance(other, str) and other != name]
        if any(not isinstance(other, str) for other in wanted):
            settings.translation.leave(path, "a fallback with parameters of its own is not supported")
        spread = [entry for other in names for entry in entries.get(other, [other])]
        ranked = list(dict.fromkeys([*own[1:], *spread]))
        if ranked:
            models[name]["fallbacks"] = ranked
            settings.translation.place(("models", name, "fallbacks"), path)


def _pairs(section: Reading, key: str) -> Iterator[tuple[Path, str, list[Any]]]:
    listed = section.take(key)
    if listed is not None and not isinstance(listed, list):
        section.translation.wrong((*section.path, key), "must be a list such as [{model-a: [model-b]}]")
        return
    for i, pair in enumerate(listed or ()):
        named: dict[Any, Any] = pair if isinstance(pair, dict) else {}
        for name, wanted in named.items():
            yield (*section.path, key, i), str(name), wanted if isinstance(wanted, list) else [wanted]
