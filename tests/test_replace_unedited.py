"""Cards, reports and pictures are written anew as long as nobody has edited them."""

import pytest

from zephyr.atomic import replace_unedited
from zephyr.errors import DataError


def test_an_edited_card_is_kept(tmp_path):
    place = tmp_path / "README.md"
    replace_unedited(place, "one")
    replace_unedited(place, "two")
    assert place.read_text() == "two"
    place.write_text("two, by hand")
    with pytest.raises(DataError, match=r"README.md: was edited.*; overwrite it with --force"):
        replace_unedited(place, "three")
    assert place.read_text() == "two, by hand"
    replace_unedited(place, "three", force=True)
    replace_unedited(place, "four")
    assert place.read_text() == "four"


def test_a_card_that_somebody_else_wrote_is_kept(tmp_path):
    place = tmp_path / "README.md"
    place.write_text("mine")
    with pytest.raises(DataError):
        replace_unedited(place, "ours")
