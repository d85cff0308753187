"""lm-evaluation-harness on models of fastlm (extra `eval`): importing this module makes `--model fastlm` known to it.

`fastlm eval MODEL --tasks ...` does so and hands all other options to the harness. Gao et al., "The Language Model
Evaluation Harness", doi:10.5281/zenodo.12608602.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import has_bos_prefix, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from fastlm.errors import ParameterError
from fastlm.generation import Request
from fastlm.loading import load
from fastlm.tasks.continuations import Continuation, continuations
from fastlm.tokenizer.vocabulary import vocabulary

Instances = Sequence[Any]  # lm_eval.api.instance.Instance


@register_model("fastlm")
class FastLM(TemplateLM):  # type: ignore[misc]  # the harness may be missing where types are checked
    """A decoder of fastlm, with the numbers of the harness's `hf` backend in float32.

    Parameters
    ----------
    pretrained
        What `fastlm.load` takes.
    max_length
        Tokens of the longest sequence; longer contexts lose their beginning. None: the model's context.
    max_gen_toks
        Tokens that are written where a task does not say.
    batch_size, max_batch_size, device
        The harness gives them to every model ("cuda:0", too). They change nothing: sequences share steps as they fit,
        on the CPU.
    **options
        dtype, threads, kv_dtype, kv_bytes: of `fastlm.load`.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        *,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if unknown := set(options) - {"dtype", "threads", "kv_dtype", "kv_bytes"}:
            raise ParameterError(f"model_args: unknown {', '.join(sorted(unknown))}")
        self.model = load(pretrained, context=max_length, **options)
        self.max_length, self.max_gen_toks = self.model.context, max_gen_toks
        self._tokenizer = self.model.engine.prompts.needed_tokenizer()
        engine = self.model.engine
        said = vocabulary(self._tokenizer, engine.config, engine.defaults, engine.vocab)
        known = [*self._tokenizer.eos, *said["eos"], said["bos"]]
        if known == [None]:
            raise ParameterError("the model names neither an end token nor one to begin with: the harness needs one")
        self._end: int = known[0]

    @property
    def eot_token_id(self) -> int:
        return self._end

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that nothing stands before."""
        return self._end if self.model.bos is None else int(self.model.bos)

    @property
    def tokenizer_name(self) -> str:
        return str(self.model.engine.source.path).replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The harness only keeps it: `apply_chat_template` uses the model's own."""
        return ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        end = {"add_generation_prompt": True} if add_generation_prompt else {"continue_final_message": True}
        ids = self.model.chat_prompt(chat_history, **end)
        return self._tokenizer.decode(ids, skip_special=False)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **options: Any) -> list[int]:
        special = add_special_tokens
        if special is None:
            special = not has_bos_prefix(string, self._tokenizer.special_tokens.get("bos_token"))
        return self._tokenizer.encode(string, special=special)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **options: Any
    ) -> list[tuple[float, bool]]:
        given = []
        for _, context, continuation in requests:
            whole = (context + continuation)[-(self.max_length + 1) :]
            given.append(Continuation(whole, min(len(continuation), len(whole) - 1)))
        with tqdm(total=len(given), disable=disable_tqdm, desc="Running loglikelihood requests") as bar:
            found = continuations(self.model.engine, given, bar.update)
        results = [(float(scores.logprobs.sum()), bool(scores.greedy.all())) for scores in found]
        self._keep("loglikelihood", [request[0] for request in requests], results)
        return results

    def loglikelihood_rolling(self, requests: Instances, disable_tqdm: bool = False) -> list[float]:
        windows = [
            [(None, *window) for window in map(make_disjoint_window, self._windows(*request.args))]
            for request in requests
        ]
        found = iter(self._loglikelihood_tokens([w for of in windows for w in of], disable_tqdm))
        results = [sum(next(found)[0] for _ in of) for of in windows]
        self._keep("loglikelihood_rolling", [request.args for request in requests], results)
        return results

    def _windows(self, text: str) -> list[tuple[list[int], list[int]]]:
        ids, most = self.tok_encode(text), self.max_length
        return list(get_rolling_token_windows(ids, prefix_token=self.prefix_token_id, max_seq_len=most, context_len=1))

    def generate_until(self, requests: Instances, disable_tqdm: bool = False) -> list[str]:
        with tqdm(total=len(requests), disable=disable_tqdm, desc="Running generate_until requests") as bar:
            results = _in_parts([self._request(*request.args) for request in requests], self._written, bar.update)
        self._keep("generate_until", [request.args for request in requests], results)
        return results

    def _request(self, context: str, options: dict[str, Any]) -> Request:
        params = dict(normalize_gen_kwargs(options, self.max_gen_toks))
        most, until = params.pop("max_gen_toks"), params.pop("until", [])
        room = self.max_length - most
        if room < 1:
            raise ParameterError(f"max_gen_toks: {most} tokens leave nothing of a context of {self.max_length}")
        if not params.pop("do_sample", False):
            params["temperature"] = 0.0
        stop = [text for text in ([until] if isinstance(until, str) else until) if text]
        return Request(self.tok_encode(context)[-room:], max_tokens=most, stop=stop, **params)

    def _written(self, requests: Sequence[Request]) -> list[str]:
        """As the `hf` backend decodes: what was written alone, which drops the space that it begins with."""
        written = zip(requests, self.model.batch(requests), strict=True)
        decode = self._tokenizer.decode
        return [postprocess_generated_text(decode(done.token_ids), r.params["stop"], None) for r, done in written]

    def _keep(self, what: str, requests: Sequence[Any], results: Sequence[Any]) -> None:
        """For the harness's cache."""
        for request, result in zip(requests, results, strict=True):
            if request is not None:
                self.cache_hook.add_partial(what, request, result)


def _in_parts(
    requests: Sequence[Request], run: Callable[[Sequence[Request]], list[str]], done: Callable[[int], object]
) -> list[str]:
    """Results of all requests, some at a time, so that progress shows."""
    found: list[str] = []
    for at in range(0, len(requests), 64):
        part = run(requests[at : at + 64])
        found += part
        done(len(part))
    return found
