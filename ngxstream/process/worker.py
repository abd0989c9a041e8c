"""The worker: the process that serves. It takes up rights and loop after the fork, opens its
gates, and leaves at once or in grace.

Answers for ngx_worker_process_cycle, ngx_worker_process_init and ngx_worker_process_exit
(src/os/unix/ngx_process_cycle.c).

1. A signal is a byte in a socket pair that the loop reads: nothing happens inside a handler.
2. Told to leave in grace, a worker closes its gates and TCP listening sockets at once, and each
   UDP listening socket when the last client that is answered through it has gone.
3. The master's death closes the channel. A worker notes it and serves on.
"""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import codes, log
from ngxstream.event import poller
from ngxstream.event.accept import BURST, TcpGate
from ngxstream.event.loop import Loop
from ngxstream.event.udp import UdpGate
from ngxstream.process import channel as channels
from ngxstream.process import signals, system

if TYPE_CHECKING:
    from ngxstream.process.channel import Channel
    from ngxstream.process.cycle import Cycle

POLLERS: Final[dict[str, Callable[[int], poller.Poller]]] = {
    "epoll": poller.EpollPoller,
    "poll": lambda events: poller.PollPoller(),
    "select": lambda events: poller.SelectPoller(),
}
BURST_ALL: Final = 1 << 16  # multi_accept: more than any backlog holds
SWEEP_MS: Final = 1000  # how often a leaving worker looks for UDP sockets nobody needs any more


class Signals:
    """Signals as bytes the loop can read."""

    __slots__ = ("_reader", "_writer", "_obey")

    def __init__(self, heard: Iterable[int], obey: Callable[[int], None]) -> None:
        """Hear these signals from now on; `obey(number)` is called from the loop."""
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._obey = obey
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in heard:
            signal.signal(number, _nothing)  # the byte in the socket is all we want
        for number in signals.IGNORED:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def fileno(self) -> int:
        """Return the descriptor to watch."""
        return self._reader.fileno()

    def on_readable(self, mask: int) -> None:
        """Obey every signal that came, in order."""
        with contextlib.suppress(BlockingIOError):
            for number in self._reader.recv(4096):
                self._obey(number)


def _nothing(number: int, frame: Any) -> None:
    """Do nothing: Python has put the signal's number into the wakeup socket already."""


class Service:
    """What serves a cycle on a loop: its gates, its modules' work, its logs."""

    __slots__ = ("cycle", "loop", "tcp_gates", "udp_gates")

    def __init__(self, cycle: Cycle, loop: Loop, worker: int) -> None:
        """Open the gates of one worker. shape: worker counts from 0"""
        self.cycle = cycle
        self.loop = loop
        self.tcp_gates: list[TcpGate] = []
        self.udp_gates: list[UdpGate] = []
        stream, events = cycle.stream, cycle.events
        if stream is None:
            return
        for conf, listening in zip(stream.listenings, cycle.listenings, strict=True):
            for sock in listening.for_worker(worker, cycle.workers):
                if conf.options.is_udp:
                    self.udp_gates.append(UdpGate(loop, listening, sock, conf.begin))
                    continue
                self.tcp_gates.append(
                    TcpGate(
                        loop,
                        listening,
                        sock,
                        conf.begin,
                        burst=BURST_ALL if events.multi_accept else BURST,
                        exclusive=cycle.workers > 1 and listening.is_shared(sock),
                        pause_ms=events.accept_mutex_delay,
                    )
                )
        stream.start_worker(loop)

    def count(self) -> int:
        """Return how many gates there are; each takes a connection slot, as in nginx."""
        return len(self.tcp_gates) + len(self.udp_gates)

    def close_gates(self) -> None:
        """Take no new clients. The listening sockets stay."""
        for tcp_gate in self.tcp_gates:
            tcp_gate.close()
        for udp_gate in self.udp_gates:
            udp_gate.close()

    def close_sockets(self) -> None:
        """Close this process's copies of the listening sockets that no session needs.

        Call it again later for UDP: a socket stays while clients are answered through it.
        """
        needed = {session.c.sock for session in self.loop.sessions if session.c.is_udp}
        needed |= {gate.sock for gate in self.udp_gates if gate.is_needed}
        for listening in self.cycle.listenings:
            for sock in listening.socks:
                if sock not in needed:
                    sock.close()
        self.udp_gates = [gate for gate in self.udp_gates if gate.sock in needed]

    def reopen(self) -> None:
        """Open all logs anew. source: ngx_reopen_files"""
        self.cycle.log.error(log.NOTICE, "reopening logs")
        self.cycle.reopen(self.cycle.log, None)
        if self.cycle.stream is not None:
            self.cycle.stream.reopen(self.loop)

    def stop(self) -> None:
        """Have the modules finish what they do in the background."""
        if self.cycle.stream is not None:
            self.cycle.stream.stop_worker(self.loop)

    def shut_down_sessions(self) -> None:
        """End every session: worker_shutdown_timeout is over. source: ngx_shutdown_timer_handler"""
        for session in list(self.loop.sessions):
            session.log_error(log.INFO, "shutdown timeout")
            session.finalize(codes.STREAM_OK)


