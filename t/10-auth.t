# Who may pass: credentials in headers, wire.md A.

use strict;
use warnings;

BEGIN { $ENV{CLAWD_TEST_TOKEN} = 'sk-from-env'; }

use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Gate;

env_to_nginx('CLAWD_TEST_TOKEN');
no_shuffle();
run_tests();

__DATA__

=== A1: no credential, OpenAI
--- request
POST /v1/chat/completions
{"model":"m"}
--- more_headers
Content-Type: application/json
--- refused: openai 401 invalid_api_key
--- message: gateway token missing



=== A1: no credential, Anthropic
--- request
POST /v1/messages
{"model":"m"}
--- more_headers
Content-Type: application/json
--- refused: anthropic 401
--- message: gateway token missing



=== A1: no credential, Ollama
--- request
POST /api/chat
{"model":"m"}
--- more_headers
Content-Type: application/json
--- refused: ollama 401
--- message: gateway token missing



=== A1: no credential, a path of no family, a list, an unknown path
--- request eval
["GET /", "GET /v1/models", "GET /none", "POST /v1/nothing\n{}"]
--- more_headers
X-Other: y
--- refused: openai 401 invalid_api_key
--- message: gateway token missing



=== A1: the token is judged before path, method and body
--- request eval
["DELETE /v1/models", "POST /v1/chat/completions\n{", "PUT /a;b"]
--- more_headers
X-Other: y
--- refused: openai 401 invalid_api_key



=== A2: the scheme's case does not matter
--- request eval
[("POST /v1/chat/completions\n{\"model\":\"m\"}") x 3]
--- more_headers eval
["Authorization: Bearer sk-alice", "Authorization: bearer sk-alice",
 "Authorization: BEARER sk-alice"]
--- error_code eval
[200, 200, 200]
--- upstream_count: 1
--- upstream_request_unlike: (?i)^authorization:|sk-alice



=== A2: the token's case does
--- request
GET /v1/models
--- more_headers
Authorization: Bearer SK-ALICE
--- refused: openai 401 invalid_api_key



=== A3: spaces and tabs around scheme and token
--- raw_request eval
"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
. "Authorization:  \t Bearer  \t  sk-alice \t \r\n\r\n"
--- error_code: 200
--- upstream_count: 1
--- upstream_request_unlike: sk-alice



=== A4: an empty token
--- request eval
[("GET /v1/models") x 3]
--- more_headers eval
["Authorization: Bearer", "Authorization: Bearer \t ", "Authorization:"]
--- refused: openai 401 invalid_api_key
--- message: gateway token invalid



=== A4: an empty x-api-key
--- request
GET /v1/models
--- more_headers
x-api-key:
--- refused: openai 401 invalid_api_key
--- message: gateway token invalid



=== A5: no scheme, other schemes
--- request eval
[("GET /v1/models") x 5]
--- more_headers eval
["Authorization: sk-alice", "Authorization: Basic YWxpY2U6c2stYWxpY2U=",
 "Authorization: Basic sk-alice", "Authorization: Bearersk-alice",
 "Authorization: Digest Bearer sk-alice"]
--- refused: openai 401 invalid_api_key
--- message: gateway token invalid



=== A6: x-api-key is a credential on all paths, and stays here
--- request eval
["POST /v1/messages\n{\"model\":\"m\"}", "GET /v1/models", "GET /api/tags",
 "POST /api/chat\n{\"model\":\"m\"}"]
--- more_headers
x-api-key: sk-alice
anthropic-version: 2023-06-01
--- error_code eval
[200, 200, 200, 200]
--- upstream_count: 1
--- upstream_request_unlike: (?i)^x-api-key|sk-alice
--- upstream_request_like: ^anthropic-version: 2023-06-01\r$



=== A7: both headers with the same token
--- request
POST /v1/messages
{"model":"m"}
--- more_headers
Authorization: Bearer sk-alice
x-api-key: sk-alice
--- error_code: 200
--- upstream_count: 1
--- upstream_request_unlike: sk-alice



