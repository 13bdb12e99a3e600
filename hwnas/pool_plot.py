"""A picture of operator pools: operators x layers, one panel a device."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from hwnas.operator_pool import OperatorPool
from hwnas.spaces.errors import ConfigError

__all__ = ["draw_pools"]


def draw_pools(pools: Sequence[OperatorPool], file: str | os.PathLike[str]) -> None:
    """Draw which operators each device keeps in which layer, shaded by latency relative to the layer's slowest.

    Parameters
    ----------
    pools
        Of one space, one a device.
    file
        Picture to write; the suffix says which kind.

    Raises
    ------
    ConfigError
        If matplotlib is not installed or cannot write such a file.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("drawing needs matplotlib; install it with: pip install 'hwnas[plots]'") from error
    operators = list(dict.fromkeys(name for pool in pools for layer in pool.layers for name in layer.operators))
    layers = [layer.name for layer in pools[0].layers]
    figure = Figure(
        figsize=(1.5 + (0.28 * len(layers) + 0.6) * len(pools), 1.2 + 0.2 * len(operators)), layout="constrained"
    )
    axes = np.atleast_1d(figure.subplots(1, len(pools), sharey=True))
    for axis, pool in zip(axes, pools, strict=True):
        shade = np.full((len(operators), len(layers)), np.nan)
        for column, layer in enumerate(pool.layers):
            rows = [operators.index(name) for name in layer.operators]
            shade[rows, column] = layer.latency_ms / layer.latency_ms.max()
            for index in pool.kept[column]:
                axis.plot(column, rows[index], "o", color="black", markersize=5)
        image = axis.imshow(shade, aspect="auto", cmap="Blues", vmin=0, vmax=1)
        axis.set_title(pool.device, fontsize=9)
        axis.set_xticks(range(len(layers)), layers, rotation=90, fontsize=6)
        axis.set_yticks(range(len(operators)), operators, fontsize=7)
    figure.colorbar(image, ax=list(axes), label="latency, relative to the layer's slowest operator", shrink=0.6)
    try:
        figure.savefig(file)
    except ValueError as error:
        raise ConfigError(f"cannot draw {os.fspath(file)!r}: {error}") from error
