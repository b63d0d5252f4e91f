# Errors that NGINX makes itself are told in the caller's shape as well; what
# an operator's error_page says instead stays as it is.

use strict;
use warnings;

use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Observe;

no_shuffle();
log_level('info');


our $chat = "POST /v1/chat/completions\n{\"model\":\"m\",\"messages\":[]}";
our $messages = "POST /v1/messages\n"
                . '{"model":"m","max_tokens":9,"messages":[]}';
our $native = "POST /api/chat\n" . '{"model":"m","messages":[]}';

our $too_long = '{"model":"m","messages":"' . 'x' x 3000 . '"}';
our $small = conf('client_max_body_size 2k;');

# a port where nobody listens

our $nobody = conf('') =~ s/UPSTREAM_PORT/RAND_PORT_1/r;


# A body in chunks, of which none says how long it will be.

sub too_long_in_chunks {
    for my $path (qw(/v1/chat/completions /v1/messages /api/chat)) {
        my $client = client();

        $client->request('POST', $path, undef,
                         Authorization => 'Bearer sk-alice',
                         'Transfer-Encoding' => 'chunked');
        $client->send(sprintf "%x\r\n%s\r\n0\r\n\r\n", length $too_long,
                      $too_long);

        my $answer = Clawd::Observe::parse($client->read_all);

        Test::More::is($answer->{status}, 413, "$path: the status");
        Test::More::like($answer->{body}, {
            '/v1/chat/completions' => qr/\A\{"error":\{"message":"[^"]+",
                "type":"invalid_request_error","param":null,
                "code":"request_too_large"\}\}\z/x,
            '/v1/messages' => qr/\A\{"type":"error","error":\{
                "type":"request_too_large",.*"request_id":"/x,
            '/api/chat' => qr/\A\{"error":"[^"]+"\}\z/,
        }->{$path}, "$path: the body");
        Test::More::is($answer->{header}{connection}, 'close',
                       "$path: the end of the connection");
    }
}


# A body that does not arrive: NGINX closes the connection without a word.

sub slow_body {
    my $client = client();

    $client->request('POST', '/v1/chat/completions', undef,
                     Authorization => 'Bearer sk-alice',
                     'X-Request-Id' => 'slow', 'Content-Length' => 100);
    $client->send('{"model"');

    Test::More::is($client->read_all, '', 'the connection is closed');
    Test::More::is(log_of('slow')->{status}, 408, 'the status');
    Test::More::is(log_of('slow')->{error}, 'body_timeout', 'the log');
}

run_tests();

__DATA__

=== too large, by its length
--- config eval: $::small
--- request eval: "POST /v1/chat/completions\n$::too_long"
--- refused: openai 413 request_too_large
--- response_headers
Connection: close
--- error_log
client intended to send too large body
--- counted
rejected_total{reason="too_large"} 1
model_request_total{model="other"} 0



=== too large, for the two other families
--- config eval: $::small
--- request eval: "POST /v1/messages\n$::too_long"
--- refused: anthropic 413
--- error_log
client intended to send too large body



=== too large, native
--- config eval: $::small
--- request eval: "POST /api/chat\n$::too_long"
--- refused: ollama 413
--- error_log
client intended to send too large body



=== too large, in chunks
--- config eval: $::small
--- upstream_count: 0
--- init
main::too_long_in_chunks();
--- error_log
client intended to send too large chunked body
--- counted
rejected_total{reason="too_large"} 3



=== a body that does not come in time
--- config eval: main::conf('client_body_timeout 300ms;')
--- init
main::slow_body();
--- counted
rejected_total{reason="body_timeout"} 1



=== nobody listens
--- config eval: $::nobody
--- request eval: $::chat
--- refused: openai 502 upstream_unavailable
--- error_log
Connection refused
--- logged: status=502 error=connect
--- counted
model_error_total{model="other",error_type="connect"} 1
http_request_duration_seconds_count{model="other",code="5xx"} 1



=== nobody listens, for the other families
--- config eval: $::nobody
--- request eval: $::messages
--- refused: anthropic 502
--- error_log
Connection refused



=== nobody listens, native
--- config eval: $::nobody
--- request eval: $::native
--- refused: ollama 502
--- error_log
Connection refused



=== no answer in time
--- config eval: main::conf('proxy_read_timeout 300ms;')
--- upstream eval
[{ stall => 1 }]
--- request eval: $::chat
--- refused: openai 504 upstream_timeout
--- upstream_count: 1
--- upstream_event: aborted
--- error_log
upstream timed out
--- logged: status=504 error=timeout
--- counted
model_error_total{model="other",error_type="timeout"} 1



=== no answer in time, for the other families
--- config eval: main::conf('proxy_read_timeout 300ms;')
--- upstream eval
[{ stall => 1 }]
--- request eval: $::messages
--- refused: anthropic 504
--- upstream_count: 1
--- error_log
upstream timed out



=== half a header in time
--- config eval: main::conf('proxy_read_timeout 300ms;')
--- upstream eval
["HTTP/1.1 200 OK\r\nContent-Ty", { stall => 1 }]
--- request eval: $::native
--- refused: ollama 504
--- upstream_count: 1
--- error_log
upstream timed out



=== all servers of an upstream block are down
--- http_config eval
main::http('upstream none { server 127.0.0.1:$TEST_NGINX_RAND_PORT_1 down; }')
--- config eval
main::conf('') =~ s/127.0.0.1:.TEST_NGINX_UPSTREAM_PORT/none/r
--- request eval: $::chat
--- refused: openai 502 upstream_unavailable
--- error_log
no live upstreams
--- logged: error=connect



=== the next server is asked, and counts once
--- http_config eval
main::http('upstream two { server 127.0.0.1:$TEST_NGINX_RAND_PORT_1;'
           . 'server 127.0.0.1:$TEST_NGINX_UPSTREAM_PORT backup; }')
--- config eval
main::conf('') =~ s/127.0.0.1:.TEST_NGINX_UPSTREAM_PORT/two/r
--- request eval: $::chat
--- response_body_like: "hi"
--- error_log
Connection refused
--- logged: status=200 error= prompt_tokens=3 completion_tokens=2
--- counted
model_request_total{model="m"} 1
model_error_total{model="m",error_type="connect"} 0



=== error_page wins: a page of the operator's
--- config eval
main::conf('error_page 502 503 /sorry.html;') =~ s/UPSTREAM_PORT/RAND_PORT_1/r
. 'location = /sorry.html { root html; }'
--- user_files
>>> sorry.html
sorry
--- request eval: $::chat
--- error_code: 502
--- response_body
sorry
--- error_log
Connection refused
--- logged: status=502 error=connect



=== error_page wins: a text, another status, a named location
--- config eval
main::conf('error_page 502 =200 @other;') =~ s/UPSTREAM_PORT/RAND_PORT_1/r
. 'location @other { default_type application/json; return 200 "{\"x\":1}"; }'
--- request eval: $::chat
--- error_code: 200
--- response_body chomp
{"x":1}
--- error_log
Connection refused
--- logged: status=200 error=connect



=== error_page for what the gate refuses
--- config eval
main::conf('error_page 401 /login;')
. 'location = /login { return 401 "log in"; }'
--- request eval: $::chat
--- more_headers
X-Other: y
--- error_code: 401
--- response_body chomp
log in
--- upstream_count: 0
--- counted
rejected_total{reason="no_token"} 1



=== error_page into another gated location: its upstream answers
--- config eval
main::conf('error_page 502 = @other;') =~ s/UPSTREAM_PORT/RAND_PORT_1/r
. 'location @other { clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT; }'
--- request eval: $::chat
--- response_body_like: "hi"
--- upstream_count: 1
--- error_log
Connection refused
--- logged: status=200 error= prompt_tokens=3 completion_tokens=2
--- counted
model_request_total{model="m"} 1
tokens_total{model="m",type="prompt"} 3
requests_in_flight{model="m"} 0
requests_in_flight{model="other"} 0



=== the same, whose status stays 502 as the operator wrote
--- config eval
main::conf('error_page 502 @other;') =~ s/UPSTREAM_PORT/RAND_PORT_1/r
. 'location @other { clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT; }'
--- request eval: $::chat
--- error_code: 502
--- response_headers
Content-Type: application/json
--- error_log
Connection refused



=== proxy_intercept_errors with a page: the page
--- config eval
main::conf('proxy_intercept_errors on; error_page 404 /sorry.html;')
. 'location = /sorry.html { root html; }'
--- user_files
>>> sorry.html
sorry
--- upstream eval
[main::reply(404, '{"error":"not found"}')]
--- request eval: $::chat
--- error_code: 404
--- response_body
sorry
--- logged: error=upstream_4xx



=== proxy_intercept_errors without one: the caller's shape
--- config eval: main::conf('proxy_intercept_errors on;')
--- upstream eval
[main::reply(500, '{"error":"boom"}')]
--- request eval: $::chat
--- refused: openai 500
--- message: boom
--- upstream_count: 1



=== locations that are not gated keep NGINX's pages
--- config eval
main::conf('') . 'location /plain { return 404; }'
--- request
GET /plain
--- error_code: 404
--- response_body_like: <html>
