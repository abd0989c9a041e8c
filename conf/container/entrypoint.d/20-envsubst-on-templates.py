#!/usr/bin/python3
"""Makes configuration files of templates: $NAME and ${NAME} become what the environment has.

As 20-envsubst-on-templates.sh of nginx's image, with the same variables: names that the environment
does not have stay as they are, which are nginx's own variables.

    NGINX_ENVSUBST_TEMPLATE_DIR     /etc/ngxstream/templates, with all folders below
    NGINX_ENVSUBST_TEMPLATE_SUFFIX  .template
    NGINX_ENVSUBST_OUTPUT_DIR       /etc/ngxstream/conf.d
    NGINX_ENVSUBST_FILTER           a regular expression: only names in which it is found
"""

import os
import re
import sys
from pathlib import Path

SETTING = "NGINX_ENVSUBST_"
NAME = re.compile(r"\$(?:(\w+)|\{(\w+)\})", re.ASCII)


def setting(name: str, default: str) -> str:
    """Return what the environment says, or what is usual."""
    return os.environ.get(f"{SETTING}{name}") or default


def say(text: str) -> None:
    """Tell the log of the container."""
    if not os.environ.get("NGINX_ENTRYPOINT_QUIET_LOGS"):
        print(f"{os.path.basename(sys.argv[0])}: {text}", flush=True)


def substitute(text: str, wanted: "re.Pattern[str]") -> str:
    """Put the environment's values into a text."""

    def value(match: "re.Match[str]") -> str:
        name = match[1] or match[2]
        return os.environ.get(name, match[0]) if wanted.search(name) else match[0]

    return NAME.sub(value, text)


def main() -> int:
    """Go through the templates; return the exit code."""
    source = Path(setting("TEMPLATE_DIR", "/etc/ngxstream/templates"))
    target = Path(setting("OUTPUT_DIR", "/etc/ngxstream/conf.d"))
    suffix = setting("TEMPLATE_SUFFIX", ".template")
    try:
        wanted = re.compile(setting("FILTER", ""))
    except re.error as error:
        print(f"{sys.argv[0]}: {SETTING}FILTER: {error}", file=sys.stderr)
        return 1
    templates = sorted(path for path in source.rglob(f"*{suffix}") if path.is_file())
    if templates and not os.access(target, os.W_OK):
        print(f"{sys.argv[0]}: there are templates, but {target} cannot be written", file=sys.stderr)
        return 0
    for template in templates:
        made = target / str(template.relative_to(source)).removesuffix(suffix)
        say(f"{template} to {made}")
        try:
            made.parent.mkdir(parents=True, exist_ok=True)
            text = template.read_text(errors="surrogateescape")
            made.write_text(substitute(text, wanted), errors="surrogateescape")
        except OSError as error:
            print(f"{sys.argv[0]}: {template} to {made}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
