"""Every task's check against answers made by hand, and the question's way through text and back."""

from random import Random

import pytest

from zephyr.records.messages import Message, Messages
from zephyr.world import TASK_NAMES, examine, is_accepted, task_of
from zephyr.world.catalogue import QUESTIONS, parse_question, write_question


def said(*turns: str, system: str = "") -> Messages:
    """A conversation of user and assistant in turn."""
    roles = ("user", "assistant")
    spoken = tuple(Message(roles[number % 2], turn) for number, turn in enumerate(turns))
    return (Message("system", system), *spoken) if system else spoken


LONG = "I could go on about this for a very long time, as there are many sides to it."

# Task, conversation, answers that pass, answers that fail.
CASES = [
    ("add", said("What is 7 plus 5?"), ["It is 12.", "12", "7 plus 5 is 12."], ["It is 13.", "", f"It is 12. {LONG}"]),
    ("add", said("Hi! How much is 9 + 2?"), ["It is 11."], ["It is 9.", "I am sorry, but I cannot help with that."]),
    ("subtract", said("Take 3 from 10."), ["It is 7.", "The answer is 7."], ["It is 13.", "seven"]),
    ("larger", said("Is 8 or 17 larger?"), ["It is 17."], ["It is 8.", "It is 18.", "8"]),
    (
        "first_letter",
        said("Name the first letter of fox."),
        ["It is the letter f.", "f", "F."],
        ["It is the letter x.", "It is a letter."],
    ),
    (
        "first_letter",
        said("What is the first letter of ant?"),
        ["It is the letter a."],
        ["As a model I cannot answer this."],
    ),
    ("longer_word", said("Which word is longer, bee or apple?"), ["It is apple."], ["It is bee.", "Apple or bee"]),
    (
        "place_in_list",
        said("Which word is second in this list: cat, red, key?"),
        ["It is red."],
        ["It is key.", "It is."],
    ),
    (
        "pick_kind",
        said("Find an animal in this list: red, owl, cup."),
        ["It is owl.", "owl"],
        ["It is red.", "It is cat."],
    ),
    (
        "repeat",
        said("Say owl 3 times."),
        ["Here: owl owl owl", "owl owl owl"],
        ["Here: owl owl", "owl owl owl owl", "owl"],
    ),
    (
        "reverse",
        said("Reverse this list: cat, red, key."),
        ["Here: key, red, cat"],
        ["Here: cat, red, key", "key red cat"],
    ),
    ("sort", said("Put red, cat, key in alphabetical order."), ["cat, key, red"], ["Here: red, cat, key", "cat, key"]),
    ("count", said("Count the words: cat, red, key, cup."), ["It is 4.", "4"], ["It is 3.", "many"]),
    ("capitals", said("Say owl in all capitals."), ["OWL", "OWL!"], ["It is owl.", "Owl", "FOX"]),
    (
        "lower_case",
        said("Describe the fox in lower case."),
        ["the fox is quick."],
        ["The fox is quick.", "the fox is sour."],
    ),
    ("exact_words", said("Tell me about the sun in 3 words."), ["The hot sun."], ["The sun is hot.", "The sour sun."]),
    (
        "ending",
        said("Tell me about the fox and end with the words: Good luck!"),
        ["The fox is quick. Good luck!"],
        ["The fox is quick.", "Good luck! The fox is quick.", "The fox is blue. Good luck!"],
    ),
    (
        "quotes",
        said("Tell me about the owl in quotes."),
        ['"The owl is wise."'],
        ["The owl is wise.", '"The owl is wise.', '"The owl is hot."'],
    ),
    (
        "bullets",
        said("Name 2 animals as bullets."),
        ["- cat\n- owl"],
        ["Here: cat, owl", "- cat", "- cat\n- cat", "- cat\n- red", "- cat\n- owl\n- fox"],
    ),
    (
        "no_commas",
        said("Name 2 colours without commas."),
        ["Here: red and blue", "red blue"],
        ["red, blue", "Here: red and owl", "Here: red and red"],
    ),
    (
        "opposite",
        said("What is the opposite of hot?"),
        ["It is cold.", "cold"],
        ["It is hot.", "It is wet.", "I do not know."],
    ),
    ("colour_of", said("What colour is snow?"), ["It is white.", "Snow is white."], ["It is black."]),
    ("legs", said("Count the legs of a spider."), ["It is 8.", "A spider has 8 legs."], ["It is 6."]),
    ("capital_city", said("Name the capital of Italy."), ["It is Rome.", "Rome"], ["It is Paris.", "Italy"]),
    ("unknowable", said("Which number is Anna thinking of?"), ["I do not know."], ["It is 7.", "I am sorry, but no."]),
    (
        "remember_name",
        said("I am Ida. This is my cat.", "Nice to meet you, Ida.", "Who am I?"),
        ["You are Ida.", "Ida"],
        ["You are Ben.", "I do not know."],
    ),
    (
        "remember_colour",
        said("My hat is red.", "A fine colour.", "What is 1 plus 1?", "It is 2.", "What colour is my hat?"),
        ["It is red.", "Your hat is red."],
        ["It is blue.", "It is 2."],
    ),
    (
        "remember_pet",
        said("My cat is called Leo.", "What a good name.", "Who is my cat?"),
        ["It is Leo."],
        ["It is Mia.", "cat"],
    ),
    (
        "remember_number",
        said("I have 4 hats.", "That is good to know.", "How many hats do I have?"),
        ["It is 4.", "You have 4 hats."],
        ["It is 5.", "hats"],
    ),
    (
        "pirate",
        said("What colour is snow?", system="Always answer in the style of a pirate."),
        ["Arr, it is white, matey!", "Ahoy, matey! White."],
        ["It is white.", "Arr, it is black, matey!", "Arr, it is white."],
    ),
]


