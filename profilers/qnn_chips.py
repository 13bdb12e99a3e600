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
    36: Rates(45.9e3, 16.7e6, 24e3, 1.69e3, 0.15, call_us=71.8),
    43: Rates(50.9e3, 22.4e6, 29.8e3, 1.59e3, 0.0661, call_us=85),
    57: Rates(63.7e3, 30.3e6, 43.4e3, 1.63e3, 0.0424, call_us=47.4),
    60: Rates(62.7e3, 20.8e6, 27.8e3, 0.928e3, 0.0619, call_us=29.8),
    69: Rates(75.8e3, 33.3e6, 61.3e3, 1.67e3, 0.0529, call_us=39.1),
    77: Rates(61.1e3, 23.1e6, 25.7e3, 1.3e3, 0.137, call_us=148),
    78: Rates(7.82e3, 1.05e6, 10.8e3, 19.9e3, 0.0491, call_us=8.76),
    86: Rates(30.5e3, 12.8e6, 26.7e3, 6.73e3, 0.00631, call_us=48.1),
    87: Rates(60e3, 51.9e6, 59.1e3, 2.35e3, 0.058, call_us=29),
    88: Rates(81.1e3, 39.3e6, 59.7e3, 1.82e3, 0.0958, call_us=6.83),
    93: Rates(14.5e3, 5.68e6, 17e3, 8.89e3, 0.0999, call_us=399),
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
