# Programs in browsers: wire.md 18, 152, 153.

use strict;
use warnings;

use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Gate;

gate_default(config => <<'E');
location / {
    clawd_cors https://app.example http://localhost:3000;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
E

no_shuffle();
run_tests();

__DATA__

=== 152: a preflight needs no token and stays here
--- request
OPTIONS /v1/chat/completions
--- more_headers
Origin: https://app.example
Access-Control-Request-Method: POST
Access-Control-Request-Headers: authorization,content-type
--- error_code: 204
--- response_headers
Access-Control-Allow-Origin: https://app.example
Access-Control-Allow-Methods: GET, POST, DELETE, OPTIONS
Access-Control-Max-Age: 7200
Vary: Origin
!Access-Control-Expose-Headers
!Access-Control-Allow-Credentials
!Content-Type
--- response_headers_like
x-request-id: [0-9a-f]+
--- response_body
--- upstream_count: 0



=== 152: what the libraries send is allowed
--- request
OPTIONS /v1/messages
--- more_headers
Origin: https://app.example
Access-Control-Request-Method: POST
--- error_code: 204
--- raw_response_headers_like eval
CORE::join '', map { "(?=.*Access-Control-Allow-Headers: [^\\r]*\\b$_\\b)" }
    qw(authorization x-api-key content-type anthropic-version anthropic-beta
       anthropic-dangerous-direct-browser-access x-stainless-lang
       x-stainless-retry-count x-stainless-timeout openai-organization)
--- upstream_count: 0



=== 152: on every path, known or not
--- request eval
["OPTIONS /api/chat", "OPTIONS /v1/models", "OPTIONS /none", "OPTIONS /"]
--- more_headers
Origin: http://localhost:3000
Access-Control-Request-Method: GET
--- error_code eval
[(204) x 4]
--- response_headers eval
[("Access-Control-Allow-Origin: http://localhost:3000") x 4]
--- upstream_count: 0



=== 152: the origin's case does not matter, and is echoed as it came
--- request
OPTIONS /v1/models
--- more_headers
Origin: HTTPS://App.Example
Access-Control-Request-Method: GET
--- error_code: 204
--- response_headers
Access-Control-Allow-Origin: HTTPS://App.Example



=== 152: strangers, and origins that look alike
--- request eval
[("OPTIONS /v1/chat/completions") x 7]
--- more_headers eval
[map { "Origin: $_\nAccess-Control-Request-Method: POST" }
     'https://evil.example', 'https://app.example.evil', 'http://app.example',
     'https://app.example:8443', 'https://xapp.example', 'null',
     'https://app.exampl']
--- refused: openai 403 origin_not_allowed
--- response_headers eval
[("!Access-Control-Allow-Origin") x 7]



=== 152: a stranger, Anthropic
--- request
OPTIONS /v1/messages
--- more_headers
Origin: https://evil.example
--- refused: anthropic 403



=== 152: OPTIONS without an origin is no preflight
--- request
OPTIONS /v1/chat/completions
--- more_headers
Access-Control-Request-Method: POST
--- refused: openai 401 invalid_api_key



=== 153: a real request
--- request
POST /v1/chat/completions
{"model":"m"}
--- more_headers
Authorization: Bearer sk-alice
Origin: https://app.example
Referer: https://app.example/chat
Sec-Fetch-Mode: cors
Sec-Fetch-Site: cross-site
--- error_code: 200
--- response_headers
Access-Control-Allow-Origin: https://app.example
Vary: Origin
!Access-Control-Allow-Methods
--- raw_response_headers_like: Access-Control-Expose-Headers: [^\r]*x-request-id[^\r]*retry-after[^\r]*x-ratelimit-remaining-tokens
--- upstream_count: 1
--- upstream_request_unlike: (?i)^(?:origin|referer|sec-fetch|access-control)



=== 153: a stream
--- request
POST /v1/chat/completions
{"model":"m","stream":true}
--- more_headers
Authorization: Bearer sk-alice
Origin: https://app.example
--- error_code: 200
--- response_headers
Access-Control-Allow-Origin: https://app.example
Content-Type: text/event-stream



=== 153: the origin's permission is on refusals too
--- request eval
["GET /v1/models", "POST /v1/chat/completions\n{\"model\":5}", "GET /none",
 "POST /v1/models\n{}"]
--- more_headers eval
["Origin: https://app.example",
 ("Origin: https://app.example\nAuthorization: Bearer sk-alice") x 3]
--- error_code eval
[401, 400, 404, 405]
--- response_headers eval
[("Access-Control-Allow-Origin: https://app.example\nVary: Origin") x 4]
--- raw_response_headers_like eval
[("Access-Control-Expose-Headers: ") x 4]
--- upstream_count: 0



=== 153: and on the upstream's errors
--- upstream eval
main::reply(503, '{"error":"server busy"}')
--- request
POST /api/chat
{"model":"m"}
--- more_headers
Authorization: Bearer sk-alice
Origin: https://app.example
--- error_code: 503
--- response_headers
Access-Control-Allow-Origin: https://app.example



=== 153: and on NGINX's own
--- config
location / {
    client_max_body_size 10;
    clawd_cors https://app.example;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
location /api/ {
    clawd_cors https://app.example;
    clawd_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1;
}
--- request eval
["POST /v1/chat/completions\n{\"model\":\"m\"}",
 "POST /api/chat\n{\"model\":\"m\"}"]
--- more_headers
Authorization: Bearer sk-alice
Origin: https://app.example
--- error_code eval
[413, 502]
--- response_headers eval
[("Access-Control-Allow-Origin: https://app.example") x 2]
--- error_log eval
[qr/too large body|connect\(\) failed/]



=== 153: what the upstream says about origins is replaced
--- upstream eval
main::reply(200, '{}', 'Access-Control-Allow-Origin' => '*',
            'Access-Control-Allow-Credentials' => 'true')
--- request
GET /v1/models
--- more_headers
Authorization: Bearer sk-alice
Origin: https://app.example
--- error_code: 200
--- response_headers
Access-Control-Allow-Origin: https://app.example
!Access-Control-Allow-Credentials



=== 153: a stranger's request is answered, and its browser told nothing
--- request
POST /v1/chat/completions
{"model":"m"}
--- more_headers
Authorization: Bearer sk-alice
Origin: https://evil.example
--- error_code: 200
--- response_headers
!Access-Control-Allow-Origin
!Access-Control-Expose-Headers
--- upstream_request_unlike: (?i)^origin



=== any origin
--- config
location / {
    clawd_cors *;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- request eval
["OPTIONS /v1/models", "GET /v1/models", "OPTIONS /v1/models"]
--- more_headers eval
["Origin: https://a.example",
 "Origin: https://b.example\nAuthorization: Bearer sk-alice", "Origin: null"]
--- error_code eval
[204, 200, 204]
--- response_headers eval
["Access-Control-Allow-Origin: https://a.example",
 "Access-Control-Allow-Origin: https://b.example",
 "Access-Control-Allow-Origin: null"]



=== off below
--- config
clawd_cors *;
location / {
    clawd_cors off;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
location /api/ { clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT; }
--- request eval
["OPTIONS /v1/models", "OPTIONS /api/tags"]
--- more_headers
Origin: https://app.example
--- error_code eval
[401, 204]
--- response_headers eval
["!Access-Control-Allow-Origin",
 "Access-Control-Allow-Origin: https://app.example"]



=== off by default
--- config
location / { clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT; }
--- request
GET /v1/models
--- more_headers
Authorization: Bearer sk-alice
Origin: https://app.example
--- error_code: 200
--- response_headers
!Access-Control-Allow-Origin
!Vary



=== an origin with line ends never gets here
--- raw_request eval
"OPTIONS /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
. "Origin: https://app.example\rX-Evil: 1\r\n\r\n"
--- error_code: 400
--- response_headers
!X-Evil



=== a preflight is not counted as refused
--- config
location / {
    clawd_cors *;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
location = /metrics { clawd_metrics; }
--- request eval
["OPTIONS /v1/models", "GET /metrics"]
--- more_headers
Origin: https://app.example
--- error_code eval
[204, 200]
--- response_body_unlike eval
["x", 'clawdbot_rejected_total\{[^}]*\} [1-9]']
