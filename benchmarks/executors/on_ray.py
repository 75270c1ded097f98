"""The `ray` executor: a worker on every GPU, or on CPU shares, of this machine or of a Ray cluster."""

import logging
import os
import platform
import re
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from rollout.benchmarks.executors.base import Attempt, Gone, Hand, attempt, begin, share
from rollout.benchmarks.executors.work import Setup, Task, Worker
from rollout.errors import RolloutError

__all__ = ["Ray"]

LOOPBACK = "127.0.0.1"
LOOK = 5
"""Seconds to wait for a word from a worker, and, about, after which it is looked whether Ray itself is there."""


@dataclass(frozen=True)
class Ray:
    """One actor a GPU where the device is cuda, else `workers` actors of the setup's threads each.

    `address`: None starts Ray on this machine for the run; "auto", HOST:PORT or ray://HOST:PORT joins a cluster, every node
    of which has rollout installed, reads the same weights and plugins and sees the folder of results under the same path.
    """

    workers: int = 2
    address: str | None = None
    patience: float = 300
    """Seconds to wait for a place on a cluster whose places others hold."""

    def run(self, setup: Setup, tasks: Sequence[Task]) -> Iterator[Attempt]:
        """In the order in which they end. Raises RolloutError."""
        if not tasks:
            return
        ray, gpu = _ray(), setup.device.startswith("cuda")
        here = replace(
            setup,
            root=str(Path(setup.root).resolve()),
            plugins=tuple(str(Path(plugin).resolve()) for plugin in setup.plugins),
            device="cuda" if gpu else setup.device,  # Ray shows an actor only the GPU that is its own
        )
        needs = {"num_gpus": 1, "num_cpus": 0} if gpu else {"num_cpus": setup.threads}
        with _joined(ray, self.address, cpus=max(1, self.workers) * setup.threads):
            places = _places(ray, "GPU" if gpu else "CPU", 1 if gpu else setup.threads)
            count = min(places if gpu else max(1, min(places, self.workers)), len(tasks))
            make = ray.remote(_Actor).options(scheduling_strategy="SPREAD", **needs)
            crew = [_Ray(ray, make, f"ray-{n}", here) for n in range(count)]
            last_sign = last_look = time.monotonic()
            posts = _posts(ray)

            def heard() -> list[Hand]:
                nonlocal last_sign, last_look
                waiting = {hand.reply: hand for hand in crew if hand.reply is not None}
                ready, _ = ray.wait(list(waiting), timeout=LOOK)
                if time.monotonic() - last_look > LOOK / 2:
                    _check(posts)
                    last_look = time.monotonic()
                if ready or any(hand.placed for hand in crew):
                    last_sign = time.monotonic()
                if time.monotonic() - last_sign > self.patience:
                    raise RolloutError(
                        f"the Ray cluster had no place for a worker in {self.patience:g} seconds: it needs {needs}, "
                        "and others hold them. Wait for them, or use another cluster."
                    )
                return [waiting[ref] for ref in ready]

            yield from share(tasks, crew, heard)


def _posts(ray: Any) -> list[tuple[str, int]]:
    """Where the cluster's head and this node's part of it listen, as far as this machine reaches them."""
    context = ray.get_runtime_context()
    host, _, port = context.gcs_address.rpartition(":")
    addresses = [(host.strip("[]"), int(port))]
    for node in ray.nodes():
        if node["NodeID"] == context.get_node_id():
            addresses.append((node["NodeManagerAddress"], node["NodeManagerPort"]))
    return [address for address in addresses if _listens(address)]


def _listens(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=LOOK).close()
    except ConnectionRefusedError:
        return False
    except OSError:  # a network may be slow
        pass
    return True


def _check(posts: Sequence[tuple[str, int]]) -> None:
    """Raise RolloutError where the head or this node's part has ended: Ray waits a minute, and then aborts this process."""
    for address in posts:
        if not _listens(address):
            raise RolloutError(
                f"Ray at {address[0]}:{address[1]} has ended, and with it the run. What is done is kept: the same command "
                "goes on."
            )


class _Actor:
    """A worker's process."""

    worker: Worker

    def here(self) -> str:
        """The node's name."""
        return platform.node()

    def begin(self, setup: Setup, folder: str) -> str | None:
        """Load the model; None, or why it cannot start."""
        with suppress(OSError):
            os.chdir(folder)  # a model's path may be relative
        if not Path(setup.root).is_dir():
            return f"the node {platform.node()} does not see {setup.root}. Use an --out on a disk that all nodes share."
        worker = begin(setup)
        if isinstance(worker, str):
            return worker
        self.worker = worker
        return None

    def do(self, task: Task, name: str, number: int) -> Attempt:
        """Do a task."""
        return attempt(self.worker, task, name, number)


class _Ray(Hand):
    """An actor, and the reference to what it will say next."""

    actor: Any = None
    reply: Any = None

    def __init__(self, ray: Any, make: Any, name: str, setup: Setup) -> None:
        self.ray, self.make, self.name, self.setup = ray, make, name, setup

    def start(self) -> None:
        self.actor = self.make.remote()
        self._here = self.actor.here.remote()
        self.reply = self.actor.begin.remote(self.setup, str(Path.cwd()))

    @property
    def placed(self) -> bool:
        """The actor runs, or is dead, and does not wait for a place."""
        return bool(self.ray.wait([self._here], timeout=0)[0])

    def send(self, task: Task, number: int) -> None:
        self.reply = self.actor.do.remote(task, self.name, number)

    def receive(self) -> Attempt | str | None:
        reference, self.reply = self.reply, None
        try:
            answer: Attempt | str | None = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            raise Gone(_line(error)) from None
        return answer

    def end(self) -> None:
        if self.actor is not None:
            with suppress(Exception):  # the cluster itself may have gone
                self.ray.kill(self.actor)


