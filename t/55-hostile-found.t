# Faults that hostile requests and answers have found.

use strict;
use warnings;

use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Gate;

no_shuffle();

run_tests();

__DATA__

=== a generation of status 204 has no body, and no error in one
--- config
location / { clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT; }
--- upstream eval
[["HTTP/1.1 204 X\r\nContent-Type: application/x-ndjson\r\n"
  . "Transfer-Encoding: chunked\r\n\r\n"
  . "8\r\n{\"a\":1}\n\r\n0\r\n\r\n"]]
--- request
POST /api/chat
{"model":"m"}
--- more_headers
Authorization: Bearer sk-alice
--- error_code: 204
--- response_body eval
""



=== an answer without a status line, behind the error page of a time-out
--- config
error_page 502 504 @again;
proxy_read_timeout 200ms;
location / { clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT; }
location @again { clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT; }
--- upstream eval
[[{ gate => 'never' }], ["nonsense\r\n\r\n"]]
--- request
POST /v1/chat/completions
{"model":"m"}
--- more_headers
Authorization: Bearer sk-alice
--- error_code: 504
--- response_body_like: "error"
--- error_log
upstream timed out
upstream sent no valid HTTP/1.0 header



=== a token of a request that NGINX refuses for its head is not logged
--- config
location / {
    clawd_auth token_arg;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- raw_request eval
"GET /api/tags?token=sk-alice HTTP/1.1\r\nHost: localhost\r\n"
. "Content-Length: +5\r\nConnection: close\r\n\r\n"
--- error_code: 400
--- no_access_log
sk-alice



=== a 101 of the upstream makes no tunnel
--- config
location / { clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT; }
--- upstream eval
[["HTTP/1.1 101 X\r\nContent-Length: 5\r\n\r\nbytes"]]
--- request
POST /v1/chat/completions
{"model":"m"}
--- more_headers
Authorization: Bearer sk-alice
Upgrade: websocket
--- error_code: 502
--- response_body_like: \A\{"error":
--- error_log
answer with status 101 is not relayed



=== a post_action that asks for the usage, when all is settled
--- http_config eval
main::gate_http("clawd_quota default rpm=100;")
--- config
location / {
    post_action /v1/usage;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- upstream eval
[["HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
  . "Content-Length: 2\r\n\r\n{}"]]
--- request
GET /v1/models
--- more_headers
Authorization: Bearer sk-alice
--- error_code: 200
--- no_error_log
exited on signal
