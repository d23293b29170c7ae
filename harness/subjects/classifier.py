"""A text classifier on this machine: what head-only, feature-based, adapter or full training with classes has left.

The class that a text belongs to is asked for as any model is asked: the log-likelihood of a continuation that names a
class is log p(class | text), in nats, and a generation is the name of the likeliest class, at any temperature. White
space around a class's name does not count. Whatever else is asked is a failed observation: another continuation, the
likelihood of a text, a conversation of more than one message, a text that is too long.

Texts of one length are computed together, so that nothing is padded. Logits become probabilities in float64.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from harness import adapters, plugins, tuners
from harness.errors import PluginError, SubjectError
from harness.records import Check, Draft, Generate, LogLikelihood, Message, Output, Request, content_hash
from harness.subjects import Answers, Subject, SubjectContext, _checks, _classes, _features, _files
from harness.subjects._features import Array
from harness.subjects.local import Dtype, choose_device, choose_dtype

_LIBRARIES = ("torch", "transformers", "safetensors")


class Options(BaseModel):
    """What gate.yaml may say of a classifier."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(description="folder of the model, relative to gate.yaml, or the name of a hub repository")
    head: str | None = Field(None, description="folder that a training left (null: the model is a classifier itself)")
    revision: str | None = Field(None, description="branch, tag or commit of a hub repository")
    tokenizer: str | None = Field(None, description="folder or hub repository of the tokenizer (default: the model's)")
    dtype: Dtype = Field("auto", description="auto is 16 bits on a GPU and float32 on a CPU")
    device: str = Field("auto", description="auto is cuda, then mps, then cpu")
    max_length: int | None = Field(None, ge=1, description="tokens of a text (default: what the model reads)")
    batch_size: int = Field(16, ge=1, description="most texts of a batch")
    truncate: Literal["refuse", "right"] = Field("refuse", description="right drops the end of a text that is too long")
    trust_remote_code: tuple[str, ...] = Field((), description="models, by exact name, whose own code may run")


def build(options: Options, context: SubjectContext) -> ClassifierSubject:
    """The subject plugin contract.

    Raises:
        SubjectError: the model or the head cannot be found or loaded, or they do not fit each other.
        AdapterError: the same for a head that is an adapter.
    """
    _need_libraries()
    from transformers import AutoTokenizer

    files = _files.find_model(options.model, options.revision, context.folder, options.trust_remote_code)
    head = None if options.head is None else (context.folder / options.head).expanduser().resolve()
    folder = files.folder
    if options.tokenizer is not None:
        folder = _files.locate(options.tokenizer, None, context.folder, list(_files._TOKENIZER_FILES))
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=files.remote_code)
    except Exception as error:
        raise SubjectError(f"the tokenizer in {folder} cannot be loaded: {error}") from error
    return ClassifierSubject(options, files, head, tokenizer, folder)


