"""Phones that are connected to this machine, through Android's ``adb``."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hwnas.spaces.errors import DeviceUnavailable

__all__ = ["SERIAL", "Phone", "connected_phone"]

#: adb's own variable: which phone, if several are connected
SERIAL = "ANDROID_SERIAL"
#: Seconds for a question; starting adb's server takes a few.
_QUICK_S = 20.0
_COPY_S = 300.0
#: how adb's own complaints begin, beside those of the command that it was to run
_GONE = ("adb: ", "error: device", "error: closed")
_MENDS = {
    "unauthorized": "does not trust this computer yet; unlock it and allow USB debugging",
    "offline": "is offline; plug it in again",
    "no permissions": "may not be opened by this user; install Android's udev rules (Debian: "
    "android-sdk-platform-tools-common) and plug it in again",
}


@dataclass(frozen=True)
class Phone:
    """A phone that answers.

    Attributes
    ----------
    serial
        Its name among those that are connected. Belongs to its owner: kept in no table.
    """

    serial: str

    def shell(self, command: str, limit_s: float = _QUICK_S) -> subprocess.CompletedProcess[str]:
        """Run a command line in the phone's shell; its exit status is the command's.

        Raises
        ------
        DeviceUnavailable
            If the phone is gone, or does not answer in time.
        """
        done = _adb(["-s", self.serial, "shell", command], limit_s)
        if done.returncode and done.stderr.startswith(_GONE):
            raise DeviceUnavailable(f"the phone {self.serial} is gone: {_last(done)}")
        return done

    def push(self, files: Sequence[Path], folder: str) -> None:
        """Copy files into a folder of the phone, which is made.

        Raises
        ------
        DeviceUnavailable
            If they cannot be copied: the phone is gone, or full.
        """
        made = self.shell(f"mkdir -p {folder}")
        done = made if made.returncode else _adb(["-s", self.serial, "push", *map(str, files), f"{folder}/"], _COPY_S)
        if done.returncode:
            raise DeviceUnavailable(f"adb cannot copy to the phone {self.serial}: {_last(done)}")

    def pull(self, file: str, target: Path) -> None:
        """Copy a file from the phone.

        Raises
        ------
        DeviceUnavailable
            If it cannot be copied: the phone is gone, or has no such file.
        """
        done = _adb(["-s", self.serial, "pull", file, str(target)], _COPY_S)
        if done.returncode or not target.is_file():
            raise DeviceUnavailable(f"adb cannot copy {file} from the phone {self.serial}: {_last(done)}")

    def fact(self, name: str) -> str:
        """One of Android's system properties, such as ``ro.product.model``; empty if the phone does not have it."""
        return self.shell(f"getprop {name}").stdout.strip()


def connected_phone() -> Phone:
    """The phone that ``ANDROID_SERIAL`` names, else the only one that is ready.

    Raises
    ------
    DeviceUnavailable
        If there is no adb, no phone, more than one, or it is not ready; says what to do.
    """
    if shutil.which("adb") is None:
        raise DeviceUnavailable("adb is not installed; install Android's platform tools (Debian: apt install adb)")
    done = _adb(["devices"], _QUICK_S)
    if done.returncode:
        raise DeviceUnavailable(f"adb does not work: {_last(done)}")
    found = _states(done.stdout)
    ready = [serial for serial, state in found.items() if state == "device"]
    wanted = os.environ.get(SERIAL)
    if wanted:
        if wanted not in found:
            others = f"; connected: {', '.join(found)}" if found else ""
            raise DeviceUnavailable(f"{SERIAL} is {wanted}, but no such phone is connected{others}")
        ready = [serial for serial in ready if serial == wanted]
    if len(ready) > 1:
        raise DeviceUnavailable(
            f"several phones are connected ({', '.join(ready)}); say which: export {SERIAL}={ready[0]}"
        )
    if ready:
        return Phone(ready[0])
    if not found:
        raise DeviceUnavailable("no phone is connected; plug one in with USB debugging switched on, or: adb connect")
    serial = wanted or next(iter(found))
    state = found[serial]
    mend = next((text for name, text in _MENDS.items() if state.startswith(name)), "")
    raise DeviceUnavailable(f"the phone {serial} {mend or f'is in the state {state!r}; start Android on it'}")


def _states(listed: str) -> dict[str, str]:
    """States by serial number, of what ``adb devices`` says: a heading, then a line each, tab between."""
    found = {}
    for line in listed.splitlines():
        serial, tab, state = line.partition("\t")
        if tab and serial and not serial.startswith("*"):
            found[serial.strip()] = state.strip()
    return found


def _adb(arguments: Sequence[str], limit_s: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["adb", *arguments],
            stdin=subprocess.DEVNULL,  # adb would read what is meant for this program
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
            check=False,
        )
    except FileNotFoundError as error:
        raise DeviceUnavailable("adb is not installed; install Android's platform tools") from error
    except subprocess.TimeoutExpired as error:
        raise DeviceUnavailable(f"the phone did not answer within {limit_s:g} s; plug it in again") from error


def _last(done: subprocess.CompletedProcess[str]) -> str:
    """The last line of what a command said."""
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return lines[-1][:300] if lines else f"it ended with {done.returncode} and said nothing"
