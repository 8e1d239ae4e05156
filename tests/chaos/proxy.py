"""A TCP proxy that hurts what goes through it. One thread runs them all; methods are for any other thread.

  calm         bytes pass
  delay        each piece of bytes is late by so many ms, in both directions
  blackhole    nothing passes, nobody is told; new connections are accepted and hear nothing
  half-open    what the client says arrives, the answers do not
  refuse       every connection is reset, and so are new ones

Healing a blackhole or a half-open one resets its connections, as bytes are missing from them."""

import asyncio
import socket
import struct
import threading

MODES = ("calm", "delay", "blackhole", "half-open", "refuse")


class Proxies:
    """The thread, and its event loop."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.all = []

    def call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    def add(self, to_port, name):
        proxy = Proxy(self, to_port, name)
        self.call(proxy.open())
        self.all.append(proxy)
        return proxy

    def close(self):
        for proxy in self.all:
            self.call(proxy.shut())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)


class Proxy:
    def __init__(self, owner, to_port, name):
        self.owner, self.to_port, self.name = owner, to_port, name
        self.mode, self.delay_ms, self.port = "calm", 0, None
        self.pairs = set()  # (writer to the client, writer to the server)

    async def open(self):
        self.server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]

    async def shut(self):
        self.server.close()
        self._reset()

    def set(self, mode, delay_ms=0):
        assert mode in MODES
        self.owner.call(self._set(mode, delay_ms))

    def reset(self):
        """Cuts what is open now."""
        self.owner.call(self._reset_later())

    async def _reset_later(self):
        self._reset()

    async def _set(self, mode, delay_ms):
        lossy = self.mode in ("blackhole", "half-open")
        self.mode, self.delay_ms = mode, delay_ms
        if lossy or mode == "refuse":
            self._reset()

    def _reset(self):
        for pair in list(self.pairs):
            for writer in pair:
                self._cut(writer)
        self.pairs.clear()

    @staticmethod
    def _cut(writer):
        if (s := writer.get_extra_info("socket")) is not None:
            try:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not an orderly end
            except OSError:
                pass
        writer.transport.abort()

    async def _accept(self, client, to_client):
        if self.mode == "refuse":
            self._cut(to_client)
            return
        try:
            server, to_server = await asyncio.open_connection("127.0.0.1", self.to_port)
        except OSError:
            self._cut(to_client)
            return
        pair = (to_client, to_server)
        self.pairs.add(pair)
        await asyncio.gather(self._pump(client, to_server, "request"), self._pump(server, to_client, "answer"), return_exceptions=True)
        self.pairs.discard(pair)
        for writer in pair:
            self._cut(writer)

    async def _pump(self, reader, writer, what):
        try:
            while data := await reader.read(65536):
                if self.mode == "delay":
                    await asyncio.sleep(self.delay_ms / 1000)
                if self.mode == "blackhole" or (self.mode == "half-open" and what == "answer"):
                    continue  # lost: the reset at the end of the fault makes both sides see it
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()
