"""New models with random weights, and tokenizers learnt from texts: where a run starts without any download."""

from collections.abc import Iterable, Mapping

import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers import models as token_models
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from zephyr.models.loading import Tokenizer as AnyTokenizer
from zephyr.models.sampling import Sampling

UNK, BOS, EOS, PAD = "<unk>", "<s>", "</s>", "<pad>"
SPECIALS = (UNK, BOS, EOS, PAD)
MIN_VOCABULARY = len(SPECIALS) + 256


def learn_tokenizer(
    texts: Iterable[str], *, vocab_size: int, max_length: int, bos: bool = True, split_digits: bool = True
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of `vocab_size` ids at most, without loss on any text.

    <unk> 0, <s> 1, </s> 2, <pad> 3, then the 256 bytes, then merges learnt from the texts. `bos`: it puts <s> before
    every text. `split_digits`: every digit is a token, as in Llama's and Mistral's vocabularies.
    """
    if vocab_size < MIN_VOCABULARY:
        raise ValueError(f"vocab_size must be at least {MIN_VOCABULARY}, got {vocab_size}")
    tokenizer = Tokenizer(token_models.BPE())
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


def new_model(
    architecture: str, sizes: Mapping[str, int], tokenizer: AnyTokenizer, *, seed: int, dtype: torch.dtype
) -> PreTrainedModel:
    """A model of `architecture` as transformers names it, with random weights that follow from `seed` alone.

    `sizes` are fields of its configuration. Torch's own random state is left alone.
    """
    tokens = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = AutoConfig.for_model(architecture, vocab_size=len(tokenizer), **tokens, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    module: nn.Module = model
    module.to(dtype)
    module.eval()
    return model


def set_generation(model: PreTrainedModel, tokenizer: AnyTokenizer, sampling: Sampling) -> None:
    """Nothing; afterwards the model, once saved, samples like this wherever it is loaded."""
    draws = sampling.temperature > 0
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=sorted(sampling.stop_ids),
        pad_token_id=pad,
        do_sample=draws,
        temperature=sampling.temperature if draws else None,
        top_k=sampling.top_k if draws else None,
        top_p=sampling.top_p if draws else None,
    )
