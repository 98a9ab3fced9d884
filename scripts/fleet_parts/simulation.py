"""A fleet of machines with work, losses and an autoscaler: from event to event.

Inside an actor every video is followed (``actor.py``); around it a node comes, an actor is ready,
asks for work or has none, a process or a node dies, its death is noticed, a node is given back.
Leases are those of the driver of ``--engine ray``: its own ``Pace`` says how many videos an actor
gets.  Simplified: an actor's receipts are counted when it asks for more, and a video with which
two actors died is not kept alone (no video here kills an actor); of two readers that end near a
broken file, who takes the next video may differ.
"""

import math
from collections.abc import Sequence
from heapq import heappop

import numpy as np

from vidcomp.pipelines.cluster.pace import Pace

from .backlog import Unsealed
from .fleet import DONE, FAILED, LOST, Fleet, Lives, Result
from .state import State, index_of, is_there, stamp
from .videos import GOOD, Videos

__all__ = ["simulate"]

_PLENTY = 1 << 40
_STATIC = 2048
"""Videos of a fixed part that are looked at together; nothing depends on it."""


def simulate(videos: Videos, fleet: Fleet, *, seed: int = 0, lives: Lives | None = None) -> Result:
    """Run all videos through a fleet.

    Args:
        videos: what each costs, and whether it is broken.
        fleet: machines and their faults.
        seed: of deaths and of slow nodes; the same gives the same result.
        lives: deaths that are known, in place of drawn ones.
    """
    return _Simulation(videos, fleet, seed, lives).run()


