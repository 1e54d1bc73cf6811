import io

import numpy as np
from rich.console import Console

from tests.data import mistral_tokenizer
from tests.data.dialogues import chat_tokenizer
from zephyr.data.tokenize.encoding import DialogueEncoder, Encoded
from zephyr.data.tokenize.inspection import show_dialogue, show_preference, token_texts, visible_text
from zephyr.data.tokenize.truncation import FittedDialogue, FittedPreference, Loss, fit_dialogue, fit_preference
from zephyr.recipe.data_section import DataSection
from zephyr.recipe.model_section import ChatTemplateSection
from zephyr.records.messages import Message


def console(*, colours: bool = False) -> Console:
    return Console(file=io.StringIO(), width=100, force_terminal=colours, color_system="standard" if colours else None)


def printed(to: Console) -> str:
    assert isinstance(to.file, io.StringIO)
    return "\n".join(line.rstrip() for line in to.file.getvalue().splitlines())


def mistral() -> DialogueEncoder:
    return DialogueEncoder(mistral_tokenizer.load(), ChatTemplateSection(name="zephyr", bos=False))


def whole(encoded: Encoded) -> FittedDialogue:
    return FittedDialogue(encoded, Loss("whole", len(encoded.ids)), encoded)


def window(max_length: int, rule: str, max_prompt_length: int | None = None) -> DataSection:
    return DataSection(max_length=max_length, max_prompt_length=max_prompt_length, truncation={"rule": rule})


def test_a_dialogue_shows_its_tokens_roles_and_mask():
    to = console()
    messages = (Message("user", "Hi [red] you"), Message("assistant", "Hello!\n"))
    encoded = mistral().dialogue(messages, loss_on="assistant")
    show_dialogue(to, mistral_tokenizer.load(), "chats.jsonl row 1", whole(encoded))
    assert printed(to) == (
        "chats.jsonl row 1: 25 tokens, 4 learned (16%, underlined)\n"
        "template          <│|│user│|│>│⏎│\n"
        "user              Hi│ [│red│]│ you│\n"
        "template          </s>│⏎│<│|│ass│istant│|│>│⏎│\n"
        "assistant learned Hello│!│⏎│</s>│\n"
        "template          ⏎│"
    )


def test_colours_tell_roles_apart_and_learned_tokens_are_underlined():
    to = console(colours=True)
    messages = (Message("user", "Hi"), Message("assistant", "Hello"))
    show_dialogue(to, mistral_tokenizer.load(), "a", whole(mistral().dialogue(messages, loss_on="assistant")))
    assert "\x1b[36mHi\x1b[0m" in printed(to)
    assert "\x1b[4;32mHello\x1b[0m" in printed(to)


def test_a_preference_shows_its_tree():
    encoder, to = mistral(), console()
    completions = tuple(map(encoder.completion, ("It is 4.", "It is 5", "Four")))
    row = FittedPreference(encoder.prompt((Message("user", "2+2?"),)), completions, Loss("whole", 30))
    show_preference(to, mistral_tokenizer.load(), "pairs.jsonl row 2", row, ratings=(2.0, 1.5, 0.0))
    assert printed(to) == (
        "pairs.jsonl row 2\n"
        "<│|│user│|│>│⏎│2│+│2│?│</s>│⏎│<│|│ass│istant│|│>│⏎│\n"
        "├── It│ is│ │\n"
        "│   ├── 4│.│</s>│\n"
        "│   │   └── completion 1, rated 2, 6 tokens\n"
        "│   └── 5│</s>│\n"
        "│       └── completion 2, rated 1.5, 5 tokens\n"
        "└── F│our│</s>│\n"
        "    └── completion 3, rated 0, 3 tokens\n"
        "30 tokens as a tree, 71 as 3 sequences"
    )


def test_what_is_cut_of_a_dialogue_is_marked_on_both_sides():
    to = console()
    messages = (Message("user", "One two three four five"), Message("assistant", "six seven eight nine"))
    encoded = mistral().dialogue(messages, loss_on="assistant")
    fitted = fit_dialogue(encoded, window(15, "keep_end"))
    show_dialogue(to, mistral_tokenizer.load(), "chats.jsonl row 1", fitted)
    assert printed(to) == (
        "chats.jsonl row 1: 15 tokens, 5 learned (33%, underlined), 11 of 26 cut (struck through)\n"
        "template  cut     <│|│user│|│>│⏎│\n"
        "user      cut     One│ two│ three│ four│ five│\n"
        "template          </s>│⏎│<│|│ass│istant│|│>│⏎│\n"
        "assistant learned six│ seven│ eight│ nine│</s>│\n"
        "template          ⏎│"
    )


