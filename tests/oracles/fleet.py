"""A fleet simulated step by step: one event for every video at every station, nothing foreseen.

The slow twin of ``scripts/fleet_parts``: leases of a fixed size or fixed parts, one actor a node.
"""

import heapq
import math
from dataclasses import dataclass, field


@dataclass(eq=False)
class Machine:
    """One engine: readers, blocked readers, a queue, an encoder, a writer."""

    number: int
    ready: float = math.nan
    is_up: bool = False
    is_asked: bool = False
    life: int = 0
    free: int = 0
    inbox: list = field(default_factory=list)
    reading: list = field(default_factory=list)
    blocked: list = field(default_factory=list)
    queue: list = field(default_factory=list)
    encoding: int | None = None
    to_write: list = field(default_factory=list)
    writing: int | None = None
    unsealed: list = field(default_factory=list)
    awaits: bool = False
    threshold: int = 0

    @property
    def held(self):
        own = [*self.inbox, *self.reading, *self.blocked, *self.queue, *self.to_write]
        return own + [v for v in (self.encoding, self.writing) if v is not None]


class SlowFleet:
    """Runs ``videos`` through ``fleet``; ``lives`` says when what dies."""

    def __init__(self, videos, fleet, lives):
        self.v, self.f, self.lives = videos, fleet, lives
        number = len(videos)
        self.machines = [Machine(i) for i in range(fleet.actors)]
        self.common = list(range(number))
        self.own = [list(range(i, number, fleet.actors)) for i in range(fleet.actors)]
        self.events, self.seq = [], 0
        self.outcome = [0] * number
        self.missing, self.deaths, self.hungry = [], {}, []
        self.rounds, self.again, self.last = 1, 0, 0.0

    def backlog(self, m):
        return self.own[m.number] if self.f.is_static else self.common

    def at(self, time, what, *args):
        if time < math.inf:
            self.seq += 1
            heapq.heappush(self.events, (time, self.seq, what, args))

    def run(self):
        for m in self.machines:
            self.ask_node(0.0, m)
        while not all(self.outcome) or self.missing:
            if all(o for v, o in enumerate(self.outcome) if v not in set(self.missing)):
                self.next_round()
            self.now, _, what, args = heapq.heappop(self.events)
            what(*args)
        return self

    def ask_node(self, now, m):
        if not m.is_asked and self.backlog(m):
            m.is_asked = True
            self.at(now + self.f.node_start_s, self.node_up, m)

    def node_up(self, m):
        m.is_up = True
        m.node_life = m.life
        self.at(self.lives("node", m.number, self.now), self.node_lost, m, id(m), self.now)
        m.since = self.now
        self.begin(m)

    def begin(self, m):
        m.life += 1
        m.ready = math.inf
        self.at(self.now + self.f.actor_start_s, self.up, m, m.life)

    def up(self, m, life):
        if life != m.life:
            return
        m.ready, m.free = self.now, self.f.readers
        m.awaits = False
        self.at(self.lives("actor", m.number, self.now), self.crashed, m, m.life)
        self.ask(m, m.life)

    def ask(self, m, life):
        if life != m.life or not math.isfinite(m.ready):
            return
        backlog = self.backlog(m)
        target = 2048 if self.f.is_static else 2 * self.f.lease
        if len(m.held) <= target // 2:
            most = target - len(m.held)
            m.inbox += backlog[:most]
            del backlog[:most]
        if m in self.hungry:
            self.hungry.remove(m)
        if len(m.held) <= target // 2:
            self.hungry.append(m)
        m.awaits, m.threshold = False, target // 2 if backlog else 0
        self.move(m)
        if not m.held:
            self.close(m)

    def move(self, m):
        """Everything that can happen at this moment in one machine."""
        size = self.v.frame_bytes
        moved = True
        while moved:
            moved = False
            while m.blocked:
                v = m.blocked[0]
                held = sum(size[u] for u in m.queue)
                if size[v] and held and held + size[v] > self.f.queue_bytes:
                    break
                m.queue.append(m.blocked.pop(0))
                m.free += self.v.kind[v] == 0
                moved = True
            while m.inbox and m.free:
                v = m.inbox.pop(0)
                m.free -= 1
                m.reading.append(v)
                self.at(self.now + self.v.decode_s[v], self.decoded, m, m.life, v)
                moved = True
            if m.encoding is None and m.queue:
                m.encoding = m.queue.pop(0)
                self.at(self.now + self.v.encode_s[m.encoding], self.encoded, m, m.life)
                moved = True
            if m.writing is None and m.to_write:
                m.writing = m.to_write.pop(0)
                cost = self.f.write_s if self.v.kind[m.writing] == 0 else 0.0
                self.at(self.now + cost, self.written, m, m.life)
                moved = True

    def decoded(self, m, life, v):
        if life == m.life:
            m.reading.remove(v)
            m.blocked.append(v)
            m.free += self.v.kind[v] != 0  # an error needs no room
            self.move(m)

    def encoded(self, m, life):
        if life == m.life:
            m.to_write.append(m.encoding)
            m.encoding = None
            self.move(m)

    def written(self, m, life):
        if life != m.life:
            return
        v, m.writing = m.writing, None
        assert not self.outcome[v]
        self.outcome[v] = 1 if self.v.kind[v] == 0 else 2
        self.last = self.now
        m.unsealed.append((self.now, v))
        self.move(m)
        if not m.awaits and len(m.held) <= m.threshold:
            m.awaits = True
            wait = self.f.reply_s if m.threshold and not self.f.is_static else 0.0
            self.at(self.now + wait, self.ask, m, life)

    def close(self, m):
        m.unsealed = []
        self.clear(m)

    def clear(self, m):
        m.life += 1
        m.ready, m.free = math.nan, 0
        m.inbox, m.reading, m.blocked, m.queue, m.to_write = [], [], [], [], []
        m.encoding = m.writing = None
        if m in self.hungry:
            self.hungry.remove(m)

    def crashed(self, m, life):
        if life == m.life:
            self.die(m, kept=True)
            self.begin(m)

    def node_lost(self, m, _, since):
        if m.is_up and m.since == since:
            self.die(m, kept=False)
            m.is_up = m.is_asked = False
            self.ask_node(self.now, m)

    def die(self, m, *, kept):
        if not math.isfinite(m.ready):
            self.clear(m)
            return
        left = sorted(m.held)
        sealed = m.ready + (self.now - m.ready) // self.f.seal_s * self.f.seal_s
        void = [] if kept else [v for at, v in m.unsealed if at > sealed]
        m.unsealed = []
        self.clear(m)
        for v in void:
            self.outcome[v] = 0
        self.again += len(void)
        if self.f.is_static:
            self.own[m.number][:0] = [*left, *void]
            self.again += len(left)
            return
        self.missing += void
        back = []
        for v in left:
            self.deaths[v] = self.deaths.get(v, 0) + 1
            if self.deaths[v] >= self.f.max_attempts:
                self.outcome[v] = 3
            else:
                back.append(v)
        self.again += len(back)
        if back:
            self.at(self.now + self.f.detect_s, self.notice, back)

    def notice(self, back):
        self.common[:0] = back
        for m in list(self.hungry):
            if self.common and m in self.hungry:
                self.ask(m, m.life)
        if self.common and all(math.isnan(m.ready) for m in self.machines):
            self.wake()

    def wake(self):
        wanted = -(-len(self.common) // self.f.readers)
        free = [m for m in self.machines if m.is_up]
        for m in free[:wanted]:
            self.begin(m)
        if not free:
            for m in self.machines[:wanted]:
                self.ask_node(self.now, m)

    def next_round(self):
        for m in self.machines:
            if not math.isnan(m.ready):
                self.close(m)
        self.common[:0], self.missing = self.missing, []
        self.rounds += 1
        self.wake()
