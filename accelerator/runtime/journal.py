"""The journal of a run: an append-only file of JSON lines, written whether or not a tracker is on.

Two kinds of lines::

    {"key": "train/loss", "value": 0.25, "step": 40, "time": 1763697600123}     a metric point
    {"event": "params", "values": {"model.width": 64}, "time": 1763697600123}   everything else

``time`` is UTC in milliseconds since 1970. A value that is not finite is kept as Python's own literals ``NaN``,
``Infinity`` and ``-Infinity``, which `json.loads` reads and strict JSON parsers refuse. Order in the file is the
order of events, whatever the clock does.

A line counts once its newline is on disk: what follows the last newline is torn, and is cut when the file is opened.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import monotonic, time
from typing import Any, SupportsFloat

FLUSH_EVERY = 0.25  # seconds: what a SIGKILL can cost, as long as `flush_if_due` is called
BLOCK = 1 << 16


class Journal:
    """Writes one run's journal. Only the training thread may write; any process may read with `read`.

    Points wait in memory until `flush`, `flush_if_due`, `event` or `position`. What has been flushed survives the
    death of the process (it is in the kernel's hands), though not the loss of power.

    Args:
        path: the file; made if absent, continued otherwise. A torn last line is cut first.
        flush_every: seconds between two flushes by `flush_if_due`.
    """

    def __init__(self, path: Path, *, flush_every: float = FLUSH_EVERY) -> None:
        self.path = Path(path)
        self.flush_every = flush_every
        self._points: list[tuple[str, SupportsFloat, int, float]] = []
        self._append = self._points.append
        self._encoded: dict[str, str] = {}
        self._due = monotonic() + flush_every
        self.path.parent.mkdir(parents=True, exist_ok=True)
        truncate(self.path)
        self._file = self.path.open("ab")

    def metric(self, key: str, value: SupportsFloat, step: int) -> None:
        """Note one point; costs an append to a list.

        Args:
            key: the metric's name, such as ``"train/loss"``.
            value: whatever `float` takes. It is converted when flushed, so a tensor on a device costs no
                synchronisation here, and must not be written to afterwards.
            step: the training step the value belongs to.
        """
        self._append((key, value, step, time()))

    def metrics(self, values: Mapping[str, SupportsFloat], step: int) -> None:
        """Note several points of one step."""
        now = time()
        for key, value in values.items():
            self._append((key, value, step, now))

    def event(self, kind: str, **payload: Any) -> None:
        """Write one event, after the points noted before it, and flush.

        Args:
            kind: ``params`` or ``tags`` (``values={…}``), ``artifact`` (``path=…, artifact_path=…``; a relative path
                starts at the journal's folder), ``model`` (``path=…``, a model folder), ``dataset`` (``facts={…}``),
                ``change`` of a value while the run goes on (``name=…, was=…, now=…, step=…``), ``status``
                (``value="FINISHED"``).
            payload: what belongs to it; objects JSON does not know are written as text.
        """
        assert not {"event", "time"} & payload.keys()
        self._write_points()
        line = {"event": kind, **payload, "time": _milliseconds(time())}
        self._file.write(json.dumps(line, default=str, ensure_ascii=False).encode() + b"\n")
        self._file.flush()

    def flush(self) -> None:
        """Hand every point noted so far to the operating system.

        Raises:
            TypeError: a noted value is not a number; the other points are written.
        """
        self._write_points()
        self._file.flush()

    def flush_if_due(self) -> None:
        """Flush when the last time was ``flush_every`` seconds ago; cheap enough to call each step."""
        if monotonic() >= self._due:
            self.flush()

    def position(self) -> int:
        """The length of the journal in bytes, everything noted so far included; a checkpoint stores it."""
        self.flush()
        return self._file.tell()

    def close(self) -> None:
        """Flush and close; a second call does nothing."""
        if not self._file.closed:
            try:
                self.flush()
            finally:
                self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _write_points(self) -> None:
        self._due = monotonic() + self.flush_every
        if not (count := len(self._points)):
            return
        lines, refused = [], []
        for key, value, step, seconds in self._points[:count]:
            try:
                number = _number(float(value))
            except (TypeError, ValueError):
                refused.append(f"metric '{key}' at step {step} is {value!r}, not a number")
                continue
            if (name := self._encoded.get(key)) is None:
                name = self._encoded[key] = json.dumps(key, ensure_ascii=False)
            lines.append(f'{{"key":{name},"value":{number},"step":{int(step)},"time":{_milliseconds(seconds)}}}\n')
        self._file.write("".join(lines).encode())
        # Forgotten only once written: an interrupt in between writes a point twice, which readers tell by its time.
        del self._points[:count]
        if refused:
            raise TypeError("; ".join(refused))


def truncate(path: Path, position: int | None = None) -> int:
    """Cut a journal back to the checkpoint a run resumes from; done before the `Journal` is opened.

    Args:
        path: the journal; it may be absent.
        position: what `Journal.position` gave at the checkpoint; None cuts a torn last line only.

    Returns:
        The new length in bytes: ``position``, or less where the file ends or a line is torn before it.
    """
    if not path.exists():
        return 0
    with path.open("r+b") as file:
        size = file.seek(0, 2)
        end = _after_last_newline(file, size if position is None else min(position, size))
        if end < size:
            file.truncate(end)
    return end


def read(path: Path, start: int = 0, stop: int | None = None) -> Iterator[tuple[dict[str, Any] | None, int]]:
    """The whole lines of a journal between two positions.

    Args:
        path: the journal.
        start: where to begin; the start of a line.
        stop: where to end; None is the length the file has now. A line that is torn there is left out.

    Yields:
        The line, or None for one that is damaged, and the position after it.
    """
    with path.open("rb") as file:
        stop = file.seek(0, 2) if stop is None else stop
        position = file.seek(start)
        while position < stop and (line := file.readline()).endswith(b"\n"):
            position += len(line)
            if position > stop:
                return
            yield _parse(line), position


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and ("key" in found or "event" in found) else None


def _after_last_newline(file: Any, end: int) -> int:
    while end > 0:
        start = max(0, end - BLOCK)
        file.seek(start)
        if (at := file.read(end - start).rfind(b"\n")) >= 0:
            return start + at + 1
        end = start
    return 0


def _number(value: float) -> str:
    if value - value == 0.0:
        return repr(value)
    return json.dumps(value)


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