class ClassifierSubject:
    """See `harness.subjects.Subject`. Use `build`."""

    def __init__(
        self, options: Options, files: _files.ModelFiles, head: Path | None, tokenizer: Any, tokenizer_folder: Path
    ) -> None:
        """Load the model with its head."""
        self.name = Path(options.model).name + (f"+{head.name}" if head else "")
        self.tokenizer = tokenizer
        self._options, self._files, self._head = options, files, head
        self._device = choose_device(options.device)
        self._dtype = choose_dtype(options.dtype, self._device)
        self._record = None if head is None else _classes.read(head)
        self._model: Any = _load(files, self._device, self._dtype, self._record, head)
        self.classes = _class_names(self._record, self._model, files.folder)
        self._fitted = None
        if self._record is not None and head is not None and self._record.kind == "features":
            self._fitted = _features.fitted(self._record.settings, _classes.tensors(head))
        self._most = options.max_length or _features.reads(self._model.config, tokenizer)
        self._tokenizer_digest = _files.digest(_files.tokenizer_hashes(tokenizer_folder))
        self.chat_fingerprint = content_hash("classifier: the content of the only message")
        self.fingerprint = content_hash(self._identity())

    def render_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """See `Subject.render_chat`: a conversation of one message is that message's text."""
        if len(messages) != 1:
            raise SubjectError(f"{self.name} classifies one text and has no template for {len(messages)} messages")
        return messages[0].content

    def answer(self, requests: Sequence[Request], drafts: Sequence[Draft | None] = ()) -> Iterator[Answers]:
        """See `Subject.answer`; a text that is asked for several classes is computed once."""
        if self._model is None:
            raise SubjectError(f"{self.name} has been closed")
        failed: Answers = []
        asking: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            text, problem = self._text(request)
            if problem is None:
                asking.setdefault(text, []).append(i)
            else:
                failed.append((i, Output(failure=problem)))
        if failed:
            yield failed
        texts, rows, problems = self._rows(asking)
        if problems:
            yield [(i, Output(failure=problem)) for text, problem in problems.items() for i in asking[text]]
        for batch in _features.batches(rows, self._options.batch_size):
            found = self._log_probabilities([rows[i] for i in batch])
            pairs = zip(batch, found, strict=True)
            yield [(i, self._output(requests[i], values)) for row, values in pairs for i in asking[texts[row]]]

    def remarks(self) -> Sequence[str]:
        """Nothing to tell."""
        return ()

    def checks(self, baseline: Subject) -> Sequence[Check]:
        """See `Subject.checks`: the head is of this base and as trained, and both subjects read the same tokens."""
        said = self._options.tokenizer is not None
        trained = adapters.as_recorded(self._head or self._files.folder)
        found = [self._for_base(), *([] if trained is None else [trained])]
        return [*found, _checks.same_tokenizer(baseline, self, said_otherwise=said)]

    def describe(self) -> dict[str, Any]:
        """See `Subject.describe`."""
        return {
            "kind": "classifier",
            "name": self.name,
            "fingerprint": self.fingerprint,
            "model": self._files.name,
            "folder": str(self._files.folder),
            "head": None if self._head is None else str(self._head),
            "artifact": adapters.promotable(
                *(self._files.folder, "model") if self._head is None else (self._head, "head")
            ),
            **self._identity(),
        }

    def close(self) -> None:
        """Release the model."""
        self._model = None

    def _identity(self) -> dict[str, Any]:
        return {
            "weights": self._files.hashes(),
            "head_files": {} if self._head is None else _head_hashes(self._head),
            "classes": list(self.classes),
            "tokenizer_sha256": self._tokenizer_digest,
            "dtype": self._dtype,
            "device_type": self._device.partition(":")[0],
            "max_length": self._most,
            "truncate": self._options.truncate,
            "versions": {name: version(name).partition("+")[0] for name in _LIBRARIES},
        }

    def _text(self, request: Request) -> tuple[str, str | None]:
        """(text to classify, why it cannot be)."""
        if not isinstance(request, Generate | LogLikelihood):
            return "", "a classifier gives no likelihood of a text"
        given = request.prompt if isinstance(request, Generate) else request.context
        if not isinstance(given, str) and len(given) != 1:
            return "", f"a classifier reads one text, and this is a conversation of {len(given)} messages"
        if not isinstance(given, str) and given[0].pictures:
            return "", "a classifier reads one text, and no pictures"
        text = given if isinstance(given, str) else given[0].content
        if isinstance(request, LogLikelihood) and request.continuation.strip() not in self.classes:
            return text, f"{request.continuation.strip()!r} is none of the classes {', '.join(self.classes)}"
        return text, None

    def _rows(self, asked: Mapping[str, Any]) -> tuple[list[str], list[list[int]], dict[str, str]]:
        """Texts that can be read with their tokens, and why the others cannot."""
        texts, rows, problems = [], [], {}
        for text in asked:
            ids = _features.encode(self.tokenizer, text)
            if self._options.truncate == "right" and len(ids) > self._most:
                ids = self._cut(text)
            if 0 < len(ids) <= self._most:
                texts.append(text)
                rows.append(ids)
            else:
                problems[text] = f"the text has {len(ids)} tokens, where 1 to {self._most} can be read"
        return texts, rows, problems

    def _cut(self, text: str) -> list[int]:
        """With the special tokens still at the end, as while training."""
        return [int(i) for i in self.tokenizer(text, truncation=True, max_length=self._most)["input_ids"]]

    def _log_probabilities(self, rows: Sequence[Sequence[int]]) -> Array:
        """[rows, classes], in nats; not finite where the model is broken."""
        if self._fitted is not None:
            classifier, pooling = self._fitted
            return classifier.log_probabilities(_features.vectors(self._model, rows, pooling))
        import torch

        with torch.no_grad():
            ids = torch.tensor([list(row) for row in rows], device=self._device)
            logits = self._model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        return _features.log_softmax(logits.double().cpu().numpy())

    def _output(self, request: Request, values: Array) -> Output:
        if not np.isfinite(values).all():
            return Output(failure="NaN or infinite logits: the classifier is broken")
        best = int(values.argmax())
        if isinstance(request, Generate):
            return Output(text=self.classes[best], tokens=1)
        if not isinstance(request, LogLikelihood):
            raise TypeError(f"{type(request).__name__} is refused before anything is computed")
        chosen = self.classes.index(request.continuation.strip())
        return Output(logprob=float(values[chosen]), is_greedy=chosen == best, tokens=1)

    def _for_base(self) -> Check:
        name = "classifier-for-base"
        if self._head is None:
            return Check(name, True, "the model is a classifier itself")
        said = adapters._json(self._head / adapters.RECORD).get("base_weights_sha256")
        if said is None:
            return Check(name, True, f"its tensors fit; {adapters.RECORD} records no base")
        if said != adapters.weights_hash(self._files.folder):
            return Check(name, False, f"{adapters.RECORD} records other base weights than those of {self._files.name}")
        return Check(name, True, f"{adapters.RECORD} records exactly these base weights")


