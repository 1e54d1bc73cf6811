"""The chat page in gradio's components; what a visitor may do next follows from the talk alone.

What people and models write is shown as text, never as markup.
"""

import html
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock

import gradio as gr
from fastapi import FastAPI
from gradio.components import Component

from zephyr.deliver.ui.access import AccessMiddleware, serve_until_stopped
from zephyr.deliver.ui.talk import Speaks, Talk
from zephyr.deliver.ui.votes import Choice, VoteFile
from zephyr.errors import ZephyrError
from zephyr.recipe.teacher_section import SamplingSection
from zephyr.records.fields import printable

Updates = dict[Component, object]
# A phone shows the two answers one above the other, so letters name them.
SIDES = ("A", "B")
CHOICES: dict[Choice, str] = {"left": "A is better", "tie": "Tie", "right": "B is better"}
MAX_ANSWER = 4096
_KEYS = "Enter sends, Shift+Enter begins a line."
# Of the fonts that gradio 6.31 brings, some bold ones lack letters: the browser makes bold ones of the regular one.
FONTS = (gr.themes.utils.fonts.LocalFont("IBM Plex Sans", weights=(400,)), "ui-sans-serif", "system-ui", "sans-serif")

# Of gradio's chat the button that empties one side alone is left out.
STYLE = """
.gradio-container { width: 100% !important; max-width: 76rem !important; margin: 0 auto !important; }
.gradio-container :is(main, .main, .app) { padding: .5rem 1rem !important; }
.title, .title * { padding: 0 !important; } .title h1 { font-size: 1.15rem; margin: 0; overflow-wrap: anywhere; }
.answer { height: calc(100dvh - 18.5rem) !important; min-height: 14rem !important; }
.duel .answer { height: calc(100dvh - 21.5rem) !important; }
.answer .message-content span { white-space: pre-wrap; overflow-wrap: anywhere; }
.answer button[title="Clear"] { display: none; }
.hint { min-height: 1.5rem; } .hint p { font-size: .9rem; opacity: .85; }
.buttons { flex-wrap: nowrap !important; align-items: stretch; gap: .5rem; }
.buttons button { min-width: 0 !important; }
.examples button { white-space: normal; font-weight: 400; }
@media (max-width: 640px) {
  .gradio-container :is(main, .main, .app) { padding: .25rem !important; }
  .answer { height: calc(100dvh - 27rem) !important; }
  .duel .answer { height: calc((100dvh - 26rem) / 2) !important; min-height: 9rem !important; }
  .examples { flex-wrap: wrap !important; } .examples button { flex: 1 1 100% !important; padding: .35rem .6rem; }
}
"""
# Votes by keyboard: while they are open the box takes no text.
HEAD = """<script>
document.addEventListener("keydown", (event) => {
  const target = event.target;
  if (event.ctrlKey || event.altKey || event.metaKey || target.matches("input, textarea") && !target.disabled) return;
  const name = { a: "vote-left", t: "vote-tie", b: "vote-right", r: "again" }[event.key.toLowerCase()];
  const button = name && document.getElementById(name);
  if (button && !button.disabled) { event.preventDefault(); button.click(); }
});
</script>"""


@dataclass(frozen=True)
class PageSetup:
    """The models of the page, the initial sampling and system message, prompts to begin with, and where votes go.

    There are votes with two models.
    """

    speakers: Sequence[Speaks]
    sampling: SamplingSection
    system: str = ""
    votes: VoteFile | None = None
    examples: Sequence[str] = ()


