"""A sequence classifier as a judge: entailment of the output by its context (NLI), toxicity, refusal, any class

One class counts, `label`: its probability becomes the value, from the worst level of the rubric to the best, or the
other way round with `inverted` (the more toxic, the worse). Or each class is a level, in `levels`, and the likeliest
decides. With `premise` the model reads a pair, as NLI models do: a field of the sample first (`context`, `reference`,
`prompt`), the output second; without it the output alone. A pairwise rubric is decided by the two values' difference;
nothing here depends on an order.

What the model cannot read whole is a failed judgement of kind `truncated`, unless `windows` says otherwise: the longer
side (the premise, or the output that is read alone) is then read in windows that overlap by a quarter, and `label` has
its highest probability of any: a claim is entailed where some part of the context entails it (Laban et al. 2022,
SummaC), and an output is as toxic as its most toxic part. The output of a pair is never split: a part of a claim is
another claim.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from harness.errors import ConfigError, SubjectError, nearest
from harness.judging import _fields
from harness.judging._blocks import visible
from harness.judging.kinds import JudgeContext, _pairs, judged_by
from harness.judging.records import Case, Judgement, PairCase
from harness.judging.rubric import Rubric
from harness.records import content_hash
from harness.subjects import _classes, _features, _files, classifier
from harness.subjects.local import Dtype, choose_device, choose_dtype

Row = list[tuple[int, int]]
"""(token, segment) for each place; the segment is 1 in the second text of a pair, for models that are told so."""


class Options(BaseModel):
    """Options of a classifier as a judge."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(description="folder of the classifier, or the name of a hub repository; safetensors only")
    revision: str | None = Field(None, description="branch, tag or commit of a hub repository")
    label: str | None = Field(None, description="class whose probability counts")
    inverted: bool = Field(False, description="the likelier the label, the worse")
    levels: dict[str, float] | None = Field(
        None, description="level of the rubric for each class; the likeliest decides"
    )
    premise: str | None = Field(
        None, description="field of the sample that is read before the output: context, prompt …"
    )
    windows: bool = Field(False, description="read what is too long in windows; off: it is a failed judgement")
    max_length: int | None = Field(
        None, ge=16, description="tokens that are read at once (default: what the model reads)"
    )
    batch_size: int = Field(16, ge=1, description="most texts of a batch")
    tie: float = Field(0.0, ge=0, description="pairwise: largest difference of two values that is a tie")
    dtype: Dtype = Field("auto", description="auto is 16 bits on a GPU and float32 on a CPU")
    device: str = Field("auto", description="auto is cuda, then mps, then cpu")

    @model_validator(mode="after")
    def _one_way(self) -> Options:
        if (self.label is None) == (self.levels is None):
            raise ValueError("give label or levels, one of them")
        if self.levels is not None and (self.inverted or self.windows):
            raise ValueError("inverted and windows go with label; levels say all that there is to say")
        return self


def build(options: Options, rubric: Rubric, context: JudgeContext) -> ClassifierJudge:
    """The kind's contract.

    Raises:
        SubjectError: the model cannot be found or loaded, or is no classifier.
        ConfigError: it has no such class, or a level lies outside the rubric's scale.
    """
    files = _files.find_model(options.model, options.revision, context.folder, ())
    return ClassifierJudge(options, rubric, files)


