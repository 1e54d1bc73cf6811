import pytest
from tokenizers import normalizers, pre_tokenizers

from tests.data import mistral_tokenizer
from zephyr.deliver.gguf.vocabulary import BYTE, CONTROL, NORMAL, UNUSED, USER_DEFINED, read_vocabulary
from zephyr.errors import ModelError
from zephyr.models.tiny import TINY_SENTENCES, tiny_tokenizer
from zephyr.models.tokenizers import learn_tokenizer


def learnt(**settings):
    return learn_tokenizer(TINY_SENTENCES, vocab_size=300, max_length=64, **settings)


def test_byte_level_bpe_is_named_by_how_it_splits():
    plain, digits = learnt(split_digits=False), learnt(split_digits=True)
    assert [read_vocabulary(one, 300, "here").pre for one in (plain, digits)] == ["gpt-2", "smollm"]


def test_tokens_stand_at_their_ids_and_rows_without_one_are_unused():
    tokenizer = tiny_tokenizer(vocab_size=300)
    tokenizer.add_tokens(["<think>"])
    vocabulary = read_vocabulary(tokenizer, 304, "here")
    assert vocabulary.model == "gpt2"
    assert vocabulary.tokens[:5] == ("<unk>", "<s>", "</s>", "<pad>", "!")
    assert vocabulary.tokens[300:] == ("<think>", "[PAD301]", "[PAD302]", "[PAD303]")
    assert vocabulary.kinds[:5] == (CONTROL, CONTROL, CONTROL, CONTROL, NORMAL)
    assert vocabulary.kinds[300:] == (USER_DEFINED, UNUSED, UNUSED, UNUSED)
    assert len(vocabulary.merges) == 300 - 4 - 256
    assert vocabulary.specials == {"bos": 1, "eos": 2, "unknown": 0, "padding": 3}
    assert (vocabulary.adds_bos, vocabulary.adds_eos) == (True, False)
    assert not read_vocabulary(learnt(bos=False), 300, "here").adds_bos


@pytest.mark.slow
def test_sentencepiece_is_scored_in_the_order_of_its_merges():
    vocabulary = read_vocabulary(mistral_tokenizer.new(), 32000, "here")
    assert (vocabulary.model, vocabulary.pre, vocabulary.merges) == ("llama", "default", ())
    assert vocabulary.tokens[259:262] == ("▁▁", "▁▁▁▁", "▁t")
    assert vocabulary.scores[259:262] == (0, -1, -2)
    assert vocabulary.kinds[3:259] == (BYTE,) * 256
    merged = [score for score in vocabulary.scores if score > min(vocabulary.scores)]
    assert merged == sorted(merged, reverse=True)


@pytest.mark.parametrize(("scheme", "prefix", "leading"), [("first", False, True), ("never", False, False)])
def test_where_a_tokenizer_puts_spaces_is_found_by_trying(scheme, prefix, leading):
    tokenizer = mistral_tokenizer.new()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    vocabulary = read_vocabulary(tokenizer, 32000, "here")
    assert (vocabulary.space_prefix, vocabulary.leading_space) == (prefix, leading)


def test_tokenizers_of_2023_put_a_space_after_control_tokens_too():
    tokenizer = mistral_tokenizer.new()
    tokenizer.backend_tokenizer.pre_tokenizer = None
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    vocabulary = read_vocabulary(tokenizer, 32000, "here")
    assert (vocabulary.space_prefix, vocabulary.leading_space) == (True, False)


def test_other_ways_to_split_are_refused():
    by_byte_level = tiny_tokenizer()
    by_byte_level.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    with pytest.raises(ModelError, match=r"here: its tokenizer splits a text in a way .* \(Whitespace, ByteLevel\)"):
        read_vocabulary(by_byte_level, 384, "here")
    by_byte_level.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(ModelError, match="changes a text before it splits it"):
        read_vocabulary(by_byte_level, 384, "here")
    sentencepiece = mistral_tokenizer.new()
    sentencepiece.backend_tokenizer.normalizer = normalizers.NFKC()
    with pytest.raises(ModelError, match="changes or splits a text"):
        read_vocabulary(sentencepiece, 32000, "here")
