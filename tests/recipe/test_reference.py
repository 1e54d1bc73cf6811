import re

from zephyr.recipe.outline import all_keys, place_of_field
from zephyr.recipe.reference import _sections, reference_page
from zephyr.recipe.schema import Recipe
from zephyr.recipe.shipped import shipped_recipes


def test_the_page_is_the_one_that_is_printed(repository):
    page = (repository / "docs" / "recipes.md").read_text()
    assert page == reference_page(), "print it anew: python -m zephyr.recipe.reference > docs/recipes.md"


def test_every_key_is_on_the_page():
    page = reference_page()
    names = {key.rpartition(".")[2] for key in all_keys(Recipe)}
    assert len(names) > 90
    assert [name for name in names if f"| `{name}` |" not in page] == []


def test_every_shipped_recipe_is_on_the_page():
    page = reference_page()
    recipes = shipped_recipes()
    assert len(recipes) > 10
    assert [one.name for one in recipes if f"| `{one.name}` | {one.summary} |" not in page] == []


def test_every_link_leads_somewhere():
    page = reference_page()
    headings = {heading.lower() for heading in re.findall(r"(?m)^## (\w+)$", page)}
    links = set(re.findall(r"\]\(#(\w+)\)", page))
    assert len(links) > 20
    assert links <= headings


def test_every_section_and_field_is_described():
    sections = _sections()
    assert len(sections) > 35
    for section in sections:
        assert section.__doc__
        nameless = [name for name, field in section.model_fields.items() if not field.description]
        assert set(nameless) <= {"name", "kind"}, section
        tags = {place_of_field(field).tag for field in section.model_fields.values()}
        assert tags <= {"", "name", "kind"}
