"""A model behind a server says what it would say here; what goes wrong there is named."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from endpoint_server import Failure, Served, serving, status, well
from transformers import PreTrainedTokenizerFast

from lte.editors import editor
from lte.editors.in_context import LTE
from lte.evaluate import client
from lte.evaluate.address import api_url
from lte.evaluate.client import message
from lte.evaluate.config import EndpointConfig, EvaluateError
from lte.evaluate.endpoint import Endpoint
from lte.evaluate.likelihoods import MissingLikelihoods, by_echo, by_prompt, read_score
from lte.memory import EditMemory
from lte.models import LM, Adapter, Prompt
from lte.prompt import TEMPLATE_ID, with_edits

QUERIES = [f"The mother tongue of Danielle Darrieux{' is' * n}" for n in range(1, 11)] + ["Toko Yasuda plays the"]
TARGETS = [
    "French",
    " the guitar ",
    "Rome",
    "London",
    "English",
    "Paris, London",
    "is",
    "Lyon",
    "capital",
    "?",
    "guitar",
]
Open = Callable[..., Endpoint]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_WAIT", 0.0)


@pytest.fixture
def adapted(tiny_lm: LM) -> LM:
    """The random model with an adapter that moves its answers."""
    import torch

    generator = torch.Generator().manual_seed(1)
    path = tiny_lm.layout.mlp_out.format(1)
    rows, columns = tiny_lm.model.get_submodule(path).weight.shape
    factors = torch.randn(2, columns, generator=generator), torch.randn(rows, 2, generator=generator)
    tiny_lm.adapters["lte"] = Adapter({path: factors}, 1.0, {"template": TEMPLATE_ID})
    return tiny_lm


@pytest.fixture
def served(adapted: LM) -> Iterator[Served]:
    """A server of that model as "base" and of its adapter as "lte"."""
    with serving(Served(adapted, {"base": None, "aligned": "lte"})) as running:
        yield running


@pytest.fixture
def folder(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    """The model's tokenizer and its adapter's manifest."""
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "lte.json").write_text(json.dumps({"template": TEMPLATE_ID, "base_sha256": "0" * 64}))
    return tmp_path


@pytest.fixture
def open_(served: Served, folder: Path) -> Iterator[Open]:
    """Open the server with settings that differ."""
    made: list[Endpoint] = []

    def make(**settings: Any) -> Endpoint:
        base = {"url": served.url, "model": "base", "tokenizer": str(folder), "workers": 3, "retries": 2, "timeout": 10}
        made.append(Endpoint(EndpointConfig(**base | settings)))
        return made[-1]

    yield make
    for endpoint in made:
        endpoint.close()


def edited(queries: list[str]) -> list[Prompt]:
    """A route that puts an edit before every other query."""
    return [Prompt(with_edits(["It is London."], q), "lte") if i % 2 else Prompt(q) for i, q in enumerate(queries)]


# --- the same as here ------------------------------------------------------------------------------------------------


def test_answers_are_those_of_the_model_itself(open_: Open, adapted: LM) -> None:
    endpoint = open_()
    assert endpoint.answer(QUERIES, max_new_tokens=5) == adapted.answer(QUERIES, max_new_tokens=5)
    assert len(set(endpoint.answer(QUERIES, max_new_tokens=5))) > 3


@pytest.mark.parametrize("gives", ["prompt", "echo", "words"])
@pytest.mark.parametrize("raw", [False, True])
def test_scores_are_those_of_the_model_itself(open_: Open, served: Served, adapted: LM, gives: str, raw: bool) -> None:
    served.gives = gives
    found = open_().score(QUERIES, TARGETS, raw=raw)
    for mine, own in zip(found, adapted.score(QUERIES, TARGETS, raw=raw), strict=True):
        assert mine.logprob == pytest.approx(own.logprob, abs=1e-4)
        assert (mine.match, mine.exact, mine.tokens) == pytest.approx((own.match, own.exact, own.tokens))
        assert mine.predicted == (() if gives == "words" else own.predicted)


def test_the_adapters_prompts_go_to_the_adapter(open_: Open, served: Served, adapted: LM, folder: Path) -> None:
    endpoint = open_(adapter="aligned", manifest=folder)
    for model in (endpoint, adapted):
        model.routes.append(edited)
    assert endpoint.prompts(QUERIES) == adapted.prompts(QUERIES)
    assert endpoint.answer(QUERIES, max_new_tokens=5) == adapted.answer(QUERIES, max_new_tokens=5)
    found, own = endpoint.score(QUERIES, TARGETS), adapted.score(QUERIES, TARGETS)
    assert [s.logprob for s in found] == pytest.approx([s.logprob for s in own], abs=1e-4)
    assert {b["model"] for b in served.bodies()} == {"base", "aligned"}


def test_two_models_are_never_asked_together(open_: Open, served: Served, folder: Path) -> None:
    served.pause = 0.02  # long enough that the next request would overlap
    for tokenizer in (str(folder), None):
        endpoint = open_(adapter="aligned", manifest=folder, tokenizer=tokenizer)
        endpoint.routes.append(edited)
        endpoint.answer(QUERIES, max_new_tokens=2, batch_size=3)
    assert served.at_once > 1 and not served.mixed


def test_a_model_without_a_chat_template_answers_with_its_first_line(
    open_: Open, served: Served, adapted: LM, folder: Path, tmp_path: Path
) -> None:
    (folder / "chat_template.jinja").unlink()
    adapted.chat = False
    endpoint = open_()
    assert not endpoint.chat
    assert endpoint.answer(QUERIES, max_new_tokens=4) == adapted.answer(QUERIES, max_new_tokens=4)
    found, own = endpoint.score(QUERIES, TARGETS), adapted.score(QUERIES, TARGETS)
    assert [s.logprob for s in found] == pytest.approx([s.logprob for s in own], abs=1e-4)
    served.failures = [lambda body: (200, {"choices": [{"index": 0, "text": "\n\n French. \nThe mother tongue of"}]})]
    assert endpoint.answer(["q"]) == ["French."]


def test_what_is_sent_is_greedy_and_stops_where_the_model_would(open_: Open, served: Served, adapted: LM) -> None:
    open_().answer(["Toko Yasuda plays the"], max_new_tokens=7)
    [body] = served.bodies()
    ids = adapted.tokenizer(adapted.render("Toko Yasuda plays the"), add_special_tokens=False)["input_ids"]
    assert body == {
        "model": "base",
        "temperature": 0,
        "repetition_penalty": 1.0,
        "max_tokens": 7,
        "stop_token_ids": [adapted.tokenizer.eos_token_id],
        "prompt": [ids],
    }


def test_a_batch_is_shared_out_among_the_workers(open_: Open, served: Served) -> None:
    open_(workers=2).answer(QUERIES, max_new_tokens=1, batch_size=8)
    assert sorted(len(b["prompt"]) for b in served.bodies()) == [3, 4, 4]
    assert served.at_once <= 2


def test_nothing_asked_is_nothing_sent(open_: Open, served: Served) -> None:
    assert open_().answer([]) == [] and open_().score([], []) == []
    assert served.asked == []


def test_the_unedited_model_answers_under_its_own_name(open_: Open, served: Served) -> None:
    endpoint = open_(model="aligned", base="base")
    with endpoint.unedited():
        plain = endpoint.answer(QUERIES, max_new_tokens=3), endpoint.weight_hash()
    assert (endpoint.answer(QUERIES, max_new_tokens=3), endpoint.weight_hash()) != plain
    assert list(dict.fromkeys(b["model"] for b in served.bodies())) == ["base", "aligned"]
    alone = open_()
    with alone.unedited():
        assert alone.answer(QUERIES, max_new_tokens=3) == plain[0]


# --- without a tokenizer ---------------------------------------------------------------------------------------------


def test_without_a_tokenizer_questions_go_as_chat(open_: Open, served: Served, adapted: LM) -> None:
    endpoint = open_(tokenizer=None)
    assert endpoint.answer(QUERIES, max_new_tokens=5) == adapted.answer(QUERIES, max_new_tokens=5)
    path, body, _ = served.asked[0]
    assert path == "/v1/chat/completions"
    assert sorted(body) == ["max_tokens", "messages", "model", "temperature"] and body["temperature"] == 0
    assert endpoint.chat and endpoint.tokenizer is None and endpoint.render("as it is ") == "as it is "


def test_without_a_tokenizer_likelihoods_cannot_be_had(open_: Open, served: Served) -> None:
    endpoint = open_(tokenizer=None)
    wanted = "endpoint.tokenizer: none is set.*teacher_forced, preference and legacy.*generated, fluency and the judge"
    with pytest.raises(EvaluateError, match=wanted):
        endpoint.score(["q"], ["a"])
    with pytest.raises(EvaluateError, match=r"endpoint.tokenizer"):
        endpoint.count("q")
    assert served.asked == []


@pytest.mark.parametrize("content", [None, "  French \n"])
def test_a_chat_answer_is_stripped_and_may_be_none(open_: Open, served: Served, content: str | None) -> None:
    served.failures = [lambda body: (200, {"choices": [{"message": {"content": content}}]})]
    assert open_(tokenizer=None).answer(["q"]) == [(content or "").strip()]


# --- editors ---------------------------------------------------------------------------------------------------------


class Letters:
    """An encoder for which all texts are one."""

    id, dim = "letters", 4

    def encode(self, texts: list[str]) -> Any:
        import numpy as np

        return np.full((len(texts), 4), 0.5, dtype=np.float32)


def lte() -> LTE:
    return LTE(memory=lambda: EditMemory.open(encoder=Letters()))  # type: ignore[arg-type]


def test_lte_edits_a_served_model(open_: Open, adapted: LM, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    from lte.edits import Edit

    endpoint = open_(adapter="aligned", manifest=folder)
    edits = [Edit("Toko Yasuda plays the", "London", "Toko Yasuda")]
    before = endpoint.answer(QUERIES, max_new_tokens=4)
    with lte().apply(endpoint, edits), lte().apply(adapted, edits):  # type: ignore[arg-type]
        assert endpoint.handles and [p.adapter for p in endpoint.prompts(QUERIES)][-1] == "lte"
        assert endpoint.answer(QUERIES, max_new_tokens=4) == adapted.answer(QUERIES, max_new_tokens=4) != before
    assert endpoint.answer(QUERIES, max_new_tokens=4) == before
    assert not endpoint.handles and not endpoint.routes
    assert not caplog.records  # no word about other weights: these cannot be seen


def test_lte_refuses_an_adapter_of_another_wording(open_: Open, folder: Path) -> None:
    from lte.edits import Edit

    (folder / "lte.json").write_text('{"template": "lte-0"}')
    endpoint = open_(adapter="aligned", manifest=folder)
    with pytest.raises(ValueError, match="trained on the prompt template 'lte-0'"):
        lte().apply(endpoint, [Edit("a", "b")])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has no aligned adapter"):
        lte().apply(open_(), [Edit("a", "b")])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["ft_m", "rome"])
def test_an_editor_of_weights_is_refused(open_: Open, name: str) -> None:
    from lte.edits import Edit

    endpoint = open_()
    with pytest.raises(ValueError, match="behind a server, and its weights stay there; over an endpoint use lte, ice"):
        editor(name, {"layer": 1}).apply(endpoint, [Edit("Toko Yasuda plays the", "guitar", "Toko Yasuda")])  # type: ignore[arg-type]
    assert not endpoint.handles and not endpoint.routes


def test_what_an_endpoint_is_not(open_: Open) -> None:
    endpoint = open_()
    assert endpoint.provable is False and not hasattr(endpoint, "stream")
    assert list(endpoint.model.named_parameters()) == []
    assert endpoint.weight_hash().startswith("unseen:")
    with pytest.raises(EvaluateError, match=r"a server loads its own adapters; .* endpoint.adapter"):
        endpoint.load_adapter("somewhere")
    endpoint.routes.append(lambda queries: [Prompt(q, "another") for q in queries])
    with pytest.raises(EvaluateError, match=r"no adapter 'another' on this server; set endpoint.adapter"):
        endpoint.answer(["q"])


# --- opening ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["model", "base", "adapter"])
def test_a_model_that_is_not_served_is_named(open_: Open, folder: Path, part: str) -> None:
    with pytest.raises(EvaluateError, match=rf"endpoint\.{part}: .*/v1 serves no model 'bse'; it serves base, aligned"):
        open_(**{part: "bse", "manifest": folder})


@pytest.mark.parametrize("listing", [{"data": []}, {"data": "?"}, {}, {"data": [{"name": "base"}, 3]}])
def test_a_server_of_nothing(open_: Open, served: Served, listing: dict[str, Any]) -> None:
    served.listing = 200, listing
    with pytest.raises(EvaluateError, match="serves no model 'base'; it serves none"):
        open_()


def test_a_server_that_is_none(open_: Open, served: Served) -> None:
    served.listing = 200, b"<html>hello</html>"
    with pytest.raises(EvaluateError, match=r"wanted a JSON object, it answered '<html>hello</html>'; is endpoint.url"):
        open_()
    with pytest.raises(EvaluateError, match=r"GET http://127\.0\.0\.1:9/v1/models: ConnectError: .* \(3 tries\)"):
        open_(url="http://127.0.0.1:9")


@pytest.mark.parametrize("url", ["localhost:8000", "", "ftp://host", "http://", "http://host:8x", "not a url"])
def test_an_address_that_is_none(open_: Open, url: str) -> None:
    with pytest.raises(EvaluateError, match=r"wanted e.g. http://localhost:8000/v1"):
        open_(url=url)


@pytest.mark.parametrize(
    ("url", "api"),
    [
        ("http://host:8000", "http://host:8000/v1"),
        ("http://host:8000/", "http://host:8000/v1"),
        ("http://host/v1/", "http://host/v1"),
        ("https://host/openai/v2", "https://host/openai/v2"),
    ],
)
def test_where_an_api_begins(url: str, api: str) -> None:
    assert api_url(url) == api


def test_an_adapter_needs_its_manifest(open_: Open, folder: Path) -> None:
    with pytest.raises(EvaluateError, match=r"endpoint.adapter: 'aligned' needs endpoint.manifest"):
        open_(adapter="aligned")
    for damage in ("{", "[]"):
        (folder / "lte.json").write_text(damage)
        with pytest.raises(EvaluateError, match=r"endpoint.manifest: .*lte\.json cannot be read"):
            open_(adapter="aligned", manifest=folder)
    with pytest.raises(EvaluateError, match="cannot be read"):
        open_(adapter="aligned", manifest=folder / "nowhere")


def test_a_tokenizer_that_is_none(open_: Open, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no tokenizer can be loaded"):
        open_(tokenizer=str(tmp_path / "nowhere"))


def test_the_key_is_sent_and_never_shown(open_: Open, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWN_KEY", "sk-secret ")
    endpoint = open_(key="OWN_KEY", retries=0)
    endpoint.answer(["q"], max_new_tokens=1)
    assert served.asked[0][2]["Authorization"] == "Bearer sk-secret"
    for code in (401, 500):
        served.failures = [status(code, "wrong key sk-secret")]
        with pytest.raises(EvaluateError, match=r"wrong key \*\*\*") as error:
            endpoint.answer(["q"])
        assert "sk-secret" not in str(error.value)


@pytest.mark.parametrize(("value", "said"), [(None, "OWN_KEY is not set"), (" ", "is not set"), ("a b", "no API key")])
def test_a_key_that_is_none(open_: Open, monkeypatch: pytest.MonkeyPatch, value: str | None, said: str) -> None:
    monkeypatch.delenv("OWN_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("OWN_KEY", value)
    with pytest.raises(EvaluateError, match=said):
        open_(key="OWN_KEY")


# --- trouble half-way ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [500, 502, 503, 429, 408])
def test_a_server_that_recovers_costs_no_answer(open_: Open, served: Served, adapted: LM, code: int) -> None:
    served.failures = [well, well, status(code), well, status(code), status(code), well]
    endpoint = open_(retries=3)  # one question may meet with all three failures
    assert endpoint.answer(QUERIES, max_new_tokens=3, batch_size=3) == adapted.answer(QUERIES, max_new_tokens=3)
    assert len(served.asked) == len(QUERIES) + 3 and served.failures == []


def test_a_server_that_stays_broken_is_named(open_: Open, served: Served) -> None:
    served.failures = [well, well, *[status(500, "EngineCore encountered an issue.")] * 99]
    wanted = (
        rf"POST {served.url}/v1/completions, model 'base', 'The mother tongue of .*': "
        r"HTTP 500 'EngineCore encountered an issue\.' \(3 tries\)\. What was finished is kept: .* --resume"
    )
    with pytest.raises(EvaluateError, match=wanted):
        open_().answer(QUERIES, max_new_tokens=1, batch_size=1)
    assert len(served.asked) <= 2 + 3 * 3  # the others are called off


def test_what_takes_too_long_is_asked_again_and_then_named(open_: Open, served: Served, adapted: LM) -> None:
    gone = threading.Event()
    late: Failure = lambda body: gone.wait(60) and None  # noqa: E731
    endpoint = open_(timeout=0.5, workers=1)
    served.failures = [late]
    assert endpoint.answer(QUERIES[:1], max_new_tokens=1) == adapted.answer(QUERIES[:1], max_new_tokens=1)
    served.failures = [late] * 3
    with pytest.raises(EvaluateError, match=r"no answer within 0\.5 s \(endpoint\.timeout\) \(3 tries\)"):
        endpoint.answer(QUERIES[:1], max_new_tokens=1)
    gone.set()


@pytest.mark.parametrize(
    ("code", "body", "said"),
    [
        (
            404,
            {"error": {"message": "The model `base` does not exist."}},
            "HTTP 404 'The model `base` does not exist.'",
        ),
        (400, {"detail": "prompt is too long"}, "HTTP 400 'prompt is too long'"),
        (422, {"error": "no such field"}, "HTTP 422 'no such field'"),
        (403, b"go away", "HTTP 403 'go away'"),
        (301, b"", "HTTP 301 ''"),
    ],
)
def test_what_is_refused_is_asked_once(open_: Open, served: Served, code: int, body: Any, said: str) -> None:
    endpoint = open_()
    served.failures = [lambda _: (code, body)]
    with pytest.raises(EvaluateError) as error:
        endpoint.answer(["q"])
    assert said in str(error.value) and "--resume" in str(error.value)
    assert len(served.asked) == 1


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"garbage", "wanted a JSON object, it answered 'garbage'"),
        (b"[1]", "wanted a JSON object"),
        (b"\xff\xfe", "wanted a JSON object"),
        ({}, "wanted one choice for each of 1 prompts"),
        ({"choices": []}, "wanted one choice for each of 1 prompts"),
        ({"choices": [1]}, "wanted one choice for each of 1 prompts"),
        ({"choices": [{"index": 1, "text": "a"}]}, "wanted one choice for each of 1 prompts"),
        ({"choices": [{"index": 0, "text": "a"}] * 2}, "wanted one choice for each of 1 prompts"),
        ({"choices": [{"index": [0], "text": "a"}]}, "wanted one choice for each of 1 prompts"),
        ({"choices": [{"index": 0}]}, "wanted a text in each choice"),
        ({"choices": [{"index": 0, "text": 3}]}, "wanted a text in each choice"),
    ],
)
def test_garbage_is_shown(open_: Open, served: Served, body: Any, said: str) -> None:
    served.failures = [lambda _: (200, body)]
    with pytest.raises(EvaluateError, match=said):
        open_().answer(["q"])
    assert len(served.asked) == 1


@pytest.mark.parametrize(
    "body", [{}, {"choices": []}, {"choices": [{"message": {}}]}, {"choices": [{"message": {"content": 3}}]}]
)
def test_garbage_of_a_chat_is_shown(open_: Open, served: Served, body: Any) -> None:
    served.failures = [lambda _: (200, body)]
    with pytest.raises(EvaluateError, match=r"wanted .*choices\[0\]\.message\.content, it answered \{"):
        open_(tokenizer=None).answer(["q"])


@pytest.mark.parametrize("gives", ["none", "refused"])
def test_a_server_without_likelihoods_says_which_scorings_are_left(open_: Open, served: Served, gives: str) -> None:
    served.gives = gives
    wanted = (
        "gives no likelihoods of a prompt, neither .* nor by echo .*teacher_forced.*; generated, fluency and the judge"
    )
    with pytest.raises(EvaluateError, match=wanted):
        open_().score(QUERIES, TARGETS)
    assert len(served.asked) == 2  # one question in both ways, before the others
    assert open_().answer(QUERIES[:1], max_new_tokens=1)


def test_likelihoods_that_stop_coming_are_missed(open_: Open, served: Served) -> None:
    endpoint = open_()
    endpoint.score(QUERIES, TARGETS)
    served.gives = "none"
    with pytest.raises(MissingLikelihoods, match="no likelihoods of a prompt's tokens"):
        endpoint.score(QUERIES, TARGETS)


def test_an_engine_that_likelihoods_end(open_: Open, served: Served, folder: Path) -> None:
    served.failures = [status(500)] * 9
    with pytest.raises(EvaluateError, match="HTTP 500") as error:
        open_().score(["q"], ["a"])
    assert "--lora-target-modules" not in str(error.value)
    served.failures = [status(500)] * 9
    with pytest.raises(EvaluateError, match=r"keep LoRA off the output head .--lora-target-modules"):
        open_(adapter="aligned", manifest=folder).score(["q"], ["a"])


def test_targets_that_do_not_fit(open_: Open) -> None:
    with pytest.raises(EvaluateError, match="2 queries but 1 targets"):
        open_().score(["a", "b"], ["c"])
    with pytest.raises(ValueError, match="an empty target"):
        open_().score(["a"], [" "])


# --- reading ---------------------------------------------------------------------------------------------------------


def test_a_score_by_hand() -> None:
    ids = [7, 3, 5, 9]
    entries = [
        None,
        {"3": {"logprob": -0.1}},
        {"5": {"logprob": -2.0}, "4": {"logprob": -0.5}},
        {"9": {"logprob": -1.0}},
    ]
    score = read_score({"prompt_logprobs": entries}, ids, (1, 4), by_prompt)
    assert score.logprob == pytest.approx(-3.1 / 3)
    assert (score.match, score.exact, score.tokens, score.predicted) == (pytest.approx(2 / 3), False, 3, (3, 4, 9))
    whole = read_score({"prompt_logprobs": entries}, ids, (3, 4), by_prompt)
    assert (whole.logprob, whole.match, whole.exact, whole.tokens, whole.predicted) == (-1.0, 1.0, True, 1, (9,))


def test_of_two_equally_likely_tokens_the_first_one_counts() -> None:
    tied = {"5": {"logprob": -1.0}, "4": {"logprob": -1.0}}
    assert read_score({"prompt_logprobs": [None, tied]}, [0, 5], (1, 2), by_prompt).predicted == (4,)
    assert read_score({"prompt_logprobs": [None, tied]}, [0, 4], (1, 2), by_prompt).exact


def test_tokens_named_by_their_words_are_matched_by_likelihood() -> None:
    told = {"token_logprobs": [None, -0.5, -2.0], "top_logprobs": [None, {" jazz": -0.5}, {" jazz": -2.0, "of": -0.1}]}
    score = read_score({"logprobs": told}, [0, 1, 2], (1, 3), by_echo)
    assert (score.logprob, score.match, score.exact, score.predicted) == (-1.25, 0.5, False, ())


@pytest.mark.parametrize(
    "entries",
    [
        None,
        [],
        [None],
        [None, None],
        [None, {}],
        [None, {"4": {"logprob": -1.0}}],
        [None, {"5": {}}],
        [None, {"5": -1.0}],
        [None, {"five": {"logprob": -1.0}}],
        [None, {"5": {"logprob": None}}],
        [None, {"5": {"logprob": float("nan")}}],
        3,
    ],
)
def test_likelihoods_that_are_none(entries: Any) -> None:
    with pytest.raises(MissingLikelihoods, match="no likelihoods of a prompt's tokens"):
        read_score({"prompt_logprobs": entries}, [0, 5], (1, 2), by_prompt)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"error": {"message": "m", "code": 4}}', "m"),
        ('{"error": "e"}', "e"),
        ('{"message": "m"}', "m"),
        ('{"detail": "d"}', "d"),
        ('{"detail": [1]}', '{"detail": [1]}'),
        ("[]", "[]"),
        ("plain", "plain"),
        ("", ""),
    ],
)
def test_what_a_servers_error_says(text: str, said: str) -> None:
    assert message(text) == said
