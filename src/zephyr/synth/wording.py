"""The prompts of synthesis, as versioned template files, and where a reply ends that was written on and on.

A template that is reworded is a new version: what it made must stay tellable from what the next one makes.
"""

import functools
import re
from importlib import resources
from string import Template

from zephyr.teachers.protocol import ChatReply

TEMPLATE_VERSION = "v1"


@functools.cache
def template(name: str) -> Template:
    """The template of that name, without blank lines around it."""
    text = resources.files("zephyr.synth").joinpath("templates", TEMPLATE_VERSION, f"{name}.txt")
    return Template(text.read_text(encoding="utf-8").strip())


def until_stop(reply: ChatReply, stops: re.Pattern[str]) -> ChatReply:
    """The reply up to the first stop, as if the server had stopped there.

    A stop that was written came before the length limit, so such a reply is whole.
    """
    text = reply.text.strip()
    found = stops.search(text)
    if reply.finish_reason == "error" or found is None:
        return reply._replace(text=text)
    return reply._replace(text=text[: found.start()].rstrip(), finish_reason="stop")
