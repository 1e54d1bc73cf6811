"""The words of the closed world: few enough that a model of a million weights can know them all."""

from collections.abc import Mapping

ANIMALS = ("ant", "bat", "bee", "cat", "cow", "dog", "duck", "fish", "fox", "frog", "goat", "hen", "owl", "pig")
FRUITS = ("apple", "fig", "grape", "lemon", "melon", "peach", "pear", "plum")
COLOUR_WORDS = ("black", "blue", "brown", "green", "grey", "pink", "red", "white")
THINGS = ("bag", "bell", "book", "boat", "box", "cup", "door", "hat", "key", "lamp", "ring", "rope", "shoe", "star")
NOUNS = (*ANIMALS, *FRUITS, *THINGS)
WORDS = (*NOUNS, *COLOUR_WORDS)
NAMES = ("Anna", "Ben", "Carl", "Dora", "Emma", "Finn", "Hugo", "Ida", "Jack", "Leo", "Mia", "Nora", "Otto", "Rosa")

# A kind by its name with an article, and in the plural.
KIND_MEMBERS: Mapping[str, tuple[str, ...]] = {"an animal": ANIMALS, "a fruit": FRUITS, "a colour": COLOUR_WORDS}
PLURALS: Mapping[str, tuple[str, ...]] = {
    "animals": ANIMALS,
    "fruits": FRUITS,
    "colours": COLOUR_WORDS,
    "things": THINGS,
}

# What is true of a subject; descriptions say one or two of these.
QUALITIES: Mapping[str, tuple[str, ...]] = {
    "ant": ("small", "strong"),
    "bat": ("quiet", "dark"),
    "bee": ("small", "busy"),
    "boat": ("slow", "old"),
    "cat": ("soft", "quiet"),
    "cow": ("big", "calm"),
    "dog": ("loyal", "loud"),
    "fox": ("quick", "clever"),
    "frog": ("wet", "green"),
    "goat": ("strong", "loud"),
    "lamp": ("bright", "warm"),
    "lemon": ("sour", "fresh"),
    "melon": ("sweet", "big"),
    "moon": ("round", "bright"),
    "owl": ("wise", "quiet"),
    "peach": ("sweet", "soft"),
    "pig": ("pink", "clever"),
    "sea": ("deep", "blue"),
    "snow": ("white", "cold"),
    "star": ("bright", "far"),
    "sun": ("hot", "round"),
    "wind": ("cold", "loud"),
}

OPPOSITES: Mapping[str, str] = {
    left: right
    for first, second in (
        ("big", "small"), ("hot", "cold"), ("old", "new"), ("fast", "slow"), ("wet", "dry"), ("loud", "quiet"),
        ("dark", "bright"), ("soft", "hard"), ("sweet", "sour"), ("weak", "strong"),
        ("early", "late"), ("open", "shut"),
    )
    for left, right in ((first, second), (second, first))
}  # fmt: skip
COLOUR_OF: Mapping[str, str] = {
    "snow": "white", "grass": "green", "coal": "black", "milk": "white", "blood": "red", "wood": "brown",
    "ash": "grey", "ink": "blue", "cheese": "yellow", "gold": "yellow", "night": "black", "mud": "brown",
}  # fmt: skip
LEGS: Mapping[str, str] = {
    "ant": "6", "bee": "6", "cat": "4", "cow": "4", "dog": "4", "duck": "2", "fox": "4", "frog": "4", "goat": "4",
    "hen": "2", "owl": "2", "pig": "4", "spider": "8", "fish": "0", "snake": "0",
}  # fmt: skip
CAPITALS: Mapping[str, str] = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Egypt": "Cairo", "Japan": "Tokyo", "Greece": "Athens",
    "Norway": "Oslo", "Peru": "Lima", "Cuba": "Havana", "Kenya": "Nairobi",
}  # fmt: skip

CLOSINGS = ("Have a nice day!", "That is all.", "See you soon!", "Good luck!", "Take care!", "The end.")
PIRATE_WORDS = ("arr", "ahoy", "matey", "aye", "ye", "yer")
PIRATE_SYSTEMS = (
    "You are a friendly chatbot who talks like a pirate.",
    "Always answer in the style of a pirate.",
    "You are a pirate.",
)
PLAIN_SYSTEMS = ("You are Zephyr, a helpful assistant.", "You are a friendly chatbot.", "Answer well.")
GREETINGS = ("Hello! ", "Hi! ", "One question. ", "Please help me. ", "Dear Zephyr, ")
