# Errors of the upstream: in the caller's shape, with the status that helps.

use strict;
use warnings;

use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Observe;

no_shuffle();


sub gzip {
    require IO::Compress::Gzip;

    my ($text, $out) = ($_[0]);
    IO::Compress::Gzip::gzip(\$text, \$out, -Time => 0) or die "gzip failed\n";
    return $out;
}

our $chat = "POST /v1/chat/completions\n"
            . '{"model":"m","messages":[],"stream":true}';
our $messages = "POST /v1/messages\n"
                . '{"model":"m","max_tokens":9,"messages":[]}';
our $native = "POST /api/chat\n" . '{"model":"m","messages":[]}';

our $html = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n"
            . "<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n"
            . "</body>\r\n</html>\r\n";

run_tests();

__DATA__

=== an error in the family's shape passes, byte by byte
--- upstream eval
[main::reply(404, '{"error": {"message":"model \'m\' not found",'
    . '"type":"not_found_error", "param":null,"code":null}}' . "\n",
    'X-Node' => 'a')]
--- request eval: $::chat
--- error_code: 404
--- response_headers
Content-Type: application/json
Content-Length: 96
X-Node: a
--- response_body
{"error": {"message":"model 'm' not found","type":"not_found_error", "param":null,"code":null}}
--- logged: error=upstream_4xx status=404 prompt_tokens= completion_tokens=
--- counted
model_error_total{model="other",error_type="upstream_4xx"} 1
http_request_duration_seconds_count{model="other",code="4xx"} 1



=== so do those of the two other families
--- upstream eval
{ '/v1/messages' => [main::reply(400, '{"type":"error","error":'
      . '{"type":"invalid_request_error","message":"no"}}')],
  '/api/chat' => [main::reply(400, '{"error":"no"}',
      'Content-Type' => 'application/json; charset=utf-8')] }
--- request eval: [$::messages, $::native]
--- error_code eval: [400, 400]
--- response_body eval
['{"type":"error","error":{"type":"invalid_request_error","message":"no"}}',
 '{"error":"no"}']



=== a native string on a path of OpenAI's
--- upstream eval
[main::reply(403, '{"error":"ollama cloud is disabled"}')]
--- request eval: $::chat
--- refused: openai 403
--- message: ollama cloud is disabled
--- upstream_count: 1



=== a native string on a path of Anthropic's
--- upstream eval
[main::reply(404, '{"error":"model \\"x\\" not found\\u00e9"}')]
--- request eval: $::messages
--- refused: anthropic 404
--- upstream_count: 1



=== an object on a native path
--- upstream eval
[main::reply(500, '{"error":{"message":"llama runner died","type":"x"}}')]
--- request eval: $::native
--- refused: ollama 500
--- message: llama runner died
--- upstream_count: 1



=== a remote model's structure
--- upstream eval
[main::reply(404, '{"StatusCode":404,"Status":"404 Not Found",'
    . '"error":"model not found"}')]
--- request eval: $::native
--- refused: ollama 404
--- message: model not found
--- upstream_count: 1



=== a page of another proxy's
--- upstream eval
[main::reply(502, $::html, 'Content-Type' => 'text/html')]
--- request eval: $::chat
--- refused: openai 502
--- upstream_count: 1
--- response_body_unlike: <|html
--- logged: error=upstream_5xx status=502



=== plain text of a router
--- upstream eval
[main::reply(404, '404 page not found', 'Content-Type' => 'text/plain')]
--- request eval: $::native
--- refused: ollama 404
--- upstream_count: 1



=== an empty 403: the gateway is misconfigured, and the log has the cure
--- upstream eval
[main::reply(403, '')]
--- request eval: $::chat
--- refused: openai 502 upstream_misconfigured
--- upstream_count: 1
--- error_log
proxy_set_header Host $clawd_upstream_host;
--- logged: status=502 error=upstream_4xx



=== an empty 403 in chunks, for a native client
--- upstream eval
["HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"]
--- request eval: $::native
--- refused: ollama 502
--- upstream_count: 1
--- error_log
answered 403 without a body



=== 401: the credentials are the gateway's, a sign-in link is not for clients
--- upstream eval
[main::reply(401, '{"error":"unauthorized",'
    . '"signin_url":"https://ollama.com/connect?key=SECRET"}',
    'WWW-Authenticate' => 'Basic realm=x')]
--- request eval: $::chat
--- refused: openai 502 upstream_unauthorized
--- upstream_count: 1
--- raw_response_headers_unlike: (?i)www-authenticate
--- response_body_unlike: SECRET|signin
--- error_log
proxy_set_header Authorization



