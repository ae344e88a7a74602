"""A pseudo-terminal, and what a person sees on it."""

import fcntl
import os
import pty
import re
import struct
import termios


class Terminal:
    """A terminal of 80 columns; what is written to `theirs` can be read."""

    def __init__(self, columns=80, rows=40):
        self.ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.output = ""

    def read(self, until=""):
        """Read up to a text, or to the end of the output; return the lines on the screen and above it."""
        while not until or until not in self.output:
            try:
                data = os.read(self.ours, 65536)
            except OSError:  # the other side is closed
                data = b""
            if not data:
                assert not until, f"the output ended before {until!r}"
                break
            self.output += data.decode()
        return self.lines()

    def write(self, text):
        """Type a text."""
        os.write(self.ours, text.encode())

    def lines(self):
        """Return what is shown: cursor movements and erased lines are applied, colours are dropped."""
        shown, row = [""], 0
        for part in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|\n|\r|[^\x1b\n\r]+", self.output):
            if part == "\n":
                row += 1
                shown.extend([""] * (row + 1 - len(shown)))
            elif part.endswith("A") and part[0] == "\x1b":
                row = max(0, row - int(part[2:-1] or 1))
            elif part == "\x1b[2K":
                shown[row] = ""
            elif part[0] not in "\x1b\r":
                shown[row] += part
        return "\n".join(line.rstrip() for line in shown)

    @property
    def shows_cursor(self):
        return self.output.rfind("\x1b[?25h") > self.output.rfind("\x1b[?25l")
