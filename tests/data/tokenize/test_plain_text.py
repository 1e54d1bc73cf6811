import pytest
from tokenizers import AddedToken, normalizers

from tests.data import mistral_tokenizer
from zephyr.data.tokenize.plain_text import PlainText
from zephyr.errors import ModelError
from zephyr.models.tiny import tiny_tokenizer


def ids_of(plain, text, place):
    return plain.encode(text, place).ids.tolist()


def test_a_dummy_space_stands_at_the_start_alone():
    plain = PlainText(mistral_tokenizer.load(), ["</s>"])
    assert plain.has_dummy_space
    # 15359 is "Hi" with a space before it, 23809 without.
    assert [ids_of(plain, "Hi", place) for place in ("start", "control", "text")] == [[15359], [23809], [23809]]
    assert ids_of(plain, " Hi", "text") == [15359]
    assert not PlainText(tiny_tokenizer(), ["</s>"]).has_dummy_space


def test_a_tokenizer_of_2023_puts_the_dummy_space_after_control_tokens_too():
    tokenizer = mistral_tokenizer.new()
    # How tokenizer.json files of that time say it; the pre-tokenizer of today was not there.
    tokenizer.backend_tokenizer.pre_tokenizer = None
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    plain = PlainText(tokenizer, ["</s>"])
    assert [ids_of(plain, "Hi", place) for place in ("start", "control", "text")] == [[15359], [15359], [23809]]


@pytest.mark.parametrize("special", [True, False])
def test_control_tokens_are_never_found_in_text(special):
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken("<|stop|>", special=special), AddedToken("<word>", special=False)])
    plain = PlainText(tokenizer, ["<|stop|>"])
    stop, word = plain.control_id("<|stop|>"), tokenizer.convert_tokens_to_ids("<word>")
    text = "é<|stop|><|stop|> <word> </s><|st"
    tokens = plain.encode(text, "text")
    assert {stop, tokenizer.eos_token_id}.isdisjoint(tokens.ids.tolist())
    assert word in tokens.ids
    assert tokenizer.decode(tokens.ids) == text
    # The two bytes of é have the same span.
    assert "".join(text[start:end] for start, end in dict.fromkeys(map(tuple, tokens.spans.tolist()))) == text


def test_a_token_that_text_cannot_avoid_is_refused():
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken("§", special=False)])
    with pytest.raises(
        ModelError, match=r"makes a control token of a text \('a§b'\); mark its control tokens as special"
    ):
        PlainText(tokenizer, ["§"]).encode("a§b", "text")


def test_a_tokenizer_that_drops_control_characters_gets_another_anchor():
    tokenizer = mistral_tokenizer.new()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\x00", "")
    plain = PlainText(tokenizer, ["</s>"])
    assert ids_of(plain, "Hi", "text") == [23809]


def test_decoding_keeps_a_space_at_the_start():
    for tokenizer in (mistral_tokenizer.load(), tiny_tokenizer()):
        plain = PlainText(tokenizer, ["</s>"])
        assert plain.decode(ids_of(plain, "  Hi é\n", "text")) == "  Hi é\n"


def test_half_a_character_decodes_to_its_sign():
    tokenizer = mistral_tokenizer.load()
    plain = PlainText(tokenizer, ["</s>"])
    first_byte = tokenizer.convert_tokens_to_ids("<0xE2>")
    assert plain.decode([first_byte]) == "�"
    assert plain.decode([first_byte, 28708]) == "�a"