class ClassifierJudge:
    """See the module and `harness.judging.records.Judge`."""

    def __init__(self, options: Options, rubric: Rubric, files: _files.ModelFiles) -> None:
        """Load the model."""
        self._options, self._rubric, self._files = options, rubric, files
        self._device = choose_device(options.device)
        self._dtype = choose_dtype(options.dtype, self._device)
        self._model: Any = _loaded(files, self._device, self._dtype)
        self._tokenizer = _tokenizer(files)
        self.classes = _classes.names_of(self._model.config)
        self._segmented = "token_type_ids" in inspect.signature(self._model.forward).parameters
        self._several = self._model.config.problem_type == "multi_label_classification"
        self._label = _need_classes(options, rubric, self.classes, files.name)
        self._most = options.max_length or _features.reads(self._model.config, self._tokenizer)
        self.name = Path(options.model).name
        self.bounds = (-1.0, 1.0) if rubric.pairwise else rubric.bounds
        self.pairwise = rubric.pairwise
        self.fingerprint = content_hash(["classifier", rubric.hash, self._identity()])

    def grade(self, cases: Sequence[Case]) -> list[Judgement]:
        """See `Judge.grade`."""
        read = [self._windows(case) for case in cases]
        rows = [row for windows in read if not isinstance(windows, Judgement) for row in windows]
        found = iter(self._probabilities(rows))
        return [
            windows if isinstance(windows, Judgement) else self._judged(np.stack([next(found) for _ in windows]))
            for windows in read
        ]

    def compare(self, pairs: Sequence[PairCase]) -> list[Judgement]:
        """See `Judge.compare`: the difference of the two values."""
        return _pairs.compare_by_scores(pairs, self.grade, self._options.tie)

    def describe(self) -> dict[str, Any]:
        """See `Judge.describe`."""
        more = {"model": self._files.name, "classes": list(self.classes), **self._identity()}
        return judged_by(self, self._rubric, kind="classifier", **more)

    def close(self) -> None:
        """Release the model."""
        self._model = None

    def _identity(self) -> dict[str, Any]:
        reads = self._options.model_dump(include={"label", "inverted", "levels", "premise", "windows", "tie"})
        return {
            **reads,
            "weights": self._files.hashes(),
            "tokenizer_sha256": _files.digest(_files.tokenizer_hashes(self._files.folder)),
            "max_length": self._most,
            "dtype": self._dtype,
            "device_type": self._device.partition(":")[0],
            "versions": {name: version(name).partition("+")[0] for name in ("torch", "transformers")},
        }

    def _windows(self, case: Case) -> list[Row] | Judgement:
        """What the model reads of a case, or why there is nothing."""
        first = None
        if self._options.premise is not None:
            first = visible("\n\n".join(text for _, text in _fields.texts(case, self._options.premise)))
            if not first:
                reason = f"sample {case.sample.id!r} has no {self._options.premise}, which this judge reads"
                return Judgement("failed", None, reason, "rejected")
        # Spelled out in a text, a separator would be one, and what follows it another text.
        output = visible(case.output)
        whole = self._encode(first, output)
        if len(whole) <= self._most:
            return [whole]
        if not self._options.windows:
            reason = f"{len(whole)} tokens, where {self._most} can be read; windows: true reads them in parts"
            return Judgement("failed", None, reason, "truncated")
        return self._split(first, output)

    def _split(self, first: str | None, output: str) -> list[Row] | Judgement:
        fixed = len(self._encode(None, "") if first is None else self._encode("", output))
        room = self._most - fixed
        if room < 8:
            reason = f"the output takes {fixed} of the {self._most} tokens that can be read, and leaves no room"
            return Judgement("failed", None, reason, "truncated")
        rows = [
            self._encode(part, output) if first is not None else self._encode(None, part)
            for part in _parts(self._tokenizer, output if first is None else first, room)
        ]
        longest = max(map(len, rows))
        if longest > self._most:  # a cut can fall between two tokens that are others apart than together
            return Judgement("failed", None, f"a window came out {longest} tokens long", "truncated")
        return rows

    def _encode(self, first: str | None, second: str) -> Row:
        given = self._tokenizer(*((second,) if first is None else (first, second)), verbose=False)
        ids = given["input_ids"]
        return list(zip(ids, given.get("token_type_ids") or [0] * len(ids), strict=True))

    def _probabilities(self, rows: Sequence[Row]) -> _features.Array:
        """[rows, classes]; NaN where the model is broken. A row is read alone or with others of its length."""
        import torch

        if self._model is None:
            raise SubjectError(f"{self.name} has been closed")
        found = np.zeros((len(rows), len(self.classes)))
        for batch in _features.batches(rows, self._options.batch_size):
            with torch.no_grad():
                logits = self._model(**self._tensors([rows[i] for i in batch])).logits.double().cpu().numpy()
            found[batch] = 1 / (1 + np.exp(-logits)) if self._several else np.exp(_features.log_softmax(logits))
        return found

    def _tensors(self, rows: Sequence[Row]) -> dict[str, Any]:
        import torch

        both = torch.tensor(rows, device=self._device)  # [rows, tokens, 2]
        given = {"input_ids": both[..., 0], "attention_mask": torch.ones_like(both[..., 0])}
        return given | ({"token_type_ids": both[..., 1]} if self._segmented else {})

    def _judged(self, probabilities: _features.Array) -> Judgement:
        """`probabilities`: [windows, classes]."""
        if not np.isfinite(probabilities).all():
            return Judgement("failed", None, "NaN or infinite logits: the classifier is broken", "unreadable")
        details: dict[str, Any] = {"windows": len(probabilities)}
        low, high = self._rubric.bounds
        if self._label is None:
            best = self.classes[int(probabilities[0].argmax())]
            details["probabilities"] = dict(zip(self.classes, map(float, probabilities[0]), strict=True))
            level = (self._options.levels or {})[best]  # there, because no label is
            return Judgement("scored", level, f"likeliest class: {best}", details=details)
        share = float(probabilities[:, self._label].max())
        details["probability"] = share
        value = low + (high - low) * (1 - share if self._options.inverted else share)
        return Judgement("scored", value, f"p({self.classes[self._label]}) = {share:.4f}", details=details)


