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
error_log stderr warn;
pid %[1]s/nginx.pid;
events { worker_connections 4096; }
http {
  access_log off;
  client_body_temp_path %[1]s/nginx-body; proxy_temp_path %[1]s/nginx-proxy;
  fastcgi_temp_path %[1]s/nginx-fastcgi; uwsgi_temp_path %[1]s/nginx-uwsgi; scgi_temp_path %[1]s/nginx-scgi;
  tcp_nodelay on;
  keepalive_requests 100000000;
  upstream api { server %[2]s; keepalive 1024; keepalive_requests 100000000; }
  server {
    listen %[3]s ssl backlog=4096;
    ssl_certificate %[4]s; ssl_certificate_key %[4]s;
    ssl_protocols TLSv1.2 TLSv1.3;
    proxy_http_version 1.1;
    proxy_set_header Host %[5]s;
    proxy_set_header Connection "";
    proxy_set_header Authorization "Bearer %[6]s";
    proxy_ssl_server_name on; proxy_ssl_name %[5]s;
    proxy_ssl_verify on; proxy_ssl_trusted_certificate %[7]s; proxy_ssl_protocols TLSv1.2 TLSv1.3;
    location / { proxy_pass https://api; }
    location /stream { proxy_pass https://api; proxy_buffering off; }
  }
}
`, dir, upstreamAddr, nginxAddr, pair, upstreamHost, realKey, roots)
}
