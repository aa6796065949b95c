"""kill -9 at any point while eight write at once: no acknowledged edit is lost, no deleted one comes back."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from memory_samples import CONFIG, OpenMemory
from test_memory_faults import CHILD

CYCLES = int(os.environ.get("LTE_KILL_CYCLES", "30"))
WRITERS = 8
WRITER = """
import os, sys, threading
from memory_samples import *

memory = EditMemory.open(sys.argv[1], CONFIG.model_copy(update={"lock_timeout": 20.0}), FakeEncoder())
print("open", flush=True)
talk = threading.Lock()

def say(*words):
    with talk:
        os.write(1, (" ".join(words) + "\\n").encode())

def write(me):
    n = 0
    while True:
        name = f"{sys.argv[2]} {me} x{n}"
        pair = [Edit(f"Robot {name} {side} likes", "oil", subject=f"Robot {name} {side}") for side in ("left", "right")]
        left, right = memory.add_many(pair, f"{sys.argv[2]} {me}")
        say("add", me, left.id, right.id)
        say("try", me, left.id)      # a change that is cut off may have happened or not
        memory.delete(left.id)
        say("delete", me, left.id)
        say("try", me, right.id)
        if n % 3 == 0:
            memory.set_state(right.id, "disabled")
            say("disable", me, right.id)
        else:
            memory.update(right.id, Edit(f"Robot {name} right likes", "tea", subject=f"Robot {name} right"))
            say("update", me, right.id)
        if n % 5 == 4:
            memory._mirror.save()
        n += 1

for me in range(int(sys.argv[3])):
    threading.Thread(target=write, args=(str(me),), daemon=True).start()
threading.Event().wait()
"""
AFTER = {"add": "oil", "update": "tea", "disable": "disabled"}


def killed(path: Path, cycle: int, rng: random.Random) -> list[list[str]]:
    """What two processes of four writers each said until they were killed, word by word, process by process."""
    command = [sys.executable, "-c", WRITER, str(path)]
    errors = path.with_name("errors.txt")
    children = [
        subprocess.Popen(
            [*command, f"{cycle}.{n}", str(WRITERS // 2)],
            env=CHILD,
            stdout=subprocess.PIPE,
            stderr=errors.open("a"),
            text=True,
        )
        for n in range(2)
    ]
    for child in children:
        assert child.stdout is not None and child.stdout.readline() == "open\n", errors.read_text()
    time.sleep(rng.uniform(0.02, 0.3))
    for child in rng.sample(children, 2):
        os.kill(child.pid, signal.SIGKILL)
    said = []
    for n, child in enumerate(children):
        with child:
            out = child.stdout.read() if child.stdout else ""  # communicate() would pass over what readline() took
        assert "Traceback" not in errors.read_text(), errors.read_text()
        lines = [line.split() for line in out.split("\n")[:-1]]  # the last one may be cut off
        said += [[word, f"{cycle}.{n} {me}", *ids] for word, me, *ids in lines]
    return said


def test_no_kill_loses_or_resurrects_an_edit(open_memory: OpenMemory, path: Path) -> None:
    rng = random.Random(0)
    alive: dict[str, str] = {}
    gone: set[str] = set()
    patient = CONFIG.model_copy(update={"lock_timeout": 20.0})
    for cycle in range(CYCLES):
        trying: dict[str, set[str]] = {}  # by writer
        writers = {f"{cycle}.{n} {me}" for n in range(2) for me in range(WRITERS // 2)}
        for word, writer, *ids in killed(path, cycle, rng):
            trying[writer] = set(ids) if word == "try" else set()
            if word == "delete":
                gone |= {ids[0]}
                del alive[ids[0]]
            elif word in AFTER:
                alive |= dict.fromkeys(ids, AFTER[word])
        unsure = {id for ids in trying.values() for id in ids}

        memory = open_memory(patient)
        found = {r.id: r.edit.target_new if r.state == "active" else r.state for r in memory.records()}
        assert alive.keys() - unsure <= found.keys(), "an acknowledged edit is lost"
        assert not gone & found.keys(), "a deleted edit came back"
        assert all(found[id] == alive[id] for id in alive.keys() - unsure), "an acknowledged change is lost"
        assert memory.verify() == []
        for writer in writers:
            batch = [e for e in memory.list(writer) if e.id not in alive]
            assert len(batch) in (0, 2), "half a batch was written"
            unsure |= {e.id or "" for e in batch}
        for id in unsure:  # settled now
            alive.pop(id, None)
            if id in found:
                alive[id] = found[id]
            else:
                gone.add(id)
        memory.close()
    assert len(alive) > CYCLES and len(gone) > CYCLES