def make_loop(cycle: Cycle, worker: int) -> Loop:
    """Make the loop of a serving process, by what the events block says."""
    events = cycle.events
    loop = Loop(cycle.log, POLLERS[events.use](events.epoll_events), events.worker_connections)
    loop.next_number = cycle.serial.next
    loop.worker = worker
    return loop


class Worker:
    """One worker process, from the fork to its end."""

    __slots__ = (
        "cycle",
        "number",
        "channel",
        "title",
        "daemonized",
        "loop",
        "service",
        "code",
    )

    def __init__(
        self, cycle: Cycle, number: int, channel: Channel, title: system.Title, *, daemonized: bool
    ) -> None:
        """shape: number is the worker's place, 0 <= number < cycle.workers; made after the fork"""
        self.cycle = cycle
        self.number = number
        self.channel = channel
        self.title = title
        self.daemonized = daemonized
        self.code = 0
        self.loop: Loop
        self.service: Service

    def run(self) -> int:
        """Serve until told otherwise; return the exit code.

        raises: WorkerInitError, OSError when the worker cannot begin
        """
        cycle = self.cycle
        system.init_worker(
            cycle.main, self.number, cycle.log, capabilities=cycle.reading.capabilities
        )
        loop = self.loop = make_loop(cycle, self.number)
        heard = Signals(signals.HEARD, self._obey)
        loop.register(heard.fileno(), heard.on_readable, poller.LEVEL)
        loop.register(self.channel.fileno(), self.on_channel, poller.LEVEL)
        self.service = Service(cycle, loop, self.number)
        loop.free_connections -= self.service.count() + 1  # one for the channel
        self.title.set("worker process")
        loop.run()
        self.service.stop()
        cycle.log.error(log.NOTICE, "exit")
        return self.code

    # -- commands ------------------------------------------------------------------------------

    def on_channel(self, mask: int) -> None:
        """Do what the master says. source: ngx_channel_handler"""
        try:
            while True:
                message = self.channel.receive()
                if message.command == channels.QUIT:
                    self.quit()
                elif message.command == channels.TERMINATE:
                    self.terminate()
                elif message.command == channels.REOPEN:
                    self.service.reopen()
        except BlockingIOError:
            return
        except (EOFError, OSError):
            self.loop.unregister(self.channel.fileno())
            self.channel.close()
            self.cycle.log.error(log.NOTICE, "the master process is gone, serving on")

    def _obey(self, number: int) -> None:
        """Do what a signal says. source: ngx_signal_handler, NGX_PROCESS_WORKER"""
        action = ""
        if number in signals.TERMINATE:
            action, do = "exiting", self.terminate
        elif number == signals.SHUTDOWN or (number == signals.NO_ACCEPT and self.daemonized):
            action, do = "shutting down", self.quit
        elif number == signals.REOPEN:
            action, do = "reopening logs", self.service.reopen
        else:
            do = None
            if number in (signals.RECONFIGURE, signals.CHANGE_BINARY, signal.SIGIO):
                action = "ignoring"
        self.cycle.log.error(log.NOTICE, signals.received(number, action=action))
        if do is not None:
            do()

    def quit(self) -> None:
        """Take no new clients and leave when the last session has ended."""
        loop = self.loop
        if loop.exiting or loop.stopped:
            return
        self.cycle.log.error(log.NOTICE, "gracefully shutting down")
        self.title.set("worker process is shutting down")
        timeout = self.cycle.main.worker_shutdown_timeout
        if timeout:
            loop.call_later(timeout, self.service.shut_down_sessions, cancelable=True)
        self.service.close_gates()
        self._sweep()
        loop.exiting = True
        loop.on_idle = self._leave

    def _sweep(self) -> None:
        self.service.close_sockets()
        if self.service.udp_gates:
            self.loop.call_later(SWEEP_MS, self._sweep, cancelable=True)

    def _leave(self) -> None:
        self.cycle.log.error(log.NOTICE, "exiting")
        self.loop.stop()

    def terminate(self) -> None:
        """Leave now; sessions are dropped."""
        if not self.loop.stopped:
            self._leave()
