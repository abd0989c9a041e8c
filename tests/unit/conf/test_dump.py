"""-T: every file once, byte for byte, and good enough to read the configuration again."""

import subprocess
from pathlib import Path

from ngxstream.conf import dump, files, reader
from tests.support.nginx_says import NginxSays


def test_files_come_in_the_order_of_opening_once_each() -> None:
    """A file included twice is shown once, where it was first opened."""
    source = reader.read(
        "/c/n.conf",
        conf_prefix="/c/",
        files=files.Memory(
            {
                "/c/n.conf": b"include b; include a; include b;",
                "/c/a": b"x;\n",
                "/c/b": b"include a;\xff",
            }
        ),
    )
    assert (
        b"# configuration file /c/n.conf:\ninclude b; include a; include b;\n"
        b"# configuration file /c/b:\ninclude a;\xff\n"
        b"# configuration file /c/a:\nx;\n\n"
    ) == dump.dump(source)


def test_files_of_the_command_line_come_first() -> None:
    """What -g includes is shown, the text of -g itself is not."""
    memory = files.Memory({"/c/n.conf": b"a;", "/c/g": b"b;"})
    text = reader.read_text("include g;", conf_prefix="/c/", files=memory)
    main = reader.read("/c/n.conf", conf_prefix="/c/", files=memory)
    expected = b"# configuration file /c/g:\nb;\n# configuration file /c/n.conf:\na;\n"
    assert expected == dump.dump(text, main)


def test_a_dump_can_be_read_again() -> None:
    """The contents of a dump give the same tree from memory."""
    memory = files.Memory({"/c/n.conf": b"include d/*; z;", "/c/d/1": b"a;", "/c/d/2": b"b {}"})
    first = reader.read("/c/n.conf", conf_prefix="/c/", files=memory)
    again = reader.read("/c/n.conf", conf_prefix="/c/", files=files.Memory(dump.contents([first])))
    assert dump.dump(first) == dump.dump(again)


def test_nginx_dumps_the_same_bytes(tmp_path: Path) -> None:
    """The text is nginx's, byte for byte."""
    nginx = NginxSays(tmp_path)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "b.conf").write_bytes(b"env X=\xff; # \xfe")
    (tmp_path / "d" / "a.conf").write_bytes(b"\r\n")
    nginx.path.write_bytes(b"events {}\ninclude d/*.conf;\ninclude d/b.conf;\n")
    ran = subprocess.run(
        [nginx.nginx, "-T", "-q", "-p", f"{tmp_path}/", "-c", str(nginx.path),
         "-e", str(tmp_path / "log"), "-g", f"pid {tmp_path}/pid;"],
        capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    source = reader.read(str(nginx.path), conf_prefix=f"{tmp_path}/")
    assert ran.stdout == dump.dump(source)
