"""A terminal for tests: what a command drew into a pseudo-terminal, as a person sees it."""

import os
import pty
import re
import struct
from fcntl import ioctl
from termios import TIOCSWINSZ

_CODE = re.compile(r"\x1b\[\??([0-9;]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)|\x1b.")


def open_terminal(rows=24, columns=100):
    """Return both ends of a pseudo-terminal of this size."""
    ours, theirs = pty.openpty()
    ioctl(theirs, TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    return ours, theirs


def read_all(end):
    """Yield what comes out of a terminal until its other end is closed."""
    while True:
        try:
            piece = os.read(end, 65536)
        except OSError:  # Linux: the other end is closed
            return
        if not piece:
            return
        yield piece


class Screen:
    """Lines as they stand after some output; cursor movements and erasing are followed."""

    def __init__(self):
        self.lines = [""]
        self._row = self._column = 0
        self._rest = ""

    def feed(self, text):
        """Draw more output; a code that is cut off waits for its end."""
        text = self._rest + text
        cut = text.rfind("\x1b")
        whole = cut < 0 or _CODE.match(text, cut) is not None
        text, self._rest = (text, "") if whole else (text[:cut], text[cut:])
        for code, kind, move, words in _CODE.findall(text):
            if words:
                self._write(words)
            elif move == "\r":
                self._column = 0
            elif move == "\n":
                self._go(self._row + 1)
            elif kind == "A":
                self._go(max(0, self._row - int(code or 1)))
            elif kind == "B":
                self._go(self._row + int(code or 1))
            elif kind == "K":
                line = self.lines[self._row]
                self.lines[self._row] = "" if code == "2" else line[: self._column]

    def _go(self, row):
        self._row = row
        self.lines += [""] * (row + 1 - len(self.lines))

    def _write(self, words):
        line = self.lines[self._row].ljust(self._column)
        end = self._column + len(words)
        self.lines[self._row] = line[: self._column] + words + line[end:]
        self._column = end
