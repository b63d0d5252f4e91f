# What is judged is what is sent: paths, wire.md B 19-24, 31, 32.

use strict;
use warnings;

use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Gate;

no_shuffle();
run_tests();

__DATA__

=== B19: paths are normalised, and sent so
--- request eval
["GET //api/tags", "GET /api//tags", "GET /api/./tags", "GET /api/x/../tags",
 "GET /x/../api/tags", "GET ///api/././/tags", "GET /./api/tags",
 "GET /v1/models/../../api/tags"]
--- error_code eval
[(200) x 8]
--- upstream_count: 1
--- upstream_request_like: \AGET /api/tags HTTP/1\.1\r$



=== B19: a way around to an admin endpoint
--- request eval
["DELETE //api/delete", "DELETE /api/./delete", "DELETE /api/tags/../delete",
 "DELETE /v1/models/%2e%2e/%2E./api/delete"]
--- refused: ollama 403



=== B19: the family is that of the normalised path
--- request
GET /api/../v1/nothing
--- refused: openai 404 endpoint_not_found



=== B19: above the root
--- request
GET /../api/tags
--- error_code: 400
--- upstream_count: 0
--- error_log
client sent invalid request



=== B19: slashes that are not merged are another path
--- http_config eval
main::gate_http("merge_slashes off;")
--- request eval
["GET //api/tags", "GET /v1//models"]
--- refused: openai 404 endpoint_not_found



=== B19: a redirect of the upstream is not relayed
--- upstream eval
main::reply(307, "", Location => "/api/tags")
--- request
GET /api/tags
--- refused: ollama 502
--- upstream_count: 1
--- response_headers
!Location
--- error_log
status 307 is not relayed



=== B20: escaped letters are letters
--- request eval
["GET /%61pi/tags", "GET /api/%74%61%67%73", "GET /%61%70%69/tags"]
--- error_code eval
[200, 200, 200]
--- upstream_count: 1
--- upstream_request_like: \AGET /api/tags HTTP/1\.1\r$



=== B20: escaped letters of an admin endpoint
--- request eval
["DELETE /%61pi/delete", "DELETE /api/d%65lete", "DELETE /api/%2e/delete",
 "DELETE /api/x/%2e%2e/delete"]
--- refused: ollama 403



=== B20: an escaped slash
--- request eval
["GET /api%2Ftags", "GET /api%2ftags", "GET /v1/models/a%2Fb",
 "GET /%2fapi/tags", "GET /api/x%2f..%2ftags", "GET /v1/models/%2F"]
--- error_code eval
[(400) x 6]
--- response_body_like eval
[("not allowed") x 6]
--- upstream_count: 0



=== B20: its body
--- request
GET /v1/models/a%2Fb
--- refused: openai 400 invalid_path
--- message: the path has characters that are not allowed



=== B20: a backslash, raw and escaped
--- request eval
["GET /v1/models/a\\b", "GET /v1/models/a%5Cb", "GET /v1\\models",
 "GET /v1/models/..%5cb"]
--- refused: openai 400 invalid_path



=== B20: double encoding
--- request eval
["GET /v1/models/a%252Fb", "GET /v1/models/%25", "GET /%2561pi/tags",
 "GET /v1/models/a%255cb"]
--- refused: openai 400 invalid_path



=== B20: control bytes
--- request eval
["GET /v1/models/a%0Ab", "GET /v1/models/a%0d%0ax:y", "GET /v1/models/a%7Fb",
 "GET /v1/models/a%01b", "GET /v1/models/a%09b"]
--- refused: openai 400 invalid_path



=== B20: broken escapes never get as far as the gate
--- request eval
["GET /v1/models/%", "GET /v1/models/%4", "GET /v1/models/%zz"]
--- error_code eval
[400, 400, 400]
--- upstream_count: 0
--- error_log
client sent invalid request



=== B21: paths are case-sensitive
--- request eval
["POST /API/chat\n{\"model\":\"m\"}", "GET /Api/tags", "GET /V1/models",
 "GET /v1/Models", "DELETE /API/DELETE"]
--- refused: openai 404 endpoint_not_found



=== B21: also behind the family's own beginning
--- request eval
["POST /api/Chat\n{\"model\":\"m\"}", "DELETE /api/DELETE"]
--- refused: ollama 404



=== B22: a trailing slash is another path
--- request eval
["POST /api/chat/\n{\"model\":\"m\"}", "GET /api/tags/", "GET /api/tags/.",
 "GET /api/tags//", "DELETE /api/delete/"]
--- refused: ollama 404



=== B23: NUL
--- request eval
["GET /api/tags%00", "GET /v1/models/%00"]
--- error_code eval
[400, 400]
--- upstream_count: 0
--- error_log
client sent invalid request



=== B23: parameters of a path
--- request eval
["GET /api/tags;x", "GET /api/tags;/../x", "GET /api/tags%3Bx",
 "DELETE /api/delete;a=b"]
--- refused: ollama 400



=== B24: the query is dropped
--- request eval
["POST /v1/chat/completions?x=1\n{\"model\":\"m\"}",
 "POST /v1/chat/completions?\n{\"model\":\"m\"}",
 "POST /v1/chat/completions?a=%2F;b&&token=x?y\n{\"model\":\"m\"}",
 "POST /v1/chat/completions?x#y\n{\"model\":\"m\"}"]
