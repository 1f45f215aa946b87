"""The store against a simple model, whatever is asked of it in whatever order."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from goproxy_vm.cache.facts import Selection
from goproxy_vm.cache.rows import Known
from goproxy_vm.config.values import Amount
from goproxy_vm.errors import ContentError, NoRoom
from goproxy_vm.protocol.selector import Selector
from tests.fakes.disk import allocated, under
from tests.fakes.stores import artifact, purge, purge_versions
from tests.integration.stores import adopt, content, drained, module, open_store, opened, path

if TYPE_CHECKING:
    from goproxy_vm.cache.store import Store

T = TypeVar("T")
KIB = 1 << 10
LIMIT = 1024 * KIB
MODULES = st.integers(0, 7)
SIZES = [1, 5000, 60_000, 150_000, 200_000, 250_000, 300_000, 350_000]
"""Bytes of each module's zip: together more than the budget."""
SOME = st.lists(MODULES, min_size=1, max_size=8, unique=True)
PATTERNS = st.sampled_from([module(i) for i in range(8)] + ["example.com/m[0-3]", "example.com/*@v1*"])


@dataclass
class File:
    """A stored zip as the model knows it: when it was last used, and whether that was more than once."""

    data: bytes
    used: int
    protected: bool = False


class StoreMachine(RuleBasedStateMachine):
    """Drives an event loop by hand: one rule, one coroutine, until the store is idle again."""

    policy = "lru"

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="goproxy-vm-model"))
        self.root = self.directory / "cache"
        self.loop = asyncio.new_event_loop()
        self.wrong: list[str] = []
        self.zips: dict[int, File] = {}
        self.mods: dict[int, bytes] = {}
        self.known: dict[tuple[int, str], str] = {}
        self.pins: set[str] = set()
        self.clock = 0
        self.demoted = False
        self.store: Store

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run to the end, looking at the budget at every step."""

        def look() -> None:
            nonlocal handle
            held = self.store.usage.used + self.store.admission.reserved
            if held > LIMIT:
                self.wrong.append(f"{held} bytes used and held")
            handle = self.loop.call_soon(look)

        async def all_of_it() -> T:
            try:
                return await work
            finally:
                await drained(self.store)

        handle = self.loop.call_soon(look)
        try:
            return self.loop.run_until_complete(all_of_it())
        finally:
            handle.cancel()

    def opened(self) -> None:
        # High and low at the limit: nothing is evicted but for room that somebody needs.
        self.store = self.loop.run_until_complete(
            open_store(
                self.root,
                max_size=Amount(LIMIT, None),
                policy=self.policy,
                high_water=100.0,
                low_water=100.0,
                scrub_interval=0.0,
            )
        )

    @initialize()
    def start(self) -> None:
        self.opened()

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.loop.run_until_complete(self.store.close())
        self.loop.close()
        shutil.rmtree(self.directory)

    # What the model says.

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    def pinned(self, i: int) -> bool:
        return Selector(self.pins)(module(i), "v1.0.0")

    def size(self, i: int) -> int:
        return (self.root / "modules" / path(i)).stat().st_blocks * 512

    def gone(self) -> list[int]:
        """Zips of the model that are not on disk any more; the model forgets them."""
        return [i for i in self.zips if not (self.root / "modules" / path(i)).exists()]

    def evicted(self, before: dict[int, int]) -> None:
        """Hold what has gone to the order in which it should have."""
        gone = self.gone()
        kept = [i for i in self.zips if i not in gone]
        for one in gone:
            for other in kept:
                if self.pinned(one) == self.pinned(other) and not self.demoted:
                    assert self.rank(one) < self.rank(other), (one, other, self.zips)
        for one in gone:
            if not self.pinned(one):
                continue
            # Pinned ones go after all others, and only what is above half of the budget.
            assert not [i for i in kept if not self.pinned(i)], "the others first"
        pinned_before = sum(before[i] for i in before if self.pinned(i))
        pinned_gone = [i for i in gone if self.pinned(i)]
        if pinned_gone:
            last = max(pinned_gone, key=before.__getitem__ if self.demoted else self.rank)
            without = pinned_before - sum(before[i] for i in pinned_gone if i != last)
            assert without > LIMIT // 2, "what is within half of the budget is protected"
        for i in gone:
            del self.zips[i]

    def rank(self, i: int) -> tuple[bool, int]:
        """What goes first is smaller. Where ``demoted``, this is not all there is to it."""
        file = self.zips[i]
        return file.protected and self.policy == "slru", file.used

    def sizes(self) -> dict[int, int]:
        return {i: self.size(i) for i in self.zips}

    # Rules

    def store_zip(self, i: int, *, declared: bool = True, changed: int = 0) -> None:
        before = self.sizes()
        size = SIZES[i] + changed
        data = bytes([65 + i]) * size
        recorded = self.known.get((i, "zip"))
        h1 = f"h1:{size}"

        async def download() -> None:
            if declared:
                (await adopt(self.store, i, data, h1=h1)).close()
                return
            sink = self.store.download()
            try:
                await sink.begin(None)
                for start in range(0, size, 10_000):
                    await sink.write(data[start : start + 10_000])
                with await self.store.adopt(artifact(path(i)), sink, h1=h1) as answer:
                    assert answer.pread(0, size + 1) == data
            finally:
                await sink.discard()

        refused = recorded not in (None, h1)
        try:
            self.do(download())
        except ContentError:
            assert refused
        except NoRoom:
            assert size > self.store.admission.capacity - 8 * KIB
        else:
            assert not refused
            self.known[i, "zip"] = h1
            # The older one counts until the new one takes its place.
            older = self.zips.pop(i, None)
            self.evicted(before)
            # Hits on the older one that are not written down yet are the new one's, or not.
            self.demoted |= older is not None and older.protected
            self.zips[i] = File(data, self.tick())
            return
        if i in self.zips and not (self.root / "modules" / path(i)).exists():
            before.setdefault(i, 0)
        self.evicted(before)

    @rule(some=SOME)
    def adopts(self, some: list[int]) -> None:
        for i in some:
            if i not in self.zips:
                self.store_zip(i)

    @rule(i=MODULES)
    def adopts_of_unknown_length(self, i: int) -> None:
        self.store_zip(i, declared=False)

    @rule(i=MODULES)
    def adopts_what_has_changed(self, i: int) -> None:
        self.store_zip(i, changed=4096)

    @rule(i=MODULES, text=st.binary(min_size=1, max_size=100))
    def puts(self, i: int, text: bytes) -> None:
        recorded = self.known.get((i, "mod"))
        h1 = f"h1:{text.hex()}"
        before = self.sizes()
        try:
            stored = self.do(self.store.put(artifact(path(i, "mod")), text, h1=h1))
        except ContentError:
            assert recorded not in (None, h1)
            return
        assert recorded in (None, h1)
        assert stored.data == text
        self.known[i, "mod"] = h1
        self.mods[i] = text
        self.evicted(before)

    @rule(some=SOME)
    def gets(self, some: list[int]) -> None:
        for i in some:
            self.get(i)

    def get(self, i: int) -> None:
        file = self.zips.get(i)
        assert self.do(content(self.store, i)) == (None if file is None else file.data)
        if file is not None:
            file.used = self.tick()
            file.protected = True
            self.demoted |= sum(self.size(k) for k, v in self.zips.items() if v.protected) > LIMIT * 8 // 10
        assert self.do(content(self.store, i, "mod")) == self.mods.get(i)

    @rule(share=st.sampled_from([0, 30, 60, 90, 99, 100]))
    def evicts(self, share: int) -> None:
        before = self.sizes()
        used = self.store.usage.used
        goal = used * share // 100
        dry = self.do(self.store.control.evict(goal, dry_run=True))
        assert self.gone() == []
        real = self.do(self.store.control.evict(goal, dry_run=False))
        assert dry.removal.items == real.removal.items
        assert (real.before_bytes, real.after_bytes) == (used, self.store.usage.used)
        assert real.reached == (self.store.usage.used <= goal)
        assert real.removal.bytes == used - self.store.usage.used
        self.evicted(before)
        if not real.reached:
            protected = sum(self.size(i) for i in self.zips)
            assert all(self.pinned(i) for i in self.zips)
            assert protected <= LIMIT // 2

    @rule(i=MODULES, forget=st.booleans())
    def purges_a_module(self, i: int, forget: bool) -> None:
        done = self.do(purge_versions(self.store, module(i), None, forget_hash=forget, dry_run=False))
        assert done.files == (i in self.zips) + (i in self.mods)
        self.purged([i], forget=forget)

    @rule(i=MODULES)
    def purges_a_version(self, i: int) -> None:
        for version, count in (("v1.0.1", 0), ("v1.0.0", (i in self.zips) + (i in self.mods))):
            done = self.do(purge_versions(self.store, module(i), version, forget_hash=False, dry_run=False))
            assert done.files == count
        self.purged([i], forget=False)

    @rule(pattern=PATTERNS, forget=st.booleans(), larger=st.sampled_from([None, 8 * KIB]))
    def purges_a_glob(self, pattern: str, forget: bool, larger: int | None) -> None:
        matches = Selector([pattern])
        chosen = [i for i in range(8) if matches(module(i), "v1.0.0")]
        if larger is not None:
            chosen = [i for i in chosen if self.version_size(i) > larger]
        selection = Selection(match=(pattern,), larger_than=larger)
        removals = [
            self.do(purge(self.store, selection, forget_hash=forget, dry_run=dry)) for dry in (True, False)
        ]
        assert removals[0].items == removals[1].items
        assert removals[1].files == sum((i in self.zips) + (i in self.mods) for i in chosen)
        self.purged(chosen, forget=forget)

    def version_size(self, i: int) -> int:
        files = [self.root / "modules" / path(i, kind) for kind in ("mod", "zip")]
        return sum(file.stat().st_blocks * 512 for file in files if file.exists())

    def purged(self, chosen: list[int], *, forget: bool) -> None:
        for i in chosen:
            self.zips.pop(i, None)
            self.mods.pop(i, None)
            for kind in ("mod", "zip"):
                if forget:
                    self.known.pop((i, kind), None)

    @rule(pattern=PATTERNS)
    def pins_some(self, pattern: str) -> None:
        pin = self.do(self.store.control.pin(pattern))
        self.pins.add(pin.pattern)
        matches = Selector([pattern])
        stored = {*self.zips, *self.mods}
        assert pin.versions == sum(matches(module(i), "v1.0.0") for i in stored)

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def unpins_some(self, data: st.DataObject) -> None:
        pattern = data.draw(st.sampled_from(sorted(self.pins)))
        assert self.do(self.store.control.unpin(pattern))
        assert not self.do(self.store.control.unpin(pattern))
        self.pins.remove(pattern)

    @rule()
    def restarts(self) -> None:
        self.loop.run_until_complete(self.store.close())
        self.opened()

    # What always holds between two rules.

    @invariant()
    def all_is_well(self) -> None:
        if not hasattr(self, "store"):
            return
        assert not self.wrong, self.wrong
        store = self.store
        assert store.admission.reserved == store.admission.admitted == store.admission.wanted == 0
        assert store.usage.used == allocated(self.root / "modules") == under(self.root) <= LIMIT
        assert store.usage.pinned == sum(self.size(i) for i in self.zips if self.pinned(i))
        assert store.usage.entries == {"info": 0, "mod": len(self.mods), "zip": len(self.zips)}

    @invariant()
    def what_is_known_stays(self) -> None:
        if not hasattr(self, "store"):
            return
        for i in range(8):
            expected = Known(self.known.get((i, "mod")), self.known.get((i, "zip")))
            assert self.loop.run_until_complete(self.store.known(module(i), "v1.0.0")) == expected


class SegmentedMachine(StoreMachine):
    """The default policy: what was asked for once goes before what was asked for again."""

    policy = "slru"


RUN = settings(
    max_examples=10,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
TestLru = StoreMachine.TestCase
TestLru.settings = RUN
TestSegmented = SegmentedMachine.TestCase
TestSegmented.settings = RUN


async def test_eviction_order_is_that_of_a_simulated_lru(tmp_path: Path) -> None:
    """One by one, over restarts, with hits between."""
    chance = random.Random(11)
    simulated: OrderedDict[int, None] = OrderedDict()
    order: list[int] = []
    store = await open_store(tmp_path / "cache", max_size=Amount(64 << 20, None), policy="lru")
    try:
        for step in range(300):
            i = chance.randrange(40)
            if i in simulated:
                assert await content(store, i) is not None
            else:
                (await adopt(store, i, b"x" * chance.choice((1, 5000, 20_000)))).close()
                await drained(store)
            simulated[i] = None
            simulated.move_to_end(i)
            if step % 60 == 59:
                await store.close()
                store = await open_store(tmp_path / "cache", max_size=Amount(64 << 20, None), policy="lru")
            if step % 7 == 6:
                done = await store.control.evict(store.usage.used - 1, dry_run=False)
                order += [int(item.module.removeprefix("example.com/m")) for item in done.removal.items]
                assert order[-1] == simulated.popitem(last=False)[0]
        assert len(order) == 42
    finally:
        await store.close()


async def test_what_was_asked_for_once_goes_before_what_was_asked_for_again(tmp_path: Path) -> None:
    """slru: a long row of files that nobody wants twice does not push out the others."""
    async with opened(tmp_path / "cache", max_size=Amount(LIMIT, None)) as store:
        for i in (0, 1):
            (await adopt(store, i, b"x" * 100_000)).close()
            assert await content(store, i) is not None
        for i in range(2, 30):
            (await adopt(store, i, b"x" * 100_000)).close()
        await drained(store)
        kept = [i for i in range(30) if await content(store, i) is not None]
        assert kept[:2] == [0, 1]
        assert kept[2:] == list(range(30 - len(kept) + 2, 30))
