"""Names in a LiteLLM file: entries that share one, aliases, and who stands in for whom.

LiteLLM balances load over the entries of a name. Here the first one answers and the others are its fallbacks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .litellm_reading import Reading, Translation, asks
from .problem import Path


def free_name(name: str, models: Mapping[str, Any]) -> str:
    """The name, or for another entry of the same name `name#2` and so on."""
    count = 1
    while (candidate := name if count == 1 else f"{name}#{count}") in models:
        count += 1
    return candidate


def groups(translation: Translation, models: dict[str, Any]) -> dict[str, list[str]]:
    """The entries behind each name that clients ask for, the first one being the name itself."""
    found: dict[str, list[str]] = {}
    for name in models:
        first, _, number = name.rpartition("#")
        if number.isdigit() and first in found and name == f"{first}#{len(found[first]) + 1}":
            found[first].append(name)
            models[name]["listed"] = False
            cause = f"another entry for {first!r}: not balanced, but a fallback of the first, as {name!r}"
            translation.leave(translation.origin(("models", name)), cause)
        else:
            found[name] = [name]
    return found


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


def fallbacks(settings: Reading, router: Reading, models: dict[str, Any], entries: dict[str, list[str]]) -> None:
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
