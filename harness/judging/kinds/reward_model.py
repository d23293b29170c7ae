"""A reward model as a judge: a sequence classifier with one output, on the conversation as its chat template writes it

A reward has no scale: it says which of two answers is better, and nothing else (Ouyang et al. 2022; Bradley & Terry
1952). So a pairwise rubric is decided by the sign of the difference, and a pointwise one needs `squash`, by which a
reward becomes a value of the rubric's scale: lowest + (highest − lowest) · σ((reward − centre) / width). Choose centre
and width on rewards of your own, and calibrate the judge: nothing else makes such a value mean anything.

A model that objective `reward` left here is read as it was trained, up to the end of the answer; any other as its
template writes the conversation, which is how published ones are used. A tokenizer without a template reads prompt and
answer as one text with the end token behind it. A conversation that is too long is a failed judgement of kind
`truncated`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from harness import adapters
from harness.engine._encoding import Encoder
from harness.errors import ConfigError, DataError, SubjectError
from harness.judging import _fields
from harness.judging._blocks import visible
from harness.judging.kinds import JudgeContext, _pairs, judged_by
from harness.judging.records import Case, Judgement, PairCase
from harness.judging.rubric import Rubric
from harness.records import content_hash
from harness.subjects import _classes, _features, _files, _rewards
from harness.subjects.local import Dtype, choose_device, choose_dtype


class Squash(BaseModel):
    """How a reward becomes a value: σ((reward − centre) / width) of the way from the worst level to the best."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    centre: float = Field(allow_inf_nan=False, description="reward that lies in the middle of the scale")
    width: float = Field(
        gt=0, allow_inf_nan=False, description="how much more reward is 73 % of the way instead of half"
    )


