from hypothesis import given
from hypothesis import strategies as st

from zephyr.data.tally import MOST_EXAMPLES, Tally, shortened


def test_all_are_counted_and_the_first_are_kept():
    tally = Tally()
    for number in range(MOST_EXAMPLES + 2):
        tally.add(f"row {number}", "text")
    assert tally.count == MOST_EXAMPLES + 2
    assert [example.row for example in tally.examples] == [f"row {number}" for number in range(MOST_EXAMPLES)]


def test_control_characters_are_escaped():
    assert shortened("a\x1b[31mb\n\tc\u202ed") == "a\\x1b[31mb c\\u202ed"


def test_long_text_is_cut_with_a_mark():
    assert shortened("a" * 10, 5) == "aaaa…"
    assert shortened("a" * 5, 5) == "aaaaa"


@given(st.text(), st.integers(10, 40))
def test_shortened_text_is_one_printable_line_within_its_limit(text, limit):
    line = shortened(text, limit)
    assert len(line) <= limit
    assert line.isprintable()
