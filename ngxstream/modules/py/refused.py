"""The directives of njs: refused, each with what takes its place here."""

from __future__ import annotations

from typing import Final

from ngxstream.conf import directive as d
from ngxstream.modules.py import conf

_NONE: Final = "there is no JavaScript, "
_SHARED: Final = "functions of a worker share one Python; nothing is made anew"
_FETCH: Final = (
    "buffer_size", "ciphers", "keepalive", "keepalive_requests", "keepalive_time",
    "keepalive_timeout", "max_response_buffer_size", "protocols", "proxy", "timeout",
    "trusted_certificate", "verify", "verify_depth",
)
REASONS: Final = {
    "js_access": _NONE + "py_access takes a function of Python",
    "js_context_reuse": _SHARED,
    "js_context_reuse_max_size": _SHARED,
    "js_engine": _NONE + "py_import names a module of Python",
    **{f"js_fetch_{name}": "a function of Python says it to fetch()" for name in _FETCH},
    "js_filter": _NONE + "py_filter takes a function of Python",
    "js_import": _NONE + "py_import names a module of Python",
    "js_load_stream_native_module": "a module of Python imports what it needs",
    "js_path": _NONE + "py_path says where modules of Python are",
    "js_periodic": _NONE + "py_periodic takes a function of Python",
    "js_preload_object": "a module of Python reads its files when it is imported",
    "js_preread": _NONE + "py_preread takes a function of Python",
    "js_set": _NONE + "py_set takes a function of Python",
    "js_shared_dict_zone": _NONE + "py_shared_dict_zone is for functions of Python",
    "js_var": _NONE + "py_var is for functions of Python",
}
DIRECTIVES: Final = tuple(
    d.Directive(name, d.MAIN | conf.BOTH, d.Takes(0, None), d.refuse(why), why, refused=why,
                extension=True)
    for name, why in REASONS.items()
)
