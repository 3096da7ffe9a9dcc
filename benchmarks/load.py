"""Load on a server over loopback, from a process of its own: so many clients that wait for each answer, or questions that come whether it answers or not.

    python benchmarks/load.py    with a description on its standard input, as `closed` and `opened` of the script that calls it write it
"""
import asyncio
import json
import os
import re
import sys
import time
from collections import OrderedDict

import numpy as np
import uvloop

GIVE_UP = 1.     # seconds after which a client of `opened` no longer waits
AT_MOST = 4000   # connections


class Connection(asyncio.Protocol):
    "One connection, one question at a time; tells what status the answer has when it is whole, 0 where the connection ends without one."
    def __init__(self, answered):
        self.answered, self.got, self.question = answered, b"", None

    def connection_made(self, transport):
        self.transport = transport

    def ask(self, question, text):
        self.question, self.got = question, b""
        self.transport.write(text)

    def data_received(self, data):
        self.got += data
        if (end := self.got.find(b"\r\n\r\n")) < 0: return
        head = self.got[:end].lower()
        size = re.search(rb"content-length: *(\d+)", head)   # without one it comes in chunks, the last of which is empty
        if len(self.got) >= end + 4 + int(size[1]) if size else self.got.endswith(b"\r\n0\r\n\r\n"): self._tell(int(head[9:12]))

    def connection_lost(self, exc):
        self._tell(0)

    def _tell(self, status):
        question, self.question = self.question, None
        if question is not None or status == 0: self.answered(self, question, status)


async def closed(place, texts, clients, warm, lasts):
    "Clients that ask again as soon as they are answered: the seconds of each answer of the measured time, and how many were none."
    loop, done, took, bad, every = asyncio.get_running_loop(), asyncio.Event(), [], [], iter(range(10**9))
    begin = time.perf_counter() + warm
    turn = iter(range(10**9))

    def ask(connection):
        connection.began = time.perf_counter()
        connection.ask(1, texts[next(turn) % len(texts)])

    def answered(connection, question, status):
        now = time.perf_counter()
        if status == 200: next(every)
        if now > begin + lasts: return done.set()
        if now >= begin: (took if status == 200 else bad).append(now - connection.began)
        wait = re.search(rb"retry-after: *(\d+)", connection.got, re.I) if status == 503 else None
        if wait: loop.call_later(int(wait[1]), ask, connection)
        elif status: ask(connection)
    for connection in [(await loop.create_connection(lambda: Connection(answered), *place))[1] for _ in range(clients)]: ask(connection)
    await asyncio.wait_for(done.wait(), warm + lasts + 30)
    return {"a second": len(took)/lasts, "p50 ms": float(np.quantile(took, .5))*1e3, "p99 ms": float(np.quantile(took, .99))*1e3, "failed": len(bad), "answers": next(every)}


class Opened:
    "Questions at moments that were drawn before: each on a free connection, a new one where none is free; who is not answered in time hangs up."
    def __init__(self, place, texts, rate, lasts, seed):
        self.place, self.texts, self.rate, self.lasts = place, texts, rate, lasts
        gaps = np.random.default_rng(seed).exponential(1/rate, size=int(rate*lasts))
        self.due = np.cumsum(gaps) + .1
        self.took, self.status = np.full(len(gaps), np.inf), np.zeros(len(gaps), int)
        self.free, self.waiting, self.busy, self.open = [], OrderedDict(), OrderedDict(), 0

    def now(self): return time.perf_counter() - self.start

    def answered(self, connection, question, status):
        if status == 0: self.open -= 1
        if question is None:   # a connection that nobody used has ended
            if connection in self.free: self.free.remove(connection)
            return
        if self.busy.pop(question, None) is not None: self.took[question], self.status[question] = self.now() - self.due[question], status
        if status: self.use(connection)

    def use(self, connection):
        "Ask what waits longest for a connection, if anything does."
        if not self.waiting: return self.free.append(connection)
        question, _ = self.waiting.popitem(last=False)
        self.busy[question] = connection
        connection.ask(question, self.texts[question % len(self.texts)])

    async def connect(self):
        try: _, connection = await asyncio.get_running_loop().create_connection(lambda: Connection(self.answered), *self.place)
        except OSError: self.open -= 1
        else: self.use(connection)

    def give_up(self):
        "Hang up on those who do not answer."
        late = self.now() - GIVE_UP
        for asked in (self.waiting, self.busy):
            while asked and self.due[next(iter(asked))] < late:
                question, connection = asked.popitem(last=False)
                if connection: connection.question = None; connection.transport.abort()

    async def run(self):
        self.start, at, connecting = time.perf_counter(), 0, set()
        while at < len(self.due) or ((self.busy or self.waiting) and self.now() < self.due[-1] + 2*GIVE_UP):
            while at < len(self.due) and self.due[at] <= self.now():
                self.waiting[at] = None
                if self.free: self.use(self.free.pop())
                elif self.open < AT_MOST:
                    self.open += 1
                    connecting.add(task := asyncio.ensure_future(self.connect()))
                    task.add_done_callback(connecting.discard)
                at += 1
            self.give_up()
            await asyncio.sleep(.001)   # the clock of the loop; a question is timed from when it was due
        within = lambda limit: float(((self.status == 200) & (self.took <= limit)).sum()/self.lasts)
        good = self.took[self.status == 200]
        return {"offered a second": len(self.due)/self.lasts, "within": {str(limit): within(limit) for limit in (.01, .025, .05, .1, .25, 1.)},
                "answers": len(good), "answered a second": len(good)/self.lasts, "refused a second": float((self.status == 503).sum()/self.lasts),
                "other": int(((self.status != 200) & (self.status != 503) & (self.status != 0)).sum()), "unanswered": int((self.status == 0).sum()),
                **({f"p{q:g} ms": float(np.quantile(good, q/100))*1e3 for q in (50, 99, 99.9)} if len(good) else {})}


def main():
    what = json.load(sys.stdin)
    place, texts = tuple(what["place"]), [text.encode() for text in what["texts"]]
    if "clients" in what: work = closed(place, texts, what["clients"], what["warm"], what["lasts"])
    else: work = Opened(place, texts, what["rate"], what["lasts"], what["seed"]).run()
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    print(json.dumps(loop.run_until_complete(work)), flush=True)
    os._exit(0)   # connections that are still open need no farewell


if __name__ == "__main__": main()
