" Vim syntax file of ngxstream's configurations: the stream block of an nginx.conf.
" Printed by `make docs` from the manual of the directives; do not edit.
if exists('b:current_syntax')
  finish
endif

setlocal iskeyword=@,48-57,_
syn case match

syn match ngxComment /#.*$/ contains=@Spell
syn match ngxVariable /\$\w\+\|\${\w\+}/
syn match ngxNumber /\<\d\+\(ms\|[smhdwMykKmMgG]\)\?\>/
syn match ngxAddress /\<\d\{1,3}\(\.\d\{1,3}\)\{3}\(\/\d\+\)\?\>/
syn region ngxString start=/"/ skip=/\\./ end=/"/ contains=ngxVariable
syn region ngxString start=/'/ skip=/\\./ end=/'/ contains=ngxVariable
syn match ngxDelimiter /[{};]/
syn match ngxTemplate /{{.\{-}}}\|{%.\{-}%}\|<%.\{-}%>/

syn keyword ngxBlock events geo http mail map match server split_clients stream upstream
syn keyword ngxDirective accept_mutex accept_mutex_delay access_log allow api api_user_file daemon
syn keyword ngxDirective debug_connection debug_points deny env epoll_events error_log geoip_city
syn keyword ngxDirective geoip_country geoip_org hash health_check health_check_timeout include
syn keyword ngxDirective keyval keyval_zone least_conn least_time limit_bandwidth
syn keyword ngxDirective limit_bandwidth_dry_run limit_bandwidth_log_level limit_bandwidth_zone
syn keyword ngxDirective limit_conn limit_conn_dry_run limit_conn_log_level limit_conn_zone
syn keyword ngxDirective limit_datagram limit_datagram_dry_run limit_datagram_log_level
syn keyword ngxDirective limit_datagram_zone limit_sess limit_sess_dry_run limit_sess_log_level
syn keyword ngxDirective limit_sess_zone listen load_module lock_file log_format
syn keyword ngxDirective map_hash_bucket_size map_hash_max_size master_process multi_accept
syn keyword ngxDirective open_log_file_cache pass pcre_jit pid preread_buffer_size preread_timeout
syn keyword ngxDirective proxy_bind proxy_buffer_size proxy_connect proxy_connect_timeout
syn keyword ngxDirective proxy_download_rate proxy_downstream_buffer proxy_half_close
syn keyword ngxDirective proxy_next_upstream proxy_next_upstream_timeout proxy_next_upstream_tries
syn keyword ngxDirective proxy_pass proxy_protocol proxy_protocol_datagrams proxy_protocol_timeout
syn keyword ngxDirective proxy_quic proxy_requests proxy_responses proxy_session_drop
syn keyword ngxDirective proxy_session_lifetime proxy_socket_keepalive proxy_socket_rcvbuf
syn keyword ngxDirective proxy_socket_sndbuf proxy_ssl proxy_ssl_alpn proxy_ssl_certificate
syn keyword ngxDirective proxy_ssl_certificate_cache proxy_ssl_certificate_key proxy_ssl_ciphers
syn keyword ngxDirective proxy_ssl_conf_command proxy_ssl_crl proxy_ssl_name proxy_ssl_password_file
syn keyword ngxDirective proxy_ssl_protocols proxy_ssl_server_name proxy_ssl_session_reuse
syn keyword ngxDirective proxy_ssl_trusted_certificate proxy_ssl_verify proxy_ssl_verify_depth
syn keyword ngxDirective proxy_timeout proxy_udp_amplification proxy_udp_any_port proxy_upload_rate
syn keyword ngxDirective proxy_upstream_buffer py_access py_balancer py_buffer_size py_content
syn keyword ngxDirective py_filter py_import py_log py_path py_periodic py_preread py_set
syn keyword ngxDirective py_shared_dict_zone py_time_limit py_timeout py_var random resolver
syn keyword ngxDirective resolver_timeout return server_name server_names_hash_bucket_size
syn keyword ngxDirective server_names_hash_max_size set set_real_ip_from ssl_alpn ssl_certificate
syn keyword ngxDirective ssl_certificate_cache ssl_certificate_compression ssl_certificate_key
syn keyword ngxDirective ssl_ciphers ssl_client_certificate ssl_conf_command ssl_crl ssl_dhparam
syn keyword ngxDirective ssl_ecdh_curve ssl_handshake_timeout ssl_object_cache_inheritable ssl_ocsp
syn keyword ngxDirective ssl_ocsp_cache ssl_ocsp_responder ssl_password_file
syn keyword ngxDirective ssl_prefer_server_ciphers ssl_preread ssl_protocols ssl_reject_handshake
syn keyword ngxDirective ssl_session_cache ssl_session_ticket_key ssl_session_tickets
syn keyword ngxDirective ssl_session_timeout ssl_stapling ssl_stapling_file ssl_stapling_responder
syn keyword ngxDirective ssl_stapling_verify ssl_trusted_certificate ssl_verify_client
syn keyword ngxDirective ssl_verify_depth state status_zone tcp_nodelay thread_pool timer_resolution
syn keyword ngxDirective use user variables_hash_bucket_size variables_hash_max_size
syn keyword ngxDirective worker_aio_requests worker_connections worker_cpu_affinity worker_priority
syn keyword ngxDirective worker_processes worker_rlimit_core worker_rlimit_nofile
syn keyword ngxDirective worker_shutdown_timeout working_directory zone
syn keyword ngxRefused js_access js_context_reuse js_context_reuse_max_size js_engine
syn keyword ngxRefused js_fetch_buffer_size js_fetch_ciphers js_fetch_keepalive
syn keyword ngxRefused js_fetch_keepalive_requests js_fetch_keepalive_time
syn keyword ngxRefused js_fetch_keepalive_timeout js_fetch_max_response_buffer_size
syn keyword ngxRefused js_fetch_protocols js_fetch_proxy js_fetch_timeout
syn keyword ngxRefused js_fetch_trusted_certificate js_fetch_verify js_fetch_verify_depth
syn keyword ngxRefused js_filter js_import js_load_stream_native_module js_path js_periodic
syn keyword ngxRefused js_preload_object js_preread js_set js_shared_dict_zone js_var ssl_ech_file
syn keyword ngxRefused ssl_engine
syn keyword ngxParameter abort accept_filter agent alert all any_host at_once auto backlog backup
syn keyword ngxParameter bind buffer builtin burst connect connections consistent crit debug
syn keyword ngxParameter debug_alloc debug_core debug_event debug_http debug_mail debug_mutex
syn keyword ngxParameter debug_stream default default_server deferred delay delete down download
syn keyword ngxParameter drain emerg epoll error escape every evict expect fail_open fail_timeout
syn keyword ngxParameter fails fastopen first first_byte flush gzip helo hold_nx host hostnames if
syn keyword ngxParameter inactive inflight info interval ipv4 ipv6 ipv6only jitter last_byte leaf
syn keyword ngxParameter mandatory max max_conns max_fails max_queue memory min_uses multipath name
syn keyword ngxParameter nocache nodelay none notice off on on_data optional optional_no_ca passes
syn keyword ngxParameter persistent poll port prefix py qtype ranges rate rcode rcvbuf resolve
syn keyword ngxParameter reuseport sample secret select send service shared slow_start sndbuf
syn keyword ngxParameter so_keepalive ssl stderr stop store sync syslog threads timeout transparent
syn keyword ngxParameter two type udp unix upload uri utf8 v2 valid volatile warn weight workers
syn keyword ngxParameter write

syn keyword ngxTodo TODO FIXME contained containedin=ngxComment

hi def link ngxComment Comment
hi def link ngxTodo Todo
hi def link ngxBlock Structure
hi def link ngxDirective Keyword
hi def link ngxRefused Error
hi def link ngxParameter Type
hi def link ngxVariable Identifier
hi def link ngxNumber Number
hi def link ngxAddress Constant
hi def link ngxString String
hi def link ngxDelimiter Delimiter
hi def link ngxTemplate Error

let b:current_syntax = 'ngxstream'
