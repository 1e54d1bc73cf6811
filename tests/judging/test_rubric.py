"""A rubric of a user's own: what is asked, how it is read back, and everything that is refused."""

import json

import pytest

from tests.command import jsonl, pair, write_recipe, zephyr
from zephyr.errors import RecipeError
from zephyr.judging import RatingQuestion, ask, parse_reply, read_rating_question, required_word
from zephyr.judging.questions import Scale
from zephyr.judging.rubric import read_rubric
from zephyr.pipeline import stage_keys
from zephyr.records.messages import Message

WORD = "0123456789abcdef"
RUBRIC = """\
aspects:
  - name: politeness
    question: Is it polite?
    scale: [-1, 2.5]
    not_applicable: true
  - {name: overall, question: Would we send it, scale: [0, 100]}
"""
PROMPT = (
    "prompt: |\n  For $$5: $question $rules $conversation\n  $answers $form from $low to ${high}\nsystem: Be fair.\n"
)
ASKED = (Message("user", "Is it open?"),)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rubric.yaml"
    path.write_text(RUBRIC + PROMPT)
    return path


def asked(file, aspect, *answers):
    wording = read_rubric(file).wordings[aspect]
    return wording, ask(RatingQuestion(aspect, ASKED, answers), nonce=WORD, wording=wording)


def test_the_users_words_stand_around_fenced_texts(file):
    _, (system, user) = asked(file, "politeness", "Yes.", "No!")
    assert system.content.startswith("Be fair.\n\nYou are a careful and impartial examiner")
    header, _, first, *_ = user.content.splitlines()
    assert header == f"Rating task v1: politeness from -1 to 2.5, or N/A. Fence word: {WORD}."
    assert first.startswith("For $5: Is it polite? How the material is marked:")
    assert f"<<<{WORD} text 2>>>\nNo!\n<<<{WORD} end>>>" in user.content
    assert "Rating: a number from -1 to 2.5, or N/A\n" in user.content
    assert user.content.endswith("from -1 to 2.5")


def test_a_question_is_read_back_with_its_scale(file):
    _, messages = asked(file, "politeness", "Yes.", "No!")
    scale = Scale(-1.0, 2.5, optional=True)
    assert read_rating_question(messages) == RatingQuestion("politeness", ASKED, ("Yes.", "No!"), "", scale)
    assert not required_word(messages)
    assert required_word(asked(file, "politeness", "Rating: 2")[1]) == WORD


