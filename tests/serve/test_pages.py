"""The pages over ASGI: every one, every form, who gets in, and that no text of an edit becomes markup."""

from __future__ import annotations

import hashlib
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from shell_kit import Shell, shell

import lte.serve.pages
from lte.edits import Edit
from lte.memory import Author, EditTest, Record
from lte.memory.fault import MemoryFault
from lte.serve.keys import KeyFile, Scope
from lte.serve.pages.browser import POLICY

FACT = {"prompt": "The moon of Mars is", "target_new": "Deimos", "subject": "Mars", "reason": "asked for"}
READ = ["/ui", "/ui/edits", "/ui/edits/new", "/ui/edits/e1", "/ui/edits/e1/change", "/ui/edits/e1/supersede"]
READ += ["/ui/playground", "/ui/audit", "/ui/audit/rollback?to=1", "/ui/metrics", "/ui/health", "/ui/login"]
PAYLOADS = [
    *(f"{a}{b}" for a in ("", "'", '"', ">", "'>", '">', "</textarea>", "</title>", "-->", "{{7*7}}")
      for b in ("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<svg/onload=alert(1)>",
                "<a href=javascript:alert(1)>x</a>", "<iframe srcdoc='<script>1</script>'>")),
    *(f"{quote} {event}=alert(1) x={quote}" for quote in "\"'`" for event in ("onfocus", "onmouseover", "hx-on:click")),
    *(f"<{tag} {more}>" for tag in ("math", "style", "base href=//x", "meta http-equiv=refresh", "form action=//x",
      "object data=//x", "embed src=//x", "details open ontoggle=alert(1)", "video onerror=alert(1)", "link rel=x")
      for more in ("", "autofocus", "hx-get=/ui/logout hx-trigger=load")),
    "javascript:alert(1)", "JaVaScRiPt:alert(1)", "data:text/html,<script>1</script>", "&lt;script&gt;",
    "&#60;script&#62;",
    "<scr<script>ipt>", "<SCRIPT SRC=//x>", "%3Cscript%3E", "${7*7}", "{% raw %}", "{{ config }}",
    "\\u003cscript\\u003e",
    "<plaintext>", "<noscript><p title=\"</noscript><img src=x onerror=alert(1)>\">",
]  # fmt: skip


class Structure(HTMLParser):
    """The elements of a page with the names of their attributes: what a payload must not change."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[Any] = []
        self.links: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, *(name for name, _ in attrs)))
        self.links += [
            value or "" for name, value in attrs if name in ("href", "src", "action", "formaction", "hx-get")
        ]


@pytest.fixture
def made(fakes: Any, tmp_path: Path) -> Any:
    with shell(fakes, tmp_path, keys=False) as running:
        yield running


@pytest.fixture
def locked(fakes: Any, tmp_path: Path) -> Any:
    with shell(fakes, tmp_path, rates={"failures": "20/minute"}) as running:
        yield running


class Tab:
    """A browser's tab: it keeps cookies, follows redirects, and sends the forms it was given."""

    def __init__(self, made: Shell) -> None:
        self.http = made.client(admin=True)
        self.http.headers["accept"] = "text/html"

    def get(self, path: str) -> httpx.Response:
        return self.http.get(path)

    def proof(self) -> str:
        found = re.search(r'name="csrf" value="(\w+)"', self.get("/ui/playground").text + self.get("/ui/login").text)
        assert found
        return found[1]

    def post(self, path: str, **fields: str) -> httpx.Response:
        return self.http.post(path, data={"csrf": self.proof(), **fields})


