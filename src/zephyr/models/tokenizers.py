"""Tokenizers: loaded from a model's folder or the hub, or learnt from texts.

Nothing here imports torch.
"""

from collections.abc import Iterable
from typing import TypeAlias

from tokenizers import AddedToken, decoders, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import models as token_models
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from zephyr.models.model_files import CONFIG, TOKENIZER_FILES
from zephyr.models.source import Source, check_files, reading

Tokenizer: TypeAlias = PreTrainedTokenizerBase

UNK, BOS, EOS, PAD = "<unk>", "<s>", "</s>", "<pad>"
SPECIALS = (UNK, BOS, EOS, PAD)
MIN_VOCABULARY = len(SPECIALS) + 256


def load_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """The tokenizer of `source`. Raises ModelError."""
    check_files(source, (CONFIG, *TOKENIZER_FILES))
    with reading(source, "tokenizer"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            source.name,
            revision=source.revision or "main",
            local_files_only=source.offline,
            trust_remote_code=source.runs_own_code,
        )
    return tokenizer


def learn_tokenizer(
    texts: Iterable[str], *, vocab_size: int, max_length: int, bos: bool = True, split_digits: bool = True
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of `vocab_size` ids at most, without loss on any text.

    <unk> 0, <s> 1, </s> 2, <pad> 3, then the 256 bytes, then merges learnt from the texts. `bos`: it puts <s> before
    every text. `split_digits`: every digit is a token, as in Llama's and Mistral's vocabularies. Raises ValueError for
    fewer than `MIN_VOCABULARY` ids.
    """
    if vocab_size < MIN_VOCABULARY:
        raise ValueError(f"vocab_size must be at least {MIN_VOCABULARY}, got {vocab_size}")
    tokenizer = FastTokenizer(token_models.BPE())
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = [pre_tokenizers.Digits(individual_digits=True)] if split_digits else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*digits, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIALS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if bos:
        bos_id = SPECIALS.index(BOS)
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, bos_id)])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        unk_token=UNK,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=max_length,
    )