def test_replies_are_read_by_the_users_scale(file):
    wording, _ = asked(file, "politeness", "Yes.")
    form = "#### Output for Text 1\nRating: {}\nRationale: so"
    read = {said: parse_reply("politeness", form.format(said), 1, scale=wording.scale) for said in ("-1", "N/A", "2.6")}
    assert [read["-1"][0].score, read["N/A"][0].score] == [-1.0, None]
    assert read["2.6"].detail == "text 1 is 2.6, not within -1 to 2.5"
    overall = read_rubric(file).wordings["overall"].scale
    assert parse_reply("overall", "Good.\n\nOverall Score: 88/100", 1, scale=overall)[0].score == 88.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds NoneType and no keys; begin with the example in docs/how-to/judge-rubric.md"),
        ("aspects: []\n", "line 1, aspects: List should have at least 1 item after validation, not 0, got []; what is"),
        (
            RUBRIC.replace("question: Is", "questin: Is"),
            "yaml: line 3, aspects.0.questin: there is no such",
        ),
        (RUBRIC.replace("[0, 100]", "[100, 0]"), "line 6, aspects.1.scale: must be the lowest and the highest rating"),
        (RUBRIC.replace("[0, 100]", "ten"), "line 6, aspects.1.scale: must be a valid list, got 'ten'; the lowest and"),
        (RUBRIC.replace("name: politeness", "name: Is polite"), "line 2, aspects.0.name: must match pattern"),
        (RUBRIC.replace("name: politeness", "name: overall"), "overall always has a rating; leave not_applicable out"),
        (RUBRIC.replace("name: politeness", "name: mean"), "the name mean is taken, by the mean of all aspects"),
        (RUBRIC + PROMPT.replace("$answers", "$answer"), "has no $answers; has the unknown $answer (did you mean"),
        (RUBRIC + PROMPT.replace("$answers", "$answers $answers"), "has $answers 2 times"),
        (RUBRIC + PROMPT.replace("$rules", ""), "line 7, prompt: has no $rules; placeholders are"),
        (RUBRIC + PROMPT.replace("$$5", "$5"), "has a $ that begins no placeholder (write $$ for one)"),
        (RUBRIC + "tries: 3\n", "line 7, tries: there is no such key, got 3; known are aspects, prompt, system"),
        (RUBRIC.replace("scale: [-1, 2.5]", "scale: [1, 5]\n    name: a"), "'aspects.0.name' is already set in line 2"),
    ],
)
def test_a_faulty_rubric_is_refused_with_place_fault_and_remedy(text, said, tmp_path):
    (tmp_path / "rubric.yaml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        read_rubric(tmp_path / "rubric.yaml")
    assert said in str(caught.value)


def recipe(folder, model, rubric="rubric.yaml", *, output="pairs", **judging):
    (folder / "p.jsonl").write_bytes(jsonl(*({"prompt": f"Say {number}."} for number in range(6))))
    section = {
        "prompts": [{"path": "p.jsonl"}],
        "candidates": {"models": [str(model)], "num_completions": 3, "sampling": {"max_new_tokens": 4}},
        "judge": {"name": "scripted"},
        "judging": {"rubric": rubric, **judging},
        "binarize": {"chosen": "politeness", "output": output, "ties": "keep"},
    }
    return write_recipe(folder, model, feedback=section)


def test_a_recipe_rates_by_the_rubric_and_again_when_its_bytes_change(file, tiny_folder, tmp_path, capfd):
    from zephyr.recipe.loading import load_recipe

    path = recipe(tmp_path, tiny_folder)
    assert zephyr(capfd, "check", path).code == 0
    said = zephyr(capfd, "run", path)
    assert said.code == 0, said.err
    (folder,) = (one.parent for one in tmp_path.glob("runs/tiny/*/stage.json"))
    calls = [json.loads(line) for line in (folder / "calls.jsonl").open()]
    assert {call["aspect"] for call in calls} == {"politeness", "overall"}
    assert {call["template"] for call in calls} == {f"rubric {read_rubric(file).sha256[:12]}"}
    for row in map(json.loads, (folder / "pairs.jsonl").open()):
        assert -1 <= row["score_rejected"] <= row["score_chosen"] <= 2.5

    key = stage_keys(load_recipe(str(path)))["feedback"]
    file.rename(tmp_path / "other.yaml")
    moved = recipe(tmp_path, tiny_folder, "other.yaml")
    assert stage_keys(load_recipe(str(moved)))["feedback"] == key
    (tmp_path / "other.yaml").write_text(RUBRIC)
    assert stage_keys(load_recipe(str(moved)))["feedback"] != key


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rubric": "none.yaml"}, "feedback.judging.rubric: there is no file"),
        ({"aspects": ["overall"]}, "aspects are not read beside a rubric, which has its own; leave one of the two out"),
        ({"output": "kto"}, "feedback.binarize.kto_threshold: is 5, and politeness is rated from -1 to 2.5; choose"),
    ],
)
def test_check_finds_what_does_not_fit_a_rubric(changes, said, file, tiny_folder, tmp_path, capfd):
    ended = zephyr(capfd, "check", recipe(tmp_path, tiny_folder, **changes))
    assert ended.code == 2
    assert said in ended.err + ended.out


def test_the_score_that_ranks_must_be_rated(file, tiny_folder, tmp_path, capfd):
    path = recipe(tmp_path, tiny_folder)
    said = zephyr(capfd, "check", path, "feedback.binarize.chosen=politnes")
    assert "feedback.binarize.chosen: is politnes, which rubric.yaml does not rate; choose politeness or" in said.err
    said = zephyr(capfd, "check", path, "feedback.judging.rubric=null")
    assert "binarize.chosen is no score, got 'politeness'; known are" in said.err


def test_the_commands_take_a_rubric(file, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.jsonl").write_bytes(jsonl(pair(1), pair(2)))
    words = ("judge", "pairs.jsonl", "-o", "r.jsonl", "--judge", "scripted", "--rubric", "rubric.yaml")
    assert zephyr(capfd, *words, "--aspects", "overall").code == 2
    assert zephyr(capfd, *words).code == 0
    row = json.loads((tmp_path / "r.jsonl").read_text().splitlines()[0])
    assert set(row["answers"][0]["ratings"]) == {"politeness"}
    said = zephyr(capfd, "binarize", "r.jsonl", "-o", "p.jsonl", "--chosen", "politenes")
    assert "no answer has a rating of 'politenes'; did you mean 'politeness'?" in said.err
    said = zephyr(capfd, "judge", "audit", "--judge", "scripted", "--limit", 4, "--rubric", "rubric.yaml", "--json")
    assert json.loads(said.out)["calls"]["questions"] == 4 * (1 + 2) + 4 + 4 * (1 + 2)