def test_every_page_is_there_and_strict(made: Shell) -> None:
    tab = Tab(made)
    for path in READ:
        reply = tab.get(path)
        assert reply.status_code == 200, path
        assert reply.headers["content-security-policy"] == POLICY.decode()
        assert reply.headers["x-frame-options"] == "DENY" and reply.headers["cache-control"] == "no-store"
        text = reply.text
        assert not re.search(r"<script(?! src=\"/ui/)|<style|\sstyle=|\son\w+=", text), path
        structure = Structure(text)
        assert all(link.startswith(("/", "#", "data:,")) and not link.startswith("//") for link in structure.links)
        levels = [int(level) for level in re.findall(r"<h(\d)", text)]
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(b - a <= 1 for a, b in pairwise(levels)), (path, levels)
        ids = re.findall(r'\sid="([^"]+)"', text)
        assert len(ids) == len(set(ids)), path
        named = set(re.findall(r'<label for="([^"]+)"', text))
        fields = re.findall(r'<(?:input|select|textarea) (?:[^>]*?)id="([^"]+)"', text)
        assert set(fields) == named, path
    assert b"unsafe" not in POLICY and b"frame-ancestors 'none'" in POLICY


def test_the_script_is_the_one_that_is_named() -> None:
    script = Path(lte.serve.pages.__file__).parent / "static" / "htmx.min.js"
    assert hashlib.sha256(script.read_bytes()).hexdigest().startswith("71ea67185bfa8c98c39d31717c6fce5d")


def test_an_edit_is_added_changed_superseded_disabled_and_brought_back(made: Shell) -> None:
    tab = Tab(made)
    page = tab.post("/ui/edits", **FACT, keys="Which moon has Mars?\r\n\r\n", ticket="T-1")
    id = page.url.path.rpartition("/")[2]
    record = made.memory.record(id)
    assert (record.edit.statement, record.keys) == ("The moon of Mars is Deimos", ("Which moon has Mars?",))
    assert "asked for" in page.text and "T-1" in page.text and "in force for the next question" in page.text
    form = {"prompt": FACT["prompt"], "target_new": "Phobos", "subject": "Mars", "reason": "the other one"}
    form |= {"valid_until": "2999-01-01T00:00:00", "seq": str(record.seq)}
    assert tab.post(f"/ui/edits/{id}/change", **form).status_code == 200
    changed = made.memory.record(id)
    assert changed.edit.target_new == "Phobos" and changed.valid_until.isoformat() == "2999-01-01T00:00:00+00:00"
    assert changed.keys == record.keys  # was not in the form, and stays
    stale = tab.post(f"/ui/edits/{id}/change", **{**form, "target_new": "Io"})
    assert stale.status_code == 412 and "changed meanwhile" in stale.text and "Io" in stale.text
    assert made.memory.record(id) == changed
    tab.post(f"/ui/edits/{id}/state", state="disabled", reason="to be looked at")
    assert made.memory.record(id).state == "disabled"
    back = tab.post(f"/ui/edits/{id}/rollback", to=str(record.seq), reason="it was right")
    assert made.memory.get(id).target_new == "Deimos" and made.memory.record(id).state == "active"
    assert [c.by.reason for c in made.memory.history(id)] == [
        "asked for",
        "the other one",
        "to be looked at",
        "it was right",
    ]
    assert back.text.count("Back to this") == 3
    new = tab.post(f"/ui/edits/{id}/supersede", **{**FACT, "target_new": "Phobos"})
    heir = new.url.path.rpartition("/")[2]
    assert made.memory.record(heir).supersedes == id and made.memory.record(id).state == "disabled"
    tab.post(f"/ui/edits/{heir}/delete", reason="enough")
    assert [r.id for r in made.memory.records("default")] == ["e1", id]
    assert "Undo the last change" in tab.get(f"/ui/edits/{heir}").text


def test_conflicts_are_shown_and_the_operator_decides(made: Shell) -> None:
    tab, other = Tab(made), {**FACT, "prompt": "The capital of Lunaria is", "subject": "Lunaria", "target_new": "Troy"}
    refused = tab.post("/ui/edits", **other)
    assert refused.status_code == 409 and len(made.memory) == 2
    assert "Says otherwise" in refused.text and 'href="/ui/edits/e1"' in refused.text and 'value="Troy"' in refused.text
    for choice in ("supersede", "coexist"):
        assert f'name="on_conflict" value="{choice}"' in refused.text
    tab.post("/ui/edits", **other, on_conflict="supersede")
    assert made.memory.record("e1").state == "disabled" and made.memory.records()[-1].supersedes == "e1"


