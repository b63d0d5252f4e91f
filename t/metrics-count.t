# What is counted where: one request at a time, then the page.

use strict;
use warnings;

use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Upstream;

our $http = <<'E';
clawd_zone clawd:1m;
clawd_token sk-alice user=alice;
clawd_token sk-bob user=bob;
E

our $config = <<'E';
location = /metrics { clawd_metrics; }
location /v1/ {
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
    proxy_http_version 1.1;
}
E

repeat_each(1);
no_shuffle();
run_tests();


# chat(MODEL, REST): a request; REST is more of its JSON.

sub chat {
    my ($model, $rest) = @_;

    return "POST /v1/chat/completions\n"
           . qq({"model":"$model","messages":[]) . ($rest // '') . '}';
}


# answer(PROMPT, COMPLETION): what a model says, with its usage.

sub answer {
    my ($prompt, $completion) = @_;

    return [reply(200, '{"id":"c","object":"chat.completion","choices":'
        . '[{"index":0,"message":{"role":"assistant","content":"hi"},'
        . '"finish_reason":"stop"}],"usage":{"prompt_tokens":' . $prompt
        . ',"completion_tokens":' . $completion . '}}',
        'Content-Type' => 'application/json')];
}


# page(LINES...): a pattern for a page that has all of these lines, whatever
# their order; one that begins with "!" is the start of lines it has not.

sub page {
    my $all = join '', map {
        /^!(.*)/ ? "(?!.*^\Qclawdbot_$1\E)" : "(?=.*^\Qclawdbot_$_\E\$)"
    } @_;

    return qr/\A$all/ms;
}

__DATA__

=== TEST 1: a whole answer
--- http_config eval: $::http
--- config eval: $::config
--- upstream eval
main::answer(5, 7)
--- more_headers
Authorization: Bearer sk-alice
Content-Type: application/json
--- request eval
[main::chat('Llama3:latest'), main::chat('llama3'), "GET /metrics"]
--- response_body_like eval
[qr/"hi"/, qr/"hi"/, main::page(
    'model_request_total{model="llama3"} 2',
    'model_request_total{model="other"} 0',
    '!model_request_total{model="L',
    'model_error_total{model="llama3",error_type="reset"} 0',
    'tokens_total{model="llama3",type="prompt"} 10',
    'tokens_total{model="llama3",type="completion"} 14',
    'user_tokens_total{user="alice",type="prompt"} 10',
    'user_tokens_total{user="alice",type="completion"} 14',
    'user_requests_total{user="alice"} 2',
    'user_requests_total{user="other"} 0',
    '!user_requests_total{user="bob"',
    'usage_source_total{source="upstream"} 2',
    'usage_source_total{source="counted"} 0',
    'http_request_duration_seconds_count{model="llama3",code="2xx"} 2',
    'http_request_duration_seconds_bucket{model="llama3",code="2xx",le="2.0"}'
        . ' 2',
    'upstream_request_duration_seconds_count{model="llama3"} 2',
    'upstream_connect_seconds_count{model="llama3"} 2',
    'requests_in_flight{model="llama3"} 0',
    'requests_in_flight{model="other"} 0',
    'series_dropped_total 0')]



=== TEST 2: a stream
--- http_config eval: $::http
--- config eval: $::config
--- upstream eval
[main::stream('text/event-stream'),
 main::sse('{"choices":[{"index":0,"delta":{"content":"a"}}]}'),
 { pause => 0.05 },
 main::sse('{"choices":[{"index":0,"delta":{"content":"b"}}]}',
           '{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}',
           '{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}',
           '[DONE]'),
 main::chunk()]
--- more_headers
Authorization: Bearer sk-bob
Content-Type: application/json
--- request eval
[main::chat('m', ',"stream":true'), "GET /metrics"]
--- response_body_like eval
[qr/\[DONE\]/, main::page(
    'model_request_total{model="m"} 1',
    'tokens_total{model="m",type="prompt"} 3',
    'tokens_total{model="m",type="completion"} 2',
    'user_tokens_total{user="bob",type="completion"} 2',
    'time_to_first_token_seconds_count{model="m"} 1',
    'time_per_output_token_seconds_count{model="m"} 1',
    'time_per_output_token_seconds_bucket{model="m",le="0.02"} 0',
    'output_tokens_per_second_count{model="m"} 1')]



=== TEST 3: an upstream that fails: the model stays unknown
--- http_config eval: $::http
--- config eval: $::config
--- upstream eval
[main::reply(500, '{"error":{"message":"no"}}',
             'Content-Type' => 'application/json')]
--- more_headers
Authorization: Bearer sk-alice
Content-Type: application/json
--- request eval
[main::chat('m'), "GET /metrics"]
--- error_code eval
[500, 200]
--- response_body_like eval
[qr/error/, main::page(
    'model_request_total{model="other"} 1',
    'model_error_total{model="other",error_type="upstream_5xx"} 1',
    'http_request_duration_seconds_count{model="other",code="5xx"} 1',
    '!model_request_total{model="m"',
    '!tokens_total{model="m"',
    'user_requests_total{user="alice"} 1')]



=== TEST 4: an upstream that hangs up, once its model is known
--- http_config eval: $::http
--- config eval: $::config
--- upstream eval
[main::answer(1, 1), [{ close => 1 }], [{ reset => 1 }],
 [main::reply(404, '{"error":"model not found"}',
              'Content-Type' => 'application/json')]]
--- more_headers
Authorization: Bearer sk-alice
Content-Type: application/json
--- request eval
[main::chat('m'), main::chat('m'), main::chat('m'), main::chat('m'),
 "GET /metrics"]
--- error_code eval
[200, 502, 502, 404, 200]
--- response_body_like eval
[qr/hi/, qr/error/, qr/error/, qr/error/, main::page(
    'model_request_total{model="m"} 4',
    'model_error_total{model="m",error_type="reset"} 2',
    'model_error_total{model="m",error_type="upstream_4xx"} 1',
    'http_request_duration_seconds_count{model="m",code="2xx"} 1',
    'http_request_duration_seconds_count{model="m",code="4xx"} 1',
    'http_request_duration_seconds_count{model="m",code="5xx"} 2',
    'tokens_total{model="m",type="prompt"} 1',
    'requests_in_flight{model="m"} 0',
    'requests_in_flight{model="other"} 0')]



=== TEST 5: nobody there
--- http_config eval: $::http
--- config
location = /metrics { clawd_metrics; }
location /v1/ { clawd_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1; }
--- more_headers
Authorization: Bearer sk-alice
Content-Type: application/json
--- request eval
[main::chat('m'), "GET /metrics"]
--- error_code eval
[502, 200]
--- response_body_like eval
[qr/error/, main::page(
    'model_request_total{model="other"} 1',
    'model_error_total{model="other",error_type="connect"} 1')]



=== TEST 6: who is refused counts as refused alone
--- http_config eval: $::http
--- config eval: $::config
--- upstream eval
main::answer(1, 1)
--- upstream_count: 0
--- more_headers eval
["", "Authorization: Bearer sk-mallory", "Authorization: Bearer sk-alice",
 "Authorization: Bearer sk-alice", ""]
--- request eval
[main::chat('m'), main::chat('m'),
 "POST /v1/chat/completions\n{\"model\":", "POST /v1/chat/completions\n{}",
 "GET /metrics"]
--- error_code eval
[401, 401, 400, 400, 200]
--- response_body_like eval
[qr/error/, qr/error/, qr/error/, qr/error/, main::page(
    'rejected_total{reason="no_token"} 1',
    'rejected_total{reason="bad_token"} 1',
    'rejected_total{reason="invalid_json"} 1',
    'rejected_total{reason="model"} 1',
    'rejected_total{reason="nginx"} 0',
    'model_request_total{model="other"} 0',
    'user_requests_total{user="other"} 0',
    '!user_requests_total{user="alice"',
    '!user_requests_total{user="mallory"',
    '!http_request_duration_seconds_count')]



=== TEST 7: more models than the table has room for
--- http_config eval: $::http
--- config eval: $::config
--- upstream eval
main::answer(1, 1)
--- more_headers
Authorization: Bearer sk-alice
Content-Type: application/json
--- request eval
[(map { main::chat("m$_") } 1 .. 70), "GET /metrics"]
--- error_code eval
[(200) x 71]
--- response_body_like eval
[(qr/hi/) x 70, main::page(
    'model_request_total{model="m1"} 1',
    'model_request_total{model="m64"} 1',
    'model_request_total{model="other"} 6',
    '!model_request_total{model="m65"',
    'series_dropped_total 6')]



=== TEST 8: a name that would break out of its label reaches neither
--- http_config eval: $::http
--- config eval: $::config
--- upstream eval
main::answer(1, 1)
--- upstream_count: 0
--- more_headers
Authorization: Bearer sk-alice
Content-Type: application/json
--- request eval
[main::chat('x\"} 1\nfake_metric 9'), "GET /metrics"]
--- error_code eval
[400, 200]
--- response_body_like eval
[qr/error/, qr/\A(?!.*fake_metric)/s]



=== TEST 9: the exemplar leads to the request
--- http_config eval: $::http
--- config eval: $::config
--- upstream eval
main::answer(1, 1)
--- more_headers
Authorization: Bearer sk-alice
Content-Type: application/json
Accept: application/openmetrics-text
X-Request-Id: find-me-7
--- request eval
[main::chat('m'), "GET /metrics"]
--- response_body_like eval
[qr/hi/,
 qr/^clawdbot_http_request_duration_seconds_bucket
    \{model="m",code="2xx",le="[\d.]+"\}\ 1
    \ \#\ \{request_id="find-me-7"\}\ [\d.]+\ \d{10}(\.\d{1,3})?$/mx]



=== TEST 10: one of NGINX's own modules refuses
--- http_config eval
$::http . 'limit_req_zone $server_name zone=l:64k rate=1r/m;'
--- config
location = /metrics { clawd_metrics; }
location /v1/ {
    limit_req zone=l;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- upstream eval
main::answer(1, 1)
--- more_headers
Authorization: Bearer sk-alice
Content-Type: application/json
--- request eval
[main::chat('m'), main::chat('m'), "GET /metrics"]
--- error_code eval
[200, 503, 200]
--- response_body_like eval
[qr/hi/, qr/error/, main::page(
    'rejected_total{reason="nginx"} 1',
    'model_request_total{model="m"} 1')]
