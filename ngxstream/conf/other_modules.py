"""Directives that other builds of nginx know: those of NGINX Plus, and of modules of third parties.

Used to say more of an unknown directive than that it is unknown (hints.py). Which directives the
http and mail modules of nginx know is in process/elsewhere.py.
"""

from __future__ import annotations

import re
from typing import Final

_PLUS_WORDS: Final = """
    auth_jwt auth_jwt_claim_set auth_jwt_header_set auth_jwt_key_cache auth_jwt_key_file
    auth_jwt_key_request auth_jwt_leeway auth_jwt_require auth_jwt_type f4f f4f_buffer_size
    fastcgi_cache_purge hls hls_buffers hls_forward_args hls_fragment hls_mp4_buffer_size
    hls_mp4_max_buffer_size internal_redirect license_token mgmt mqtt mqtt_buffers mqtt_preread
    mqtt_rewrite_buffer_size mqtt_set_connect ntlm num_map oidc_provider proxy_cache_purge queue
    session_log session_log_format session_log_zone state_path status status_format
    sticky_cookie_insert upstream_conf upstream_show usage_report uuid_file
"""
PLUS: Final = frozenset(_PLUS_WORDS.split())
_PLUS_BEGINS: Final = ("zone_sync", "auth_oidc_", "deployment_", "enforce_initial_report")

# What takes the place of a directive here.
INSTEAD: Final = {
    "status": '"api" serves what it would',
    "upstream_conf": '"api write=on" changes servers',
    "zone_sync": '"store=" of a zone shares it with other hosts',
    "queue": '"max_conns=" of a server sends sessions to the others',
    "content_by_lua": '"py_content" takes a function in Python',
    "preread_by_lua": '"py_preread" takes a function in Python',
    "balancer_by_lua": '"py_balancer" takes a function in Python',
    "log_by_lua": '"py_log" takes a function in Python',
    "init_by_lua": '"py_import" runs a module of Python',
    "lua_shared_dict": '"py_shared_dict_zone" is for functions in Python',
    "geoip2": '"geoip_country" and "geoip_city" read the legacy format',
    "check": '"health_check" asks servers',
    "check_interval": '"health_check" asks servers',
    "server_traffic_status": '"status_zone" and "api" count sessions',
    "rdp_preread": '"py_preread" takes a function in Python',
    "mqtt_preread": '"py_preread" takes a function in Python',
}

# (pattern of names, the module), the first that fits counts.
_THIRD: Final = tuple(
    (re.compile(pattern), module) for pattern, module in (
        (r"(content|preread|balancer|log|init(_worker)?|exit_worker|ssl_\w+)_by_lua(_block|_file)?",
         "lua-nginx-module (OpenResty)"),
        (r"lua_\w+", "lua-nginx-module (OpenResty)"),
        (r"geoip2(_\w+)?", "ngx_http_geoip2_module"),
        (r"check(_(interval|rise|fall|timeout|http_send|http_expect_alive|shm_size|status))?",
         "nginx_upstream_check_module (Tengine)"),
        (r"(server|stream_server)_traffic_status\w*", "nginx-module-sts"),
        (r"vhost_traffic_status\w*", "nginx-module-vts"),
        (r"acme_\w+", "nginx-acme (or Angie)"),
        (r"otel_\w+", "nginx-otel"),
        (r"perl\w*", "ngx_http_perl_module"),
        (r"(brotli|zstd|pagespeed|passenger|modsecurity|xslt|image_filter)\w*", "a module of http"),
        (r"rtmp\w*|application|live|publish|play", "nginx-rtmp-module"),
        (r"dyups\w*", "ngx_http_dyups_module (Tengine)"),
        (r"rdp_preread|feedback|backup_switch|metric_\w+|docker_endpoint", "Angie"),
        (r"jdomain\w*", "nginx-upstream-jdomain"),
    )
)


def is_plus(name: str) -> bool:
    """Tell whether NGINX Plus has a directive that neither nginx nor ngxstream has."""
    return name in PLUS or name.startswith(_PLUS_BEGINS)


def third_party(name: str) -> str:
    """Return which other module has a directive, "" for none that is known."""
    return next((module for pattern, module in _THIRD if pattern.fullmatch(name)), "")


def instead(name: str) -> str:
    """Return what takes the place of a directive here, "" for nothing."""
    return next((text for begin, text in INSTEAD.items() if name.startswith(begin)), "")
