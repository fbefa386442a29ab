"""What the I/O thread has for a receiver reaches it, whatever interrupts that one."""

from __future__ import annotations

import threading

from hbshim.messaging.joining import Part
from hbshim.messaging.zmq.mailbox import Mailbox
from tests.interrupts import interrupt, interrupt_everywhere
from tests.waiting import wait_until


def test_an_exception_of_a_signal_handler_loses_no_item_of_another_caller() -> None:
    mailbox: Mailbox[int] = Mailbox()
    taken: set[int] = set()
    over = threading.Event()
    put = [0]

    def fill() -> None:
        # As the I/O thread, which no signal interrupts.
        while not over.is_set():
            for _ in range(20 - len(mailbox)):
                mailbox.put(put[0])
                put[0] += 1

    def take(number: int) -> None:
        sum(range(500))  # most interrupts come here
        taken.add(number)

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        interrupted = interrupt(lambda: mailbox.pass_on(0.01, take), lambda: None, 200)
    finally:
        over.set()
        thread.join()
    mailbox.pass_on(0, take)
    mailbox.close()
    assert interrupted == 200
    assert taken == set(range(put[0]))


def test_no_exception_at_any_instant_leaves_the_next_wait_without_a_byte() -> None:
    """The item would lie there until the time of that wait is over."""
    mailbox: Mailbox[int] = Mailbox()

    def receive() -> None:
        # As when an item was taken just before the I/O thread wrote its byte.
        mailbox._signaled = True
        mailbox._out.send(b"\0")
        mailbox.pass_on(0, lambda _item: None)

    def check() -> None:
        part = Part(lambda: None)
        while not mailbox.begin_wait(part):
            mailbox.pass_on(0, lambda _item: None)
        assert part.readiness is not None
        while part.readiness.wait(0):
            mailbox.pass_on(0, lambda _item: None)
        assert mailbox.begin_wait(part)
        mailbox.put(1)
        assert part.readiness.wait(0)
        mailbox.pass_on(0, lambda _item: None)

    assert interrupt_everywhere(receive, check) > 10
    mailbox.close()


def test_what_is_put_while_it_is_read_is_left_for_the_next_time() -> None:
    """Else one caller would read for others without an end."""
    mailbox: Mailbox[int] = Mailbox()
    taken: list[int] = []

    def take(number: int) -> None:
        taken.append(number)
        mailbox.put(number + 1)

    mailbox.put(0)
    for number in range(3):
        mailbox.pass_on(60, take)
        assert taken == list(range(number + 1))
    assert list(mailbox.take(60)) == [3]
    assert list(mailbox.take(0)) == []
    mailbox.put(9)
    wait_until(lambda: list(mailbox.take(60)) == [9])
    mailbox.close()