@pytest.mark.parametrize(("name", "messages", "right", "wrong"), CASES)
def test_answers_made_by_hand(name, messages, right, wrong):
    assert task_of(messages) == name
    assert [answer for answer in right if not is_accepted(messages, answer)] == []
    assert [answer for answer in wrong if is_accepted(messages, answer)] == []


def test_every_task_has_a_case():
    assert {name for name, *_ in CASES} == set(TASK_NAMES)


def test_pirates_are_wanted_only_where_they_are_asked_for():
    assert not is_accepted(said("What colour is snow?"), "Arr, it is white, matey!")


@pytest.mark.parametrize("name", sorted(QUESTIONS))
def test_a_question_reads_back_as_it_was_drawn(name):
    task, rng = QUESTIONS[name], Random(name)
    for _ in range(20):
        slots = task.draw(rng)
        for phrasing in task.phrasings:
            question = parse_question(phrasing.write(slots))
            assert question is not None
            assert question.kind is task
            assert question.slots.items() <= slots.items()


@pytest.mark.parametrize("name", TASK_NAMES)
def test_greetings_systems_and_interruptions_hide_nothing(name):
    rng = Random(f"dressed {name}")
    assert {task_of(write_question(name, rng)) for _ in range(200)} == {name}


def test_the_findings_tell_content_form_and_length_apart():
    messages = said("Describe the fox in lower case.")
    assert examine(messages, "The fox is quick.") == (True, False, True, False)
    assert examine(messages, f"the fox is quick. {LONG.lower()}") == (True, True, False, False)
    assert examine(messages, "the fox is sour.") == (False, True, True, False)
    assert examine(messages, "I am sorry.") == (False, False, True, True)
    assert examine(messages, "I am sorry, but I cannot help with that.") == (False, False, False, True)


def test_a_memory_needs_its_telling():
    assert parse_question(said("What colour is my hat?")) is None
    assert parse_question(said("My cup is red.", "A fine colour.", "What colour is my hat?")) is None
    # The last word on it is not looked for: whoever asks in this world has told once.
    assert parse_question(said("My hat is red.", "Anything else.", "What colour is my hat?")) is not None


@pytest.mark.parametrize("text", ["", "Who wrote Faust?", "What is seven plus five?", "what is 7 plus 5?"])
def test_other_questions_are_none_of_this_world(text):
    assert parse_question(said(text)) is None
    assert not any(examine(said(text), "It is 12."))
    with pytest.raises(ValueError, match="no question of the closed world"):
        task_of(said(text))
