"""A real browser without a window: what a page says once it has been rendered."""

import html
import os
import re
import shutil
import signal
import subprocess
from contextlib import suppress

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

needs_browser = pytest.mark.skipif(BROWSER is None, reason="no browser: apt-get install chromium")

# Alone on the machine: it asks nobody for updates, settings or news.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--hide-scrollbars",
)
DARK = "--blink-settings=preferredColorScheme=0"
SECONDS = 120


def rendered(address, profile, *flags, width=1400, height=1000):
    """The document as the browser has it after scripts have run.

    Args:
        address: of the page.
        profile: a folder that is not there yet, for what the browser keeps.
        flags: more of them.
        width: of the window; 500 is the least there is.
        height: of the window.
    """
    assert BROWSER is not None
    command = [BROWSER, *FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}", *flags, "--dump-dom"]
    process = subprocess.Popen(
        [*command, address], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        document, complaints = process.communicate(timeout=SECONDS)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # helpers of a browser that hangs, too
        process.wait()
    assert process.returncode == 0, complaints
    assert "</html>" in document, complaints
    return document


def text_of(document):
    """What can be read on a page, its space made single."""
    document = re.sub(r"<(script|style|noscript|template)\b.*?</\1>", " ", document, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", document)).split())
