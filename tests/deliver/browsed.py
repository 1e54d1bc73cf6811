"""What pages are served and opened with in tests and for the screenshots: a server in a thread, and a Chromium."""

import contextlib
import shutil
import socket
import threading

import uvicorn

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Served:
    """An application on a free port, in a thread."""

    def __init__(self, application):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/"
        self.server = uvicorn.Server(uvicorn.Config(application, log_level="warning"))
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],))
        self.thread.start()

    def close(self):
        """Stop it, whatever is still open."""
        self.server.should_exit = self.server.force_exit = True
        self.thread.join(30)
        self.socket.close()


@contextlib.contextmanager
def chromium():
    """The browser, closed at the end."""
    from playwright import sync_api

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
