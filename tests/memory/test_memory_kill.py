"""kill -9 at any point: no acknowledged edit is lost, no deleted one comes back."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from memory_samples import OpenMemory
from test_memory_faults import CHILD

CYCLES = 12
WRITER = """
import sys
from memory_samples import *

memory = EditMemory.open(sys.argv[1], CONFIG, FakeEncoder())
print("open", flush=True)
n = 0
while True:
    pair = [Edit(f"Robot {n} {side} likes", "oil", subject=f"Robot {n} {side}") for side in ("left", "right")]
    left, right = memory.add_many(pair, sys.argv[2])
    print("add", left.id, right.id, flush=True)
    print("try", left.id, flush=True)      # a change that is cut off may have happened or not
    memory.delete(left.id)
    print("delete", left.id, flush=True)
    print("try", right.id, flush=True)
    memory.update(right.id, Edit(f"Robot {n} right likes", "tea", subject=f"Robot {n} right"))
    print("update", right.id, flush=True)
    if n % 5 == 4:
        memory._mirror.save()
    n += 1
"""


def test_no_kill_loses_or_resurrects_an_edit(open_memory: OpenMemory, path: Path) -> None:
    rng = random.Random(0)
    alive: dict[str, str] = {}
    gone: set[str] = set()
    for cycle in range(CYCLES):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), f"cycle {cycle}"], env=CHILD, stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None and child.stdout.readline() == "open\n"
        time.sleep(rng.uniform(0.02, 0.25))
        os.kill(child.pid, signal.SIGKILL)
        out, _ = child.communicate(timeout=30)
        unsure = set()
        for line in out.splitlines():
            word, *ids = line.split()
            unsure = set(ids) if word == "try" else set()
            if word == "delete":
                gone |= {ids[0]}
                del alive[ids[0]]
            elif word in ("add", "update"):
                alive |= {id: "oil" if word == "add" else "tea" for id in ids}

        memory = open_memory()
        found = {e.id or "": e.target_new for e in memory.list()}
        assert alive.keys() - unsure <= found.keys(), "an acknowledged edit is lost"
        assert not gone & found.keys(), "a deleted edit came back"
        assert all(found[id] == alive[id] for id in alive.keys() - unsure), "an acknowledged update is lost"
        assert memory.verify() == []
        batch = [e for e in memory.list(f"cycle {cycle}") if e.id not in alive]
        assert len(batch) in (0, 2), "half a batch was written"
        for id in unsure | {e.id or "" for e in batch}:  # settled now
            alive.pop(id, None)
            if id in found:
                alive[id] = found[id]
            else:
                gone.add(id)
        memory.close()
    assert len(alive) > CYCLES and len(gone) > CYCLES
