# What logs and headers can say: the variables, final before the log is
# written, and the log format that is shipped.

use strict;
use warnings;

use JSON::PP ();

use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Gate qw(upstream spare);
use Clawd::Client;

our @log = (
    'log_format v \'u=$clawd_user m=$clawd_model p=$clawd_prompt_tokens '
    . 'c=$clawd_completion_tokens s=$clawd_usage_source '
    . 'f=$clawd_finish_reason e=$clawd_error h=$clawd_upstream_host '
    . 'x=$clawd_upstream t=$clawd_ttft i=$clawd_request_id $status end\';',
    'access_log logs/access.log v;');

gate_default(http_config => gate_http(@log));
no_shuffle();
run_tests();


# The lines of the log with PATTERN, as soon as there is one.  A request is
# logged when its connection is done with, which may wait for the client.

sub lines {
    my ($pattern) = @_;
    my @lines;

    wait_until(sub {
        open my $in, '<', server_root() . '/logs/access.log' or return 0;
        @lines = grep { /$pattern/ } <$in>;
        return scalar @lines;
    });

    return @lines;
}


# A client that leaves in the middle of a stream.

sub leaves {
    my $client = client();

    $client->request('POST', '/v1/chat/completions',
                     '{"model":"m","stream":true}',
                     Authorization => 'Bearer sk-alice');
    Test::More::like($client->read_until(qr/"content":"two"/) // '',
                     qr/200 OK/, 'the stream runs');
    $client->reset;

    my ($line) = lines(qr/m=m /);
    Test::More::like($line // '',
                     qr/u=alice m=m p=\d+ c=2 s=counted f=- e=client_abort /,
                     'an abort is told as one');
    Test::More::ok(upstream()->wait_for(1, 'aborted'),
                   'the upstream is left at once');
}