=== A8: both headers, different tokens, in either order
--- request eval
[("GET /v1/models") x 4]
--- more_headers eval
["Authorization: Bearer sk-alice\nx-api-key: sk-root",
 "x-api-key: sk-root\nAuthorization: Bearer sk-alice",
 "Authorization: Bearer sk-alice\nx-api-key: none",
 "Authorization: Bearer none\nx-api-key: sk-alice"]
--- refused: openai 401 invalid_api_key
--- message: gateway token invalid



=== A8: a good token beside a malformed one
--- request eval
[("GET /v1/models") x 3]
--- more_headers eval
["Authorization: Basic x\nx-api-key: sk-alice",
 "Authorization: Bearer sk-alice\nx-api-key:",
 "Authorization: Bearer\nx-api-key: sk-alice"]
--- refused: openai 401 invalid_api_key



=== A9: two Authorization headers, the same: NGINX itself refuses
--- raw_request eval
"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
. "Authorization: Bearer sk-alice\r\nAuthorization: Bearer sk-alice\r\n\r\n"
--- error_code: 400
--- upstream_count: 0



=== A9: two Authorization headers, the second unknown
--- raw_request eval
"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
. "Authorization: Bearer sk-alice\r\nX-A: b\r\n"
. "Authorization: Bearer none\r\n\r\n"
--- error_code: 400
--- upstream_count: 0



=== A9: two x-api-key headers
--- raw_request eval
"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
. "x-api-key: sk-alice\r\nX-API-Key: sk-alice\r\n\r\n"
--- refused: openai 401 invalid_api_key



=== A9: a list of tokens in one header
--- request eval
[("GET /v1/models") x 4]
--- more_headers eval
["Authorization: Bearer sk-alice, Bearer sk-alice",
 "Authorization: Bearer sk-alice,sk-root", "x-api-key: sk-alice, sk-root",
 "Authorization: Bearer sk-alice sk-alice"]
--- refused: openai 401 invalid_api_key



=== A10: tokens in the query are not read by default
--- request eval
["GET /v1/models?token=sk-alice", "GET /v1/models?api_key=sk-alice",
 "GET /v1/models?key=sk-alice"]
--- more_headers
X-Other: y
--- refused: openai 401 invalid_api_key
--- message: gateway token missing



=== A11: a token beyond ASCII
--- request eval
[("GET /v1/models") x 3]
--- more_headers eval
["Authorization: Bearer sk-alice\xc3\xa9", "Authorization: Bearer \xff",
 "x-api-key: sk\x7falice"]
--- refused: openai 401 invalid_api_key



=== A11: a token of more than 4 KiB
--- request
GET /v1/models
--- more_headers eval
"Authorization: Bearer " . "a" x 4097
--- refused: openai 401 invalid_api_key



=== A11: a token of 4 KiB that is known
--- http_config eval
main::gate_http("clawd_token file:$ENV{TEST_NGINX_SERVER_ROOT}/html/long "
                . "user=long;")
--- user_files eval
[["long" => "b" x 4096]]
--- request
GET /v1/models
--- more_headers eval
"Authorization: Bearer " . "b" x 4096
--- error_code: 200
--- upstream_count: 1



=== A11: a NUL in a token never gets as far as the gate
--- raw_request eval
"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-alice\0\r\n"
. "Connection: close\r\n\r\n"
--- error_code: 400
--- upstream_count: 0



=== A12: an unknown token
--- request eval
["GET /v1/models", "GET /v1/models"]
--- more_headers eval
["Authorization: Bearer sk-nobody", "x-api-key: sk-nobody"]
--- refused: openai 401 invalid_api_key
--- message: gateway token invalid



=== A12: an unknown token and a malformed one get the same body
--- request eval
["GET /v1/models", "GET /v1/models", "GET /v1/models"]
--- more_headers eval
["Authorization: Bearer sk-nobody", "Authorization: Basic sk-nobody",
 "Authorization: Bearer"]
--- error_code eval
[401, 401, 401]
--- response_body eval
[('{"error":{"message":"gateway token invalid",'
  . '"type":"invalid_request_error","param":null,'
  . '"code":"invalid_api_key"}}') x 3]