class Page:
    """The components and what they do; `blocks` is what gradio serves."""

    def __init__(self, setup: PageSetup) -> None:
        assert (setup.votes is None) == (len(setup.speakers) == 1)
        self._setup = setup
        self._num = len(setup.speakers)
        # Clicks are served side by side: of two, the second must find what the first has changed.
        self._deciding = Lock()
        with gr.Blocks(analytics_enabled=False, title=f"Zephyr: {self._title()}", fill_width=True) as self.blocks:
            self._talk = gr.State(Talk(self._num))
            gr.HTML(f"<h1>{html.escape(self._title())}</h1>", elem_classes="title", padding=False)
            with gr.Row(elem_classes="duel" if self._num == 2 else "", equal_height=True):
                self._chats = [self._chat(side) for side in range(self._num)]
            self._hint = gr.Markdown(_hint(Talk(self._num)), elem_classes="hint")
            with gr.Row(elem_classes=["buttons", "examples"], visible=bool(setup.examples)) as self._examples:
                self._prompts = [gr.Button(printable(one), size="sm") for one in setup.examples]
            with gr.Row(elem_classes="buttons", visible=self._num == 2):
                self._votes = {
                    choice: gr.Button(words, interactive=False, size="md", elem_id=f"vote-{choice}")
                    for choice, words in CHOICES.items()
                }
            self._box = gr.Textbox(
                placeholder="Say something",
                label="Message",
                show_label=False,
                submit_btn=True,
                max_lines=8,
                autofocus=True,
            )
            with gr.Row(elem_classes="buttons"):
                self._again = gr.Button("Regenerate", interactive=False, size="md", elem_id="again")
                self._new = gr.Button("New conversation", size="md")
            with gr.Accordion("Settings", open=False):
                self._settings = self._sampling_settings()
            self._connect()

    def _chat(self, side: int) -> gr.Chatbot:
        return gr.Chatbot(
            label=self._label(Talk(self._num), side),
            min_width=280,
            buttons=[],
            feedback_options=None,
            elem_classes="answer",
            render_markdown=False,
        )

    def _sampling_settings(self) -> list[Component]:
        first = self._setup.sampling
        system = gr.Textbox(self._setup.system, label="System prompt", lines=2, max_lines=8)
        with gr.Row():
            temperature = gr.Slider(0, 2, first.temperature, step=0.05, label="Temperature", info="0: the likeliest")
            top_k = gr.Slider(0, 200, first.top_k or 0, step=1, label="Top k", info="0: of all tokens")
            top_p = gr.Slider(0.05, 1, first.top_p, step=0.05, label="Top p", info="1: of all tokens")
            length = gr.Slider(1, MAX_ANSWER, first.max_new_tokens, step=1, label="Longest answer", info="in tokens")
        return [system, temperature, top_k, top_p, length]

    def _connect(self) -> None:
        seen = [*self._chats, self._hint, self._examples, *self._votes.values(), self._box, self._again, self._new]
        # One answer at a time, whoever asks: several would only wait for each other.
        gr.on(
            [self._box.submit], self._ask_typed, [self._talk, self._box, *self._settings], seen,
            concurrency_limit=1, concurrency_id="model", show_progress="hidden", api_visibility="private",
        )  # fmt: skip
        for text, button in zip(self._setup.examples, self._prompts, strict=True):
            gr.on(
                [button.click], partial(self._ask_example, text), [self._talk, *self._settings], seen,
                concurrency_limit=1, concurrency_id="model", show_progress="hidden", api_visibility="private",
            )  # fmt: skip
        gr.on(
            [self._again.click], self._regenerate, [self._talk, *self._settings], seen,
            concurrency_limit=1, concurrency_id="model", show_progress="hidden", api_visibility="private",
        )  # fmt: skip
        self._box.stop(_stop, [self._talk], [], queue=False, api_visibility="private")
        self._new.click(self._forget, [self._talk], [self._talk, *seen], queue=False, api_visibility="private")
        for choice, button in self._votes.items():
            button.click(self._voter(choice), [self._talk], seen, queue=False, api_visibility="private")

    # ---- what visitors do ----

    def _ask_typed(
        self, talk: Talk, text: str, system: str, temperature: float, top_k: float, top_p: float, length: float
    ) -> Iterator[Updates]:
        yield from self._ask(talk, text, system, _sampling(temperature, top_k, top_p, length))

    def _ask_example(
        self, text: str, talk: Talk, system: str, temperature: float, top_k: float, top_p: float, length: float
    ) -> Iterator[Updates]:
        yield from self._ask(talk, text, system, _sampling(temperature, top_k, top_p, length))

    def _ask(self, talk: Talk, text: str, system: str, sampling: SamplingSection) -> Iterator[Updates]:
        with self._deciding:
            if not text.strip() or not talk.can_ask:
                return
            talk.ask(text, system)
            talk.is_writing = True
        yield {self._box: gr.update(value="")}
        yield from self._answer(talk, sampling)

    def _regenerate(
        self, talk: Talk, system: str, temperature: float, top_k: float, top_p: float, length: float
    ) -> Iterator[Updates]:
        sampling = _sampling(temperature, top_k, top_p, length)
        with self._deciding:
            if not talk.can_regenerate:
                return
            talk.regenerate(system)
            talk.is_writing = True
        yield from self._answer(talk, sampling)

    def _answer(self, talk: Talk, sampling: SamplingSection) -> Iterator[Updates]:
        """What is shown while the answers grow, as long as the visitor has not begun anew."""
        try:
            yield self._shown(talk)
            for _ in talk.write(self._setup.speakers, sampling):
                if not talk.is_left:
                    yield self._answers(talk)
        except (ZephyrError, RuntimeError) as error:
            # Too long for the model or its memory: the visitor may ask something else.
            gr.Warning(html.escape(printable(str(error))))
        finally:
            talk.is_writing = False
        # What comes last gradio sends once more at the end (6.31): it must not bring back what was left.
        yield {self._hint: gr.skip()} if talk.is_left else self._shown(talk)

    def _voter(self, choice: Choice) -> Callable[[Talk], Updates]:
        def vote(talk: Talk) -> Updates:
            with self._deciding:
                if talk.can_prefer or (talk.can_vote and choice == "tie"):
                    assert self._setup.votes is not None
                    try:
                        self._setup.votes.add(talk.prompt, talk.judged(self._setup.speakers), choice)
                    except OSError as error:
                        return {self._hint: f"The vote could not be saved ({error.strerror}). Vote again."}
                    talk.choice = choice
            return self._shown(talk)

        return vote

    def _forget(self, talk: Talk) -> Updates:
        _stop(talk)
        talk.is_left = True
        anew = Talk(self._num)
        return {self._talk: anew, **self._shown(anew)}

    # ---- what they see ----

    def _shown(self, talk: Talk) -> Updates:
        placeholder = "Say something" if talk.can_ask or talk.is_writing else "First vote"
        return {
            **self._answers(talk),
            self._hint: _hint(talk) or self._speed(talk),
            self._examples: gr.update(visible=bool(self._setup.examples) and not talk.asked and not talk.said),
            **{
                button: gr.update(
                    interactive=talk.can_vote if choice == "tie" else talk.can_prefer,
                    variant="primary" if choice == talk.choice else "secondary",
                )
                for choice, button in self._votes.items()
            },
            self._box: gr.update(
                interactive=talk.can_ask or talk.is_writing,
                submit_btn=talk.can_ask,
                stop_btn=talk.is_writing,
                placeholder=placeholder,
            ),
            self._again: gr.update(interactive=talk.can_regenerate),
        }

    def _answers(self, talk: Talk) -> Updates:
        return {
            chat: gr.update(value=_turns(talk, side), label=self._label(talk, side))
            for side, chat in enumerate(self._chats)
        }

    def _title(self) -> str:
        """What the page is of; two models are not named, as nobody may know whose answer is whose."""
        return printable(self._setup.speakers[0].name) if self._num == 1 else "Two models, compared blindly"

    def _speed(self, talk: Talk) -> str:
        """The length of the answer and how fast it came; of one model alone, as it would give a name away."""
        if self._num > 1 or talk.is_writing or not talk.asked or not talk.answers[0] or not talk.seconds:
            return ""
        count = self._setup.speakers[0].num_tokens(talk.answers[0])
        return f"{count:,} tokens in {talk.seconds:.1f} s, {count / talk.seconds:.1f} tokens/s. {_KEYS}"

    def _label(self, talk: Talk, side: int) -> str:
        speakers = self._setup.speakers
        if self._num == 1:
            return "Conversation"
        return SIDES[side] if talk.choice is None else f"{SIDES[side]}: {printable(speakers[talk.sides[side]].name)}"


