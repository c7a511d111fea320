package main

import "fmt"

// nginxConfig is a reverse proxy that ends TLS, verifies the upstream, keeps its
// connections open and sets the header. Answers are buffered, which is the
// faster way, except those of streams.
func nginxConfig(dir, pair, roots string) string {
	return fmt.Sprintf(`
user root;
daemon off;
worker_processes auto;
error_log stderr error;
pid %[1]s/nginx.pid;
events { worker_connections 32768; }
http {
  access_log off;
  client_body_temp_path %[1]s/nginx-body; proxy_temp_path %[1]s/nginx-proxy;
  fastcgi_temp_path %[1]s/nginx-fastcgi; uwsgi_temp_path %[1]s/nginx-uwsgi; scgi_temp_path %[1]s/nginx-scgi;
  tcp_nodelay on;
  keepalive_requests 100000000;
  client_max_body_size 0;
  client_body_buffer_size 64k;
  upstream api { server %[2]s; keepalive 1024; keepalive_requests 100000000; }
  server {
    listen %[3]s ssl http2 backlog=4096;
    ssl_certificate %[4]s; ssl_certificate_key %[4]s;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_buffer_size 16k;
    proxy_http_version 1.1;
    proxy_set_header Host %[5]s;
    proxy_set_header Connection "";
    proxy_set_header Authorization "Bearer %[6]s";
    proxy_ssl_server_name on; proxy_ssl_name %[5]s;
    proxy_ssl_verify on; proxy_ssl_trusted_certificate %[7]s; proxy_ssl_protocols TLSv1.2 TLSv1.3;
    proxy_read_timeout 1h;
    location / { proxy_pass https://api; }
    location /stream { proxy_pass https://api; proxy_buffering off; }
    location /bytes {
      proxy_pass https://api;
      proxy_request_buffering off; proxy_max_temp_file_size 0;
      proxy_buffer_size 16k; proxy_buffers 32 16k; proxy_busy_buffers_size 128k;
    }
  }
}
`, dir, upstreamAddr, nginxAddr, pair, upstreamHost, realKey, roots)
}

// haproxyConfig is the same for HAProxy: by default it starts a thread for each
// processor, and passes bodies on as they come.
func haproxyConfig(pair, roots string, connections int) string {
	return fmt.Sprintf(`
global
  maxconn %[7]d
  ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
  mode http
  timeout connect 10s
  timeout client 1h
  timeout server 1h
  http-reuse always
frontend agents
  bind %[1]s ssl crt %[2]s alpn h2,http/1.1 backlog 4096
  http-request set-header Authorization "Bearer %[3]s"
  use_backend streams if { path_beg /stream }
  default_backend api
backend api
  server api %[4]s ssl verify required ca-file %[5]s sni str(%[6]s) verifyhost %[6]s alpn http/1.1 pool-max-conn 1024
backend streams
  option http-no-delay
  server api %[4]s ssl verify required ca-file %[5]s sni str(%[6]s) verifyhost %[6]s alpn http/1.1 pool-max-conn 1024
`, haproxyAddr, pair, realKey, upstreamAddr, roots, upstreamHost, connections)
}
