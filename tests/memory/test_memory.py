"""EditMemory: what is written is kept, found, changed and taken back."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from memory_samples import CAPITAL, CONFIG, NOTE, TONGUE, FakeEncoder, OpenMemory

from lte import Edit
from lte.config import load
from lte.edits import EditError
from lte.memory import EditMemory, MemoryConfig, MemoryFault


def test_an_edit_is_recalled_as_soon_as_it_is_added(memory: EditMemory) -> None:
    tongue = memory.add(TONGUE)
    assert tongue == TONGUE.with_id("e00000001")
    [recalled] = memory.recall("What does Ada Quill speak?")
    assert (recalled.edit, recalled.mentioned, recalled.in_play) == (tongue, True, True)
    assert memory.recall("what does a. quill speak?")[0].edit == tongue
    assert memory.recall("What does Bo Reed speak?") == []
    assert memory.get("e00000001") == tongue and memory.list() == [tongue] and len(memory) == 1


def test_ids_sort_in_the_order_of_adding_and_are_never_used_again(memory: EditMemory) -> None:
    given = [memory.add(e) for e in (TONGUE, CAPITAL, NOTE)]
    memory.delete(given[2].id or "")
    again = memory.add(NOTE.with_id("e00000001"))  # an id from elsewhere is not taken over
    ids = [e.id for e in [*given, again]]
    assert ids == sorted(set(ids)) and memory.list() == [*given[:2], again]


def test_an_update_takes_the_place_of_what_was(memory: EditMemory) -> None:
    id = memory.add(TONGUE).id or ""
    renamed = memory.update(id, Edit("The mother tongue of Bo Reed is", "Welsh", subject="Bo Reed"))
    assert memory.get(id) == renamed and renamed.id == id
    assert memory.recall("Ada Quill mother tongue") == []
    assert [r.edit for r in memory.recall("Bo Reed mother tongue")] == [renamed]


def test_a_deleted_edit_is_neither_recalled_nor_found(memory: EditMemory) -> None:
    id = memory.add(TONGUE).id or ""
    memory.delete(id)
    assert memory.recall(TONGUE.prompt) == [] == memory.list() and len(memory) == 0
    for call in (memory.get, memory.delete):
        with pytest.raises(MemoryFault, match=r"'e00000001': no such edit, or deleted"):
            call(id)
    with pytest.raises(MemoryFault, match="no such edit"):
        memory.update(id, TONGUE)


def test_history_tells_all_that_happened(memory: EditMemory) -> None:
    id = memory.add(TONGUE, namespace="people").id or ""
    memory.update(id, CAPITAL)
    memory.delete(id)
    history = memory.history(id)
    assert [(c.seq, c.kind, c.namespace) for c in history] == [
        (i, k, "people") for i, k in enumerate(("add", "update", "delete"), 1)
    ]
    assert [c.edit for c in history] == [TONGUE.with_id(id), CAPITAL.with_id(id), None]
    assert sorted(c.time for c in history) == [c.time for c in history]
    with pytest.raises(MemoryFault, match="no such edit"):
        memory.history("e9")


def test_namespaces_are_kept_apart(memory: EditMemory) -> None:
    here, there = memory.add(TONGUE), memory.add(TONGUE, namespace="there")
    assert [r.edit for r in memory.recall("Ada Quill")] == [here]
    assert [r.edit for r in memory.recall("Ada Quill", namespace="there")] == [there]
    assert memory.recall("Ada Quill", namespace="nowhere") == []
    assert memory.list("there") == [there] and memory.namespaces() == {"default": 1, "there": 1}


def test_a_memory_is_as_it_was_left(open_memory: OpenMemory, path: Path) -> None:
    first = open_memory()
    edits = first.add_many([TONGUE, CAPITAL, NOTE])
    first.delete(edits[1].id or "")
    recalled = first.recall("A. Quill speaks")
    first.close()
    encoder = FakeEncoder()
    again = open_memory(encoder=encoder)
    assert again.list() == [edits[0], edits[2]] and encoder.calls == []  # nothing is encoded again
    assert again.recall("A. Quill speaks") == recalled


def test_many_queries_are_one_call_of_the_encoder(open_memory: OpenMemory) -> None:
    encoder = FakeEncoder()
    memory = open_memory(encoder=encoder)
    memory.add_many([TONGUE, CAPITAL, NOTE])
    assert len(encoder.calls) == 1
    queries = ["Ada Quill?", "", "When does our office open? Our office opens at", "capital of Vorland", "Ada Quill?"]
    together = memory.recall_many(queries)
    assert len(encoder.calls) == 2
    assert together == [memory.recall(q) for q in queries]
    assert [len(r) for r in together] == [1, 0, 1, 1, 1]
    assert memory.recall_many([]) == []


def test_an_empty_memory_does_not_load_the_encoder(open_memory: OpenMemory) -> None:
    encoder = FakeEncoder()
    memory = open_memory(encoder=encoder)
    assert memory.recall("Ada Quill") == [] == memory.search("x") == memory.list() == memory.verify()
    assert encoder.calls == []


def test_search_shows_why_an_edit_is_not_recalled(memory: EditMemory) -> None:
    memory.add_many([TONGUE, CAPITAL])
    near, far = memory.search("The capital of Nordby is")
    assert (near.edit.subject, near.in_play, near.threshold) == ("Vorland", False, CONFIG.threshold)
    assert near.score > far.score
    best, _ = memory.search("The capital of Vorland is")
    assert best.mentioned and best.in_play and best.score == pytest.approx(1.0, abs=1e-5)
    assert best.threshold == CONFIG.mention_threshold


def test_an_export_comes_back_as_it_was(memory: EditMemory, tmp_path: Path) -> None:
    memory.add_many([TONGUE, CAPITAL])
    memory.add(NOTE, "house")
    file = tmp_path / "edits.jsonl"
    assert memory.export_jsonl(file) == 3 and memory.export_jsonl(file, "default") == 2
    with EditMemory.open(encoder=FakeEncoder()) as other:
        assert other.import_jsonl(file) == memory.list("default")
    with pytest.raises(MemoryFault, match="cannot be written"):
        memory.export_jsonl(tmp_path / "no" / "such" / "folder")


def test_an_import_with_a_bad_line_adds_nothing(memory: EditMemory, tmp_path: Path) -> None:
    file = tmp_path / "edits.jsonl"
    file.write_text('{"prompt": "Ada speaks", "target_new": "Welsh"}\n{"prompt": "Ada speaks", "target_new": ""}\n')
    with pytest.raises(EditError, match=r"edits\.jsonl:2: target_new: empty"):
        memory.import_jsonl(file)
    assert len(memory) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.add("Ada speaks Welsh"), "edit: got str .* wanted lte.Edit"),
        (lambda m: m.add_many([TONGUE, None]), "edit: got NoneType"),
        (lambda m: m.add(TONGUE, namespace=" "), "namespace: got ' '"),
        (lambda m: m.add(TONGUE, namespace="a\x00b"), "namespace: holds the unseen character"),
        (lambda m: m.recall("Ada", k=0), "k: got 0"),
        (lambda m: m.recall_many("Ada"), "queries: got 'Ada'; wanted a list"),
        (lambda m: m.recall(None), "queries: got .None."),
        (lambda m: m.delete("e00000007"), "id 'e00000007': no such edit"),
    ],
)
def test_what_cannot_be_taken_is_refused_and_nothing_is_lost(memory: EditMemory, call, message: str) -> None:
    kept = memory.add(CAPITAL)
    with pytest.raises(MemoryFault, match=message):
        call(memory)
    assert memory.list() == [kept] and memory.verify() == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target_new": " "}, "target_new: empty"),
        ({"prompt": "x" * 2049}, "prompt: 2049 bytes"),
        ({"target_new": "Welsh<|eot_id|>"}, "control token"),
    ],
)
def test_a_bad_edit_never_reaches_the_memory(memory: EditMemory, fields: dict[str, str], message: str) -> None:
    with pytest.raises(EditError, match=message):
        memory.add(Edit(**{"prompt": "Ada speaks", "target_new": "Welsh", **fields}))
    assert len(memory) == 0


def test_a_batch_is_written_whole_or_not_at_all(memory: EditMemory) -> None:
    class Stops(FakeEncoder):
        def encode(self, texts):
            raise RuntimeError("out of memory")

    assert memory.add_many([]) == []
    memory.encoder = memory._mirror.encoder = Stops()
    with pytest.raises(RuntimeError, match="out of memory"):
        memory.add_many([TONGUE, CAPITAL])
    assert memory.list() == [] == memory._store.changes()


def test_the_settings_file_holds_the_defaults() -> None:
    assert load(MemoryConfig, Path(__file__).parents[2] / "configs" / "memory.yaml") == MemoryConfig()


def test_a_closed_memory_says_so(memory: EditMemory) -> None:
    memory.close()
    memory.close()
    for call in (
        memory.list,
        memory.verify,
        lambda: memory.add(TONGUE),
        lambda: memory.recall("x"),
        lambda: memory.history("x"),
    ):
        with pytest.raises(MemoryFault, match="was closed; open it again"):
            call()


def test_two_processes_see_each_others_writes(open_memory: OpenMemory) -> None:
    here, there = open_memory(), open_memory()  # two connections that share nothing but the file
    assert there.recall("Ada Quill") == []
    tongue = here.add(TONGUE)
    assert there.recall("Ada Quill")[0].edit == tongue
    there.delete(tongue.id or "")
    assert here.recall("Ada Quill") == [] and len(here) == 0
    ids = [m.add(CAPITAL).id for m in (here, there, here)]
    assert ids == sorted(set(ids)) and here.list() == there.list()
    assert here.verify() == there.verify() == []


@pytest.mark.parametrize("where", ["file", ":memory:"])
def test_threads_write_and_read_at_once(open_memory: OpenMemory, where: str) -> None:
    memory = open_memory(CONFIG.model_copy(update={"lock_timeout": 5.0}))
    if where == ":memory:":
        memory = EditMemory.open(config=CONFIG, encoder=FakeEncoder())
    failed: list[BaseException] = []

    def work(n: int) -> None:
        try:
            for i in range(12):
                edit = memory.add(Edit(f"Robot {n} x{i} likes", "oil", subject=f"Robot {n} x{i}"))
                assert memory.recall(f"what does robot {n} x{i} like")[0].edit == edit
                if i % 3 == 0:
                    memory.delete(edit.id or "")
                    assert all(r.edit != edit for r in memory.recall(edit.prompt))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == [] and len(memory) == 32 and memory.verify() == []
    memory.close()
