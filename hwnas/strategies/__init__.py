"""Search strategies, by name. Listing them imports nothing."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from hwnas.spaces.errors import ConfigError
from hwnas.spaces.registry import Registry

if TYPE_CHECKING:
    from hwnas.sampler import FeasibleSampler
    from hwnas.spaces.space import SearchSpace
    from hwnas.strategies.base import Strategy

__all__ = ["get_strategy", "list_strategies", "make_strategy", "strategies"]

strategies = Registry(
    "strategy",
    "hwnas.strategies",
    {
        "random": "hwnas.strategies.random:RandomSearch",
        "evolution": "hwnas.strategies.evolution:Evolution",
        "regularized-evolution": "hwnas.strategies.regularized_evolution:RegularizedEvolution",
        "reinforce": "hwnas.strategies.reinforce:Reinforce",
        "hurricane": "hwnas.strategies.hurricane:Hurricane",
        "parsec": "hwnas.strategies.fpnas:Parsec",
        "fpnas": "hwnas.strategies.fpnas:FpNas",
        "controller": "hwnas.strategies.controller:Controller",
        "pnas": "hwnas.strategies.pnas:Pnas",
        "epnas": "hwnas.strategies.epnas:Epnas",
        "darts": "hwnas.strategies.darts:Darts",
        "manas": "hwnas.strategies.manas:Manas",
        "manas-ls": "hwnas.strategies.manas:ManasLS",
    },
)


def list_strategies() -> list[str]:
    """Names of all registered strategies."""
    return strategies.names()


def get_strategy(name: str) -> type[Strategy]:
    """The class of a strategy.

    Raises
    ------
    ConfigError
        If there is none of that name.
    """
    found: type[Strategy] = strategies.get(name)
    return found


def make_strategy(
    name: str, space: SearchSpace, sampler: FeasibleSampler | None = None, *, seed: int = 0, **hyper: Any
) -> Strategy:
    """Make a strategy with its settings, which may be text (from a command line).

    Raises
    ------
    ConfigError
        If there is no such strategy or setting, or a value cannot be used.
    """
    cls = get_strategy(name)
    known = {
        key: parameter
        for key, parameter in inspect.signature(cls).parameters.items()
        if key not in ("space", "sampler", "seed")
    }
    for key, value in hyper.items():
        if key not in known:
            settings = f"it has {', '.join(known)}" if known else "it has none"
            raise ConfigError(f"the strategy {name} has no setting {key!r}; {settings}")
        kind = type(known[key].default)
        try:
            hyper[key] = _truth(value) if kind is bool else kind(value)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{key}={value} is no {kind.__name__}, which the strategy {name} needs") from error
    return cls(space, sampler, seed=seed, **hyper)


def _truth(value: Any) -> bool:
    """A yes or no, which may be text; ``bool("no")`` would be true."""
    words = {"yes": True, "true": True, "no": False, "false": False}
    text = str(value).lower()
    if text not in words:
        raise ValueError(f"{value!r} is neither yes nor no")
    return words[text]