def _stop(talk: Talk) -> None:
    talk.is_stopped = True


def _sampling(temperature: float, top_k: float, top_p: float, length: float) -> SamplingSection:
    return SamplingSection(max_new_tokens=int(length), temperature=temperature, top_k=int(top_k), top_p=top_p)


def _turns(talk: Talk, side: int) -> list[dict[str, str]]:
    """All turns as one side has them."""
    turns = [{"role": message.role, "content": _visible(message.content)} for message in talk.said]
    if talk.asked:
        answer = _visible(talk.answers[side]) or ("…" if talk.is_writing else "(nothing)")
        turns += [{"role": "user", "content": _visible(talk.asked)}, {"role": "assistant", "content": answer}]
    return turns


def _visible(text: str) -> str:
    """The text as gradio must have it so that every character shows.

    Its chat takes even plain messages for HTML, and moves the lines of a text to the left (6.31).
    """
    shown = "".join(char if char in "\n\t" else printable(char) for char in text)
    return html.escape(shown).replace("\n", "<br>")


def _hint(talk: Talk) -> str:
    """What to do next, in words that are ours alone."""
    if talk.is_writing:
        return "The answer is being written."
    if talk.num_models == 1:
        return "" if talk.asked else f"The model runs here: nobody else learns what you say. {_KEYS}"
    if not talk.asked:
        return "Two models answer, without names. Vote for the better answer, and you see whose it was."
    return _vote_hint(talk)


def _vote_hint(talk: Talk) -> str:
    if talk.choice is not None:
        kept = "Chance keeps answer A" if talk.choice == "tie" else "The better answer is kept"
        return f"Saved. {kept} for both; for the next question the sides are drawn anew."
    if talk.can_prefer:
        return "Which answer is better? Keys: a, b, t for a tie, r to regenerate."
    if talk.can_vote:
        return "Both say the same: a tie."
    return "Without two whole answers there is no vote. Regenerate, or ask something else."


def serve_page(setup: PageSetup, *, host: str, port: int, token: str | None, say: Callable[[str], None]) -> None:
    """Serve the page until stopped. Raises ResourceError where the address is taken."""
    serve_until_stopped(application(setup, token), host=host, port=port, say=say)


def application(setup: PageSetup, token: str | None) -> AccessMiddleware:
    """The page as an ASGI application, behind its access rules."""
    outer = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    gr.mount_gradio_app(
        outer,
        Page(setup).blocks,
        path="/",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        theme=gr.themes.Default(primary_hue="blue", font=FONTS),
        css=STYLE,
        head=HEAD,
    )
    return AccessMiddleware(outer, token)