class Options(BaseModel):
    """Options of a reward model as a judge."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(
        description="folder of a reward model or its adapter or head, or a hub repository; safetensors only"
    )
    revision: str | None = Field(None, description="branch, tag or commit of a hub repository")
    base: str | None = Field(None, description="model below an adapter or a head (default: what the adapter names)")
    squash: Squash | None = Field(None, description="for a pointwise rubric: how a reward becomes a value of its scale")
    tie: float = Field(0.0, ge=0, description="pairwise: largest difference of two rewards that is a tie")
    batch_size: int = Field(8, ge=1, description="most conversations of a batch")
    dtype: Dtype = Field("auto", description="auto is 16 bits on a GPU and float32 on a CPU")
    device: str = Field("auto", description="auto is cuda, then mps, then cpu")


def build(options: Options, rubric: Rubric, context: JudgeContext) -> RewardModelJudge:
    """The kind's contract.

    Raises:
        ConfigError: there is no reward model, its base is not known, or a pointwise rubric has no `squash`.
        SubjectError: a model cannot be found, or its weights are not safe to load.
    """
    if not rubric.pairwise and options.squash is None:
        raise ConfigError(
            f"judge {rubric.name!r} gives levels, and a reward has no scale: say squash: {{centre: …, width: …}}, or "
            "take a pairwise judge"
        )
    return RewardModelJudge(options, rubric, context.folder)


class RewardModelJudge:
    """See the module and `harness.judging.records.Judge`."""

    def __init__(self, options: Options, rubric: Rubric, folder: Path) -> None:
        """Load the model with its head."""
        self._options, self._rubric = options, rubric
        self._device = choose_device(options.device)
        self._dtype = choose_dtype(options.dtype, self._device)
        self._found, self._base = _find(options, folder)
        self._model: Any = _loaded(self._found, self._base, self._device, self._dtype)
        self._tokenizer = _rewards.tokenizer_of(self._found, None if self._base is None else str(self._base))
        config = self._model.config.get_text_config()
        config.pad_token_id = self._tokenizer.pad_token_id
        self._most = _features.reads(config, self._tokenizer)
        self._encoder = Encoder(self._tokenizer)
        self._ours = any((self._found / name).is_file() for name in (adapters.RECORD, _classes.RECORD))
        self.name = Path(options.model).name
        self.bounds = rubric.bounds
        self.pairwise = rubric.pairwise
        self.fingerprint = content_hash(["reward_model", rubric.hash, self._identity()])

    def grade(self, cases: Sequence[Case]) -> list[Judgement]:
        """See `Judge.grade`."""
        return [self._squashed(judgement) for judgement in self._rewards(cases)]

    def compare(self, pairs: Sequence[PairCase]) -> list[Judgement]:
        """See `Judge.compare`: the sign of the difference of the two rewards."""
        return _pairs.compare_by_scores(pairs, self._rewards, self._options.tie)

    def describe(self) -> dict[str, Any]:
        """See `Judge.describe`."""
        return judged_by(self, self._rubric, kind="reward_model", model=self._options.model, **self._identity())

    def close(self) -> None:
        """Release the model."""
        self._model = None

    def _identity(self) -> dict[str, Any]:
        base = None if self._base is None else _files.ModelFiles(str(self._base), self._base).hashes()
        template = self._tokenizer.chat_template
        return {
            "weights": _files.ModelFiles(self._options.model, self._found).hashes(),
            "base_weights": base,
            "head": _files.hash_files(_files._present(self._found, (adapters.CONFIG, _classes.RECORD))),
            "tokenizer_sha256": _files.digest(_files.tokenizer_hashes(Path(self._tokenizer.name_or_path))),
            "template_sha256": content_hash(template),
            "read_to_its_end": self._ours,
            "squash": None if self._options.squash is None else self._options.squash.model_dump(),
            "tie": self._options.tie,
            "dtype": self._dtype,
            "device_type": self._device.partition(":")[0],
            "versions": {name: version(name).partition("+")[0] for name in ("torch", "transformers")},
        }

    def _rewards(self, cases: Sequence[Case]) -> list[Judgement]:
        """Judgements whose value is the reward itself."""
        read = [self._ids(case) for case in cases]
        found = iter(self._forward([ids for ids in read if not isinstance(ids, Judgement)]))
        return [ids if isinstance(ids, Judgement) else _reward(next(found)) for ids in read]

    def _ids(self, case: Case) -> list[int] | Judgement:
        try:
            ids = list(self._encoder.prompt(self._text(case)))
        except (SubjectError, DataError) as error:
            return Judgement("failed", None, str(error), "rejected")
        if self._ours and self._tokenizer.eos_token_id in ids:
            ids = ids[: len(ids) - ids[::-1].index(self._tokenizer.eos_token_id)]
        if len(ids) > self._most:
            return Judgement("failed", None, f"{len(ids)} tokens, where {self._most} can be read", "truncated")
        return ids

    def _text(self, case: Case) -> str:
        # Spelled out in a text, a mark of the template would be one: an answer could end its turn and praise itself.
        turns = [{"role": role, "content": visible(text)} for role, text in _fields.turns(case, case.answers)]
        output = visible(case.output)
        if not self._tokenizer.chat_template:
            if len(turns) > 1:
                raise SubjectError(f"{self.name} has no chat template for a conversation of {len(turns) + 1} messages")
            return f"{turns[0]['content']}{output}{self._tokenizer.eos_token or ''}"
        turns.append({"role": "assistant", "content": output})
        try:
            return str(self._tokenizer.apply_chat_template(turns, tokenize=False))
        except Exception as error:  # a template is code of its author; jinja2 lets its exceptions through
            raise SubjectError(f"the chat template of {self.name} refuses these messages: {error}") from error

    def _forward(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """The rewards; rows of one length are read together, so that nothing is padded."""
        import torch

        if self._model is None:
            raise SubjectError(f"{self.name} has been closed")
        found = [0.0] * len(rows)
        for batch in _features.batches(rows, self._options.batch_size):
            ids = torch.tensor([list(rows[i]) for i in batch], device=self._device)
            with torch.no_grad():
                logits = self._model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, 0]
            for i, reward in zip(batch, logits.double().cpu().tolist(), strict=True):
                found[i] = reward
        return found

    def _squashed(self, judgement: Judgement) -> Judgement:
        if judgement.value is None or self._options.squash is None:
            return judgement
        low, high = self.bounds
        share = _sigmoid((judgement.value - self._options.squash.centre) / self._options.squash.width)
        return Judgement("scored", low + (high - low) * share, judgement.reason, details=judgement.details)


def _find(options: Options, folder: Path) -> tuple[Path, Path | None]:
    """Folders of the reward model, and of the model below it where it is an adapter or a head."""
    place = _files.place(options.model, folder).resolve()
    part = any((place / name).is_file() for name in (adapters.CONFIG, _rewards.HEAD))
    if not part:
        return _files.find_model(options.model, options.revision, folder, ()).folder, None
    if (place / adapters.CONFIG).is_file():
        _files.find_adapter(options.model, folder)
    elif options.base is None:
        raise ConfigError(f"reward model {place} is a head alone: name the model below it with base")
    return place, _files.find_model(_rewards.base_of(place, options.base), None, folder, ()).folder


def _loaded(found: Path, base: Path | None, device: str, dtype: str) -> Any:
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()  # only the console may draw
    model = _rewards.load(found, None if base is None else str(base))
    return model.to(device=device, dtype=getattr(torch, dtype)).eval().requires_grad_(False)


def _reward(reward: float) -> Judgement:
    if not math.isfinite(reward):
        return Judgement("failed", None, "a reward that is NaN or infinite: the model is broken", "unreadable")
    return Judgement("scored", reward, f"reward {reward:.4f}", details={"reward": reward})


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
