"""A program in one concurrency model: ``program.py MODEL URL IPC_DIRECTORY WHAT[,WHAT...]``.

It does ``calls``, ``casts``, ``publish``, ``acknowledged``, ``fork`` or another of :func:`do`
through the proxy, itself unless it forks, and prints what became of it. Each has a driver of its
own.
"""

from __future__ import annotations

import os
import sys
import warnings

model, url, ipc, steps = sys.argv[1:]

# Both libraries announce their end, or that something was imported before; that is not the point.
warnings.simplefilter("ignore")
if model == "eventlet":
    import eventlet

    eventlet.monkey_patch()
elif model == "gevent":
    from gevent import monkey

    monkey.patch_all()

import multiprocessing
import signal
import subprocess
import threading
import time

from hbshim import messaging
from hbshim.errors import HbshimError
from hbshim.runtime.unpatched import original
from tests.native_fork import fork_in_c

TARGET = messaging.Target("program")

#: Seconds for which the program does not run.
STANDSTILL = 4


class Endpoint:
    """Answers at once, or after a while."""

    def echo(self, _request: messaging.Request, value: object) -> object:
        return value

    def wait(self, _request: messaging.Request, seconds: float) -> str:
        time.sleep(seconds)
        return "waited"


def calls(client: messaging.Client) -> None:
    """Call from many threads at once; then while one thread keeps all others from running."""
    results: list[object] = []

    def call(number: int) -> None:
        results.extend(client.call("echo", value=10 * number + each) for each in range(10))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(sorted(results) == list(range(100)))  # type: ignore[type-var]
    waiting = threading.Thread(target=lambda: results.append(client.call("wait", seconds=0.1)))
    waiting.start()
    while not any(each == "waited" for each in results) and waiting.is_alive():
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            pass  # the hub of a green model is blocked, in a native one the others run
        time.sleep(0.01)
    waiting.join()
    print(results[-1])


def casts(driver: messaging.Driver) -> None:
    """Cast from many threads at once to a server that is slow to begin them."""
    begun: list[int] = []

    class Slow:
        def note(self, _request: messaging.Request, value: int) -> None:
            begun.append(value)
            time.sleep(0.05)

    client = messaging.Client(driver, TARGET, timeout=60)

    def cast(number: int) -> None:
        for each in range(5):
            client.cast("note", value=10 * number + each)

    threads = [threading.Thread(target=cast, args=(number,)) for number in range(5)]
    with messaging.Server(driver, TARGET, [Slow()], workers=1):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print(sorted(begun) == [10 * number + each for number in range(5) for each in range(5)])


def publish(driver: messaging.Driver) -> None:
    """Receive a fanout and a notification, the latter in two pools."""
    got: list[object] = []

    class Sink:
        def echo(self, _request: messaging.Request, value: object) -> None:
            got.append(value)

        def info(self, notification: messaging.Notification) -> None:
            got.append(notification.payload)

    pools = [
        messaging.NotificationServer(driver, ["events"], [Sink()], pool=pool) for pool in ("a", "b")
    ]
    servers = [messaging.Server(driver, TARGET, [Sink()]), *pools]
    for server in servers:
        server.start(30)
    messaging.Client(driver, TARGET).prepare(fanout=True).cast("echo", value="fanout")
    messaging.Notifier(driver, "events", "program").info("happened", "notification")
    until = time.monotonic() + 30
    while len(got) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    print(sorted(got))  # type: ignore[type-var]
    for server in servers:
        server.stop(30)


def fork(client: messaging.Client) -> None:
    """Call before a fork, and after it in both processes."""
    print(client.call("echo", value="before"), flush=True)
    pid = os.fork()
    if not pid:
        print(client.call("echo", value="child"), flush=True)
        client.driver.close()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    print(client.call("echo", value="parent"))


