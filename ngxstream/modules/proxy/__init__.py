"""The proxy: choose a peer, connect, relay (ngx_stream_proxy_module.c)."""
