"""Keeps the figure a picture is drawn on, so that a test can look at what stands in it."""

from contextlib import contextmanager

from accelerator.runtime.pictures import style


def kept(monkeypatch, module):
    figures = []

    @contextmanager
    def keeping(*args, **kwargs):
        with style.picture(*args, **kwargs) as figure:
            figures.append(figure)
            yield figure

    monkeypatch.setattr(module, "picture", keeping)
    return figures


def is_picture(path):
    return path.read_bytes().startswith(b"\x89PNG\r\n")
