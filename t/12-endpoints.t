# What may be asked for: endpoints, methods and roles, wire.md B 25-30.

use strict;
use warnings;

use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Gate;

no_shuffle();
run_tests();

__DATA__

=== inference endpoints
--- request eval
[map { "POST $_\n{\"model\":\"m\"}" }
     qw(/v1/chat/completions /v1/completions /v1/embeddings /v1/responses
        /v1/messages /api/chat /api/generate /api/embed /api/embeddings)]
--- error_code eval
[(200) x 9]
--- upstream_count: 1
--- upstream_body chomp
{"model":"m"}
--- upstream_request_like: ^Content-Length: 13\r$



=== lists
--- request eval
["GET /v1/models", "GET /v1/models/qwen3:8b", "GET /api/tags", "GET /api/ps",
 "GET /api/version", "GET /"]
--- error_code eval
[(200) x 6]
--- upstream_count: 1



=== B25: another method, OpenAI
--- request eval
["GET /v1/chat/completions", "PUT /v1/chat/completions\n{\"model\":\"m\"}",
 "DELETE /v1/chat/completions", "PATCH /v1/chat/completions\n{}",
 "OPTIONS /v1/chat/completions"]
--- refused: openai 405 method_not_allowed
--- response_headers eval
[("Allow: POST") x 5]



=== B25: another method, Anthropic
--- request
GET /v1/messages
--- refused: anthropic 405
--- response_headers
Allow: POST



=== B25: another method, Ollama
--- request eval
["GET /api/chat", "GET /api/embed"]
--- refused: ollama 405
--- response_headers eval
["Allow: POST", "Allow: POST"]



=== B25: writing to lists
--- request eval
["POST /v1/models\n{}", "DELETE /v1/models/qwen3", "PUT /v1/models/qwen3\n{}"]
--- refused: openai 405 method_not_allowed
--- response_headers eval
["Allow: GET", "Allow: GET", "Allow: GET"]



=== B25: writing to lists with two methods
--- request eval
["POST /api/tags\n{}", "POST /api/version\n{}", "DELETE /api/tags"]
--- refused: ollama 405
--- response_headers eval
["Allow: GET, HEAD", "Allow: GET, HEAD", "Allow: GET, HEAD"]



=== B25: methods of WebDAV
--- request eval
["PROPFIND /api/chat", "MOVE /api/chat", "COPY /api/chat", "LOCK /api/chat",
 "MKCOL /api/chat"]
--- refused: ollama 405



=== B25: a method in a header is no method
--- request
POST /api/chat
{"model":"m"}
--- more_headers
Authorization: Bearer sk-alice
X-HTTP-Method-Override: DELETE
--- error_code: 200
--- upstream_request_like: \APOST /api/chat
--- upstream_request_unlike: (?i)method-override



=== B26: HEAD
--- request eval
["HEAD /api/tags", "HEAD /", "HEAD /api/version"]
--- error_code eval
[200, 200, 200]
--- response_body eval
["", "", ""]
--- upstream eval
"HTTP/1.1 200 OK\r\nContent-Length: 11\r\nContent-Type: application/json\r\n"
. "Connection: close\r\n\r\n"
--- upstream_count: 1
--- upstream_request_like: \AHEAD /



=== B26: HEAD where there is none, and its error has no body
--- request eval
["HEAD /v1/models", "HEAD /v1/models/m"]
--- error_code eval
[405, 405]
--- response_body eval
["", ""]
--- response_headers eval
["Allow: GET\nContent-Type: application/json",
 "Allow: GET\nContent-Type: application/json"]
--- upstream_count: 0



=== B26: HEAD without a token
--- request
HEAD /api/tags
--- more_headers
X-Other: y
--- error_code: 401
--- response_body
--- response_headers
WWW-Authenticate: Bearer
--- upstream_count: 0



=== B27: endpoints that do not exist here, OpenAI
--- request eval
["GET /v1/files", "POST /v1/images/generations\n{\"model\":\"m\"}",
 "POST /v1/batches\n{}", "POST /v1/audio/transcriptions\n{\"model\":\"m\"}",
 "GET /v1/", "GET /v1", "GET /v2/models", "GET /v1/models/", "GET /metrics",
 "GET /v1/models/a/b", "POST /v1/chat/completions/x\n{\"model\":\"m\"}",
 "POST /v1/chat\n{\"model\":\"m\"}", "GET /favicon.ico"]
--- refused: openai 404 endpoint_not_found



=== B27: endpoints that do not exist here, Anthropic
--- request eval
["POST /v1/messages/count_tokens\n{\"model\":\"m\"}",
 "POST /v1/messages/batches\n{\"model\":\"m\"}"]
--- refused: anthropic 404



=== B27: endpoints that do not exist here, Ollama
--- request eval
["GET /api/", "GET /api/nothing", "POST /api/chatx\n{\"model\":\"m\"}",
 "POST /api/cha\n{\"model\":\"m\"}"]