def test_a_dialogue_that_is_left_out_says_why_and_is_shown():
    to = console()
    messages = (Message("user", "One two three"), Message("assistant", "four"))
    fitted = fit_dialogue(mistral().dialogue(messages, loss_on="assistant"), window(16, "keep_start"))
    show_dialogue(to, mistral_tokenizer.load(), "chats.jsonl row 1", fitted)
    assert printed(to) == (
        "chats.jsonl row 1 is left out (unfit): 18 tokens precede its first answer\n"
        "template  cut <│|│user│|│>│⏎│\n"
        "user      cut One│ two│ three│\n"
        "template  cut </s>│⏎│<│|│ass│istant│|│>│⏎│\n"
        "assistant cut four│</s>│\n"
        "template  cut ⏎│"
    )


def test_what_is_cut_of_a_preference_is_marked():
    encoder, to = mistral(), console()
    completions = tuple(map(encoder.completion, ("It is 4.", "It is five, I think")))
    prompt = encoder.prompt((Message("user", "What is 2+2?"),))
    fitted = fit_preference(prompt, completions, window(14, "trl_0.7", 9))
    show_preference(to, mistral_tokenizer.load(), "pairs.jsonl row 2", fitted, ratings=(2.0, 1.0))
    assert printed(to) == (
        "pairs.jsonl row 2, 16 of 35 cut (struck through)\n"
        "[cut: <│|│user│|│>│⏎│What│ is│ │2│+│2│?│] </s>│⏎│<│|│ass│istant│|│>│⏎│\n"
        "└── It│ is│\n"
        "    ├──  │4│.│\n"
        "    │   └── completion 1, rated 2, 5 tokens\n"
        "    │       └── [cut: </s>│]\n"
        "    └──  five│,│ I│\n"
        "        └── completion 2, rated 1, 5 tokens\n"
        "            └── [cut:  think│</s>│]\n"
        "17 tokens as a tree, 28 as 2 sequences"
    )


def test_completions_that_are_equal_or_begin_alike_end_at_their_own_place():
    to = console()
    completions = (np.array([5]), np.array([5]), np.array([5, 6]))
    row = FittedPreference(np.array([4]), completions, Loss("whole", 7))
    show_preference(to, chat_tokenizer(), "a", row, ratings=(1.0, 1.0, 0.0))
    assert "3 tokens as a tree, 7 as 3 sequences" in printed(to)
    assert [line.strip(" └├│─") for line in printed(to).splitlines() if "completion" in line] == [
        "completion 1, rated 1, 1 tokens", "completion 2, rated 1, 1 tokens", "completion 3, rated 0, 2 tokens",
    ]  # fmt: skip


def test_nothing_that_a_terminal_obeys_is_printed():
    encoder = DialogueEncoder(chat_tokenizer(), ChatTemplateSection(name="zephyr"))
    to = console()
    messages = (Message("user", "a\x1b[31mb\u202ec\x07"), Message("assistant", "\x9b2J\r\n"))
    encoded = encoder.dialogue(messages, loss_on="assistant")
    show_dialogue(to, chat_tokenizer(), "a\x1b]0;x\x07 row 1", whole(encoded))
    assert all(character.isprintable() for character in printed(to).replace("\n", ""))
    assert r"a\x1b]0;x\x07 row 1:" in printed(to)
    assert visible_text("a\tb\n\x1b") == r"a⇥b⏎\x1b"


def test_token_texts_join_to_the_text():
    for tokenizer in (mistral_tokenizer.load(), chat_tokenizer()):
        encoder = DialogueEncoder(tokenizer, ChatTemplateSection(name="zephyr", bos=False))
        texts = token_texts(tokenizer, encoder.completion(" Hello  there, é").tolist(), before=[13])
        assert "".join(texts).replace("�", "") == " Hello  there, é</s>"