def fork_with_a_call(client: messaging.Client) -> None:
    """Fork while green threads wait for answers: the child has copies of them.

    The answers arrive while the parent does not look, and the child does.
    """
    outcomes: list[object] = []

    def wait() -> None:
        try:
            outcomes.append(client.call("last", seconds=1))
        except HbshimError as error:
            outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=wait) for _ in range(2)]
    for thread in threads:
        thread.start()
    client.call("echo", value="before")
    time.sleep(0.1)
    hears, tells = os.pipe()
    if not os.fork():
        # What Python says of the copies of its threads.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        until = time.monotonic() + 10
        while len(outcomes) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        original("os", "write")(tells, f"child: {outcomes}".encode())
        os._exit(0)
    print(original("os", "read")(hears, 100).decode())
    began = time.monotonic()
    for thread in threads:
        thread.join(10)
    print(f"parent: {outcomes}", time.monotonic() - began < 5)


def fork_in_c_and_publish(client: messaging.Client) -> None:
    """Call and publish before a fork that Python does not see, and after it in both processes."""
    fanout = client.prepare(fanout=True)

    def send(who: str) -> None:
        print(client.call("echo", value=who), flush=True)
        fanout.cast("echo", value=f"{who}'s fanout")

    send("before")
    pid = fork_in_c()
    if not pid:
        send("child")
        client.driver.close()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    send("parent")


def send_much(client: messaging.Client) -> None:
    """Send what nothing confirms, and more of it than is on its way at once."""
    client.prepare(fanout=True).cast("echo", value="x" * 5_000_000)
    for number in range(300):
        client.cast("echo", value=number)


def end_without_atexit(client: messaging.Client) -> None:
    """Send, close the driver, and end: in a forked child, then here."""
    pid = os.fork()
    if pid:
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    send_much(client)
    client.driver.close()
    os._exit(0)


def end_as_a_child(client: messaging.Client) -> None:
    """Send in a child of `multiprocessing`, which does not close the driver."""
    child = multiprocessing.get_context("fork").Process(target=send_much, args=(client,))
    child.start()
    child.join()
    print(child.exitcode)


def patch_later(client: messaging.Client, library: str) -> None:
    """Call; have everything patched; call again from many green threads."""
    print(client.call("echo", value="before"))
    if library == "eventlet":
        import eventlet

        eventlet.monkey_patch()
    else:
        from gevent import monkey

        monkey.patch_all()
    results: list[object] = []
    threads = [
        threading.Thread(target=lambda: results.append(client.call("last", seconds=0.1)))
        for _ in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(results == 10 * ["at last"], client.call("echo", value="after"))


def keep_from_running(client: messaging.Client, what: str) -> None:
    """Call before and after the main thread, or the whole process, does not run for some seconds.

    The hub of a green model runs in the main thread.
    """
    print(client.call("echo", value="before"))
    if what == "blocked":
        original("time", "sleep")(STANDSTILL)
    else:
        wake = f"sleep {STANDSTILL}; kill -CONT {os.getpid()}"
        subprocess.Popen(["sh", "-c", wake])
        os.kill(os.getpid(), signal.SIGSTOP)
    print(client.call("echo", value="after"))


def do(what: str) -> None:
    """Do one of the things that are asked for."""
    driver = messaging.connect(
        url,
        rpc_zmq_ipc_dir=ipc,
        rpc_use_acks=what == "casts",
        notification_acks=what == "acknowledged",
        rpc_ack_timeout_base=0.1 if what == "casts" else 15,
    )
    # Green threads of a server would be forked with the rest; it is in another process.
    elsewhere = messaging.Client(driver, messaging.Target("elsewhere"), timeout=30)
    if what == "fork":
        fork(elsewhere)
    elif what == "copied":
        fork_with_a_call(elsewhere)
    elif what == "exit":
        end_without_atexit(elsewhere)
    elif what == "child":
        end_as_a_child(elsewhere)
    elif what == "fork-c":
        fork_in_c_and_publish(elsewhere)
    elif what in ("blocked", "stopped"):
        keep_from_running(elsewhere, what)
    elif what.startswith("late-"):
        patch_later(elsewhere, what.removeprefix("late-"))
    elif what == "casts":
        casts(driver)
    elif what in ("publish", "acknowledged"):
        publish(driver)
    else:
        with messaging.Server(driver, TARGET, [Endpoint()]):
            calls(messaging.Client(driver, TARGET, timeout=30))
    driver.close()
    print("ended")


for step in steps.split(","):
    do(step)
