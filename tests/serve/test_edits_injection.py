"""Control tokens and the template's own marks in every field of an edit: none is taken, none arises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from tiny_tokenizers import gpt2_like, llama2_like, llama3_like, normalising
from transformers import PreTrainedTokenizerFast

from lte.edits import Edit, EditError, checked
from lte.prompt import ASK, HEADER, with_edits
from lte.serve.app import build_app
from lte.serve.augment import augment
from lte.serve.config import ServeConfig
from lte.serve.engine import EmbeddedEngine

FACT = {"prompt": "The king of Thule is", "target_new": "Olaf", "subject": "Thule"}
LLAMA3 = [  # every special token of Llama-3's tokenizer, and those of 3.1 that took a reserved place
    *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<|finetune_right_pad_id|>", "<|step_id|>", "<|eom_id|>", "<|python_tag|>", "<|image|>"),
    *(f"<|reserved_special_token_{n}|>" for n in range(251)),
]
OTHERS = [
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|fim_middle|>", "<start_of_turn>", "<end_of_turn>", "<bos>"),
    *("<s>", "</s>", "<unk>", "<pad>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "[TOOL_CALLS]"),
    *("<｜begin▁of▁sentence｜>", HEADER, ASK, "[Query]", "[question]"),
]
TOKENIZERS = {"gpt2": gpt2_like, "llama2": llama2_like, "llama3": llama3_like, "normalising": normalising}
TEST = {"prompt": "Who?", "value": "Olaf"}
FIELDS: dict[str, Callable[[str], dict[str, Any]]] = {
    "prompt": lambda text: {"prompt": text},
    "target_new": lambda text: {"target_new": text},
    "subject": lambda text: {"subject": text},
    "target_true": lambda text: {"target_true": text},
    "aliases": lambda text: {"aliases": ["Ultima Thule", text]},
    "keys": lambda text: {"keys": [text]},
    "tests.prompt": lambda text: {"tests": [TEST | {"prompt": text}]},
    "tests.value": lambda text: {"tests": [TEST | {"value": text}]},
    "reason": lambda text: {"reason": text},
    "ticket": lambda text: {"ticket": text},
    "source": lambda text: {"source": text},
    "namespace": lambda text: {"namespace": text},
    "tags": lambda text: {"tags": [text]},  # no such field: refused as a whole
}
SPLIT = [  # halves that a join could make whole
    *(
        ("Say <|eot", "_id|> now"),
        ("Say <|eot_id|", "> now"),
        ("Say <", "|eot_id|>"),
        ("Say <", "s>"),
        ("Say </", "s>"),
    ),
    *(("[Updated", "Information]"), ("Say [", "Question]"), ("Say [Question", "]"), ("Say [/", "INST]")),
]
NEAR = ["< |eot_id|>", "<|eot_id |>", "<|eot\n_id|>", "<|eot_id|\t>", "< s>", "[Updated\nInformation]", "[ Question]"]
WIDE = ["＜|eot_id|＞", "＜s＞", "<\uff5ceot_id\uff5c>", "＜/s＞", "［Question］", "＜|endoftext|＞", "＜unk＞"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Any]:
    from conftest import FakeMemory, FakeModel

    memory, keys = FakeMemory(), tmp_path_factory.mktemp("keys") / "keys.json"
    config = ServeConfig(memory=":memory:", keys=str(keys))
    app = build_app(config, EmbeddedEngine(FakeModel(), config), memory)  # type: ignore[arg-type]
    with TestClient(app, "http://localhost") as client:
        id = client.post("/v1/edits", json=FACT).json()["id"]
        yield client, memory, id


def specials(tokenizer: PreTrainedTokenizerFast) -> set[str]:
    return {str(token) for token in tokenizer.all_special_tokens} | {
        token.content for token in tokenizer.added_tokens_decoder.values() if token.special
    }


def controls(tokenizer: PreTrainedTokenizerFast) -> set[str]:
    """The special tokens that a model obeys; what stands for unknown characters is not one, where it is that alone."""
    unknown = {tokenizer.unk_token} - {tokenizer.bos_token, tokenizer.eos_token}
    return specials(tokenizer) - unknown


@pytest.mark.parametrize("field", FIELDS)
def test_no_field_takes_a_control_token(server: Any, field: str) -> None:
    client, memory, id = server
    seq = memory.seq
    tokens = {*LLAMA3[:12], LLAMA3[-1], *OTHERS}.union(*(specials(make()) for make in TOKENIZERS.values()))
    for token in sorted(tokens):
        for text in (token, f"a {token.upper()}b" if field != "namespace" else token):
            said = FIELDS[field](text)
            bodies = [("POST", "/v1/edits", FACT | said), ("PUT", f"/v1/edits/{id}", FACT | said)]
            for method, path, body in bodies if text == token else bodies[:1]:
                reply = client.request(method, path, json=body)
                assert reply.status_code in (400, 422), (method, text)
                param = reply.json()["error"]["param"]
                assert param in (field, "tags", "namespace"), (method, text)
    assert memory.seq == seq


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PATCH", "/v1/edits/{id}"),
        ("POST", "/v1/edits/{id}/supersede"),
        ("POST", "/v1/edits/check"),
        ("POST", "/v1/edits/batch"),
        ("POST", "/v1/edits/{id}/state"),
        ("POST", "/v1/edits/{id}/test"),
        ("POST", "/v1/edits/{id}/rollback"),
    ],
)
def test_no_other_route_takes_one(server: Any, method: str, path: str) -> None:
    client, memory, id = server
    seq = memory.seq
    stated = path.endswith(("{id}", "supersede", "check", "batch"))
    for field in list(FIELDS)[:8] if stated else ["reason", "ticket", "source"]:
        body = {
            **(FACT if stated else {}),
            **FIELDS[field]("<|eot_id|>"),
            **({"state": "shadow"} if "state" in path else {}),
        }
        reply = client.request(method, path.replace("{id}", id), json=body)
        assert (reply.status_code, reply.json()["error"]["code"]) == (422, "invalid_edit"), field
        assert str(reply.json()["error"]["param"]).removeprefix("line 1.") == field
    for field in ("reason", "ticket", "source"):
        assert client.delete(f"/v1/edits/{id}", params={field: "<|eot_id|>"}).status_code == 422
        assert client.post("/v1/edits/batch", json=FACT, params={field: "<|eot_id|>"}).status_code == 422
    assert memory.seq == seq


@pytest.mark.parametrize("token", LLAMA3)
def test_each_of_llama_3s_tokens_is_refused(token: str) -> None:
    with pytest.raises(EditError, match="control token"):
        checked("prompt", f"a{token}b")


def rendered(tokenizer: PreTrainedTokenizerFast, statement: str) -> list[int]:
    """How often each control token stands in a chat with an edit in front of the question."""
    messages = [{"role": "user", "content": "Who is king of Thule?"}]
    if tokenizer.chat_template:
        text = tokenizer.apply_chat_template(augment(messages, [statement]), tokenize=False)
    else:
        text = with_edits([statement], messages[0]["content"])
    found = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [found.count(tokenizer.convert_tokens_to_ids(token)) for token in sorted(controls(tokenizer))]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_no_special_token_arises_from_what_is_taken(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    plain, taken = rendered(tokenizer, Edit("The king of Thule is", "Olaf").statement), 0
    for prompt, target in [*SPLIT, *((near, "Olaf") for near in [*NEAR, *WIDE]), *(("Say", n) for n in [*NEAR, *WIDE])]:
        try:
            edit = Edit(prompt, target)
        except EditError:
            continue
        taken += 1
        assert rendered(tokenizer, edit.statement) == plain, (prompt, target)
    assert taken >= len(SPLIT)  # those that are whole in no field


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_test_would_see_one(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    token = sorted(controls(tokenizer))[0]
    ids = tokenizer(f"a {token} b", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_tokens_to_ids(token) in ids


def test_a_body_of_jsonl_is_looked_at_line_by_line(server: Any, tmp_path: Path) -> None:
    client, memory, _ = server
    seq = memory.seq
    body = '{"prompt": "a", "target_new": "b"}\n{"prompt": "c", "target_new": "<|eot_id|>"}'
    assert client.post("/v1/edits/batch", content=body).json()["error"]["param"] == "line 2.target_new"
    assert memory.seq == seq
