"""The model class that lm-eval calls: `zephyr` in its registry, answering on prefix trees.

lm-eval makes the requests and scores the answers. What they share, a few-shot context or a question, is computed
once here. Tokenisation, truncation and the meaning of stop texts are those of lm-eval's own class for transformers
models, `hf`, so that the numbers are the same.
"""

from __future__ import annotations

import ctypes
import gc
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property, lru_cache
from typing import cast

import numpy as np
from lm_eval import utils  # type: ignore[import-untyped]
from lm_eval.api.model import TemplateLM  # type: ignore[import-untyped]
from lm_eval.api.registry import register_model  # type: ignore[import-untyped]

from zephyr.data.tokenize.jinja_rendering import JinjaTemplate
from zephyr.errors import ModelError
from zephyr.evaluation.harness.finished import FinishedAnswer, FinishedRequests
from zephyr.evaluation.harness.generated import GenerationRequest, generated_texts, request_sampling
from zephyr.evaluation.harness.tasks import LmEvalRequest
from zephyr.models.continuations import Continuation, plan_batches, score_continuations
from zephyr.models.loading import Loaded, load
from zephyr.models.own_forward import NUM_COMPARED, check_scorer
from zephyr.models.scorer import ForestScorer
from zephyr.models.source import Source
from zephyr.progress import show_progress
from zephyr.records.messages import Message, Role
from zephyr.records.thinking import opens_thinking, split_thinking

# lm-eval's own default for a model that does not say how long its sequences may be; tokenizers then say 1e30.
DEFAULT_MAX_LENGTH = 2048
MAX_SAID_LENGTH = 10**12
# Unique tokens of one forest, where the caller does not say: two of the longest requests, so that a shared context is
# seldom computed twice, and on an accelerator at least enough to keep it busy. On two cores more is hardly faster, and
# so little stays below what a padded request takes, whose logits are kept whole.
REQUESTS_TOGETHER = 2
FEWEST_TOKENS = {"cpu": 384}
FEWEST_TOKENS_ACCELERATOR = 8192
MOST_TOKENS = 32_768

# (context, continuation) as texts, and both as ids; the texts are None for windows of a long text.
TokenRequest = tuple[tuple[str, str] | None, list[int], list[int]]


