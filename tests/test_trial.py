"""`generate`: text streams out, numbers stand apart, what cannot be done is refused."""

import json
import shutil
import signal
import subprocess
import sys

import pytest

import llmbench
from llmbench.engines.edge import EdgeEngine
from llmbench.errors import BadParams, Missing, Refused
from llmbench.models.source import find_model
from llmbench.models.tokenizer import load_tokenizer
from llmbench.trial import read_in_pieces
from tests.said import llmbench as door


def command(*words, stdin=None):
    return door("generate", *words, stdin=stdin)


def test_pieces_are_shown_as_they_come_and_make_the_text():
    shown = []
    tried = llmbench.generate("builtin:tiny", "import os\n", tokens=12, threads=1,
                              show=shown.append)  # fmt: skip
    assert "".join(shown) == tried.text
    assert (len(shown), tried.output_tokens, tried.complete) == (12, 12, True)
    assert tried.served.engine == "edge"
    assert tried.ttft_s > 0 and tried.decode_tok_per_s > 0
    assert tried.text in load_tokenizer(find_model("builtin:tiny").folder).decode(
        greedy("import os\n", 12)
    )


def greedy(prompt, tokens):
    with llmbench.load("builtin:tiny", "transformers", threads=1) as engine:
        return [t.id for t in engine.stream(engine.tokenizer.encode(prompt), tokens)]


def test_an_interruption_keeps_what_was_shown():
    def show(piece):
        if shown.append(piece) or len(shown) == 3:
            raise KeyboardInterrupt

    shown = []
    tried = llmbench.generate("builtin:tiny", "import os\n", tokens=50, threads=1, show=show)
    assert (tried.output_tokens, tried.complete) == (3, False)


def test_characters_of_several_tokens_come_whole():
    tokenizer = load_tokenizer(find_model("builtin:tiny").folder)
    step = tokenizer.stream()
    pieces = [step(i) for i in tokenizer.encode("naïve 日本 £")]
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces)
    assert "".join(pieces) == "naïve 日本 £"
    assert "" in pieces


def test_the_command_gives_text_on_stdout_and_numbers_on_stderr():
    done = command("builtin:tiny", "--prompt", "import os", "--tokens", "4", "--threads", "1")
    assert done.returncode == 0
    assert done.stdout.startswith("import os")
    assert "tok/s" in done.stderr and "tok/s" not in done.stdout
    assert done.stdout.endswith("\n")
    facts = json.loads(command("builtin:tiny", "--tokens", "2", "--json").stdout)
    assert (facts["output_tokens"], facts["served"]["engine"]) == (2, "edge")


def test_a_document_may_come_from_stdin():
    words = ("builtin:tiny", "--document", "-", "--tokens", "2", "--json")
    assert json.loads(command(*words, stdin="import os\n").stdout)["prompt"] == "import os\n"
    assert "prompt is empty" in command(*words, stdin="").stderr


