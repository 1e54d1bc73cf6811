"""A card is written anew as long as nobody has edited it."""

import pytest

from zephyr.deliver.card import place_card
from zephyr.errors import DataError


def test_an_edited_card_is_kept(tmp_path):
    place = tmp_path / "README.md"
    place_card(place, "one")
    place_card(place, "two")
    assert place.read_text() == "two"
    place.write_text("two, by hand")
    with pytest.raises(DataError, match=r"README.md: was edited.*; overwrite it with --force"):
        place_card(place, "three")
    assert place.read_text() == "two, by hand"
    place_card(place, "three", force=True)
    place_card(place, "four")
    assert place.read_text() == "four"


def test_a_card_that_somebody_else_wrote_is_kept(tmp_path):
    place = tmp_path / "README.md"
    place.write_text("mine")
    with pytest.raises(DataError):
        place_card(place, "ours")
