"""A teacher for tests that answers every prompt of synthesis in the form asked for, with faults on request."""

from random import Random

from zephyr.teachers.protocol import ChatReply

VERBS = ("Explain", "Compare", "Summarise", "Rewrite", "Judge", "Invent", "Order", "Praise", "Question", "Shorten")
THINGS = (
    "harbour", "violin", "recipe", "contract", "garden", "comet", "proverb", "railway", "lighthouse", "dictionary",
    "orchard", "puzzle",
)  # fmt: skip
PLACES = ("Lisbon", "Bergen", "Kyoto", "Quito", "Tunis", "Perth", "Dakar", "Oslo", "Lima", "Riga", "Baku", "Cork")


class FormTeacher:
    """Counts every call by the key of its request; fails where `fault` says so for a request."""

    name = "form teacher"

    def __init__(self, fault=lambda request: None):
        self.asked = []
        self._fault = fault

    def answer(self, requests):
        for request in requests:
            self.asked.append(request)
            fault = self._fault(request)
            if isinstance(fault, ChatReply):
                yield fault._replace(key=request.key)
            else:
                yield ChatReply(request.key, fault if isinstance(fault, str) else self.text(request), "stop")

    def text(self, request):
        prompt, rng = request.messages[-1].content, Random(f"{request.seed} {request.messages}")
        written = next((write for sign, write in FORMS.items() if sign in prompt), None)
        return written(prompt, rng) if written else f"It is well known that {thing(rng)} is near {thing(rng)}."


def continued(prompt, rng):
    first = int(prompt.rsplit("\n", 1)[1].rstrip("."))
    rest = (f"{number}. {instruction(rng)}" for number in range(first + 1, 16))
    return "\n".join((instruction(rng), *rest))


def classified(prompt, rng):
    return "Yes" if "Judge" in prompt.rsplit("Task:", 1)[1] else "No"


def labelled(prompt, rng):
    return f"Class label: Good\nText: {thing(rng)}\nClass label: Bad\nText: {thing(rng)}"


def exemplified(prompt, rng):
    return "\n".join(f"Example {n}\nInput: {thing(rng)} {n}\nOutput: all about it, {thing(rng)}" for n in range(1, 8))


def passage(prompt, rng):
    return f"In {rng.choice(PLACES)} there stands {thing(rng)}, and nobody knows why it is there."


def said(prompt, rng):
    return f"And what about {thing(rng)} and {thing(rng)}?"


FORMS = {
    "Continue this list": continued,
    "Say of the last task": classified,
    "class label first": labelled,
    "Make up examples": exemplified,
    " words or a little more": passage,
    "Write the person's next message": said,
    "Write the first message": said,
    "A person has the text": said,
}


def instruction(rng):
    words = rng.sample(THINGS, 3) + rng.sample(PLACES, 2)
    rng.shuffle(words)
    return f"{rng.choice(VERBS)} {' '.join(words)} {rng.randrange(100)}"


def thing(rng):
    return f"the {rng.choice(THINGS)} of {rng.choice(PLACES)} number {rng.randrange(10_000)}"