--- refused: ollama 404



=== the server owner's account and its tools are nobody's
--- request eval
["POST /api/me\n{}", "POST /api/signout\n{}", "DELETE /api/user/keys/k",
 "POST /api/experimental/web_search\n{}",
 "POST /api/experimental/web_fetch\n{}"]
--- more_headers
Authorization: Bearer sk-root
--- refused: ollama 404



=== the upstream's debugging is nobody's
--- request eval
["GET /debug/pprof/", "GET /debug/vars"]
--- more_headers
Authorization: Bearer sk-root
--- refused: openai 404 endpoint_not_found



=== B28: admin endpoints with an ordinary token
--- request eval
["POST /api/show\n{\"model\":\"m\"}", "POST /api/pull\n{\"model\":\"m\"}",
 "POST /api/push\n{\"model\":\"m\"}", "POST /api/create\n{\"model\":\"m\"}",
 "POST /api/copy\n{\"source\":\"a\",\"destination\":\"b\"}",
 "DELETE /api/delete\n{\"model\":\"m\"}", "GET /api/status",
 "POST /api/blobs/sha256:ab\nxyz",
 "GET /api/experimental/model-recommendations"]
--- refused: ollama 403
--- message: this endpoint is not allowed for this token
--- error_log
without the admin role



=== B28: HEAD of a blob with an ordinary token
--- request
HEAD /api/blobs/sha256:ab
--- error_code: 403
--- response_body
--- upstream_count: 0



=== B28: admin endpoints with the admin's token
--- request eval
["POST /api/show\n{\"model\":\"m\"}", "POST /api/pull\n{\"model\":\"m\"}",
 "POST /api/push\n{\"model\":\"m\"}", "POST /api/create\n{\"model\":\"m\"}",
 "POST /api/copy\n{\"model\":\"m\"}", "POST /api/blobs/sha256:ab\n"
 . "{\"model\":\"m\"}", "DELETE /api/delete\n{\"model\":\"m\"}"]
--- more_headers
Authorization: Bearer sk-root
--- error_code eval
[(200) x 7]
--- upstream_count: 1
--- upstream_body chomp
{"model":"m"}
--- upstream_request_unlike: sk-root



=== B28: what an admin may read
--- request eval
["GET /api/status", "GET /api/experimental/model-recommendations"]
--- more_headers
Authorization: Bearer sk-root
--- error_code eval
[200, 200]
--- upstream_count: 1



=== B28: other methods of admin endpoints
--- request eval
["GET /api/show", "POST /api/delete\n{}", "GET /api/delete",
 "PUT /api/blobs/x\nx"]
--- more_headers
Authorization: Bearer sk-root
--- refused: ollama 405
--- response_headers eval
["Allow: POST", "Allow: DELETE", "Allow: DELETE", "Allow: POST, HEAD"]



=== B29: DELETE with a body
--- request
DELETE /api/delete
{"model":"llama3.2", "name":"x"}
--- more_headers
Authorization: Bearer sk-root
--- error_code: 200
--- upstream_count: 1
--- upstream_request_like: \ADELETE /api/delete HTTP/1\.1\r$
--- upstream_body chomp
{"model":"llama3.2", "name":"x"}



=== B29: an admin's body passes as it is, JSON or not
--- request eval
"POST /api/blobs/sha256:ab\n\x1f\x8b\x00{\"model\" \xff"
--- more_headers
Authorization: Bearer sk-root
Content-Encoding: identity
--- error_code: 200
--- upstream_count: 1
--- upstream_body eval
"\x1f\x8b\x00{\"model\" \xff"



=== B30: protocols are not switched
--- request
GET /api/tags
--- more_headers
Authorization: Bearer sk-alice
Connection: Upgrade, close
Upgrade: websocket
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==
--- error_code: 200
--- upstream_request_unlike: (?i)^(?:upgrade|connection):
--- response_headers
!Upgrade



=== B30: CONNECT
--- raw_request eval
"CONNECT x:443 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-root\r\n"
. "Connection: close\r\n\r\n"
--- error_code_like: ^40[05]$
--- upstream_count: 0
--- no_error_log
[alert]



=== B30: TRACE
--- raw_request eval
"TRACE /api/tags HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-root\r\n"
. "Connection: close\r\n\r\n"
--- error_code: 405
--- response_body_unlike: sk-root
--- upstream_count: 0
--- no_error_log
[alert]



=== default deny holds for every location with clawd_pass
--- config
location = /internal/secret {
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- request
GET /internal/secret
--- refused: openai 404 endpoint_not_found



=== a body on a list is not sent on as another request
--- request
GET /api/tags
GET /api/delete HTTP/1.1
--- error_code: 400
--- response_body chomp
{"error":"a request of this kind has no body"}
--- upstream_count: 0