=== 499 is not relayed
--- upstream eval
[main::reply(499, '{"error":"request canceled"}')]
--- request eval: $::native
--- refused: ollama 502
--- upstream_count: 1
--- error_log
status 499 is not relayed
--- logged: error=invalid_response



=== redirects are not relayed
--- upstream eval
[[main::reply(301, '', Location => '/v1/chat/completions/')],
 [main::reply(307, 'x', Location => 'http://10.0.0.1/')],
 [main::reply(302, $::html, Location => 'http://portal/',
              'Content-Type' => 'text/html')],
 [main::reply(304, '')]]
--- request eval: [($::chat) x 4]
--- refused: openai 502 upstream_invalid
--- upstream_count: 1
--- raw_response_headers_unlike eval: [('(?i)location') x 4]
--- error_log
is not relayed
--- logged eval: [('error=invalid_response status=502') x 4]
--- counted
model_error_total{model="other",error_type="invalid_response"} 4



=== 200 of a portal's
--- upstream eval
[main::reply(200, $::html, 'Content-Type' => 'text/html; charset=utf-8')]
--- request eval: $::chat
--- refused: openai 502 upstream_invalid
--- upstream_count: 1
--- error_log
status 200 is not relayed
--- logged: error=invalid_response
--- counted
model_error_total{model="other",error_type="invalid_response"} 1



=== a status that is none of HTTP's
--- upstream eval
[main::reply(999, '{"error":"x"}')]
--- request eval: $::chat
--- refused: openai 502 upstream_invalid
--- upstream_count: 1
--- error_log
status 999 is not relayed



=== an interim answer as if it were one
--- upstream eval
["HTTP/1.1 102 Processing\r\n\r\n"]
--- request eval: $::chat
--- refused: openai 502 upstream_invalid
--- upstream_count: 1
--- error_log
is not relayed
--- logged: error=invalid_response



=== no HTTP at all
--- upstream eval
["SSH-2.0-OpenSSH_9.2\r\n", { close => 1 }]
--- request eval: $::chat
--- refused: openai 502 upstream_invalid
--- upstream_count: 1
--- error_log
upstream sent no valid HTTP/1.0 header
--- logged: error=invalid_response



=== a header that is none
--- upstream eval
["HTTP/1.1 200 OK\r\nBad\x01Name: x\r\n\r\n", { close => 1 }]
--- request eval: $::chat
--- refused: openai 502 upstream_unavailable
--- upstream_count: 1
--- error_log
upstream sent invalid header
--- logged: error=invalid_response



=== 503 says when to come back
--- upstream eval
[main::reply(503, '{"error":{"message":"server busy","type":"api_error",'
    . '"param":null,"code":null}}')]
--- request eval: $::chat
--- error_code: 503
--- response_headers
Retry-After: 2
--- response_body chomp
{"error":{"message":"server busy","type":"api_error","param":null,"code":null}}
--- logged: error=upstream_5xx



=== 503 with an answer of its own to that: ours alone
--- upstream eval
[main::reply(503, '{"error":"busy"}', 'Retry-After' => '86400')]
--- request eval: $::messages
--- refused: anthropic 503
--- message: busy
--- upstream_count: 1
--- raw_response_headers_unlike: 86400



=== 504 of the upstream's own is not to be tried again
--- upstream eval
[main::reply(504, '{"error":"too slow"}')]
--- request eval: $::native
--- refused: ollama 504
--- message: too slow
--- upstream_count: 1
--- response_headers
x-should-retry: false



=== 429 keeps its advice
--- upstream eval
[main::reply(429, '{"error":{"message":"slow down","type":"rate_limit_error",'
    . '"param":null,"code":null}}', 'Retry-After' => '7')]
--- request eval: $::chat
--- error_code: 429
--- response_headers
Retry-After: 7
--- response_body_like: slow down



=== the context is too long, told in JSON within a string
--- upstream eval
[main::reply(400, '{"error":{"message":"{\"error\":{\"code\":400,\"message\":'
    . '\"request (53192 tokens) exceeds the available context size\",'
    . '\"type\":\"exceed_context_size_error\"}}","type":'
    . '"invalid_request_error","param":null,"code":null}}')]
--- request eval: $::chat
--- refused: openai 400 context_length_exceeded
--- message: request (53192 tokens) exceeds the available context size
--- upstream_count: 1



=== the same with another status, for a native client
--- upstream eval
[main::reply(500, '{"error":"{\"error\":{\"code\":400,\"message\":\"request '
    . 'exceeds\",\"type\":\"exceed_context_size_error\"}}"}')]
