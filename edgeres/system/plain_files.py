"""Files that somebody names, looked at before they are opened.

Opening a FIFO waits for somebody who writes, reading a device may never end, and either may be
named by mistake or by a file from elsewhere.
"""

from __future__ import annotations

import os
import stat

from edgeres.errors import EdgeResError

StrPath = str | os.PathLike[str]

_KINDS = {
    stat.S_IFIFO: "a FIFO or pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def refuse_special(path: StrPath, error: type[EdgeResError]) -> None:
    """Refuses what is neither a file nor a folder; what is not there is left to who opens it.

    Args:
        path: What is about to be read, or looked into.
        error: Class of the error.

    Raises:
        EdgeResError: It is special; of the class that was asked for.
    """
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)  # noqa: PTH116  # a text may be no path at all
    except (OSError, ValueError):
        return
    if kind in _KINDS:
        raise error(
            f"{os.fspath(path)}: is {_KINDS[kind]}, not a file.",
            hint="Write the content into a file and name that.",
        )