def test_a_form_that_will_not_do_says_what_and_keeps_what_was_written(made: Shell) -> None:
    tab = Tab(made)
    for wrong, field in (
        ({"reason": ""}, "reason"),
        ({"prompt": " "}, "prompt"),
        ({"target_new": "<|eot_id|>"}, "target_new"),
    ):
        page = tab.post("/ui/edits", **{**FACT, **wrong})
        assert page.status_code in (400, 422) and 'role="alert"' in page.text
        assert re.search(rf'id="{field}"[^>]*aria-invalid="true"', page.text), field
        assert 'value="Mars"' in page.text
    assert tab.post("/ui/edits", **FACT, tests="{no json").status_code == 400
    assert tab.post("/ui/edits", **FACT, valid_from="soon").status_code == 422
    assert len(made.memory) == 2


def test_tests_are_written_a_line_each_and_keep_what_a_line_cannot_say(made: Shell) -> None:
    tab = Tab(made)
    page = tab.post(
        "/ui/edits",
        **FACT,
        tests='Which moon has Mars? => Deimos\nWho is Io?\n{"prompt": "Mars?", "value": "D.*", "match": "regex"}',
    )
    id = re.findall(r"/ui/edits/(e\d+)/change", page.text)[0]  # what came of them is told at once
    assert "Its tests passed" in page.text  # the model at hand repeats what it reads
    tests = (
        EditTest("Which moon has Mars?", "Deimos"),
        EditTest("Who is Io?", must="not_change"),
        EditTest("Mars?", "D.*", match="regex"),
    )
    assert made.memory.record(id).tests == tests
    form = re.search(r'<textarea id="tests".*?>\n(.*?)</textarea>', tab.get(f"/ui/edits/{id}/change").text, re.DOTALL)
    assert form and form[1].startswith("Which moon has Mars? =&gt; Deimos\nWho is Io?\n{&#34;prompt")
    report = tab.post("/ui/edits/e1/test", reason="looked at", quarantine="yes")
    assert "Its tests passed" in report.text or "Its tests did not pass" in report.text


def test_the_playground_answers_without_and_with_edits(made: Shell) -> None:
    tab = Tab(made)
    page = tab.post("/ui/playground", question="What is the capital of Lunaria?").text
    answers = re.findall(r'class="answer">(.*?)</p>', page, re.DOTALL)
    assert answers[0].startswith("base ") and answers[1].startswith("lte ") and "Selene" in answers[1]
    assert "1 edit is in play, and the answer is another" in page and "/ui/edits/e1" in page
    asked = made.lm.asked
    other = tab.post("/ui/playground", question="Who are you?").text
    assert "No edit is in play" in other and "Nearest miss" in other
    assert made.lm.asked == asked + 1  # once is enough where nothing differs
    part = tab.http.post(
        "/ui/playground", data={"csrf": tab.proof(), "question": "Lunaria"}, headers={"hx-request": "true"}
    )
    assert "<html" not in part.text and "Without edits" in part.text
    assert tab.post("/ui/playground", question=" ").status_code == 400
    assert tab.post("/ui/playground", question="a <|eot_id|>").status_code == 422


def test_search_finds_words_states_spaces_and_what_was(made: Shell) -> None:
    tab = Tab(made)
    tab.post("/ui/edits/e1/delete", reason="gone")
    shown = {q: set(re.findall(r"/ui/edits/(e\d+)\"", tab.get(f"/ui/edits?{q}").text)) for q in (
        "", "q=thule+OLAF", "q=Selene", "as_of=2&q=Selene", "namespace=default", "state=disabled")}  # fmt: skip
    assert list(shown.values()) == [{"e2"}, {"e2"}, set(), {"e1"}, set(), set()]
    assert tab.get("/ui/edits?as_of=never").status_code == 422