def _class_names(record: _classes.Record | None, model: Any, folder: Path) -> tuple[str, ...]:
    classes = _classes.names_of(model.config) if record is None else record.classes
    if len(classes) < 2 or len({name.strip() for name in classes}) < len(classes):
        raise SubjectError(f"{folder} does not tell apart two or more classes of different names: {list(classes)}")
    if any(name != name.strip() for name in classes):
        raise SubjectError(f"white space around a class's name cannot be asked for: {list(classes)}")
    return classes


def _load(files: _files.ModelFiles, device: str, dtype: str, record: _classes.Record | None, head: Path | None) -> Any:
    """The model in eval mode; for features the backbone alone."""
    from transformers import AutoModel, AutoModelForSequenceClassification

    if record is None or head is None:
        _need_classifier(files.folder)
        return _pretrained(AutoModelForSequenceClassification, files, device, dtype, lambda model: ())
    if record.kind == "features":
        return _pretrained(AutoModel, files, device, dtype, lambda model: ("pooler",))  # it is not read
    if len(record.classes) < 2:
        raise SubjectError(f"{head} holds a reward model's head, which has no classes")
    named = dict(enumerate(record.classes))
    known = {"id2label": named, "label2id": {name: i for i, name in named.items()}}
    model = _pretrained(AutoModelForSequenceClassification, files, device, dtype, _classes.head_modules, **known)
    if record.kind == "adapter":
        return tuners.open_adapter(model, _files.find_adapter(head.name, head.parent)).eval()
    _classes.load_head(model, head)
    return model


def _pretrained(
    kind: Any,
    files: _files.ModelFiles,
    device: str,
    dtype: str,
    optional: Callable[[Any], Sequence[str]],
    **more: Any,
) -> Any:
    """A model whose files hold all of it but the modules that `optional` names.

    transformers fills in what is missing with random values, and a classifier of these would answer by chance.
    """
    import torch
    from transformers.utils import logging

    shown = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns of a head with random values, which ours is about to replace
    logging.disable_progress_bar()
    try:
        model, told = kind.from_pretrained(
            files.folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=files.remote_code,
            output_loading_info=True,
            **more,
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError) as error:
        raise SubjectError(f"{files.folder} cannot be loaded as a classifier: {error}") from error
    finally:
        logging.set_verbosity(shown)
    missing = [n for n in sorted(told["missing_keys"]) if not any(_classes.inside(n, m) for m in optional(model))]
    if missing:
        raise SubjectError(f"the files of {files.folder} lack {len(missing)} tensors of a classifier: {missing[0]} …")
    return model.to(device).eval()


def _need_classifier(folder: Path) -> None:
    """Without a head transformers would make one up, and it would answer by chance."""
    config = _files._json(folder / "config.json")
    built = config.get("architectures") or []
    if not any(str(name).endswith("ForSequenceClassification") for name in built):
        raise SubjectError(f"{folder} is {', '.join(map(str, built)) or 'of no kind'} and no classifier; give its head")
    if config.get("problem_type") == "multi_label_classification":
        raise SubjectError(f"{folder} gives a text several classes at once, and a probability of one of them is asked")


def _head_hashes(folder: Path) -> dict[str, str]:
    names = (_classes.RECORD, _classes.TENSORS, adapters.CONFIG, adapters.WEIGHTS)
    return _files.hash_files(_files._present(folder, names))


def _need_libraries() -> None:
    try:
        for name in (*_LIBRARIES, "peft"):
            importlib.import_module(name)
    except ImportError as error:
        raise PluginError(plugins.missing_extra("the classifier subject", error)) from error
