"""Every family and every kind of tokenizer in a real server: one server for all of them."""

import itertools
import json
from urllib.request import Request, urlopen

import numpy as np
import pytest

from llmbench.engines import ollama_server
from llmbench.engines.ollama import OllamaEngine
from llmbench.errors import Unsupported
from llmbench.models.export import export
from llmbench.models.source import find_model
from llmbench.pairs.agreement import own_error
from tests.families import FAMILIES, random_model
from tests.models.test_gguf_vocab import texts
from tests.tokenizers_made_here import PRE, byte_level, saved, sentencepiece

pytestmark = pytest.mark.ollama
PROMPT = (  # longer than gemma2's window, and than Llama 3's first trained length
    "class Reader(object):\n    def __init__(self, name, mode):\n        self.name = name\n"
    "        return open(name, mode)\n\nimport os\nimport sys\n\ndef main(path):\n    "
)
CLOSE = own_error("ollama", "float32", "float16", 512) + own_error(
    "edge", "float32", "float32", 512
)
OWN = {"gemma2": 5e-3}  # ggml looks GELU up in a table in float16, as in test_llamacpp
BIASED = {"head_dim": 16}  # the server knows such a bias of heads that are a part of the width only
TOKENIZERS = [*PRE, "legacy", "first", "never", "gemma"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    server = ollama_server.start({"OLLAMA_MODELS": str(folder)})
    yield server
    server.close()


@pytest.fixture
def engine(server):
    engine = OllamaEngine()
    yield engine
    engine.close()


def loaded(engine, server, file):
    source = find_model(f"gguf:{file}")
    engine.load(source, {"host": server.address, "threads": 1})
    return source.tokenizer


def truth(folder, ids):
    """(V,) float32: natural log-probabilities after `ids`, of transformers."""
    from llmbench.engines.transformers import TransformersEngine

    engine = TransformersEngine()
    engine.load(find_model(str(folder)), {"threads": 1, "attention_impl": "eager"})
    return engine.logprobs(ids)[-1]


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_of_every_family_are_those_of_transformers(
    family, engine, server, tmp_path
):
    folder = random_model(family, tmp_path / "model", **BIASED if family == "llama" else {})
    file = export(str(folder), tmp_path / "model.gguf", "F32")
    ids = loaded(engine, server, file).encode(PROMPT)
    told, expected = engine.next_logprobs(ids), truth(folder, ids)
    apart = [abs(expected[token] - value) for token, value in told.items()]
    assert len(ids) > 40 and len(told) >= 10
    assert np.max(apart) < CLOSE + OWN.get(family, 0.0)


@pytest.mark.parametrize(
    ("family", "name", "words"),
    [("llama", "model", "attn_q.bias' has wrong shape"),
     ("phi3", "phi3", "error loading model vocabulary")],
    ids=["a bias of other heads", "called phi3 without its special tokens"],
)  # fmt: skip
def test_what_this_server_cannot_load_is_refused_in_its_words(
    family, name, words, engine, server, tmp_path
):
    """Its llama.cpp is older than ours, which loads the first; the second it knows by its name."""
    folder = random_model(family, tmp_path / name)
    file = export(str(folder), tmp_path / "model.gguf", "F32")
    with pytest.raises(Unsupported, match=r"error loading model|unable to load model"):
        loaded(engine, server, file)
    assert words in server.log_text()


def asked(engine, server, text):
    """The whole answer of one token after `text`; not raw, so that it holds token ids."""
    body = engine._body(text, 1) | {"raw": False, "stream": False}
    request = Request(f"{server.address}/api/generate", json.dumps(body).encode())
    with urlopen(request) as answer:
        return json.load(answer)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_server_makes_the_same_tokens(name, engine, server, tmp_path):
    """As many of each text, and the same ids of text and answer, which the server reads again."""
    folder = random_model("llama", tmp_path / "model", **BIASED)
    if name in PRE:
        saved(byte_level(name), folder, eos_token="<|endoftext|>")
    else:
        saved(sentencepiece(name), folder, bos_token="<s>", eos_token="</s>")
    loaded(engine, server, export(str(folder), tmp_path / "model.gguf", "F16"))
    ours = find_model(str(folder)).tokenizer
    counts, ids = {}, {}
    for text in filter(str.strip, itertools.islice(texts(), 0, None, 3)):
        if name == "first" and text.startswith((" ", "</s>")):
            continue  # which the export tells of
        told = asked(engine, server, text)
        whole = text + told["response"]
        if told["prompt_eval_count"] != len(ours.encode(text)) + (engine.texts.bos is not None):
            counts[text] = told["prompt_eval_count"], len(ours.encode(text))
        if "\ufffd" not in whole and told["context"] != ours.encode(whole):
            ids[whole] = told["context"], ours.encode(whole)
    assert (counts, ids) == ({}, {})
