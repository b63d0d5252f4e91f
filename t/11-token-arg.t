# clawd_auth token_arg: a token in the query, and that no log has it.

use strict;
use warnings;

use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Gate;

gate_default(log_level => 'info', more_headers => '', config => <<'E');
location / {
    clawd_auth token_arg;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
location /plain {
    default_type text/plain;
    return 200 "$args|$request_uri|$request|$arg_token\n";
}
E

no_shuffle();
run_tests();

__DATA__

=== A10: ?token= passes where it is allowed, and stays here
--- request
POST /v1/chat/completions?token=sk-alice
{"model":"m"}
--- error_code: 200
--- upstream_count: 1
--- upstream_request_like: \APOST /v1/chat/completions HTTP/1\.1\r$
--- upstream_request_unlike: sk-alice|token
--- access_log
POST /v1/chat/completions?token=******** HTTP/1.1
--- no_access_log
sk-alice



=== A10: among other arguments
--- request eval
["GET /v1/models?a=b&token=sk-alice&c=d", "GET /v1/models?token=sk-alice&c=d",
 "GET /v1/models?a=b&token=sk-alice", "GET /v1/models?a&&token=sk-alice"]
--- error_code eval
[200, 200, 200, 200]
--- upstream_count: 1
--- upstream_request_like: \AGET /v1/models HTTP/1\.1\r$
--- no_access_log
sk-alice



=== A10: escapes in the value
--- request
GET /v1/models?token=sk%2Dalic%65
--- error_code: 200
--- no_access_log
alic
%65



=== A10: only the argument with that name
--- request eval
["GET /v1/models?xtoken=sk-alice", "GET /v1/models?api_key=sk-alice",
 "GET /v1/models?token", "GET /v1/models?a=token=sk-alice"]
--- refused: openai 401 invalid_api_key
--- message: gateway token missing



=== A10: an unknown, empty or impossible one
--- request eval
["GET /v1/models?token=sk-nobody", "GET /v1/models?token=",
 "GET /v1/models?token=&a=b", "GET /v1/models?token=sk-alice%20",
 "GET /v1/models?token=sk-alice%00", "GET /v1/models?token=%"]
--- refused: openai 401 invalid_api_key
--- message: gateway token invalid
--- no_access_log
sk-



=== A10: one of more than 4 KiB
--- request eval
"GET /v1/models?token=" . "a" x 4097
--- refused: openai 401 invalid_api_key
--- no_access_log
aaaa



=== A10: two of them are ambiguous, the same or not
--- request eval
["GET /v1/models?token=sk-alice&token=sk-alice",
 "GET /v1/models?token=sk-alice&a=b&token=sk-root",
 "GET /v1/models?token=sk-alice&token="]
--- refused: openai 401 invalid_api_key
--- message: gateway token invalid
--- no_access_log
sk-



=== A10: a header wins, whatever the argument says
--- request eval
["GET /v1/models?token=sk-nobody", "GET /v1/models?token=sk-nobody",
 "GET /v1/models?token="]
--- more_headers eval
["Authorization: Bearer sk-alice", "x-api-key: sk-alice",
 "Authorization: Bearer sk-alice"]
--- error_code eval
[200, 200, 200]
--- no_access_log
sk-nobody



=== A10: a bad header is not mended by the argument
--- request eval
["GET /v1/models?token=sk-alice", "GET /v1/models?token=sk-alice"]
--- more_headers eval
["Authorization: Bearer none", "x-api-key:"]
--- refused: openai 401 invalid_api_key
--- message: gateway token invalid
--- no_access_log
sk-alice



=== A10: refused requests log it neither in one log nor the other
--- request eval
["GET /none?token=sk-alice", "POST /v1/models?token=sk-alice\n{}"]
--- error_code eval
[404, 405]
--- upstream_count: 0
--- error_log eval
[qr/refused a request: (?:not_found|method), .*\?token=\*{8} HTTP/]
--- no_error_log
sk-alice
--- no_access_log
sk-alice



=== A10: the name is cut out in any case, and read in its own
--- request eval
["GET /v1/models?TOKEN=sk-alice", "GET /v1/models?Token=sk-alice"]
--- error_code_like eval
["^(?:200|401)\$", "^(?:200|401)\$"]
--- no_access_log
sk-alice



=== A10: other locations of the server log and see none of it either
--- request
GET /plain?a=b&token=sk-alice
--- response_body
a=b&token=********|/plain?a=b&token=********|GET /plain?a=b&token=******** HTTP/1.1|********
--- no_access_log
sk-alice



=== A10: locations that do not read it
--- config
location /api/ { clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT; }
location / {
    clawd_auth token_arg;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- request
GET /api/tags?token=sk-alice
--- refused: ollama 401
--- message: gateway token missing
--- no_access_log
sk-alice



=== A10: a request refused before it has a location
--- config
location / {
    clawd_auth token_arg;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
location /api/ { deny all; }
--- request
GET /api/tags?token=sk-alice
--- error_code: 403
--- error_log
access forbidden by rule
--- no_error_log
sk-alice
--- no_access_log
sk-alice



=== A10: a redirect of the location's own does not hand it on
--- config
location / {
    clawd_auth token_arg;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
location = /old { return 302 /new?$args; }
--- request
GET /old?token=sk-alice
--- error_code: 302
--- response_headers_like
Location: .*/new\?token=\*{8}



=== A10: an internal redirect into the location keeps what was read
--- config
location / {
    clawd_auth token_arg;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
location = /short { rewrite ^ /v1/models last; }
location = /named { try_files /nothing /v1/models; }
--- request eval
["GET /short?token=sk-alice", "GET /named?token=sk-alice",
 "GET /short?token=sk-nobody"]
--- error_code eval
[200, 200, 401]



=== A10: the admin's token is the admin's there as well
--- request
POST /api/show?token=sk-root
{"model":"m"}
--- error_code: 200
--- upstream_count: 1



=== A10: a line that is no request, in no log of the default level
--- log_level: error
--- http_config eval
main::gate_http('access_log logs/referer.log combined;')
--- raw_request eval
["GET /v1/models?token=sk-alice&q=a b HTTP/1.1\r\nHost: x\r\n\r\n",
 "GET /v1/models?token=sk-alice HTTP/9.9\r\nHost: x\r\n\r\n"]
--- error_code eval
[400, 505]
--- access_log
token=********
--- no_access_log
sk-alice
--- no_error_log
sk-alice



=== A10: the address of a page that has the token in its own
--- config
location / {
    clawd_auth token_arg;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
    access_log logs/access.log combined;
}
--- more_headers
Referer: http://gateway/console?a=b&token=sk-alice&c=d
--- request
GET /api/tags?token=sk-alice
--- error_code: 200
--- upstream_count: 1
--- upstream_request_unlike: sk-alice
--- access_log
"http://gateway/console?a=b&token=********&c=d"
--- no_access_log
sk-alice



=== A10: the same address in the error log
--- config
location / {
    clawd_auth token_arg;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
location /v1/ { deny all; }
--- more_headers
Referer: http://gateway/console?a=b&token=sk-alice&c=d
--- request
GET /v1/models
--- error_code: 403
--- error_log
referrer: "http://gateway/console?a=b&token=********&c=d"
--- no_error_log
sk-alice



=== A10: what a rewrite makes of the path decides on the body, as without it
--- config
location / {
    clawd_auth token_arg;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
location /ollama/ {
    clawd_auth token_arg;
    rewrite ^/ollama/(.*)$ /api/$1 break;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- request
POST /ollama/chat?token=sk-alice
{"model":"m","keep_alive":-1}
--- error_code: 200
--- upstream_count: 1
--- upstream_body chomp
{"model":"m","keep_alive":null}



=== A10: and on the shape of an error
--- config
location / {
    clawd_auth token_arg;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
location /ollama/ {
    clawd_auth token_arg;
    rewrite ^/ollama/(.*)$ /api/$1 break;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- request eval
["POST /ollama/chat?token=sk-alice\n{}", "GET /ollama/tags?token=sk-nobody"]
--- error_code eval
[400, 401]
--- response_body_like eval
['^\{"error":"', '^\{"error":"']
