import pytest

from tests.recipe.recipe_files import SMALL, write
from zephyr.errors import RecipeError
from zephyr.recipe.loading import read_recipe
from zephyr.recipe.overrides import parse_overrides


def load(tmp_path, *overrides, text=SMALL):
    return read_recipe(write(tmp_path, text), overrides)


def test_values_are_yaml():
    parsed = parse_overrides(["a.b=1.0e-4", "a.c=[1, x]", "d={e: null}", "f=", "g=a=b", "h=5e-7"])
    assert [one.value for one in parsed] == [1e-4, [1, "x"], {"e": None}, None, "a=b", "5e-7"]
    assert parsed[0].names == ["a", "b"]


def test_dotted_keys_lead_into_sections_lists_and_what_is_not_there_yet(tmp_path):
    recipe = load(
        tmp_path,
        "sft.train.learning_rate=5e-5",
        "evaluate.tasks.0.num_prompts=10",
        "sft.lora.r=8",
        "synth.teacher.fault_rate=0.5",
        "deliver={}",
        "align=null",
    ).recipe
    assert recipe.sft.train.learning_rate == 5e-5
    assert [task.num_prompts for task in recipe.evaluate.tasks] == [10, 7]
    assert recipe.sft.lora.r == 8
    assert (recipe.synth.teacher.name, recipe.synth.teacher.fault_rate) == ("scripted", 0.5)
    assert recipe.stages == ("synth", "sft", "evaluate", "deliver")


def test_the_last_override_of_a_key_counts(tmp_path):
    assert load(tmp_path, "seed=1", "seed=2").recipe.seed == 2


def test_another_variant_drops_what_it_does_not_know_and_says_so(tmp_path):
    loaded = load(tmp_path, "align.objective.name=orpo")
    assert loaded.recipe.align.objective.model_dump() == {"name": "orpo", "beta": 0.1, "nll_on_prompt": True}
    assert loaded.notes == (
        "align.objective.loss_type is left out: align.objective.name=orpo does not know it, dpo did",
    )


@pytest.mark.parametrize("reverse", [False, True])
def test_an_override_is_never_dropped(tmp_path, reverse):
    words = ["align.objective.name=orpo", "align.objective.loss_type=ipo"]
    with pytest.raises(RecipeError, match=r"override, align\.objective\.loss_type: there is no such key"):
        load(tmp_path, *(words[::-1] if reverse else words))
    kept = load(tmp_path, "align.objective.name=simpo", "align.objective.loss_type=hinge").recipe.align.objective
    assert (kept.name, kept.loss_type, kept.beta) == ("simpo", "hinge", 0.1)


def test_a_variant_chosen_anew_is_no_reason_to_drop(tmp_path):
    assert load(tmp_path, "align.objective.name=dpo").recipe.align.objective.loss_type == "ipo"


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("seed", "'seed' is not key=value"),
        ("=1", "'=1' is not key=value"),
        ("a..b=1", "'a..b=1' is not key=value"),
        ("seed.x=1", "small.yaml"),
        ("name.x=1", "name.x: name is the value 'small' and has no key 'x'"),
        ("evaluate.tasks.2.num_prompts=1", "evaluate.tasks has 2 items, numbered 0 to 1, got 2"),
        ("evaluate.tasks.-1.num_prompts=1", "evaluate.tasks has 2 items, numbered 0 to 1, got -1"),
        ("evaluate.tasks.x=1", "evaluate.tasks has 2 items, numbered 0 to 1, got x"),
        ("evaluate.tasks.99999999999=1", "evaluate.tasks has 2 items, numbered 0 to 1, got 99999999999"),
        ("seed=[1", "override seed"),
        ("seed=!!python/name:os.system x", "override seed"),
        (
            "sft.trian.learning_rate=1",
            "override, sft.trian: there is no such key, got {'learning_rate': 1}; did you mean",
        ),
        ("sft.train.lr=1", "override, sft.train.lr: there is no such key, got 1"),
    ],
)
def test_mistakes_are_named(tmp_path, override, fault):
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, override)
    assert fault in str(caught.value)


def test_all_bad_words_are_told_at_once():
    with pytest.raises(RecipeError, match=r"'a' is not key=value; 'b' is not key=value"):
        parse_overrides(["a", "c=1", "b"])
