"""TLS towards clients (ngx_stream_ssl_module.c)."""