sub shipped_format {
    my $client = client();

    $client->request('POST', '/v1/chat/completions?x=sk-secret',
                     '{"model":"m","messages":"a secret"}',
                     'User-Agent' => 'say "hi"',
                     Authorization => 'Bearer sk-alice',
                     'x-request-id' => 'my-id', Connection => 'close');
    $client->read_all;
    $client->close;

    my ($line) = lines(qr/my-id/);
    my $json = eval { JSON::PP->new->decode($line // '') };

    Test::More::ok($json, 'a line of JSON') or Test::More::diag($line);

    my %want = (user => 'alice', model => 'm', request_id => 'my-id',
                method => 'POST', uri => '/v1/chat/completions',
                status => 200, prompt_tokens => '3', completion_tokens => '2',
                usage_source => 'upstream', finish_reason => 'stop',
                error => '', client => '127.0.0.1',
                upstream =>
                    "http://127.0.0.1:$ENV{TEST_NGINX_UPSTREAM_PORT}",
                upstream_status => '200');

    Test::More::is($json->{$_}, $want{$_}, "its $_") for sort keys %want;
    Test::More::unlike($line, qr/secret|sk-alice/,
                       'neither body nor query nor token');
}


sub shipped_format_refused {
    my $client = client();

    $client->request('GET', '/v1/models', undef, 'x-request-id' => 'other-id',
                     Connection => 'close');
    $client->read_all;
    $client->close;

    my ($line) = lines(qr/other-id/);
    my $json = eval { JSON::PP->new->decode($line // '') };

    Test::More::ok($json, 'a refusal is a line of JSON too');
    Test::More::is($json->{$_}, '', "no $_")
        for qw(user model prompt_tokens completion_tokens usage_source ttft
               finish_reason upstream_addr);
    Test::More::is($json->{error}, 'no_token', 'why it was refused');
    Test::More::is($json->{status}, 401, 'its status');
}

__DATA__

=== a plain answer
--- request
POST /v1/chat/completions
{"model":"library/M:latest"}
--- more_headers
Authorization: Bearer sk-alice
x-request-id: my-id
--- access_log eval
[qr{^u=alice m=m p=3 c=2 s=upstream f=stop e=- h=127\.0\.0\.1:\d+ x=http://127\.0\.0\.1:\d+ t=\S+ i=my-id 200 end}]



=== a stream whose usage was asked for here
--- request
POST /v1/chat/completions
{"model":"m","stream":true}
--- access_log eval
[qr{^u=alice m=m p=3 c=2 s=upstream f=stop e=- .* t=\d+\.\d{3} i=[0-9a-f]{24} 200 end}]



=== each format
--- request eval
[map { "POST $_\n{\"model\":\"m\"}" }
     qw(/v1/completions /v1/responses /v1/messages /api/chat /api/generate)]
--- error_code eval
[(200) x 5]
--- access_log eval
[qr{^u=alice m=m p=3 c=2 s=upstream f=(?:stop|end_turn|completed) e=- }]



=== embeddings
--- request eval
[map { "POST $_\n{\"model\":\"m\"}" } qw(/v1/embeddings /api/embed)]
--- error_code eval
[200, 200]
--- access_log eval
[qr{^u=alice m=m p=3 c=0 s=upstream }]



=== a list has a user and no model
--- request
GET /v1/models
--- more_headers
Authorization: Bearer sk-root
--- access_log eval
[qr{^u=root m=- p=- c=- s=- f=- e=- h=127\S+ x=http://\S+ t=- i=[0-9a-f]{24} 200 end}]



=== refusals say why
--- request eval
["GET /v1/models", "GET /v1/models", "GET /none", "GET /api/chat",
 "GET /a%2fb", "POST /api/pull\n{}", "POST /api/chat\n", "POST /api/chat\n{",
 "POST /api/chat\n{} x", "POST /api/chat\n{\"model\":1,\"model\":2}",
 "POST /api/chat\n{}", "POST /api/chat\n{\"model\":\"x:cloud\"}",
 "POST /api/chat\n{\"model\":\"m\",\"stream\":1}"]
--- more_headers eval
["X-Other: y", "x-api-key: none", ("Authorization: Bearer sk-alice") x 11]
--- error_code eval
[401, 401, 404, 405, 400, 403, 400, 400, 400, 400, 400, 403, 400]
--- access_log eval
[qr{^u=\S+ m=\S+ p=- c=- s=- f=- e=(?:no_token|bad_token|not_found|method|path|endpoint|empty_body|invalid_json|trailing_data|duplicate_key|model|model_denied|type) }]



=== a refusal for want of a token has no user
--- request
GET /v1/models
--- more_headers
X-Other: y
--- error_code: 401
--- access_log eval
[qr{^u=- m=- p=- c=- s=- f=- e=no_token .* t=- i=[0-9a-f]{24} 401 end}]



=== a refusal of an accepted user has one
--- request
POST /api/chat
{"model":"m","model":"m"}
--- error_code: 400
--- access_log eval
[qr{^u=alice m=- p=- c=- s=- f=- e=duplicate_key }]



=== refusals by quotas say which limit
--- http_config eval
main::gate_http(@main::log, 'clawd_quota default rpm=1000;',
                map {; "clawd_quota $_ $_=0;",
                       "clawd_token sk-$_ user=$_ plan=$_;" }
                    qw(concurrency rpm tpm tokens_per_day tokens_per_month))
--- request eval
[("POST /api/chat\n{\"model\":\"m\"}") x 5]
--- more_headers eval
[map { "Authorization: Bearer sk-$_" }
     qw(concurrency rpm tpm tokens_per_day tokens_per_month)]
--- error_code eval
[(429) x 5]
--- access_log eval
[qr{^u=(\w+) m=m p=- c=- s=- f=- e=\1 .* t=- i=\S+ 429 end}]



=== a request that is larger than its limit
--- http_config eval
main::gate_http(@main::log, 'clawd_quota default tokens_per_day=10;')
--- request
POST /v1/chat/completions
{"model":"m"}
--- error_code: 400
--- access_log eval
[qr{^u=alice m=m p=- c=- s=- f=- e=exceeds_limit .* 400 end}]



=== the ledger does not answer
--- http_config eval
main::gate_http(@main::log, 'clawd_redis redis://127.0.0.1:'
                . '$TEST_NGINX_RAND_PORT_1;')
--- request
POST /v1/chat/completions
{"model":"m"}
--- error_code: 503
--- access_log eval
[qr{^u=- m=- p=- c=- s=- f=- e=ledger_unavailable .* 503 end}]
--- error_log
does not serve (connect)



=== the usage of a user has no model and no upstream's figures
--- http_config eval
main::gate_http(@main::log, 'clawd_quota default rpm=5;')
--- request
GET /v1/usage
--- error_code: 200
--- access_log eval
[qr{^u=alice m=- p=- c=- s=- f=- e=- .* t=- i=\S+ 200 end}]



=== whoever comes without a token, where there are quotas
--- http_config eval
main::gate_http(@main::log, 'clawd_quota default rpm=5;')
--- config
location / {
    clawd_auth off;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- request
POST /v1/chat/completions
{"model":"m"}
--- access_log eval
[qr{^u=anonymous m=m p=3 c=2 s=upstream f=stop e=- }]



=== NGINX's own refusal
--- config
location / {
    client_max_body_size 5;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- request
POST /api/chat
{"model":"m"}
--- error_code: 413
--- access_log eval
[qr{e=too_large .* 413 end}]
--- error_log
too large body



=== errors of the upstream
--- upstream eval
[[main::reply(503, '{"error":"busy"}')], [main::reply(404, '{"error":"no"}')],
 [main::reply(500, '')], [{ reset => 1 }],
 [main::reply(302, '', Location => '/')], [{ close => 1 }]]
--- request eval
[("POST /api/chat\n{\"model\":\"m\"}") x 6]
--- error_code eval
[503, 404, 500, 502, 502, 502]
--- error_log eval
[qr/reset by peer|status 302|prematurely closed|POST/]
--- access_log eval
[qr{^u=alice m=m p=- c=- s=- f=- e=(?:upstream_5xx|upstream_4xx|reset|invalid_response) }]



=== a silent upstream
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
--- error_code: 504
--- error_log
upstream timed out
--- access_log eval
[qr{^u=alice m=m p=- c=- s=- f=- e=timeout .* 504 end}]



=== no upstream
--- config
location / { clawd_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1; }
--- request
POST /api/chat
{"model":"m"}
--- error_code: 502
--- error_log
connect() failed
--- access_log eval
[qr{^u=alice m=m p=- c=- s=- f=- e=connect .* 502 end}]



=== an abort
--- upstream eval
[[main::stream('text/event-stream'),
  main::sse('{"model":"m","choices":[{"index":0,"delta":{"content":"one"}}]}',
            '{"model":"m","choices":[{"index":0,"delta":{"content":"two"}}]}'),
  { stall => 1 }], [main::reply(200, '{}')]]
--- init
main::leaves();
--- request
GET /v1/models
--- error_code: 200



=== a stream that ends too early
--- upstream eval
[[main::stream('text/event-stream'),
  main::sse('{"model":"m","choices":[{"index":0,"delta":{"content":"one"}}]}'),
  main::chunk()]]
--- request
POST /v1/chat/completions
{"model":"m","stream":true}
--- response_body_like: "code":"upstream_error"
--- access_log eval
[qr{^u=alice m=m p=\d+ c=1 s=counted f=- e=incomplete .* 200 end}]



=== without a gate they are empty
--- config
location / { return 200 "fine"; }
--- request
GET /
--- access_log eval
[qr{^u=- m=- p=- c=- s=- f=- e=- h=- x=- t=- i=- 200 end}]



=== in headers, early ones are known and late ones are not yet
--- config
location / {
    add_header X-User $clawd_user always;
    add_header X-Model $clawd_model always;
    add_header X-Id $clawd_request_id always;
    add_header X-Tokens $clawd_completion_tokens always;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- request
POST /v1/chat/completions
{"model":"m"}
--- more_headers
Authorization: Bearer sk-alice
x-request-id: my-id
--- response_headers
X-User: alice
X-Model: m
X-Id: my-id
!X-Tokens
--- access_log eval
[qr{^u=alice m=m p=3 c=2 s=upstream f=stop e=- .* i=my-id 200 end}]



=== in maps and conditions of the log
--- http_config eval
main::gate_http('map $clawd_error $bad { "" 0; default 1; }',
                'access_log off;')
--- config
location / {
    access_log logs/access.log combined if=$bad;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- request eval
["POST /api/chat\n{\"model\":\"m\"}", "GET /v1/models"]
--- error_code eval
[200, 200]
--- no_access_log
POST



=== after a redirect to another upstream
--- config
location / {
    error_page 502 = @spare;
    clawd_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1;
}
location @spare { clawd_pass http://127.0.0.1:$TEST_NGINX_SPARE_PORT; }
--- spare eval
[sub { Clawd::Gate::answer($_[0]) }]
--- request
POST /api/chat
{"model":"m"}
--- access_log eval
[qr{^u=alice m=m p=3 c=2 s=upstream f=stop e=- h=127.0.0.1:$ENV{TEST_NGINX_SPARE_PORT} x=http://127.0.0.1:$ENV{TEST_NGINX_SPARE_PORT} }]
--- error_log
connect() failed



=== after a redirect to a page
--- config
location / {
    error_page 401 =200 /page;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
location = /page { return 200 "log in"; }
--- request
GET /v1/models
--- more_headers
X-Other: y
--- access_log eval
[qr{^u=- m=- .* e=no_token .* i=[0-9a-f]{24} 200 end}]



=== the format that is shipped
--- http_config eval
main::gate_http("include " . main::proxy_conf() =~ s/proxy/log/r . ";",
                'access_log logs/access.log clawd_json;')
--- init
main::shipped_format();
main::shipped_format_refused();
--- request
GET /v1/models
--- error_code: 200
