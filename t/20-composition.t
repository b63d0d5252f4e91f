# The gate among NGINX's own: no directive opens a way around it, and none of
# them is broken by it.

use strict;
use warnings;

use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Gate qw(upstream spare);
use Clawd::Client;

no_shuffle();
run_tests();


sub fetch {
    my ($method, $uri, $body, @headers) = @_;
    my $client = client();

    $client->request($method, $uri, $body, @headers, Connection => 'close');
    return $client->read_all // '';
}

__DATA__

=== limit_except without a pass: the excluded method is gated
--- config
location / {
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
    limit_except GET { allow all; }
}
--- request eval
["POST /v1/chat/completions\n{\"model\":\"m\"}",
 "POST /v1/chat/completions\n{\"model\":\"m\",\"model\":\"n\"}",
 "GET /v1/models", "POST /v1/chat/completions\n{\"model\":\"m\"}"]
--- more_headers eval
["X-Other: y", ("Authorization: Bearer sk-alice") x 3]
--- error_code eval
[401, 400, 200, 200]



=== limit_except without a pass: nothing reaches the upstream
--- config
location / {
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
    limit_except GET { allow all; }
}
--- request eval
["POST /v1/chat/completions\n{\"model\":\"m\"}", "GET /v1/models",
 "DELETE /api/delete"]
--- more_headers
X-Other: y
--- error_code eval
[401, 401, 401]
--- upstream_count: 0



