"""Engine: a loaded model as whatever runs on it sees it, and how a request starts, which imports what it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fastlm import _core
from fastlm.adapters import Adapters
from fastlm.arch.head_tasks import CLASSIFY
from fastlm.arch.spec import ModelSpec
from fastlm.errors import ParameterError, StateError, UnsupportedError
from fastlm.structured.grammars import Grammars
from fastlm.tokenizer.chat import ChatTemplates
from fastlm.tokenizer.prompts import Prompts
from fastlm.tokenizer.tokenizer import Tokenizer
from fastlm.weights.source import ModelSource

if TYPE_CHECKING:
    from fastlm.drafts import Draft, Lookup
    from fastlm.generation import Parameters
    from fastlm.results import Trace
    from fastlm.running import Run
    from fastlm.structured.grammar import Grammar
    from fastlm.structured.library import Matcher
    from fastlm.weights.bind import Binding
    from fastlm.weights.sentences import Sentences

    Rebuild = Callable[[Callable[[Binding], Binding]], tuple[_core.Context, _core.Model, ModelSpec]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Engine:
    """What `load` makes. A Model, its sessions and its tasks share one; it is no part of the public API.

    Attributes
    ----------
    core, context
        The model in C, and the context (threads) that it belongs to.
    info
        What the core said of itself when it was made.
    spec, source
        What it computes, and where it comes from.
    config, defaults
        config.json and generation_config.json.
    prompts
        Text or ids -> checked ids, by the tokenizer.
    templates
        Of conversations.
    task
        What the checkpoint's head is for, unless that is writing (arch/heads.py).
    folder_sentences
        How its folder says that vectors of texts are made; None: it does not.
    adapters, adapter
        Those that are loaded, and that which runs in this call; None: the model as it is.
    salt
        Of this call's sequences: those of another one share no prefixes with them.
    draft
        What proposes tokens for requests that do not say it themselves, unless they search with beams or write by a
        grammar.
    grammars
        That texts of it were written by.
    rebuild
        Makes the model anew, of what its weights become.
    on_close
        Called when the model is closed, by the thread that does it.
    """

    core: _core.Model
    context: _core.Context
    info: Mapping[str, int | str | None]
    spec: ModelSpec
    source: ModelSource
    config: Mapping[str, object]
    defaults: Mapping[str, object]
    prompts: Prompts
    templates: ChatTemplates | None
    task: str = ""
    folder_sentences: Sentences | None = None
    adapters: Adapters = field(default_factory=Adapters)
    adapter: _core.Adapter | None = None
    salt: int = 0
    draft: Draft | Lookup | None = None
    grammars: Grammars = field(default_factory=Grammars)
    rebuild: Rebuild | None = None
    on_close: set[Callable[[], None]] = field(default_factory=set, repr=False)

    def close(self) -> None:
        """Free the core once no call runs on it, and tell who waits for a request without a call."""
        self.core.close()
        for tell in tuple(self.on_close):
            tell()

    def __str__(self) -> str:
        closed = ", closed" if self.core.closed else ""
        return (
            f"{self.config.get('model_type')} ({self.kind}), {self.info['parameters']:,} parameters, "
            f"{self.info['format']}{closed}"
        )

    @property
    def kind(self) -> str:
        """Which stacks it has: "decoder", "encoder" or "encoder-decoder"."""
        return self.spec.kind

    @property
    def writes(self) -> bool:
        """Whether it has a decoder whose head gives words."""
        return self.kind != "encoder" and not self.task and self.spec.logits is not None

    @property
    def tasks(self) -> tuple[str, ...]:
        """What the checkpoint can do: methods of Model."""
        if self.kind == "encoder-decoder":
            return (self.task or "generate",)
        said = self.folder_sentences
        vectors = "embed_sparse" if said and said.sparse else "embed_tokens" if said and said.late else "embed"
        if self.task:
            more = ("rerank",) if self.task == CLASSIFY and self.spec.outputs <= 2 else ()
            return (self.task, *more, vectors)
        if not self.writes:
            return (vectors,)
        if said and said.score:
            return ("rerank", "generate")
        return ("generate", *(("chat",) if self.templates else ()), vectors)

    def refusal(self, what: str) -> UnsupportedError:
        """The error of a task that the checkpoint is not for: `what` says which, and what it lacks."""
        return UnsupportedError(f"{what}; it can: {', '.join(self.tasks) or 'forward'}")

    @property
    def tokenizer(self) -> Tokenizer | None:
        return self.prompts.tokenizer

    @property
    def sentences(self) -> Sentences:
        """How vectors of texts are made."""
        from fastlm.weights.sentences import Sentences  # here: programs that write text need no such folder's reader

        return self.folder_sentences or Sentences()

    @property
    def decoder_start(self) -> int:
        """The token that an encoder-decoder's decoder begins with."""
        start = self.info["decoder_start"]
        if start is None:
            raise ParameterError(
                "config.json names no decoder_start_token_id in the vocabulary: the decoder has nothing to start from"
            )
        return int(start)

    @property
    def vocab(self) -> int:
        """Rows of the logits."""
        return self.spec.vocab

    @property
    def longest(self) -> int:
        """Of a sequence, in tokens."""
        return int(self.info["context"] or 0)

    def adapted(self, name: str | None) -> Engine:
        """This model with one of its adapters; None: as it is."""
        return self if name is None else replace(self, adapter=self.adapters.find(name))

    def session(self) -> _core.Session:
        """A new sequence."""
        session = self.core.session()
        if self.adapter is not None:
            session.set_adapter(self.adapter)
        if self.salt:
            session.set_salt(self.salt)
        return session

    def parameters(self, params: Mapping[str, Any]) -> Parameters:
        """Checked parameters of a request, by this model's defaults."""
        if self.core.closed:
            raise StateError("the model is closed")
        from fastlm.drafts import check
        from fastlm.generation import resolve

        found = resolve(params, self.defaults, self.vocab, self.kind)
        if found.grammar is not None:
            self._matcher(found.grammar)  # says what is wrong with it
        elif self.draft is not None and found.draft is None and found.num_beams == 1:
            found = found.drafting(self.draft)
        check(found.draft, self)
        self.adapters.find(found.adapter)
        return found

    def _matcher(self, grammar: Grammar) -> Matcher:
        return self.grammars.matcher(self.core, self.tokenizer, self.vocab, grammar)

    def run(
        self,
        session: _core.Session | None,
        ids: list[int],
        p: Parameters,
        *,
        echo: str = "",
        prompt_tokens: int | None = None,
        trace: Callable[[list[int]], Trace] | None = None,
    ) -> Run:
        """Continue a sequence with `ids` and write on; see `Run`."""
        if p.num_beams > 1:
            from fastlm.beams import BeamRun

            return BeamRun(session, ids, p, self.tokenizer, echo, prompt_tokens, trace)
        from fastlm.running import Run

        constraint = None
        if p.grammar is not None:
            from fastlm.structured.masking import Constraint

            constraint = Constraint(self.context, self._matcher(p.grammar))
        return Run(session, ids, p, self.tokenizer, echo, prompt_tokens, trace, constraint)
