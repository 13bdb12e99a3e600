"""What the engine `ray` says where there is no Ray, or no cluster."""

from __future__ import annotations

import sys

import pytest

from hwnas.ray_engine import RayCluster
from hwnas.spaces.errors import ConfigError


def test_ray_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'hwnas\[ray\]'"):
        RayCluster("127.0.0.1:6379")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("address", "text"),
    [("127.0.0.1:9", "nothing answers at 127.0.0.1:9"), ("here", "write HOST:PORT"), ("ray://a:1", "write HOST:PORT")],
)
def test_an_address_that_does_not_answer(address: str, text: str) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'hwnas[ray]'")
    with pytest.raises(ConfigError, match=text):
        RayCluster(address)