class _Simulation(State):
    """What happens."""

    def run(self) -> Result:
        """All events until every video has its outcome."""
        for node in range(self.fleet.nodes):
            late = max(0, node - self.fleet.min_nodes + 1) * self.fleet.ramp_s
            self._at(late, self._ask_node, node)
        now = 0.0
        while self.open or self.missing:
            if not self.open:
                self._next_round(now)
            now, _, event, numbers = heappop(self.events)
            event(now, *numbers)
        result = self.result
        result.tail_s = now - sum(self.last_s) / self.fleet.actors
        now = result.makespan_s = now + self.fleet.commit_s
        for actor in range(self.fleet.actors):
            self._retire(now, actor)
        for node in range(self.fleet.nodes):
            self._give_back(now, node)
        assert (result.outcome > 0).all(), "a video has no outcome"
        return result

    # -- nodes and actors come and go --------------------------------------------------------------

    def _ask_node(self, now: float, node: int) -> None:
        """Ask for a node, unless it is there or there is nothing for it."""
        if math.isnan(self.asked_s[node]) and self._has_work(node):
            self.asked_s[node] = now
            self._at(now + self.fleet.node_start_s, self._node_up, node)

    def _has_work(self, node: int) -> bool:
        if not self.fleet.is_static:
            return bool(self.backlogs[0])
        return any(self.backlogs[actor] for actor in self.fleet.actors_of(node))

    def _node_up(self, now: float, node: int) -> None:
        self.is_up[node] = True
        life = self.node_life[node]
        self._at(self.lives("node", node, now), self._node_lost, node, life)
        for actor in self.fleet.actors_of(node):
            self._start(now, actor)

    def _start(self, now: float, actor: int) -> None:
        self.version[actor] += 1
        self.ready_s[actor] = math.inf  # asked for, not ready
        self._at(now + self.fleet.actor_start_s, self._actor_up, actor, self.version[actor])

    def _actor_up(self, now: float, actor: int, version: int) -> None:
        if version != self.version[actor]:
            return  # its node is gone
        self.engines[actor].start(now)
        self.ready_s[actor] = now
        self.paces[actor] = Pace(self.fleet.readers, now)
        self._at(self.lives("actor", actor, now), self._crashed, actor, stamp(now))
        self._ask(now, actor)

    def _close(self, now: float, actor: int) -> None:
        """An actor commits what it has and ends; its node is given back if it stays idle."""
        self.unsealed[actor] = Unsealed()
        self._retire(now, actor)
        idle_s = 0.0 if self.fleet.is_static else self.fleet.idle_s
        node = actor // self.fleet.actors_per_node
        self._at(now + idle_s, self._idle, node, self.node_life[node])

    def _retire(self, now: float, actor: int) -> None:
        """An actor is no more."""
        if math.isfinite(self.ready_s[actor]):
            self.result.actor_s += now - self.ready_s[actor]
        self.ready_s[actor] = math.nan
        self.version[actor] += 1
        self.hungry.pop(actor, None)
        self.engines[actor].start(now)

    def _idle(self, now: float, node: int, life: int) -> None:
        """Give a node back that still has nothing to do, unless it is one of the least."""
        actors = self.fleet.actors_of(node)
        if life != self.node_life[node] or self._has_work(node):
            return
        held = sum(not math.isnan(asked) for asked in self.asked_s)
        is_least = not self.fleet.is_static and held <= self.fleet.min_nodes
        if not is_least and all(math.isnan(self.ready_s[actor]) for actor in actors):
            self._give_back(now, node)

    def _give_back(self, now: float, node: int) -> None:
        if not math.isnan(self.asked_s[node]):
            self.result.node_s += now - self.asked_s[node]
            self.asked_s[node], self.is_up[node] = math.nan, False
            self.node_life[node] += 1

    # -- work --------------------------------------------------------------------------------------

    def _asks(self, now: float, actor: int, version: int) -> None:
        """The moment has come that was foreseen for an actor."""
        if version == self.version[actor]:
            self.engines[actor].keep()
            self._ask(now, actor)

    def _ask(self, now: float, actor: int) -> None:
        """Note what an actor has done, give it more, and foresee when it will ask again."""
        engine, reply_s = self.engines[actor], 0.0 if self.fleet.is_static else self.fleet.reply_s
        backlog = self.backlogs[actor if self.fleet.is_static else 0]
        engine.rewind(now)
        self._settle(now, actor)
        target, held = self._target(actor), engine.num_held(now)
        if held <= target // 2 and backlog:
            self._feed(now, actor, backlog.take(self._share(actor, held, len(backlog))))
            held = engine.num_held(now)
        self.version[actor] += 1
        self.hungry.pop(actor, None)
        if held <= target // 2:
            self.hungry[actor] = None
        if not held:
            self._run_dry(now, actor)
            return
        if not backlog:
            again_s = engine.foresee(held)
        elif held <= target // 2:
            again_s = now + reply_s
        else:
            again_s = engine.foresee(held - target // 2) + reply_s
        self._at(again_s, self._asks, actor, self.version[actor])

    def _target(self, actor: int) -> int:
        """Videos that an actor has at most."""
        if self.fleet.is_static:
            return _STATIC
        if self.fleet.lease is not None:
            return 2 * self.fleet.lease
        return self.paces[actor].lease(0, _PLENTY, 1)

    def _share(self, actor: int, held: int, waiting: int) -> int:
        if self.fleet.is_static or self.fleet.lease is not None:
            return self._target(actor) - held
        num_ready = sum(map(math.isfinite, self.ready_s))
        return self.paces[actor].lease(held, waiting, num_ready)

    def _feed(self, now: float, actor: int, part: Sequence[int]) -> None:
        decode, encode = self._price(actor, part)
        self.result.decode_s += float(decode.sum())
        self.result.encode_s += float(encode.sum())
        sizes = self.videos.frame_bytes[index_of(part)].tolist()
        work = zip(decode.tolist(), encode.tolist(), sizes, part, strict=True)
        self.engines[actor].give(list(work), now)

    def _settle(self, now: float, actor: int) -> None:
        """Outcomes of what has left an actor: done, or failed for a file that is broken."""
        times, part = self.engines[actor].taken(now)
        if part:
            good = self.videos.kind[np.array(part)] == GOOD
            self._end(part, np.where(good, DONE, FAILED))
            self.last_s[actor] = max(self.last_s[actor], times[-1])
            self.paces[actor].note(len(part), now)
            self.unsealed[actor].add(times, part)
        born, every = self.ready_s[actor], self.fleet.seal_s
        self.unsealed[actor].seal(born + (now - born) // every * every)

    def _run_dry(self, now: float, actor: int) -> None:
        """An actor without work gets what another has not begun; if there is nothing, it ends."""
        fleet = self.fleet
        if not fleet.is_static and fleet.lease is None:
            fullest = max(range(fleet.actors), key=lambda i: self.engines[i].num_held(now))
            engine = self.engines[fullest]
            if engine.num_held(now) > fleet.readers:
                engine.rewind(now)
                self._take_back(fullest)
                if self.backlogs[0]:
                    self._ask(now, actor)
                    self._ask(now, fullest)
                    self._deal(now)
                    return
                self._ask(now, fullest)
        self._close(now, actor)

    def _take_back(self, actor: int) -> None:
        part = [work[3] for work in self.engines[actor].inbox]
        self.engines[actor].inbox.clear()
        decode, encode = self._price(actor, part)
        self.result.decode_s -= float(decode.sum())
        self.result.encode_s -= float(encode.sum())
        self.backlogs[0].give_back(part)

    def _deal(self, now: float) -> None:
        """Give what there is to those that would take it; start others if there are none."""
        for actor in list(self.hungry):
            if self.backlogs[0] and actor in self.hungry:
                self._ask(now, actor)
        if self.backlogs[0] and not any(map(is_there, self.ready_s)):
            self._wake(now)

    def _wake(self, now: float) -> None:
        """Start as many actors as there are readers' loads, or ask for nodes for them."""
        wanted = -(-len(self.backlogs[0]) // self.fleet.readers)
        nodes = range(self.fleet.nodes)
        free = [a for node in nodes if self.is_up[node] for a in self.fleet.actors_of(node)]
        for actor in free[:wanted]:
            self._start(now, actor)
        if not free:
            for node in nodes[: -(-wanted // self.fleet.actors_per_node)]:
                self._ask_node(now, node)

    def _next_round(self, now: float) -> None:
        """All have ended; what is not in the store though its receipt came is done again."""
        for actor in range(self.fleet.actors):
            if is_there(self.ready_s[actor]):
                self._close(now, actor)
        self.open, part, self.missing = len(self.missing), self.missing, []
        self.result.rounds += 1
        self.backlogs[0].give_back(part)
        self._wake(now)

    # -- deaths ------------------------------------------------------------------------------------

    def _crashed(self, now: float, actor: int, process: int) -> None:
        """A process dies; its machine stays, and with it the journal of what was written."""
        if math.isfinite(self.ready_s[actor]) and stamp(self.ready_s[actor]) == process:
            self.result.crashes += 1
            self._kill(now, actor, is_kept=True)
            self._start(now, actor)

    def _node_lost(self, now: float, node: int, life: int) -> None:
        """A node is gone, and with it what was not committed; another is asked for."""
        if life == self.node_life[node]:
            self.result.node_losses += 1
            for actor in self.fleet.actors_of(node):
                self._kill(now, actor, is_kept=False)
            self._give_back(now, node)
            self._ask_node(now, node)

    def _kill(self, now: float, actor: int, *, is_kept: bool) -> None:
        """What an actor had in hand, and had not committed if its machine is gone, is redone."""
        if not math.isfinite(self.ready_s[actor]):
            self._retire(now, actor)  # it had not begun
            return
        engine = self.engines[actor]
        engine.rewind(now)
        self._settle(now, actor)
        begun = [(video, end - now) for end, _, _, video in engine.busy]
        left = [*(work[3] for work in engine.inbox), *(video for video, _ in begun), *engine.done]
        decode, encode = self._price(actor, left)
        unspent = float(self._price(actor, [work[3] for work in engine.inbox])[0].sum())
        unspent += sum(rest for _, rest in begun if rest > 0)
        self.result.decode_s -= unspent
        self.result.encode_s -= float(encode.sum())
        self.result.wasted_decode_s += float(decode.sum()) - unspent
        void = [] if is_kept else self.unsealed[actor].videos
        self.unsealed[actor] = Unsealed()
        self._retire(now, actor)
        self._void(actor, void)
        self._again(now, actor, sorted(left))

    def _void(self, actor: int, part: Sequence[int]) -> None:
        """Records are gone though their receipts had come."""
        if not part:
            return
        decode, encode = self._price(actor, part)
        self.result.wasted_decode_s += float(decode.sum())
        self.result.wasted_encode_s += float(encode.sum())
        self.result.videos_again += len(part)
        self.result.outcome[np.array(part)] = 0
        if self.fleet.is_static:
            self.open += len(part)
            self.backlogs[actor].give_back(part)
        else:
            self.missing += part

    def _again(self, now: float, actor: int, part: Sequence[int]) -> None:
        """Videos that were in hand wait again, but for those that too many actors died with."""
        for video in part:
            self.deaths[video] = self.deaths.get(video, 0) + 1
        lost = [video for video in part if self.deaths[video] >= self.fleet.max_attempts]
        left = [video for video in part if self.deaths[video] < self.fleet.max_attempts]
        if self.fleet.is_static:
            lost, left = [], list(part)  # whoever runs it again does what is missing
        if lost:
            self._end(lost, LOST)
        self.result.videos_again += len(left)
        if self.fleet.is_static:
            self.backlogs[actor].give_back(left)
        elif left:
            self.noticed.append(left)
            self._at(now + self.fleet.detect_s, self._notice)

    def _notice(self, now: float) -> None:
        """A death becomes known: what the dead had waits before all else."""
        self.backlogs[0].give_back(self.noticed.popleft())
        self._deal(now)
