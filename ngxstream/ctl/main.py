"""The program ngxstreamctl: reads its command line, finds the API, runs one command."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import signal
import ssl
import sys
import warnings
from collections.abc import Sequence
from typing import Any, Final

from ngxstream import VERSION
from ngxstream.ctl import commands, completion, find, manual, tables, top
from ngxstream.ctl.client import (
    FORBIDDEN,
    MALFORMED,
    OK,
    REFUSED,
    UNREACHABLE,
    USAGE,
    Client,
    CtlError,
)
from ngxstream.process import first_steps

PASSWORD: Final = "NGXSTREAMCTL_PASSWORD"  # environment variable
URL: Final = "NGXSTREAMCTL_URL"

OPTIONS: Final = (
    commands.Arg(("--url",), "address of the API: http://HOST:PORT[/PREFIX], https://…, unix:PATH; "
                 f"else {URL} in the environment"),
    commands.Arg(("--socket",), "path of a Unix socket that the API listens at"),
    commands.Arg(("-c", "--config"), "configuration to find the API in; else that of the one "
                 "master that runs"),
    commands.Arg(("-p", "--prefix"), "prefix path of that configuration"),
    commands.Arg(("--user",), "NAME or NAME:PASSWORD for basic authentication; the password is "
                 f"else taken from {PASSWORD} in the environment, or asked for"),
    commands.Arg(("--cacert",), "file of the CA that signed the server's certificate (https)"),
    commands.Arg(("--cert",), "file of the client's certificate (https)"),
    commands.Arg(("--key",), "file of its key (https)"),
    commands.Arg(("--insecure",), "do not check the server's certificate (https)",
                 {"action": "store_true"}),
    commands.Arg(("--json",), "print JSON for programs, not tables for people",
                 {"action": "store_true"}),
)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line, made of the declarations."""
    found = argparse.ArgumentParser(
        prog="ngxstreamctl", description="See and steer a running ngxstream through its API.",
        allow_abbrev=False,
    )
    found.add_argument("--version", action="version", version=f"ngxstreamctl {VERSION}")
    _add_options(found)
    under = found.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in commands.COMMANDS:
        added = under.add_parser(command.name, help=command.doc, description=command.doc,
                                 allow_abbrev=False)
        for one in command.args:
            added.add_argument(*one.names, help=one.doc, **one.more)
        _add_options(added, suppressed=True)
    added = under.add_parser("top", help="show servers and peers on a screen, once a second",
                             allow_abbrev=False)
    _add_options(added, suppressed=True)
    added = under.add_parser("completion", help="print a completion script for a shell")
    added.add_argument("shell", choices=("bash", "zsh"))
    under.add_parser("manual", help="print the man page, in roff")
    under.add_parser("files", help="print the folder of the documents and examples that came with "
                     "the program")
    return found


def _add_options(to: argparse.ArgumentParser, *, suppressed: bool = False) -> None:
    """Add the options of all commands. Args: suppressed: behind a command, where many write them"""
    hidden: dict[str, Any] = {"default": argparse.SUPPRESS} if suppressed else {}
    for one in OPTIONS:
        doc = argparse.SUPPRESS if suppressed else one.doc
        to.add_argument(*one.names, help=doc, **one.more, **hidden)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code. Args: argv: without the program's name"""
    args = parser().parse_args(argv)
    try:
        return _run(args)
    except CtlError as error:
        sys.stdout.flush()
        sys.stderr.write(f"ngxstreamctl: {tables.clean(error)}\n")
        return error.code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter complains at its end
        return OK


def program() -> int:
    """Run the program as a process of its own; return its exit code."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return main()


def _run(args: argparse.Namespace) -> int:
    if args.command == "completion":
        print(completion.script(args.shell, parser()), end="")
        return OK
    if args.command == "manual":
        print(manual.page(parser()), end="")
        return OK
    if args.command == "files":
        folder = first_steps.share()
        if not folder:
            raise CtlError("no documents and examples came with this installation", REFUSED)
        print(folder)
        return OK
    declared = {command.name: command for command in commands.COMMANDS}
    command = declared.get(args.command)
    with _client(args, writes=command is not None and command.changes(args)) as api:
        if command is None:
            return top.run(api)
        follows = getattr(args, "follow", False)
        try:
            for text, value in commands.follow(api, args) if follows else [command.run(api, args)]:
                _say(args, text, value)
        except MALFORMED as error:
            text = f"the reply is not of the form that is expected ({error!r})"
            raise CtlError(text, UNREACHABLE) from None
    return OK


def _say(args: argparse.Namespace, text: str, value: Any) -> None:
    if args.json and not isinstance(value, str):
        text = json.dumps(value, ensure_ascii=True)
    if text or value:  # no lines are no empty line
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def _client(args: argparse.Namespace, writes: bool) -> Client:
    """Return the client that the options ask for. Raises: CtlError"""
    if args.url and args.socket:
        raise CtlError("--url and --socket exclude each other", USAGE)
    url = f"unix:{args.socket}" if args.socket else args.url or os.environ.get(URL, "")
    if not url:
        given = [word for name, value in (("-c", args.config), ("-p", args.prefix)) if value
                 for word in (name, value)]
        found = find.find(given)
        if writes and not found.write:
            raise CtlError(f"the API at {found.url} is read-only: its server wants "
                           "`api write=on;` for this", FORBIDDEN)
        url = found.url
    return Client.of(url, _user(args.user), _tls(args) if url.startswith("https:") else None)


def _user(user: str | None) -> str:
    if not user or ":" in user:
        return user or ""
    password = os.environ.get(PASSWORD)
    if password is None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", getpass.GetPassWarning)  # there is no terminal
                password = getpass.getpass(f"password of {user}: ")
        except (EOFError, OSError, getpass.GetPassWarning):
            raise CtlError(f"no password: set {PASSWORD}", USAGE) from None
    return f"{user}:{password}"


def _tls(args: argparse.Namespace) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=args.cacert)
        if args.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if args.cert:
            context.load_cert_chain(args.cert, args.key)
    except (OSError, ValueError) as error:
        raise CtlError(f"certificates: {error}", UNREACHABLE) from None
    return context


if __name__ == "__main__":
    sys.exit(program())
