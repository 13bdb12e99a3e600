"""Data sets: `load_data` reads one by name, or any folder of images.

A data set registers under a name in `datasets`; packages add theirs through entry points of the
group ``hwnas.datasets``. An entry is a function ``load(*, root, resolution, limit, seed, **options)
-> Dataset``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas.spaces.errors import ConfigError, DataError
from hwnas.spaces.registry import Registry

if TYPE_CHECKING:
    from hwnas.data.base import Dataset

__all__ = ["datasets", "list_data", "load_data"]

datasets = Registry(
    "data set",
    "hwnas.datasets",
    {
        "digits": "hwnas.data.digits:load",
        "fashion-mnist": "hwnas.data.fashion_mnist:load",
        "cifar10": "hwnas.data.cifar10:load",
    },
)


def list_data() -> list[str]:
    """Names of all registered data sets (a path of an image folder is understood, too)."""
    return datasets.names()


def load_data(
    name: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    resolution: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    **options: Any,
) -> Dataset:
    """Read a data set.

    Parameters
    ----------
    name
        A registered name such as ``"digits"``, or the path of a folder of images
        (``root/train/<class>/*.jpg`` or ``root/<class>/*.jpg``).
    root
        Folder that holds the files of a named data set; its usual places if not given.
    resolution
        Height and width to resize to; the set's own if not given (224 for a folder).
    limit
        Use at most so many training images, drawn with `seed` and with the classes in proportion.
    seed
        Seed of that draw. Validation and test images never depend on it.
    options
        Further options of the data set, such as `workers` of a folder.

    Raises
    ------
    ConfigError
        If the name, or a setting, is unknown or out of range.
    DataError
        If the files are missing or damaged.
    """
    if resolution is not None and not 4 <= resolution <= 4096:
        raise ConfigError(f"resolution={resolution} is not between 4 and 4096")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit={limit} is not a number of images; give at least one per class")
    settings = {"resolution": resolution, "limit": limit, "seed": seed, **options}
    if isinstance(name, str) and name in datasets.names():
        load = datasets.get(name)
        try:
            data: Dataset = load(root=root, **settings)
        except TypeError as error:
            if options and "unexpected keyword" in str(error):
                raise ConfigError(f"the data set {name} has no option {', '.join(options)}") from error
            raise
        return data
    path = Path(name).expanduser()
    if path.is_dir():
        from hwnas.data import image_folder

        return image_folder.load(path, **settings)
    if os.sep in str(name) or str(name).startswith((".", "~")):
        raise DataError(f"there is no folder {path}; give one that holds train/<class>/ or <class>/ folders of images")
    try:
        datasets.get(str(name))  # raises, with the closest names
    except ConfigError as error:
        raise ConfigError(f"{error}, or the path of a folder of images") from None
    raise ConfigError(f"there is no data set called {name!r}")
