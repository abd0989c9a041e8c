"""Judges many configurations by one process: ``python -m tests.support.judge FILE…`` prints JSON.

Each is judged by ``ngxstream -t`` in a child of a process that has read the whole program already.
"""

import json
import os
import sys
import tempfile

from ngxstream.process import cli, lazy


def judge(file: str) -> tuple[int, str]:
    """Return the exit code of ``-t`` and what it said."""
    with tempfile.TemporaryFile() as said:
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                for number in (1, 2):
                    os.dup2(said.fileno(), number)
                code = cli.main(["ngxstream", "-t", "-c", file])
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        said.seek(0)
        return os.waitstatus_to_exitcode(status), said.read().decode(errors="replace")


def main() -> None:
    """Print the verdicts of the files, in their order."""
    lazy.load_all()
    print(json.dumps([judge(file) for file in sys.argv[1:]]))


if __name__ == "__main__":
    main()