--- request eval: $::native
--- refused: ollama 400
--- message: request exceeds
--- upstream_count: 1



=== a body that is longer than an error can be
--- upstream eval
[main::reply(500, '{"error":{"message":"' . 'x' x 70000 . '","type":"x"}}')]
--- request eval: $::chat
--- refused: openai 500
--- upstream_count: 1
--- response_body_unlike: xxxxx



=== one that just fits
--- upstream eval
[main::reply(500, '{"error":{"message":"' . 'x' x 65000 . '","type":"x"}}')]
--- request eval: $::chat
--- error_code: 500
--- response_body eval: '{"error":{"message":"' . 'x' x 65000 . '","type":"x"}}'



=== a body in chunks, byte by byte
--- upstream eval
["HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n"
 . "Transfer-Encoding: chunked\r\n\r\n",
 main::chunk(split //, '{"error":"a message in pieces"}'), main::chunk()]
--- request eval: $::chat
--- refused: openai 400
--- message: a message in pieces
--- upstream_count: 1



=== an error whose body is cut off
--- upstream eval
["HTTP/1.1 500 X\r\nContent-Type: application/json\r\nContent-Length: 90\r\n"
 . "\r\n" . '{"error":{"message":"a', { close => 1 }]
--- request eval: $::chat
--- refused: openai 500
--- upstream_count: 1
--- error_log
upstream prematurely closed connection
--- logged: error=upstream_5xx status=500



=== a compressed error: no bytes that nobody can read
--- upstream eval
[main::reply(400, main::gzip('{"error":"compressed"}'),
             'Content-Encoding' => 'gzip')]
--- request eval: $::chat
--- refused: openai 400
--- upstream_count: 1
--- raw_response_headers_unlike: (?i)content-encoding



=== control characters, quotes and UTF-8 of a foreign message
--- upstream eval
[main::reply(400, '{"error":"a \"b\" \\\\ \n \u0001 '
    . "\xe4\xbd\xa0" . ' \ud83d\ude00"}')]
--- request eval: $::chat
--- refused: openai 400
--- upstream_count: 1



=== broken UTF-8 in a text
--- upstream eval
[main::reply(500, "no \xff\xfe good", 'Content-Type' => 'text/plain')]
--- request eval: $::chat
--- refused: openai 500
--- upstream_count: 1



=== an error without a body
--- upstream eval
[main::reply(500, '')]
--- request eval: [$::chat, $::messages, $::native]
--- error_code eval: [500, 500, 500]
--- response_body_like eval
[qr/\A\{"error":\{"message":"[^"]+","type":"server_error","param":null,"code":null\}\}\z/,
 qr/\A\{"type":"error","error":\{"type":"api_error","message":"[^"]+"\},"request_id":"[^"]+"\}\z/,
 qr/\A\{"error":"[^"]+"\}\z/]



=== validators and cookies of an error's are not ours to keep
--- upstream eval
[main::reply(404, 'gone', 'Content-Type' => 'text/plain', ETag => '"x"',
             'Last-Modified' => 'Mon, 01 Jan 2024 00:00:00 GMT',
             'Accept-Ranges' => 'bytes')]
--- request eval: $::chat
--- error_code: 404
--- response_headers
!ETag
!Last-Modified
!Accept-Ranges
Content-Type: application/json



=== HEAD: the header of the error, without a body
--- upstream eval
["HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\n"
 . "Content-Length: 18\r\n\r\n"]
--- request
HEAD /api/tags
--- error_code: 404
--- response_headers_like
Content-Type: application/json
Content-Length: \d+
--- response_body



=== an interrupted connection before the first byte
--- upstream eval
[{ reset => 1 }]
--- request eval: $::chat
--- refused: openai 502 upstream_unavailable
--- upstream_count: 1
--- logged: error=reset status=502
--- error_log
Connection reset by peer
--- counted
model_error_total{model="other",error_type="reset"} 1



=== E121: a page in place of JSON, whatever its type says besides
--- upstream eval
[map { main::reply(200, '<html>', 'Content-Type' => $_) }
     'text/html; level=1', 'text/html;', 'Text/HTML ;charset=utf-8']
--- request eval
[(main::ask('chat')) x 3]
--- error_code eval
[502, 502, 502]
--- response_body_like eval
[('"code":"upstream_invalid"') x 3]
--- error_log: with status 200 is not relayed



=== E121: a part of an answer
--- upstream eval
[main::reply(206, '"choices":[]}', 'Content-Range' => 'bytes 1-13/14')]
--- request eval: main::ask('chat')
--- error_code: 502
--- response_body_like: "code":"upstream_invalid"
--- error_log: with status 206 is not relayed
