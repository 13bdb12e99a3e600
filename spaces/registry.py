"""One registry for spaces, profilers, strategies and data sets: a name, and where its class lives.

Built-in entries are written as ``"module:attribute"`` so that listing names imports nothing;
third-party packages add theirs through `importlib.metadata` entry points of the registry's group.
"""

from __future__ import annotations

import difflib
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from hwnas.spaces.errors import ConfigError

__all__ = ["Registry"]


class Registry:
    """Names of one kind of thing, loaded when first asked for.

    Parameters
    ----------
    kind
        What an entry is, for error messages: "space", "device", "strategy".
    group
        Entry-point group that plug-ins register under, such as ``"hwnas.spaces"``.
    builtin
        Name to ``"module:attribute"``.
    """

    def __init__(self, kind: str, group: str, builtin: dict[str, str]) -> None:
        self.kind, self.group, self.builtin = kind, group, builtin

    def _plugins(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self.group)}

    def names(self) -> list[str]:
        """All names, built-in ones first, without importing anything."""
        return [*self.builtin, *sorted(set(self._plugins()) - set(self.builtin))]

    def get(self, name: str) -> Any:
        """Load the entry called `name`.

        Raises
        ------
        ConfigError
            If there is no such entry; the message lists the closest names.
        """
        if name in self.builtin:
            module, attribute = self.builtin[name].split(":")
            return getattr(import_module(module), attribute)
        plugins = self._plugins()
        if name in plugins:
            return plugins[name].load()
        close = difflib.get_close_matches(name, self.names(), n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(self.names())}"
        raise ConfigError(f"there is no {self.kind} called {name!r}; {hint}")