=== A12: a beginning, a longer form and a digest of a token are others
--- request eval
[("GET /v1/models") x 4]
--- more_headers eval
["Authorization: Bearer sk-alic", "Authorization: Bearer sk-alicee",
 "Authorization: Bearer s", "Authorization: Bearer "
 . "8c6976e5b5410415bde908bd4dee15dfb167a9c873fc4bb8a81f6f2ab448a918"]
--- refused: openai 401 invalid_api_key



=== A15: the signature of the Ollama command line
--- request
POST /api/chat?ts=1724200000
{"model":"m"}
--- more_headers
Authorization: AAAAC3NzaC1lZDI1NTE5AAAAIL:c2lnbmF0dXJl
--- refused: ollama 401
--- message: gateway token invalid



=== A16: a token in a cookie is none
--- request
GET /api/tags
--- more_headers
Cookie: token=sk-alice; Authorization=Bearer sk-alice
--- refused: ollama 401
--- message: gateway token missing



=== A17: a 401 of the upstream is not the caller's
--- upstream eval
main::reply(401, '{"error":"unauthorized","signin_url":"https://x/?key=abc"}',
            'WWW-Authenticate' => 'Basic')
--- request
POST /api/chat
{"model":"m"}
--- refused: ollama 502
--- response_headers
!WWW-Authenticate
--- upstream_count: 1
--- error_log
the upstream answered 401



=== A18: OPTIONS is like any other without clawd_cors
--- request
OPTIONS /v1/models
--- more_headers
Origin: https://app.example
--- refused: openai 401 invalid_api_key



=== a refusal is in the log, the token is not
--- log_level: info
--- request
GET /v1/models
--- more_headers
Authorization: Bearer sk-nobody
--- refused: openai 401 invalid_api_key
--- error_log
clawd refused a request: bad_token
--- no_error_log
sk-nobody
[error]



=== a token from the environment, and one from a file
--- http_config eval
main::gate_http("clawd_token env:CLAWD_TEST_TOKEN user=env;",
                "clawd_token file:$ENV{TEST_NGINX_SERVER_ROOT}/html/key "
                . "user=file role=user;")
--- user_files
>>> key
sk-from-file
--- request eval
[("GET /v1/models") x 3]
--- more_headers eval
["Authorization: Bearer sk-from-env", "Authorization: Bearer sk-from-file",
 "Authorization: Bearer sk-alice"]
--- error_code eval
[200, 200, 200]
--- upstream_count: 1



=== one user with several tokens
--- http_config eval
main::gate_http("clawd_token sk-a2 user=alice;", "clawd_token sk-a3 "
                . "user=alice;")
--- request eval
[("GET /v1/models") x 3]
--- more_headers eval
["Authorization: Bearer sk-a2", "x-api-key: sk-a3",
 "Authorization: Bearer sk-alice"]
--- error_code eval
[200, 200, 200]



=== clawd_auth off: nobody is asked, and what was sent still stays here
--- config
location / {
    clawd_auth off;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- request eval
[("POST /v1/chat/completions\n{\"model\":\"m\"}") x 3]
--- more_headers eval
["X-Other: y", "Authorization: Bearer none", "x-api-key: sk-alice"]
--- error_code eval
[200, 200, 200]
--- upstream_count: 1
--- upstream_request_unlike: (?i)^(?:authorization|x-api-key):



=== clawd_auth off makes nobody an admin
--- config
location / {
    clawd_auth off;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- request eval
["POST /api/pull\n{\"model\":\"m\"}", "POST /api/show\n{\"model\":\"m\"}"]
--- more_headers eval
["X-Other: y", "Authorization: Bearer sk-root"]
--- refused: ollama 403



=== clawd_auth is inherited and can be switched on again
--- config
clawd_auth off;
location / { clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT; }
location /api/ {
    clawd_auth on;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- request eval
["GET /v1/models", "GET /api/tags"]
--- more_headers
X-Other: y
--- error_code eval
[200, 401]