@register_model("zephyr")
class ForestLM(TemplateLM):  # type: ignore[misc]  # lm-eval has no types
    """A causal language model on prefix trees; `pretrained` is a folder, a hub id, or what was loaded from one.

    `max_tokens`: unique tokens that are computed together; None: by the longest request. `finished` remembers answers
    over an interruption.
    `batch_size` and `max_batch_size` are lm-eval's and mean nothing here, since a forest has no rows to count.
    """

    def __init__(  # noqa: PLR0913 - lm-eval's registry passes these by name
        self,
        pretrained: str | Loaded,
        *,
        dtype: str = "float32",
        device: str | None = None,
        max_tokens: int | None = None,
        max_cache_tokens: int | None = None,
        finished: FinishedRequests | None = None,
        seed: int = 0,
        batch_size: object = None,
        max_batch_size: object = None,
    ) -> None:
        del batch_size, max_batch_size
        super().__init__()
        if isinstance(pretrained, str):
            pretrained = load(Source(pretrained), dtype=dtype, device=device or "cpu")
        self.loaded = pretrained
        self.model, self.tokenizer = pretrained
        self.max_tokens = None if max_tokens is None else int(max_tokens)
        self.max_cache_tokens = None if max_cache_tokens is None else int(max_cache_tokens)
        self.finished = finished or FinishedRequests(None, of="")
        self.seed = seed
        self.scorer = ForestScorer(self.model)
        self.num_thinking: Counter[str] = Counter()  # answers by task that thinking was split off
        self._is_proven = False
        self.max_length = longest_sequence(pretrained)
        self._prefix_text = str(self.tokenizer.decode(self.prefix_token_id))
        # The choices of a question come one after the other, each with the context again.
        self._encoded = lru_cache(maxsize=4)(self._encode)
        gc.collect()

    @property
    def eot_token_id(self) -> int:
        """The id of the end-of-sequence token. Raises ModelError if the tokenizer has none."""
        eos = self.tokenizer.eos_token_id
        if not isinstance(eos, int):
            raise ModelError(
                str(self.tokenizer_name), "its tokenizer has no end-of-sequence token", "set its eos_token"
            )
        return eos

    @property
    def prefix_token_id(self) -> int:
        """The id that stands before a text without context: bos, or eos where there is none."""
        bos = self.tokenizer.bos_token_id
        return bos if isinstance(bos, int) else self.eot_token_id

    @cached_property
    def _template(self) -> JinjaTemplate:
        return JinjaTemplate(self.tokenizer)

    @property
    def tokenizer_name(self) -> str:
        """The tokenizer's name in lm-eval's cache of requests."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_others: object) -> list[int]:
        """The ids of a text: with what the tokenizer puts around texts, unless it begins with that already."""
        return list(self._encoded(string, add_special_tokens))

    def _encode(self, text: str, add_special_tokens: bool | None) -> list[int]:
        begins = add_special_tokens is None and not text.startswith(self._prefix_text)
        options = {} if begins else {"add_special_tokens": bool(add_special_tokens)}
        ids: list[int] = self.tokenizer.encode(text, **options)
        return ids

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The dialogue as the model's own template renders it; an unfinished answer stays open.

        Raises ModelError for a template that takes too much time or memory, DataError for one that refuses it.
        """
        messages = [Message(cast("Role", one["role"]), one["content"]) for one in chat_history]
        text = self._template.render(messages, generation=add_generation_prompt)
        if add_generation_prompt:
            return text
        # Within the limits, so that the library may render it too.
        rendered = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            continue_final_message=True,
        )
        assert isinstance(rendered, str)
        return rendered

    # ---- log-likelihoods ----

    def loglikelihood(self, requests: Sequence[LmEvalRequest]) -> list[tuple[float, bool]]:
        """The log-prob of each continuation behind its context, and whether greedy decoding gives it."""
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return answers

    def _loglikelihood_tokens(self, requests: Sequence[TokenRequest], **_others: object) -> list[tuple[float, bool]]:
        """The sum of each continuation's log-probs, and whether it is what greedy decoding gives.

        Raises ModelError for a model that is not scored as it computes.
        """
        continuations = [self._continuation(context, scored) for _, context, scored in requests]
        keys = [self.finished.key("loglikelihood", one.ids.tolist(), one.num_scored) for one in continuations]
        answers = self.finished.known(keys)
        first_of = {key: index for index, key in reversed(list(enumerate(keys))) if key not in answers}
        waiting = sorted(first_of.values())
        left = [continuations[index] for index in waiting]
        if left and not self._is_proven:
            check_scorer(self.scorer, [one.ids for one in left[:NUM_COMPARED]])
            self._is_proven = True
        batches = plan_batches(left, max_tokens=self.max_tokens or tokens_together(left, self.model.device.type))
        with show_progress("log-likelihoods", len(waiting)) as display:
            done = 0
            for batch in batches:
                _release_memory()  # forests differ in size, and what one leaves behind does not fit the next
                indices = [waiting[place] for place in batch]
                scores = score_continuations(self.scorer, [continuations[index] for index in indices])
                new: dict[str, FinishedAnswer] = {
                    keys[index]: (score.logp, score.is_greedy) for index, score in zip(indices, scores, strict=True)
                }
                self.finished.add(new)
                answers |= new
                done += len(batch)
                display.update(done)
        return [cast("tuple[float, bool]", answers[key]) for key in keys]

    def _continuation(self, context: list[int], continuation: list[int]) -> Continuation:
        if len(continuation) > self.max_length:
            what = f"a continuation of {len(continuation)} tokens exceeds the model's {self.max_length}"
            raise ModelError(self.tokenizer_name, what, "leave the task out, or use a model of longer context")
        # The last token is predicted and never fed, so one token more than the model takes fits.
        ids = np.asarray([*context, *continuation][-(self.max_length + 1) :], dtype=np.int64)
        return Continuation(ids, len(continuation))

    def loglikelihood_rolling(self, requests: Sequence[LmEvalRequest]) -> list[float]:
        """The log-likelihood of whole texts; long ones in windows, each token predicted once."""
        windows: list[TokenRequest] = []
        owners: list[int] = []
        for index, request in enumerate(requests):
            rolling = utils.get_rolling_token_windows(
                token_list=self.tok_encode(str(request.args[0])),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for window in rolling:
                context, continuation = utils.make_disjoint_window(window)
                windows.append((None, context, continuation))
                owners.append(index)
        totals = [0.0] * len(requests)
        for owner, (logp, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += logp
        return totals

    # ---- generation ----

    def generate_until(self, requests: Sequence[LmEvalRequest]) -> list[str]:
        """The text that follows each context, up to the first stop text or the greatest length."""
        seen: Counter[str] = Counter()
        keys: list[str] = []
        for request in requests:
            plain = self.finished.key("generate", self.seed, *request.args)
            # A request that is made again wants another draw, if there is chance in it.
            keys.append(self.finished.key("repeat", plain, seen[plain]))
            seen[plain] += 1
        answers = self.finished.known(keys)
        left = [index for index, key in enumerate(keys) if key not in answers]
        with show_progress("answers", len(left)) as display:
            done = 0
            waiting = [self._generation_request(requests[index], keys[index]) for index in left]
            for new in generated_texts(self.loaded, waiting, self.max_cache_tokens):
                self.finished.add(new)
                answers.update(new)
                done += len(new)
                display.update(done)
        spoken = [split_thinking(str(answers[key])) for key in keys]
        self.num_thinking.update(
            request.task_name for request, one in zip(requests, spoken, strict=True) if one.reasoning
        )
        return [one.answer for one in spoken]

    def _generation_request(self, request: LmEvalRequest, key: str) -> GenerationRequest:
        context, options = cast("tuple[str, Mapping[str, object]]", request.args)
        sampling, ending = request_sampling(options, self.loaded.tokenizer)
        room = self.max_length - sampling.max_new_tokens
        if room < 1:
            what = f"{sampling.max_new_tokens} new tokens leave no room in the model's {self.max_length}"
            raise ModelError(self.tokenizer_name, what, "leave the task out, or use a model of longer context")
        ending = replace(ending, thinks_first=opens_thinking(context))
        return GenerationRequest(key, tuple(self.tok_encode(context)[-room:]), sampling, ending)


def tokens_together(continuations: Sequence[Continuation], device: str) -> int:
    """Unique tokens of one forest for these requests on a kind of device."""
    longest = max((len(one.ids) for one in continuations), default=0)
    fewest = FEWEST_TOKENS.get(device, FEWEST_TOKENS_ACCELERATOR)
    return min(max(REQUESTS_TOGETHER * longest, fewest), MOST_TOKENS)


def longest_sequence(loaded: Loaded) -> int:
    """How many tokens the model takes, by its configuration or its tokenizer, as lm-eval's `hf` looks for it."""
    config = loaded.model.config.get_text_config()
    for name in ("n_positions", "max_position_embeddings", "n_ctx"):
        if getattr(config, name, None):
            return int(getattr(config, name))
    longest = loaded.tokenizer.model_max_length
    return DEFAULT_MAX_LENGTH if longest is None or longest > MAX_SAID_LENGTH else int(longest)


def _release_memory() -> None:
    """Return freed memory to the system, on Linux with glibc: some 20 MB after tasks and model are loaded."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    is_glibc = platform.system() == "Linux" and platform.libc_ver()[0] == "glibc"
    return ctypes.CDLL(None) if is_glibc else None
