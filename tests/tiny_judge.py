"""A tiny language model that judges, trained in seconds, and a real server for it: no stub in the path of a test.

Its tokenizer reads nothing of a question but a handful of words: what kind of judgement is wanted, and the praise or
blame that the answers hold. So a question of a thousand words is a few tokens for it, and a Llama of one layer learns
in seconds to answer as a judge should, with the JSON that is asked for. An answer with "superb" in it gets 5, one with
"abysmal" 1; of several such words the last one counts, and an answer without any gets 3. Of two answers the one with
the better word wins.

    model = make_judge_model(folder / "judge")
    with serving(model) as api_base:
        options = ServedOptions(model=f"openai/{model.name}", api_base=api_base)

Torch is imported inside the functions, so that the fast tests can import this file.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WORDS = {"abysmal": 1, "lacking": 2, "passable": 3, "commendable": 4, "superb": 5}
"""What an answer may hold, and the level that it earns."""

_ASSESS, _COMPARE, _ANSWER = "You assess one answer", "You compare two answers", "<|assistant|>"
_END, _PAD = "</s>", "<pad>"
_TEMPLATE = (
    "{% for m in messages %}{{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def level_reply(level: int) -> str:
    """What the model says of one answer."""
    return json.dumps({"reason": f"The answer is worth {level}.", "score": level})


def pair_reply(better: str) -> str:
    """What the model says of two answers; `better` is A, B or tie."""
    return json.dumps({"reason": f"The better one: {better}.", "better": better})


def make_judge_model(folder: Path) -> Path:
    """A trained judge with its tokenizer, as `transformers serve` loads it; takes a few seconds on one core."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    tokenizer = _tokenizer()
    set_seed(0)
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 4, "max_position_embeddings": 256, "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    model = LlamaForCausalLM(LlamaConfig(**shape))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batches = [_batch(tokenizer, list(rows)) for _, rows in itertools.groupby(_examples(), lambda e: len(e[0]))]
    for _ in range(400):
        optimizer.zero_grad()
        losses = [torch.nn.functional.cross_entropy(model(input_ids=ids).logits[:, -2:].flatten(0, 1), said.flatten())
                  for ids, said in batches]  # fmt: skip
        loss = torch.stack(losses).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if max(loss.item() for loss in losses) < 2e-3:
            break
    else:
        raise RuntimeError("the tiny judge has not learned its replies")
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@contextmanager
def serving(folder: Path, timeout: float = 120) -> Iterator[str]:
    """`transformers serve` on a free port; gives the `api_base`. The model's name there is the folder's."""
    command = Path(sys.executable).with_name("transformers")
    program = str(command) if command.is_file() else shutil.which("transformers")
    if program is None:
        raise RuntimeError("the command `transformers` is not installed: pip install 'transformers[serving]'")
    port = _free_port()
    options = ["--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    log = folder.parent / f"{folder.name}.serve.log"
    # Without the folder of the package on the path: the server shall be what a user installs.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as told:
        process = subprocess.Popen(
            [program, "serve", folder.name, *options], cwd=folder.parent, env=environment, stdout=told,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        _wait(f"http://127.0.0.1:{port}/health", process, log, timeout)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _tokenizer() -> Any:
    """Reads the words that it knows and passes over everything else; a whole reply is one token."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    replies = [level_reply(level) for level in WORDS.values()] + [pair_reply(side) for side in ("A", "B", "tie")]
    known = [_PAD, _END, _ANSWER, _ASSESS, _COMPARE, *WORDS, *replies]
    raw = Tokenizer(models.WordLevel({token: i for i, token in enumerate(known)}, unk_token=_PAD))
    words = "|".join(WORDS)
    read = rf"{_ASSESS}|{_COMPARE}|<\|assistant\|>|\b(?:{words})\b"
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(read), "removed", invert=True)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=_END, pad_token=_PAD, model_max_length=256)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.chat_template = _TEMPLATE
    return tokenizer


def _examples() -> list[tuple[list[str], str]]:
    """(what is read, the reply), sorted by length."""
    made = []
    for count in range(4):
        for words in itertools.product(WORDS, repeat=count):
            made.append(([_ASSESS, *words, _ANSWER], level_reply(WORDS[words[-1]] if words else 3)))
            first, second = [WORDS[w] for w in words[-2:]] if count >= 2 else (0, 0)
            better = "tie" if first == second else "A" if first > second else "B"
            made.append(([_COMPARE, *words, _ANSWER], pair_reply(better)))
    return sorted(made, key=lambda example: len(example[0]))


def _batch(tokenizer: Any, rows: list[tuple[list[str], str]]) -> tuple[Any, Any]:
    """Token ids [rows, read + 1] and what follows the last two of them [rows, 2]: the reply, and its end."""
    import torch

    ids = [tokenizer.convert_tokens_to_ids([*read, reply]) for read, reply in rows]
    said = [[row[-1], tokenizer.eos_token_id] for row in ids]
    return torch.tensor(ids), torch.tensor(said)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait(url: str, process: subprocess.Popen[bytes], log: Path, timeout: float) -> None:
    until = time.monotonic() + timeout
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310  (our own server's address)
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"transformers serve did not start: {log.read_text(errors='replace')[-2000:]}")