=== limit_except that denies: the caller's shape
--- config
location / {
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
    limit_except POST { deny all; }
}
--- request
GET /v1/models
--- error_code: 403
--- response_headers
Content-Type: application/json
--- response_body_like: \A\{"error":\{"message":"[^"]+","type":"permission_error","param":null,"code":null\}\}\z
--- upstream_count: 0
--- error_log
access forbidden by rule



=== limit_except with a pass of its own
--- config
location / {
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
    limit_except GET { clawd_pass http://127.0.0.1:$TEST_NGINX_SPARE_PORT; }
}
--- spare eval
[main::reply(200, 'spare')]
--- request eval
["POST /v1/chat/completions\n{\"model\":\"m\"}",
 "POST /v1/chat/completions\n{\"model\":\"m\"}"]
--- more_headers eval
["X-Other: y", "Authorization: Bearer sk-alice"]
--- error_code eval
[401, 200]
--- response_body_like eval
["missing", "spare"]
--- upstream_count: 0



=== limit_except with a plain proxy_pass: gated
--- config
location / {
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
    limit_except GET { proxy_pass http://127.0.0.1:$TEST_NGINX_SPARE_PORT; }
}
--- request
POST /v1/chat/completions
{"model":"m"}
--- more_headers
X-Other: y
--- refused: openai 401 invalid_api_key
--- spare_count: 0



=== if without a pass
--- config
location / {
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
    if ($arg_x) { set $y 1; }
}
--- request eval
["GET /v1/models?x=1", "GET /v1/models?x=1", "GET /v1/models"]
--- more_headers eval
["X-Other: y", "Authorization: Bearer sk-alice",
 "Authorization: Bearer sk-alice"]
--- error_code eval
[401, 200, 200]



=== if with a pass, and one with a plain proxy_pass: gated
--- config
location / {
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
    if ($arg_x = a) { clawd_pass http://127.0.0.1:$TEST_NGINX_SPARE_PORT; }
    if ($arg_x = b) { proxy_pass http://127.0.0.1:$TEST_NGINX_SPARE_PORT; }
}
--- spare eval
[main::reply(200, 'spare')]
--- request eval
["GET /v1/models?x=a", "GET /v1/models?x=b", "GET /v1/models?x=a",
 "GET /v1/models?x=b"]
--- more_headers eval
["X-Other: y", "X-Other: y", ("Authorization: Bearer sk-alice") x 2]
--- error_code eval
[401, 401, 200, 200]
--- response_body_like eval
["missing", "missing", "spare", "spare"]
--- upstream_count: 0



=== if with return: before the gate, as the operator wrote it
--- config
location / {
    if ($arg_x) { return 200 "returned"; }
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- request eval
["GET /v1/models?x=1", "GET /v1/models"]
--- more_headers
X-Other: y
--- error_code eval
[200, 401]
--- response_body_like eval
["^returned\$", "missing"]
--- upstream_count: 0



=== locations within: gated unless they say otherwise
--- config
location /v1/ {
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;

    location /v1/static { return 200 "return"; }
    location /v1/files { root html; }
    location /v1/raw { proxy_pass http://127.0.0.1:$TEST_NGINX_SPARE_PORT; }
    location /v1/open { clawd off; try_files /index.html =404; }
}
--- user_files
>>> index.html
hello
--- request eval
["GET /v1/files/x", "GET /v1/raw/models", "GET /v1/open/x",
 "GET /v1/static/x"]
--- more_headers
X-Other: y
--- error_code eval
[401, 401, 200, 200]
--- spare_count: 0
--- upstream_count: 0



=== clawd on with proxy_pass: the same gate
--- config
location / {
    clawd on;
    clawd_max_tokens 5;
    proxy_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- init
main::fetch('POST', '/v1/chat/completions', '{"model":"m","stream":true}',
            Authorization => 'Bearer sk-alice');
Test::More::is((main::upstream()->requests)[-1]{body},
    '{"stream_options":{"include_usage":true},"max_tokens":5,"model":"m",'
    . '"stream":true}', 'the body is edited');
Test::More::unlike((main::upstream()->requests)[-1]{raw}, qr/sk-alice/,
                   'the token stays here');
--- request eval
["GET /v1/models", "DELETE /api/delete", "GET //v1/./models"]
--- more_headers eval
["X-Other: y", ("Authorization: Bearer sk-alice") x 2]
--- error_code eval
[401, 403, 200]



=== clawd on for a whole server, and off for some of it
--- config
clawd on;
location / { proxy_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT; }
location = /health { clawd off; return 200 "fine"; }
location = /page { clawd off; root html; try_files /index.html =404; }
--- user_files
>>> index.html
hello
--- request eval
["GET /v1/models", "GET /health", "GET /page", "GET /none"]
--- more_headers
X-Other: y
--- error_code eval
[401, 200, 200, 401]



=== clawd on for a whole server: also what NGINX refuses by itself
--- config
clawd on;
location / { proxy_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT; }
--- raw_request eval
"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n"
. "Connection: close\r\n\r\n"
--- error_code: 400
--- response_headers
Content-Type: application/json
--- upstream_count: 0



=== error_page: the operator's page wins over the gate's
--- config
location / {
    error_page 401 /login.html;
    error_page 404 =200 @other;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
location = /login.html { internal; root html; }
location @other { return 200 "other"; }
--- user_files
>>> login.html
log in first
--- request eval
["GET /v1/models", "GET /none"]
--- more_headers eval
["X-Other: y", "Authorization: Bearer sk-alice"]
--- error_code eval
[401, 200]
--- response_body_like eval
["^log in first\$", "^other\$"]
--- upstream_count: 0



=== error_page: a spare upstream, gated, gets the body as edited once
--- config
location / {
    clawd_max_tokens 5;
    error_page 502 504 = @spare;
    clawd_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1;
}
location @spare {
    clawd_max_tokens 5;
    clawd_pass http://127.0.0.1:$TEST_NGINX_SPARE_PORT;
}
location = /metrics { clawd_metrics; }
--- spare eval
[sub { Clawd::Gate::answer($_[0]) }]
--- request eval
["POST /v1/chat/completions\n{\"model\":\"library/m\",\"stream\":true}",
 "GET /metrics"]
--- error_code eval
[200, 200]
--- response_body_like eval
['data: \{"model":"m"(?!.*"choices":\[\])(?s:.*)\[DONE\]',
 '(?m)^clawdbot_model_request_total\{model="m"\} 1$'
 . '(?s:.*)^clawdbot_requests_in_flight\{model="m"\} 0$']
--- upstream_count: 0
--- error_log eval
[qr/connect\(\) failed|metrics/]



=== error_page: what the spare upstream got
--- config
location / {
    clawd_max_tokens 5;
    error_page 502 = @spare;
    clawd_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1;
}
location @spare {
    clawd_max_tokens 5;
    clawd_pass http://127.0.0.1:$TEST_NGINX_SPARE_PORT;
}
--- spare eval
[sub { Clawd::Gate::answer($_[0]) }]
--- request
POST /v1/chat/completions
{"model":"library/m","stream":true}
--- error_code: 200
--- spare_count: 1
--- spare_body chomp
{"stream_options":{"include_usage":true},"max_tokens":5,"model":"m","stream":true}
--- spare_request_like eval
"^Host: 127\\.0\\.0\\.1:$ENV{TEST_NGINX_SPARE_PORT}\r\$"
--- spare_request_unlike: sk-alice
--- error_log
connect() failed



=== error_page: a target with a stricter gate judges for itself
--- config
location / {
    clawd_auth off;
    error_page 502 = @spare;
    clawd_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1;
}
location @spare { clawd_pass http://127.0.0.1:$TEST_NGINX_SPARE_PORT; }
--- request eval
["GET /v1/models", "GET /v1/models"]
--- more_headers eval
["X-Other: y", "Authorization: Bearer sk-alice"]
--- spare eval
[main::reply(200, '{}')]
--- error_code eval
[401, 200]
--- error_log
connect() failed



=== error_page: a target without a gate is the operator's business
--- config
location / {
    error_page 502 = @page;
    clawd_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1;
}
location @page { return 503 "come back later"; }
--- request
GET /v1/models
--- error_code: 503
--- response_body chomp
come back later
--- error_log
connect() failed



=== error_page in the http block for everything
--- http_config eval
main::gate_http('error_page 400 401 403 404 405 413 415 500 502 503 504 '
                . '/error.html;')
--- config
location / { clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT; }
location = /error.html { internal; root html; }
--- user_files
>>> error.html
sorry
--- request eval
["GET /v1/models", "GET /none", "POST /api/chat\n{}"]
--- more_headers eval
["X-Other: y", ("Authorization: Bearer sk-alice") x 2]
--- error_code eval
[401, 404, 400]
--- response_body eval
[("sorry\n") x 3]



=== proxy_intercept_errors
--- config
location / {
    proxy_intercept_errors on;
    error_page 503 = @busy;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
location @busy { clawd_pass http://127.0.0.1:$TEST_NGINX_SPARE_PORT; }
--- upstream eval
main::reply(503, '{"error":"server busy"}')
--- spare eval
[sub { Clawd::Gate::answer($_[0]) }]
--- request
POST /api/chat
{"model":"m","stream":false}
--- error_code: 200
--- upstream_count: 1
--- spare_count: 1
--- spare_body chomp
{"model":"m","stream":false}



=== an NGINX error in each family's shape: no upstream
--- config
location / { clawd_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1; }
--- request
POST /v1/chat/completions
{"model":"m"}
--- refused: openai 502 upstream_unavailable
--- error_log
connect() failed



=== an NGINX error in each family's shape: no upstream, Anthropic
--- config
location / { clawd_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1; }
--- request
POST /v1/messages
{"model":"m"}
--- refused: anthropic 502
--- error_log
connect() failed



=== an NGINX error in each family's shape: a silent upstream, Ollama
--- config
location / {
    proxy_read_timeout 100ms;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- upstream eval
[[{ stall => 1 }]]
--- request
POST /api/chat
{"model":"m"}
--- refused: ollama 504
--- upstream_count: 1
--- error_log
upstream timed out



=== limit_req: the caller's shape and when to come back
--- http_config eval
main::gate_http('limit_req_zone $server_name zone=r:1m rate=1r/m;')
--- config
location / {
    limit_req zone=r;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- request eval
["GET /v1/models", "GET /v1/models", "POST /v1/messages\n{\"model\":\"m\"}",
 "POST /api/chat\n{\"model\":\"m\"}"]
--- error_code eval
[200, 503, 503, 503]
--- response_headers_like eval
["Content-Type: application/json", (map { "Retry-After: [1-9]\\d?" } 1 .. 3)]
--- response_body_like eval
['ok', '^\{"error":\{"message":"[^"]+","type":"server_error"',
 '^\{"type":"error","error":\{"type":"overloaded_error"',
 '^\{"error":"[^"]+"\}$']
--- error_log eval
[qr/limiting requests|GET/]



=== limit_req with 429
--- http_config eval
main::gate_http('limit_req_zone $server_name zone=r:1m rate=1r/m;',
                'limit_req_status 429;')
--- config
location / {
    limit_req zone=r;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- request eval
["GET /v1/models", "GET /v1/models", "POST /v1/messages\n{\"model\":\"m\"}"]
--- error_code eval
[200, 429, 429]
--- response_body_like eval
['ok', '"type":"rate_limit_error"', '"type":"rate_limit_error"']
--- error_log eval
[qr/limiting requests|GET/]



=== deny
--- config
location / {
    deny all;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- request
POST /v1/messages
{"model":"m"}
--- error_code: 403
--- response_body_like: ^\{"type":"error","error":\{"type":"permission_error"
--- upstream_count: 0
--- error_log
access forbidden by rule



=== satisfy any does not skip the gate
--- config
location / {
    satisfy any;
    allow all;
    auth_basic "closed";
    auth_basic_user_file /nonexistent;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- request eval
["GET /v1/models", "GET /v1/models"]
--- more_headers eval
["X-Other: y", "Authorization: Bearer sk-alice"]
--- error_code eval
[401, 200]
--- response_headers eval
["WWW-Authenticate: Bearer", "!WWW-Authenticate"]



=== auth_request is asked as well
--- config
location / {
    auth_request /check;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
location = /check {
    internal;
    proxy_pass_request_body off;
    proxy_set_header Content-Length "";
    proxy_pass http://127.0.0.1:$TEST_NGINX_SPARE_PORT;
}
--- spare eval
[sub { $_[0]{headers}{'x-good'} ? main::reply(204, '') : main::reply(403, '') }]
--- request eval
["POST /v1/chat/completions\n{\"model\":\"m\"}",
 "POST /v1/chat/completions\n{\"model\":\"m\"}",
 "POST /v1/chat/completions\n{\"model\":\"m\"}"]
--- more_headers eval
["Authorization: Bearer sk-alice\nX-Good: 1", "Authorization: Bearer sk-alice",
 "X-Good: 1"]
--- error_code eval
[200, 403, 401]
--- response_body_like eval
['"content":"hi"', 'permission_error', 'gateway token missing']



=== a subrequest is not judged again, and does not disturb the main one
--- config
location /v1/ {
    auth_request /api/version;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
location /api/ {
    proxy_set_header Content-Length "";
    proxy_pass_request_body off;
    clawd_pass http://127.0.0.1:$TEST_NGINX_SPARE_PORT;
}
--- spare eval
[main::reply(200, '{"version":"1"}')]
--- request
POST /v1/chat/completions
{"model":"m"}
--- error_code: 200
--- spare_count: 1
--- upstream_count: 1
--- upstream_body chomp
{"model":"m"}



=== mirror
--- config
location / {
    mirror /copy;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
location = /copy {
    internal;
    proxy_pass http://127.0.0.1:$TEST_NGINX_SPARE_PORT$request_uri;
}
--- spare eval
[main::reply(200, '{}')]
--- request
POST /v1/chat/completions
{"model":"library/m"}
--- error_code: 200
--- upstream_count: 1
--- upstream_body chomp
{"model":"m"}
--- spare_count: 1



=== try_files into a named location
--- config
location / { try_files $uri @ai; root html; }
location @ai { clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT; }
--- user_files
>>> page.html
a page
--- request eval
["GET /page.html", "GET /v1/models", "GET /v1/models", "GET /api/none",
 "POST /api/chat\n{\"model\":\"m\"}"]
--- more_headers eval
["X-Other: y", "X-Other: y", ("Authorization: Bearer sk-alice") x 3]
--- error_code eval
[200, 401, 200, 404, 200]



=== rewrite: what it wrote is judged and sent
--- config
location /openai/ {
    rewrite ^/openai/(.*)$ /v1/$1 break;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
location /ollama/ { rewrite ^/ollama/(.*)$ /api/$1 last; }
location /api/ { clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT; }
--- init
main::fetch('POST', '/openai/chat/completions', '{"model":"m"}',
            Authorization => 'Bearer sk-alice');
Test::More::is((main::upstream()->requests)[-1]{uri}, '/v1/chat/completions',
               'break');
main::fetch('GET', '/ollama/tags?x=y', undef,
            Authorization => 'Bearer sk-alice');
Test::More::is((main::upstream()->requests)[-1]{uri}, '/api/tags', 'last');
--- request eval
["GET /ollama/tags", "DELETE /ollama/delete", "GET /openai/none",
 "POST /openai/messages\n{}"]
--- more_headers eval
["X-Other: y", ("Authorization: Bearer sk-alice") x 3]
--- error_code eval
[401, 403, 404, 400]
--- response_body_like eval
['^\{"error":"', '^\{"error":"', '"code":"endpoint_not_found"',
 '^\{"type":"error"']



=== a regular expression, and a variable upstream
--- config
location ~ ^/(v1|api)/ {
    set $up 127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
    clawd_pass http://$up;
}
--- request eval
["GET /v1/models", "GET /v1//./models?x=y", "DELETE /api/delete"]
--- more_headers eval
["X-Other: y", ("Authorization: Bearer sk-alice") x 2]
--- error_code eval
[401, 200, 403]



=== a variable upstream: what is sent
--- config
location / {
    set $up 127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
    clawd_pass http://$up;
}
--- request
POST //v1/./chat/completions?x=y
{"model":"library/m"}
--- error_code: 200
--- upstream_count: 1
--- upstream_request_like eval
"\\APOST /v1/chat/completions HTTP/1\\.1\r\$.*"
. "^Host: 127\\.0\\.0\\.1:$ENV{TEST_NGINX_UPSTREAM_PORT}\r\$"
--- upstream_body chomp
{"model":"m"}



=== a variable upstream: more than a host would replace the path
--- config
location /v1/ {
    set $up 127.0.0.1:$TEST_NGINX_UPSTREAM_PORT/api/delete;
    clawd_pass http://$up;
}
location /api/ {
    set $up 127.0.0.1:$TEST_NGINX_UPSTREAM_PORT?x=y;
    clawd_pass http://$up;
}
location / {
    set $up unix:/nonexistent:/api/pull;
    clawd_pass http://$up;
}
--- request eval
["POST /v1/chat/completions\n{\"model\":\"m\"}",
 "POST /api/chat\n{\"model\":\"m\"}", "GET /"]
--- error_code eval
[500, 500, 500]
--- response_body_like eval
['"code":"internal_error"', '"error":"the gateway failed"',
 '"code":"internal_error"']
--- upstream_count: 0
--- error_log
must end with the host and port



=== a variable upstream without a host
--- config
location / { clawd_pass http://$arg_host; }
--- request
GET /v1/models
--- refused: openai 500 internal_error
--- error_log
invalid URL prefix



=== proxy_cache: a stored answer needs a token too
--- http_config eval
main::gate_http("proxy_cache_path $ENV{TEST_NGINX_SERVER_ROOT}/cache "
                . "keys_zone=c:1m;")
--- config
location / {
    proxy_cache c;
    proxy_cache_valid 200 1h;
    add_header X-Cache $upstream_cache_status always;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- request eval
["GET /v1/models", "GET /v1/models?x=y", "GET /v1/models",
 "HEAD /v1/models"]
--- more_headers eval
["Authorization: Bearer sk-alice", "Authorization: Bearer sk-root",
 "X-Other: y", "Authorization: Bearer sk-alice"]
--- error_code eval
[200, 200, 401, 405]
--- response_headers eval
["X-Cache: MISS", "X-Cache: HIT", "!X-Cache", "!X-Cache"]



=== proxy_cache: a background update is not charged again
--- http_config eval
main::gate_http("proxy_cache_path $ENV{TEST_NGINX_SERVER_ROOT}/two_cache "
                . "keys_zone=c:1m;")
--- config
location / {
    proxy_cache c;
    proxy_cache_methods GET POST;
    proxy_cache_key $uri;
    proxy_cache_valid 200 1s;
    proxy_cache_use_stale updating;
    proxy_cache_background_update on;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
location = /metrics { clawd_metrics; }
--- request eval
["POST /v1/chat/completions\n{\"model\":\"m\"}", "GET /metrics"]
--- error_code eval
[200, 200]
--- response_body_like eval
['hi', '(?m)^clawdbot_model_request_total\{model="m"\} 1$']



=== gzip works on the way down
--- config
location / {
    gzip on;
    gzip_types application/json;
    gzip_min_length 1;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- request
POST /v1/chat/completions
{"model":"m"}
--- more_headers
Authorization: Bearer sk-alice
Accept-Encoding: gzip
--- error_code: 200
--- response_headers
Content-Encoding: gzip
--- upstream_request_unlike: (?i)^accept-encoding



=== proxy_request_buffering off
--- config
location / {
    proxy_request_buffering off;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- request eval
["POST /v1/chat/completions\n{\"model\":\"library/m\"}",
 "POST /v1/chat/completions\n{\"model\":\"m\",\"model\":\"n\"}"]
--- error_code eval
[200, 400]



=== proxy_request_buffering off: the body is judged and edited all the same
--- config
location / {
    proxy_request_buffering off;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- request
POST /v1/chat/completions
{"model":"library/m"}
--- upstream_count: 1
--- upstream_body chomp
{"model":"m"}



=== proxy_pass_request_body and proxy_set_body are the operator's
--- config
location / {
    proxy_set_body '{"model":"fixed"}';
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- request
POST /v1/chat/completions
{"model":"m"}
--- upstream_body chomp
{"model":"fixed"}



=== clawd_proxy.conf suits locations of any kind
--- http_config eval
main::gate_http('upstream block { server '
                . '127.0.0.1:$TEST_NGINX_UPSTREAM_PORT; }')
--- config
location /v1/ { clawd_pass http://block; }
location /api/ { clawd on; proxy_pass http://block; }
location /plain/ { proxy_pass http://block; }
location / { proxy_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT; }
--- upstream eval
[sub { main::reply(200, $_[0]{headers}{host}) }]
--- request eval
["GET /v1/models", "GET /api/tags", "GET /plain/x", "GET /x"]
--- response_body eval
["localhost", "localhost", "block",
 "127.0.0.1:$ENV{TEST_NGINX_UPSTREAM_PORT}"]



=== a server without the gate next to one with it
--- http_config eval
main::gate_http(<<'E')
server {
    listen 127.0.0.1:$TEST_NGINX_RAND_PORT_1;
    location / { proxy_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT; }
    location = /error { return 404; }
}
E
--- config
location / { clawd_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1; }
location /plain/ { proxy_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1/; }
--- request eval
["GET /v1/models", "GET /v1/models", "GET /plain/x?token=y",
 "GET /plain/error"]
--- more_headers eval
["X-Other: y", "Authorization: Bearer sk-alice", "X-Other: y", "X-Other: y"]
--- error_code eval
[401, 200, 200, 404]
--- response_headers eval
["Content-Type: application/json", "Content-Type: application/json",
 "!x-request-id", "Content-Type: text/html\n!x-request-id"]



=== an error page leads to a location that counts tokens: so does its cap
--- http_config eval
main::gate_http("clawd_quota small tpm=100000;",
                "clawd_token sk-small user=small plan=small;")
--- config
location / {
    clawd_auth off;
    error_page 502 = @again;
    clawd_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1;
}
location @again {
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- request
POST /v1/chat/completions
{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}
--- more_headers
Authorization: Bearer sk-small
--- error_code: 200
--- response_headers_like
x-ratelimit-remaining-tokens: 95\d\d\d
--- error_log
Connection refused
