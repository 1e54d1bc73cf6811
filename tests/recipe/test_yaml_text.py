import pytest

from zephyr.errors import RecipeError
from zephyr.recipe.yaml_text import MAX_VALUES, read_yaml


def test_values_and_lines():
    document = read_yaml("a: 1\nb:\n  - x\n  - {c: true}\n\nd: 2024-01-02\n", "file")
    assert document.value == {"a": 1, "b": ["x", {"c": True}], "d": "2024-01-02"}
    assert document.lines == {("a",): 1, ("b",): 2, ("b", 0): 3, ("b", 1): 4, ("b", 1, "c"): 4, ("d",): 6}


def test_keys_are_text_whatever_they_look_like():
    assert read_yaml("on: 1\n7: 2\nnull: 3\n", "file").value == {"on": 1, "7": 2, "null": 3}


def test_nothing_is_none():
    assert read_yaml("# a comment alone\n", "file").value is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: 'a' is already set in line 1"),
        ("s:\n  a: 1\n  a: 1\n", "line 3: 's.a' is already set in line 2"),
        ("a:\n\tb: 1\n", "line 2: indentation must be spaces, not tabs"),
        (
            "a: !!python/object:os.system x\n",
            "line 1: cannot be read as tag:yaml.org,2002:python/object:os.system, got 'x'",
        ),
        ("a: !!set {x}\n", "line 1: the tag tag:yaml.org,2002:set has no place in a recipe"),
        ("? [1, 2]\n: 3\n", "line 1: a key must be a word"),
        ("a: 1\n---\nb: 2\n", "line 2: but found another document"),
        ("a: [1, 2\n", "line 2: expected ',' or ']', but got '<stream end>'"),
        ("a: \x07\n", "special characters are not allowed"),
        ("a: !!int x\n", "line 1: cannot be read as tag:yaml.org,2002:int, got 'x'"),
        ("a: &x [*x]\n", "is nested too deeply, or an alias contains itself"),
        ("[" * 5000, "is nested too deeply, or an alias contains itself"),
    ],
)
def test_faults_are_named(text, fault):
    with pytest.raises(RecipeError) as caught:
        read_yaml(text, "file")
    assert caught.value.where == "file"
    assert caught.value.what == fault


def test_aliases_cannot_grow_without_bound():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    with pytest.raises(RecipeError, match=f"holds more than {MAX_VALUES} values"):
        read_yaml("\n".join(lines), "file")
