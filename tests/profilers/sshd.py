"""An SSH server of our own on the loopback, with its own keys, port and configuration: this machine plays the board."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Board", "descendants", "serve"]

PROGRAM = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


class Board:
    """A server, and the configuration of a client in which it is called ``board``."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.config = folder / "config"

    def start(self) -> None:
        """Start the server."""
        assert PROGRAM is not None
        command = [PROGRAM, "-D", "-e", "-f", self.folder / "sshd_config"]
        self.server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        for _ in range(100):
            assert self.server.poll() is None, "sshd ended"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop the server and what it started."""
        self.cut()
        self.server.kill()
        self.server.wait()

    def cut(self) -> int:
        """Kill what serves the connections, as a board does that loses power; how many processes that were."""
        found = descendants(self.server.pid)
        for process in found:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return len(found)

    def agents(self) -> list[int]:
        """The agents that run."""
        return [process for process in descendants(self.server.pid) if b"runpy" in _command(process)]


@contextmanager
def serve(folder: Path) -> Iterator[Board]:
    """Start a server; logins print a line first, as many do."""
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shutil.copy(folder / "user.pub", folder / "authorized")
    login = folder / "login"
    login.write_text('#!/bin/sh\necho "Welcome to the board"\nexport XDG_CACHE_HOME="$(dirname "$0")/cache"\n')
    with open(login, "a") as stream:
        stream.write('exec sh -c "$SSH_ORIGINAL_COMMAND"\n')
    login.chmod(0o755)
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile {folder}/pid\n"
        f"AuthorizedKeysFile {folder}/authorized\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
        f"KbdInteractiveAuthentication no\nForceCommand {login}\n"
    )
    kind, key, *_ = (folder / "host.pub").read_text().split()
    (folder / "known").write_text(f"[127.0.0.1]:{port} {kind} {key}\n")
    common = (
        f"  HostName 127.0.0.1\n  Port {port}\n  User {getpass.getuser()}\n  IdentitiesOnly yes\n"
        f"  IdentityFile {folder}/user\n  GlobalKnownHostsFile /dev/null\n"
    )
    (folder / "config").write_text(
        f"Host board\n{common}  UserKnownHostsFile {folder}/known\n"
        f"Host unknown\n{common}  UserKnownHostsFile /dev/null\n"
        f"Host stranger\n{common.replace(f'{folder}/user', f'{folder}/host')}  UserKnownHostsFile {folder}/known\n"
        f"Host closed\n  HostName 127.0.0.1\n  Port 1\n"
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where the server locks its unprivileged half in
    board = Board(folder, port)
    board.start()
    try:
        yield board
    finally:
        board.stop()


def descendants(parent: int) -> list[int]:
    """The processes below one."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if words[0] != "Z":
            children.setdefault(int(words[1]), []).append(int(folder.name))
    found, left = [], [parent]
    while left:
        below = children.get(left.pop(), [])
        found += below
        left += below
    return found


def _command(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""