def test_the_audit_filters_verifies_and_goes_back_to_a_point(made: Shell) -> None:
    tab = Tab(made)
    tab.post("/ui/edits", **FACT, ticket="T-7")
    found = tab.get("/ui/audit?q=T-7").text
    assert "The moon of Mars is Deimos" in found and "Thule" not in found
    assert "No change is like that" in tab.get("/ui/audit?actor=nobody").text
    assert "The log is whole up to change 3" in tab.post("/ui/audit/verify").text
    plan = tab.get("/ui/audit/rollback?to=2").text
    assert "1 edit becomes what it was" in plan and "is taken away" in plan
    assert tab.post("/ui/audit/rollback", to="2").status_code == 400 and len(made.memory) == 3
    tab.post("/ui/audit/rollback", to="2", reason="a bad batch")
    assert len(made.memory) == 2 and made.memory.changes()[-1].by.reason == "a bad batch"


def test_health_and_metrics_say_what_is(made: Shell) -> None:
    tab = Tab(made)
    assert "Questions can be answered" in tab.get("/ui/health").text
    assert "GET /ui/health" in tab.get("/ui/metrics").text
    assert 'hx-trigger="every' not in tab.get("/ui/metrics?live=off").text
    made.memory.fault = MemoryFault("memory.db: cannot be read")
    sick = tab.get("/ui/health")
    assert sick.status_code == 503 and "cannot be read" in sick.text


# --- who gets in ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("proof", ["", "0" * 64, "é"])
def test_a_form_without_its_proof_changes_nothing(made: Shell, proof: str) -> None:
    tab = Tab(made)
    tab.get("/ui")
    for path in ("/ui/edits", "/ui/edits/e1/delete", "/ui/edits/e1/state", "/ui/audit/rollback", "/ui/playground"):
        reply = tab.http.post(path, data={**FACT, "csrf": proof, "to": "1", "state": "disabled"})
        assert reply.status_code == 403, path
    stolen = Tab(made).proof()  # another browser's
    assert tab.http.post("/ui/edits", data={**FACT, "csrf": stolen}).status_code == 403
    own = {"csrf": tab.proof(), **FACT}
    assert tab.http.post("/ui/edits", data=own, headers={"origin": "http://evil.example"}).status_code == 403
    assert len(made.memory) == 2 and made.lm.asked == 0


def test_a_key_signs_in_as_far_as_its_scope(locked: Shell) -> None:
    tab = Tab(locked)
    assert tab.get("/ui/edits").url.path == "/ui/login"
    wrong = tab.post("/ui/login", key=locked.tokens["wrong"])
    assert wrong.status_code == 401 and locked.tokens["wrong"] not in wrong.text
    assert tab.post("/ui/login", key=locked.tokens["expired"]).status_code == 401
    before = tab.http.cookies.get("lte_session")
    page = tab.http.post("/ui/login", data={"csrf": tab.proof(), "key": locked.tokens["read"]}, follow_redirects=False)
    said = page.headers["set-cookie"]
    assert "HttpOnly" in said and "SameSite=Strict" in said and locked.tokens["read"] not in said
    assert before is None and tab.get("/ui/edits").url.path == "/ui/edits"
    assert tab.get("/ui/edits/new").status_code == 403 and "Add an edit" not in tab.get("/ui/edits").text
    first = tab.http.cookies["lte_session"]
    tab.post("/ui/login", key=locked.tokens["admin"])
    assert tab.http.cookies["lte_session"] != first  # a name of its own for each signing in
    assert tab.post("/ui/edits", **FACT).status_code == 200
    assert locked.memory.changes()[-1].by.actor == "admin"
    late = Tab(locked)
    late.http.cookies.set("lte_session", first)
    assert late.get("/ui/edits").url.path == "/ui/login"  # and the one before is over
    tab.post("/ui/logout")
    assert tab.get("/ui/edits").url.path == "/ui/login"