def _ray() -> Any:
    """The module. Raises RolloutError."""
    try:
        import ray
    except ImportError as error:
        raise RolloutError("Ray is not installed. pip install 'rollout-video[ray]'") from error
    return ray


def _places(ray: Any, kind: str, need: int) -> int:
    """Workers that the cluster's nodes have room for. Raises RolloutError where there are none."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    places = sum(int(node["Resources"].get(kind, 0) // need) for node in nodes)
    if not places:
        most = max((node["Resources"].get(kind, 0) for node in nodes), default=0)
        fix = "Use --device cpu." if kind == "GPU" else "Use fewer --threads."
        raise RolloutError(f"no node of the Ray cluster has {need} {kind}; the most is {most:g} on one. {fix}")
    return places


@contextmanager
def _joined(ray: Any, address: str | None, *, cpus: int) -> Iterator[None]:
    """In a Ray of this process's own, or in a cluster; leaves the process as it was. Raises RolloutError."""
    how: dict[str, Any] = {"address": address or "local", "log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        how |= {"include_dashboard": False, "num_cpus": cpus, "object_store_memory": 100 * 2**20}
    else:
        _knock(address)
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
    with _as_it_was(secret=address is None), nullcontext() if address else _on_loopback():
        try:
            try:
                ray.init(**how)
                if address is None and (place := ray.util.get_node_ip_address()) != LOOPBACK:
                    raise RolloutError(
                        f"Ray {ray.__version__} listens on {place}, beyond this machine, and cannot be kept from it. "
                        "Use --executor local, or start a cluster and give --address."
                    )
            except RolloutError:
                raise
            except Exception as error:
                where = "start on this machine" if address is None else f"be joined at {address}"
                more = f" ({_line(error.__cause__)})" if error.__cause__ else ""
                needs = " ray:// needs pip install 'ray[client]'." if (address or "").startswith("ray://") else ""
                raise RolloutError(f"Ray cannot {where}: {_line(error)}{more}.{needs}") from error
            if main:
                signal.signal(signal.SIGTERM, _quit if handler == signal.SIG_DFL else handler)
            yield
        finally:
            ray.shutdown()
            if main:
                signal.signal(signal.SIGTERM, handler)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Let all that Ray starts here listen on 127.0.0.1 alone: who reaches its ports runs code.

    Ray replaces a loopback address that it is given by one that others reach, unless clusters are switched off, as they
    are on Windows and macOS. It reads that once, when it is imported, which may have been before; its children read it too.
    """
    from ray._private import ray_constants

    before = getattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _quit(*_: Any) -> None:
    """End the process by way of its `finally`s; Ray's own handler prints a stack and aborts."""
    raise SystemExit(128 + signal.SIGTERM)


def _knock(address: str) -> None:
    """Raise RolloutError where nobody listens: Ray itself tries for minutes."""
    cluster = os.environ.get("RAY_ADDRESS") or address if address == "auto" else address
    if cluster == "auto":
        folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108
        try:
            cluster = Path(folder, "ray", "ray_current_cluster").read_text(encoding="utf-8").strip()
        except OSError:
            return  # Ray may find one another way, and says at once that there is none
    host, _, port = cluster.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise RolloutError(f"{cluster!r} is no address of a Ray cluster. Give auto, HOST:PORT or ray://HOST:PORT.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, ValueError, OverflowError) as error:
        raise RolloutError(
            f"no Ray cluster answers at {cluster}: {error}. Start one with 'ray start --head', or leave --address out."
        ) from error


@cache
def _token() -> str:
    """This process's secret; Ray keeps the first that it sees."""
    return secrets.token_hex(32)


@contextmanager
def _as_it_was(*, secret: bool) -> Iterator[None]:
    """Undo what this and Ray change in the environment."""
    before = dict(os.environ)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if secret and not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & before.keys():
        os.environ["RAY_AUTH_TOKEN"] = _token()  # else Ray writes one into the user's home
    try:
        yield
    finally:
        for name in [n for n in os.environ if n.startswith("RAY_") or n == "PYTHONBREAKPOINT"]:
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]


def _line(error: BaseException) -> str:
    """Ray's message in one line: what was raised, or how a process ended and where, without the table and the guesses."""
    text = re.sub(r"\x1b\[\d+m", "", str(error))
    ending = re.search(r"Worker exit detail: (.+?)(?: Some common causes|\n|$)", text)
    errors = re.findall(r"^([\w.]+(?:Error|Exception): .+)$", text, re.MULTILINE)
    where = re.search(r"\bip[:=] ?([\w.:]+)", text)
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("\t")]
    error_line = errors[-1] if errors else " ".join(lines)
    reason = ending[1] if ending else error_line
    return reason.partition(" Note: ")[0][:400].rstrip(". ") + (f" (node {where[1]})" if where else "")