def _loaded(files: _files.ModelFiles, device: str, dtype: str) -> Any:
    from transformers import AutoModelForSequenceClassification

    built = _files._json(files.folder / "config.json").get("architectures") or []
    if not any(str(name).endswith("ForSequenceClassification") for name in built):
        raise SubjectError(f"{files.folder} is {', '.join(map(str, built)) or 'of no kind'} and no classifier")
    return classifier._pretrained(AutoModelForSequenceClassification, files, device, dtype, lambda model: ())


def _tokenizer(files: _files.ModelFiles) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(files.folder, trust_remote_code=False)
    except Exception as error:  # tokenizers raise errors of their own
        raise SubjectError(f"the tokenizer in {files.folder} cannot be loaded: {error}") from error


def _need_classes(options: Options, rubric: Rubric, classes: Sequence[str], name: str) -> int | None:
    """Where the label is among the classes; None for levels, which have to name every class and lie on the scale."""
    if len(classes) < 2:
        raise ConfigError(f"{name} has one output and no classes; as a reward model it is of kind reward_model")
    if options.label is not None:
        if options.label not in classes:
            raise ConfigError(f"label: {name} has no class {options.label!r}: {nearest(options.label, classes)}")
        return classes.index(options.label)
    levels = options.levels or {}
    for given in levels:
        if given not in classes:
            raise ConfigError(f"levels: {name} has no class {given!r}: {nearest(given, classes)}")
    missing = [c for c in classes if c not in levels]
    if missing:
        raise ConfigError(f"levels: class {missing[0]!r} of {name} has no level")
    low, high = rubric.bounds
    outside = [c for c, level in levels.items() if not low <= level <= high]
    if outside:
        raise ConfigError(
            f"levels: {levels[outside[0]]:g} for {outside[0]!r} lies outside the scale {low:g} to {high:g}"
        )
    return None


def _parts(tokenizer: Any, text: str, room: int) -> list[str]:
    """Pieces of a text of at most `room` tokens; each begins a quarter before the one before it ends."""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    step = room - room // 4
    starts = range(0, max(1, len(offsets) - room // 4), step)
    return [text[offsets[s][0] : offsets[min(s + room, len(offsets)) - 1][1]] for s in starts]
