"""`generate`: text streams out, numbers stand apart, what cannot be done is refused."""

import json
import shutil
import signal
import subprocess
import sys

import pytest

import llmbench
from llmbench.errors import BadParams, Missing, Refused
from llmbench.models.source import find_model
from llmbench.models.tokenizer import load_tokenizer


def command(*words, stdin=None):
    return subprocess.run([sys.executable, "-m", "llmbench", "generate", *words], input=stdin,
                          capture_output=True, text=True, timeout=120)  # fmt: skip


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


def test_ctrl_c_keeps_nothing_and_says_only_stopped():
    words = [sys.executable, "-m", "llmbench", "generate", "builtin:tiny", "--tokens", "2000"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(40)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130
    assert said.splitlines()[-1] == "llmbench: stopped"
    assert "kept" not in said and "go on" not in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["builtin:tinny"], "did you mean builtin:tiny?"),
        (["smollm-135m"], "did you mean shape:smollm-135m "),
        (["smollm:135m"], "did you mean shape:smollm-135m "),
        (["smolm-135m"], "did you mean shape:smollm-135m?"),
        (["gpt2"], "shape:<name> (`llmbench models` lists them), gguf:<file>"),
        (["hf:gpt2"], "known to predict and to models only"),
        (["hf:gpt2"], "`hf download gpt2 --local-dir FOLDER`"),
        (["mixtral-8x22b"], "hf download mistralai/Mixtral-8x22B"),
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
    with pytest.raises(Refused, match=r"trained for 2,048.*\n.*at most 1,984 tokens$"):
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


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["builtin:tiny", "--device", "tpu"], 2, "devices: cpu, cuda"),
        (["builtin:tiny", "--engine", "fake", "--device", "tpu"], 2, "devices: cpu, cuda"),
        (["builtin:tiny", "--engine", "fake", "--device", "cuda"], 3, "no device 'cuda'"),
        (["shape:gemma-2-2b"], 3, "families: llama, qwen2, mistral"),
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
