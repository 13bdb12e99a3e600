"""Chips with a Hexagon tensor processor: their ids in Qualcomm's compiler, the phones that carry them.

Ids, architectures and phones are facts of the list of devices in Qualcomm's package ``qai-hub-models`` 0.65.0 (BSD-3).
"""

from __future__ import annotations

from dataclasses import dataclass

from hwnas.profilers.qnn_schedule import Rates
from hwnas.spaces.errors import ConfigError

__all__ = ["CHIPS", "PARTS", "PHONES", "Chip", "find_chip"]


@dataclass(frozen=True)
class Chip:
    """A chip that can be compiled for.

    Attributes
    ----------
    soc_model
        Its id, as Qualcomm's compiler takes it.
    name
        Its name on the market; of an id that is not in `CHIPS`, the id.
    hexagon
        Version of its Hexagon architecture, such as 75; 0 if it is not known.
    """

    soc_model: int
    name: str
    hexagon: int

    @property
    def fitted(self) -> bool:
        """Whether `rates` were learned from latencies published for this chip."""
        return self.soc_model in _RATES

    @property
    def rates(self) -> Rates:
        """Of the schedule model: its own, or those of the chip whose architecture is nearest, the older of two."""
        if self.fitted:
            return _RATES[self.soc_model]
        version = self.hexagon or CHIPS[_UNKNOWN].hexagon
        known = [CHIPS[soc] for soc in _RATES]
        nearest = min(known, key=lambda chip: (abs(chip.hexagon - version), chip.hexagon, chip.soc_model))
        return _RATES[nearest.soc_model]

    def __str__(self) -> str:
        version = f"Hexagon v{self.hexagon}, " if self.hexagon else ""
        return f"{self.name} ({version}soc_model {self.soc_model})"


#: Chips by id.
CHIPS = {
    chip.soc_model: chip
    for chip in (
        Chip(30, "Snapdragon 888", 68),
        Chip(35, "Snapdragon 778G", 68),
        Chip(36, "Snapdragon 8 Gen 1", 69),
        Chip(39, "SA8295P", 68),
        Chip(43, "Snapdragon 8 Gen 2", 73),
        Chip(52, "SA8255P", 73),
        Chip(57, "Snapdragon 8 Gen 3", 75),
        Chip(60, "Snapdragon X Elite", 73),
        Chip(67, "SA7255P", 75),
        Chip(69, "Snapdragon 8 Elite", 79),
        Chip(77, "Dragonwing IQ-9075", 73),
        Chip(78, "Dragonwing Q-6690", 73),
        Chip(82, "Dragonwing IQ-8275", 75),
        Chip(86, "Snapdragon 7 Gen 4", 73),
        Chip(87, "Snapdragon 8 Elite Gen 5", 81),
        Chip(88, "Snapdragon X2 Elite", 81),
        Chip(93, "Dragonwing QCS6490", 68),
    )
}

#: A chip whose architecture is not known is taken for one of this one's.
_UNKNOWN = 57

#: Rates learned from published latencies by benchmarks/dsp_phones.py, which prints them, and says how far they are off
#: on networks that they have not seen.
_RATES = {
    36: Rates(46.9e3, 16.6e6, 21.4e3, 2.43e3, 0.126, call_us=72.2),
    43: Rates(51.9e3, 22.3e6, 27.9e3, 2.09e3, 0.0592, call_us=84.3),
    57: Rates(66.7e3, 30.7e6, 38.2e3, 2.86e3, 0.0593, call_us=45.6),
    60: Rates(64.8e3, 20.7e6, 25.1e3, 1.59e3, 0.0517, call_us=31.1),
    69: Rates(72.4e3, 33.1e6, 55.9e3, 2.02e3, 0.0565, call_us=36.1),
    77: Rates(63e3, 23.1e6, 23.9e3, 1.93e3, 0.126, call_us=148),
    78: Rates(11.2e3, 0.971e6, 11.7e3, 3.18e3, 0.165, call_us=95.5),
    86: Rates(30.8e3, 12.2e6, 25.5e3, 5.9e3, 0.00386, call_us=48),
    87: Rates(64.5e3, 51.4e6, 56.9e3, 2.25e3, 0.0739, call_us=27.3),
    88: Rates(75.7e3, 38.5e6, 55.2e3, 1.62e3, 0.0978, call_us=2.13),
    93: Rates(15.3e3, 5.21e6, 16.3e3, 9.34e3, 0.0654, call_us=408),
}

#: Phones and boards, by the name that a device key takes, with the id of their chip.
PHONES = {
    "galaxy-s21": 30,
    "galaxy-a73": 35,
    "galaxy-s22": 36,
    "galaxy-tab-s8": 36,
    "xiaomi-12": 36,
    "galaxy-s23": 43,
    "qcs8550": 43,
    "galaxy-s24": 57,
    "galaxy-s25": 69,
    "galaxy-s26": 87,
    "snapdragon-x-elite": 60,
    "snapdragon-x2-elite": 88,
    "rb3-gen2": 93,
}


#: Chips by part number, as Qualcomm's compiler writes it into its binaries and Android calls it (``ro.soc.model``).
PARTS = {
    "SM8350": 30,
    "SM7325": 35,
    "SM8450": 36,
    "SM8550": 43,
    "SM8650": 57,
    "SM8750": 69,
    "QCS9100": 77,
    "QCM6690": 78,
    "QCS8300": 82,
    "SM7750": 86,
    "SM8850": 87,
    "QCS6490": 93,
}


def find_chip(variant: str, device: str = "dsp-qnn") -> Chip:
    """The chip that a part of a device key names: an id such as ``57``, or a phone such as ``galaxy-s24``.

    Parameters
    ----------
    variant
        The part of the key.
    device
        Its first part, for the message.

    Raises
    ------
    ConfigError
        If it is neither.
    """
    if variant in PHONES:
        return CHIPS[PHONES[variant]]
    if variant.isascii() and variant.isdigit() and 0 < len(variant) <= 4:
        number = int(variant)
        return CHIPS.get(number, Chip(number, f"chip {number}", 0))
    raise ConfigError(
        f"{device} knows no chip {variant!r}; write Qualcomm's id of it, such as {device}:57, or one of "
        f"{', '.join(sorted(PHONES))}"
    )