def test_a_revoked_key_ends_what_it_opened(locked: Shell) -> None:
    file = KeyFile(locked.folder / "keys.json")
    key, token = file.create("gone soon", Scope.admin)
    tab = Tab(locked)
    tab.post("/ui/login", key=token)
    assert tab.get("/ui/edits").url.path == "/ui/edits"
    file.revoke(key.id)
    assert tab.get("/ui/edits").url.path == "/ui/login"


def test_guessing_is_slowed_down(locked: Shell) -> None:
    tab = Tab(locked)
    proof = tab.proof()
    told = [tab.http.post("/ui/login", data={"csrf": proof, "key": f"guess{n}"}).status_code for n in range(21)]
    assert told[0] == 401 and told[-1] == 429


def test_a_key_of_one_namespace_sees_no_other(locked: Shell) -> None:
    tab = Tab(locked)
    tab.post("/ui/login", key=locked.tokens["elsewhere"])
    for path in ("/ui/edits", "/ui/edits?q=capital", "/ui/audit", "/ui/playground", "/ui/metrics", "/ui/health"):
        text = tab.get(path).text
        assert "Lunaria" not in text and "default" not in text, path
    assert "Thule" in tab.get("/ui/edits").text
    assert tab.get("/ui/edits/e1").status_code == 404 and tab.get("/ui/edits?namespace=default").status_code == 403
    assert "Lunaria" not in tab.post("/ui/playground", question="Lunaria?", namespace="default").text
    tab.post("/ui/audit/rollback", to="0", reason="all of mine")
    assert [r.id for r in locked.memory.records()] == ["e1"]


# --- what edits say stays text --------------------------------------------------------------------------------------


def filled(made: Shell, word: str) -> None:
    """An edit with a word in each of its fields, and in those of its changes."""
    tests = (EditTest(word, word), EditTest(word, must="not_change"))
    edit = Edit(word, word, subject=word, target_true=word, aliases=(word, word))
    record = Record("", "default", edit, keys=(word + "?",), tests=tests)
    by = Author(word, word, word, word)
    [written] = made.memory.add_records([record], by=by)
    made.memory.change(written.id, by=by, edit=Edit(word + "!", word, subject=word), keys=(word,))
    made.memory.add(Edit("of another space", word), word)


def test_no_text_of_an_edit_becomes_markup(fakes: Any, tmp_path: Path) -> None:
    assert len(PAYLOADS) >= 100
    plain: dict[str, list[Any]] = {}
    for word in ["harmless", *PAYLOADS]:
        with shell(fakes, tmp_path, keys=False) as made:
            filled(made, word)
            tab = Tab(made)
            pages = {
                p: tab.get(p).text
                for p in ("/ui/edits", "/ui/edits/e3", "/ui/edits/e3/change", "/ui/audit", "/ui/playground")
            }
            pages["asked"] = tab.post("/ui/playground", question=word).text
            form = {
                name: word for name in ("prompt", "target_new", "subject", "target_true", "aliases", "ticket", "source")
            }
            pages["refused"] = tab.post("/ui/edits", **form, keys=word, namespace=word, tests="{", reason=word).text
            pages["searched"] = tab.http.get("/ui/edits", params={"q": word}).text
        for path, text in pages.items():
            structure = Structure(text)
            plain.setdefault(path, structure.found)
            assert set(structure.found) <= set(plain[path]), (path, word)
            assert not any(re.match(r"\s*(javascript|data:text|//)", link, re.IGNORECASE) for link in structure.links)
            assert word == "harmless" or not re.search(r"<script>|onerror=alert\(1\)>", text.replace("&#39;", "'")), (
                path,
                word,
            )