--- error_code eval
[(200) x 4]
--- upstream_count: 1
--- upstream_request_like: \APOST /v1/chat/completions HTTP/1\.1\r$



=== B24: a query is no path
--- request
GET /none?/api/tags
--- refused: openai 404 endpoint_not_found



=== names of models keep their characters
--- request eval
["GET /v1/models/qwen3:8b", "GET /v1/models/qwen3%3A8b",
 "GET /v1/models/qwen3%3a8%62"]
--- error_code eval
[(200) x 3]
--- upstream_count: 1
--- upstream_request_like: \AGET /v1/models/qwen3:8b HTTP/1\.1\r$



=== names of models with a space are sent escaped
--- request
GET /v1/models/a%20b
--- error_code: 200
--- upstream_count: 1
--- upstream_request_like: \AGET /v1/models/a%20b HTTP/1\.1\r$



=== names of models with bytes beyond ASCII are sent escaped or as they came
--- request
GET /v1/models/%C3%A9
--- error_code: 200
--- upstream_count: 1
--- upstream_request_like: (?i)\AGET /v1/models/(?:%c3%a9|\xc3\xa9) HTTP/1\.1\r$



=== a question mark in a name does not begin a query
--- request
GET /v1/models/a%3Fb=c
--- error_code: 200
--- upstream_count: 1
--- upstream_request_like: \AGET /v1/models/a%3Fb=c HTTP/1\.1\r$



=== B31: Content-Length and Transfer-Encoding together
--- raw_request eval
"POST /api/chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-alice\r\n"
. "Content-Length: 13\r\nTransfer-Encoding: chunked\r\n\r\n"
. "0\r\n\r\nDELETE /api/delete HTTP/1.1\r\nHost: x\r\n\r\n"
--- error_code: 400
--- response_headers
Connection: close
--- upstream_count: 0



=== B31: two lengths
--- raw_request eval
"POST /api/chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-alice\r\n"
. "Content-Length: 13\r\nContent-Length: 3\r\n\r\n{\"model\":\"m\"}"
--- error_code: 400
--- upstream_count: 0



=== B31: a length that is none
--- raw_request eval
"POST /api/chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-alice\r\n"
. "Content-Length: +13\r\n\r\n{\"model\":\"m\"}"
--- error_code: 400
--- upstream_count: 0



=== B31: another transfer coding
--- raw_request eval
"POST /api/chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-alice\r\n"
. "Connection: close\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"
--- error_code: 501
--- upstream_count: 0



=== B31: a broken chunk size
--- raw_request eval
"POST /api/chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-alice\r\n"
. "Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
. "zz\r\n{\"model\":\"m\"}\r\n0\r\n\r\n"
--- refused: ollama 400
--- error_log
client sent invalid chunked body



=== B31: a chunk size beyond counting
--- raw_request eval
"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
. "Authorization: Bearer sk-alice\r\nConnection: close\r\n"
. "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{\"model\":\"m\"}"
--- error_code: 400
--- upstream_count: 0
--- error_log
client sent invalid chunked body



=== B31: space before a colon
--- raw_request eval
"POST /api/chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-alice\r\n"
. "Content-Length : 13\r\nConnection: close\r\n\r\n{\"model\":\"m\"}"
--- error_code: 400
--- upstream_count: 0



=== B31: what follows the body is a request of its own, and judged
--- raw_request eval
"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
. "Authorization: Bearer sk-alice\r\nContent-Length: 13\r\n\r\n"
. "{\"model\":\"m\"}"
. "DELETE /api/delete HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
--- ignore_response
--- upstream_count: 1
--- no_error_log
[error]



=== B32: an absolute URI and a foreign Host
--- raw_request eval
"GET http://evil.example/api/tags HTTP/1.1\r\nHost: evil.example\r\n"
. "Authorization: Bearer sk-alice\r\nConnection: close\r\n\r\n"
--- error_code: 200
--- upstream_count: 1
--- upstream_request_like eval
"\\AGET /api/tags HTTP/1\\.1\r\$.*^Host: 127\\.0\\.0\\.1:"
. "$ENV{TEST_NGINX_UPSTREAM_PORT}\r\$"
--- upstream_request_unlike: evil



=== B32: an absolute URI with a way around
--- raw_request eval
"DELETE http://x//api/%64elete HTTP/1.1\r\nHost: x\r\n"
. "Authorization: Bearer sk-alice\r\nConnection: close\r\n\r\n"
--- refused: ollama 403



=== HTTP/0.9 has no headers and no token
--- raw_request eval
"GET /v1/models\r\n"
--- ignore_response
--- upstream_count: 0



=== HTTP/1.0
--- raw_request eval
"POST /v1/chat/completions HTTP/1.0\r\nAuthorization: Bearer sk-alice\r\n"
. "Content-Length: 13\r\n\r\n{\"model\":\"m\"}"
--- error_code: 200
--- upstream_count: 1
--- upstream_request_like: \APOST /v1/chat/completions HTTP/1\.1\r$
