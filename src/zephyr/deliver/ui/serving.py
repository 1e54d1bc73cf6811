"""The page on an address of this machine, until it is stopped."""

from collections.abc import Callable

import gradio as gr
import uvicorn
from fastapi import FastAPI

from zephyr.deliver.serving import bound_socket
from zephyr.deliver.ui.door import Door
from zephyr.deliver.ui.page import STYLE, Page, Parlour

# Of the fonts that gradio 6.31 brings, some bold ones lack letters: the browser makes bold ones of the regular one.
FONTS = (gr.themes.utils.fonts.LocalFont("IBM Plex Sans", weights=(400,)), "ui-sans-serif", "system-ui", "sans-serif")


def serve_page(parlour: Parlour, *, host: str, port: int, token: str | None, say: Callable[[str], None]) -> None:
    """Nothing; serves until it is stopped. Raises ResourceError where the address is taken."""
    with bound_socket(host, port) as listening:
        # An open page holds a connection, for which nobody wants to wait who stops the server.
        config = uvicorn.Config(
            door_to(parlour, token), log_level="warning", server_header=False, timeout_graceful_shutdown=1
        )
        say(f"http://{host}:{listening.getsockname()[1]}/, until Ctrl-C")
        uvicorn.Server(config).run(sockets=[listening])


def door_to(parlour: Parlour, token: str | None) -> Door:
    """The application: the page behind its door."""
    outer = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    gr.mount_gradio_app(
        outer,
        Page(parlour).blocks,
        path="/",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        theme=gr.themes.Default(primary_hue="blue", font=FONTS),
        css=STYLE,
    )
    return Door(outer, token)