@pytest.mark.parametrize("more", [[], ["--chunks", "--window", "2010"]])
def test_ctrl_c_says_that_nothing_is_kept(more):
    words = [
        sys.executable,
        "-m",
        "llmbench",
        "generate",
        "builtin:tiny",
        "--impl",
        "reference",  # slow enough to be interrupted
        "--tokens",
        "2000",
        *more,
    ]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(40)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130
    told = ["llmbench: stopped by Ctrl-C", "kept: nothing; generate writes no file"]
    assert said.splitlines()[-2:] == told
    assert "Traceback" not in said and "go on" not in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["builtin:tinny"], "did you mean builtin:tiny?"),
        (["smollm-135m"], "did you mean shape:smollm-135m "),
        (["smollm:135m"], "did you mean shape:smollm-135m "),
        (["shape:smolm"], "did you mean shape:smollm-135m?"),
        (["shape:nope"], "did you mean shape:"),
        (["smolm-135m"], "did you mean shape:smollm-135m?"),
        (["gpt2"], "shape:<name> (`llmbench models` lists them), gguf:<file>"),
        (["hf:gpt2"], "`llmbench pull gpt2` fetches one"),
        (["mixtral-8x22b"], "llmbench pull mistralai/Mixtral-8x22B"),
        (["builtin:tiny", "--engine", "edg"], "did you mean 'edge'?"),
        (["builtin:tiny", "--impl", "cuda"], "impl"),
        (["builtin:tiny", "--prompt", ""], "prompt is empty"),
        (["builtin:tiny", "--tokens", "0"], "x>=1"),
        (["builtin:tiny", "--prompt", "a", "--document", "b"], "give one of them"),
        (["builtin:tiny", "--document", "absent.txt"], "absent.txt"),
    ],
)
def test_bad_input_is_refused_before_anything_is_shown(words, told):
    done = command(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr


def test_a_text_that_does_not_fit_is_refused_with_its_length():
    with pytest.raises(Refused, match=r"2,048.*\n.*--chunks .*, or .*at most 1,984 tokens$"):
        llmbench.generate("builtin:tiny", "word " * 3000, threads=1)
    with pytest.raises(BadParams, match="empty"):
        llmbench.generate("builtin:tiny", "")


def test_more_tokens_than_the_window_are_not_blamed_on_the_text():
    for tokens, mend in ((2047, "--tokens 2040 or fewer"), (3000, "--tokens 2040 or fewer")):
        with pytest.raises(Refused, match=r"8 tokens and --tokens .* exceed the window") as told:
            llmbench.generate("builtin:tiny", tokens=tokens, threads=1)
        assert told.value.how.endswith(mend)
    with pytest.raises(Refused) as told:
        llmbench.generate("builtin:tiny", "word " * 3000, tokens=3000, threads=1)
    assert told.value.how == "a shorter text and fewer --tokens"


def test_a_long_text_is_read_in_pieces_each_as_it_would_be_alone():
    text, begun, shown = "naïve 日本 £ 🙂 " * 20 + "import os\n", [], []
    done = read_in_pieces("builtin:tiny", text, tokens=3, window=80, overlap=7, threads=1,
                          begin=lambda *told: begun.append(told), show=shown.append)  # fmt: skip
    assert [number for _, number, _ in begun] == list(range(1, len(done.pieces) + 1))
    assert {of for *_, of in begun} == {len(done.trials)} and len(done.trials) > 3
    assert done.complete and done.output_tokens == 3 * len(done.trials)
    assert "".join(shown) == "".join(tried.text for tried in done.trials)
    tokenizer = load_tokenizer(find_model("builtin:tiny").folder)
    ids = tokenizer.encode(text)
    fresh = [tokenizer.decode(ids[p.fresh : p.end]) for p in done.pieces]
    assert "".join(fresh) == text and "\N{REPLACEMENT CHARACTER}" not in "".join(fresh)
    last = done.trials[-1]
    alone = llmbench.generate("builtin:tiny", last.prompt, tokens=3, threads=1)
    assert (alone.text, alone.prompt_tokens) == (last.text, last.prompt_tokens)
    assert 0 < done.repeated_tokens == sum(t.prompt_tokens for t in done.trials) - len(ids)


@pytest.mark.parametrize("after", [4, 5])
def test_an_interruption_of_a_reading_keeps_the_pieces_before(after):
    def show(piece):
        if shown.append(piece) or len(shown) == after:
            raise KeyboardInterrupt

    shown = []
    done = read_in_pieces("builtin:tiny", "import os\n" * 40, tokens=3, window=40, threads=1,
                          show=show)  # fmt: skip
    assert not done.complete
    assert [t.output_tokens for t in done.trials] == [3, after - 3]


def test_an_interruption_before_any_text_of_a_piece_keeps_those_before():
    def begin(piece, number, of):
        if number == 2:
            raise KeyboardInterrupt

    done = read_in_pieces("builtin:tiny", "import os\n" * 40, tokens=3, window=40, threads=1,
                          begin=begin)  # fmt: skip
    assert (len(done.trials), done.complete) == (1, False)
    assert done.repeated_tokens == 0


def test_the_command_reads_pieces_with_headings_apart_from_the_text(tmp_path):
    text = tmp_path / "long.py"
    text.write_text("import os\n" * 30)
    words = ["builtin:tiny", "--document", str(text), "--tokens", "3", "--threads", "1", "--chunks"]
    done = command(*words, "--window", "70", "--overlap", "5")
    assert done.returncode == 0, done.stderr
    assert "piece 2 of 2: tokens 63 to 90, the first 5 of them again" in done.stderr
    assert "read        90 of 90 tokens of text, 5 of them twice" in done.stderr
    assert (
        "piece" not in done.stdout
        and done.stdout.endswith("\n")
        and "each piece is answered by itself" in done.stderr
    )
    facts = json.loads(command(*words, "--window", "70", "--json").stdout)
    assert (facts["layout"]["pieces"], facts["layout"]["kind"]) == (2, "sliding")
    assert facts["trials"][0]["text"] in done.stdout
    assert facts["complete"] is True and facts["output_tokens"] == 6


@pytest.fixture
def windows(monkeypatch):
    """What `edge`, made an engine that sets a window aside, was told to; else it takes 64."""
    seen, load = [], EdgeEngine.load

    def with_window(self, model, options):
        seen.append(options.pop("window", None))
        served = load(self, model, options)
        return served.model_copy(update={"window": seen[-1] or 64})

    monkeypatch.setattr(EdgeEngine, "capabilities", EdgeEngine.capabilities | {"window"})
    monkeypatch.setattr(EdgeEngine, "load", with_window)
    return seen


def test_a_window_reaches_an_engine_that_sets_one_aside(windows):
    text = "import os\n" * 40
    llmbench.generate("builtin:tiny", "import os\n", tokens=2, threads=1, window=100)
    asked = read_in_pieces("builtin:tiny", text, tokens=3, threads=1, window=70)
    usual = read_in_pieces("builtin:tiny", text, tokens=3, threads=1)
    assert windows == [100, 70, None]
    assert (asked.layout.window, usual.layout.window) == (70, 64)


def test_a_text_that_exceeds_what_is_set_aside_is_told_the_window(windows):
    text = "import os\n" * 40
    with pytest.raises(Refused) as caught:
        llmbench.generate("builtin:tiny", text, tokens=3, threads=1)
    assert "engine edge has set 64 tokens aside" in caught.value.why
    assert caught.value.how.startswith("--window 123, or --chunks")
    assert llmbench.generate("builtin:tiny", text, tokens=3, threads=1, window=123).complete


def test_a_window_and_an_option_that_contradict_are_refused(windows, monkeypatch):
    told = EdgeEngine.load
    monkeypatch.setattr(EdgeEngine, "load",
                        lambda *given: told(*given).model_copy(update={"window": 32}))  # fmt: skip
    for ask in (llmbench.generate, read_in_pieces):
        with pytest.raises(Refused, match="--window 70 exceeds the 32 tokens that engine edge"):
            ask("builtin:tiny", "import os\n", tokens=3, threads=1, window=70)


@pytest.mark.parametrize(
    ("engine", "option"),
    [pytest.param("llamacpp", "n_ctx=512", marks=pytest.mark.llamacpp),
     pytest.param("ollama", "num_ctx=512", marks=pytest.mark.ollama)],
)  # fmt: skip
def test_options_and_window_of_an_engine_reach_it(tmp_path, engine, option):
    """A piece fills the window asked for, and the engine has just that."""
    text = tmp_path / "long.py"
    text.write_text("import os\n" * 250)
    words = ["builtin:tiny", "--engine", engine, "--threads", "1", "--json", "--tokens", "3"]
    done = json.loads(command(*words, "--set", option).stdout)
    assert done["served"]["window"] == 512
    read = json.loads(
        command(*words, "--document", str(text), "--chunks", "--window", "512").stdout
    )
    assert (read["layout"]["window"], len(read["pieces"])) == (512, 2)
    assert {trial["served"]["window"] for trial in read["trials"]} == {512}
    refused = command(*words, "--set", option, "--window", "1024")
    assert refused.returncode == 2 and "was told to set aside" in refused.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--overlap", "10"], "--chunks cuts a text: give it too"),
        (["--window", "100"], "engine edge sets no window aside"),
        (
            ["--set", "atention_impl=x"],
            "did you mean 'attention_impl'? known: impl, weights, dtype, attention_impl, "
            "kv_type, isa",
        ),
        (["--set", "device=cuda"], "device is no setting; known: impl"),
        (["--set", "impl"], "expected NAME=VALUE"),
        (["--set", "impl=reference", "--impl", "reference"], "--set impl"),
        (["--chunks", "--window", "4096"], "--window 2048 or less"),
        (["--chunks", "--window", "64"], "no room for a text and 64"),
        (["--chunks", "--window", "100", "--overlap", "36"], "an overlap of 0 to 35"),
        (["--chunks", "--prompt", ""], "the text is empty"),
    ],
)
def test_pieces_that_cannot_be_are_refused(words, told):
    done = command("builtin:tiny", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["builtin:tiny", "--device", "tpu"], 2, "devices: cpu, cuda"),
        (["builtin:tiny", "--engine", "fake", "--device", "tpu"], 2, "devices: cpu, cuda"),
        (["builtin:tiny", "--engine", "fake", "--device", "cuda"], 3, "no device 'cuda'"),
        (["shape:mixtral-8x22b"], 3, "families: llama, qwen2, mistral"),
        (["builtin:tiny", "--tokens", "2048"], 2, "exceed the window"),
    ],
)
def test_what_cannot_be_done_ends_with_its_code_and_no_traceback(words, code, told):
    done = command(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert told in done.stderr and "Traceback" not in done.stderr


def test_a_family_that_edge_lacks_is_said_of_a_folder_too(tmp_path):
    folder = shutil.copytree(find_model("builtin:tiny").folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "qwen3"}
    (folder / "config.json").write_text(json.dumps(config))
    done = command(str(folder))
    assert (done.returncode, done.stdout) == (3, "")
    assert "no family 'qwen3'" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("engine", ["edge", "transformers"])
def test_a_gpu_that_is_not_here_is_missing_with_what_to_do(engine):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(Missing, match="no usable GPU") as told:
        llmbench.generate("builtin:tiny", engine=engine, device="cuda")
    assert told.value.exit_code == 3
    assert "--device cpu" in told.value.how and "llmbench doctor" in told.value.how


def test_what_did_not_serve_is_not_told():
    said = command("builtin:tiny", "--engine", "fake", "--tokens", "2").stderr
    assert "fake sleep" in said
    assert "None" not in said and "attention" not in said
