# Bodies in temporary files, in memory and in both, edited and tried again.

use strict;
use warnings;

use Digest::SHA qw(sha256_hex);

use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Gate qw(upstream spare);
use Clawd::Client;

no_shuffle();
run_tests();


# A body of about SIZE bytes; BEFORE and AFTER stand around a long string of
# escapes and plain text.

sub body {
    my ($size, $before, $after) = @_;

    my $text = '\n\"' . 'x' x 40 . '\\\\ \u00e9';
    $text x= int($size / length $text);

    return qq({$before"messages":[{"role":"user","content":"$text"}]$after});
}


sub post {
    my ($uri, $body, @headers) = @_;
    my $client = client();

    $client->request('POST', $uri, $body, Authorization => 'Bearer sk-alice',
                     Connection => 'close', @headers);
    return $client->read_all // '';
}


# That BODY arrives as WANT, at the upstream NAME.

sub arrives {
    my ($uri, $body, $want, $name) = @_;

    my $seen = () = upstream($name)->requests;
    my $title = length($body) . " bytes to $uri";

    Test::More::like(post($uri, $body), qr{\AHTTP/1\.1 200 }, $title);

    my @requests = upstream($name)->requests;
    my $got = $requests[-1];

    Test::More::is(@requests - $seen, 1, "$title: one request upstream");
    Test::More::is(length $got->{body}, length $want, "$title: its size");
    Test::More::is(sha256_hex($got->{body}), sha256_hex($want),
                   "$title: every byte");
    Test::More::is($got->{headers}{'content-length'}, length $want,
                   "$title: Content-Length");
}


# An edit at the front, in the middle and at the end of the body.

sub edited {
    my ($size, $name) = @_;

    for my $end ('', ' ', "\r\n") {
        arrives('/v1/chat/completions',
                body($size, '"model":"m",', ',"stream":true') . $end,
                '{"stream_options":{"include_usage":true},'
                . substr(body($size, '"model":"m",', ',"stream":true'), 1)
                . $end, $name);
    }

    arrives('/api/chat',
            body($size, '"keep_alive":-1,"model":"library/m",',
                 ',"options":{"num_ctx":4096,"seed":5},"stream":false'),
            body($size, '"keep_alive":null,"model":"m",',
                 ',"options":{"num_ctx":null,"seed":5},"stream":false'),
            $name);

    arrives('/v1/messages', body($size, '', ',"model":" m "'),
            body($size, '', ',"model":"m"'), $name);
}


# Values that an edit replaces lie across the places where pieces of a file,
# 64 KB each, meet.

sub across_pieces {
    for my $at (65536 - 40 .. 65536 + 4) {
        my $head = '{"x":"';
        my $tail = '","keep_alive": "a long time","model":"m"}';
        my $text = 'y' x ($at - length($head) - 4);

        arrives('/api/generate', $head . $text . $tail,
                $head . $text . '","keep_alive": null,"model":"m"}');
    }
}


# The upstream resets its connection after it has read the request.

sub retried {
    my ($size) = @_;

    my $body = body($size, '"model":"library/m",', ',"stream":false');
    my $want = body($size, '"model":"m",', ',"stream":false');

    Test::More::like(post('/v1/chat/completions', $body),
                     qr{\AHTTP/1\.1 200 }, "$size bytes, after a retry");

    for my $name ('upstream', 'spare') {
        my $got = (upstream($name)->requests)[-1];

        Test::More::is(sha256_hex($got->{body}), sha256_hex($want),
                       "$size bytes: whole and edited at the $name");
        Test::More::is($got->{headers}{'content-length'}, length $want,
                       "$size bytes: Content-Length at the $name");
    }
}


sub chunked {
    my ($size) = @_;

    my $body = body($size, '"model":"m",', ',"stream":true');
    my $client = client();

    $client->send("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
                  . "Authorization: Bearer sk-alice\r\nConnection: close\r\n"
                  . "Transfer-Encoding: chunked\r\n\r\n",
                  map({ sprintf "%x\r\n%s\r\n", length, $_ }
                      unpack '(a7001)*', $body), "0\r\n\r\n");

    Test::More::like($client->read_all // '', qr{\AHTTP/1\.1 200 },
                     "$size bytes in chunks");

    my $got = (upstream()->requests)[-1];
    my $want = '{"stream_options":{"include_usage":true},' . substr $body, 1;

    Test::More::is(sha256_hex($got->{body}), sha256_hex($want),
                   'whole and edited');
    Test::More::is($got->{headers}{'content-length'}, length $want,
                   'with its length');
}


sub refused {
    my ($status, $body) = @_;

    Test::More::like(post('/v1/chat/completions', $body),
                     qr{\AHTTP/1\.1 $status },
                     length($body) . " bytes: $status");
}

__DATA__

=== bodies in memory
--- init
main::edited($_) for 52, 1000, 100000, 900000;
--- request
GET /v1/models
--- error_code: 200



=== bodies in a temporary file
--- config
location / {
    client_body_buffer_size 8k;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- init
main::edited($_) for 8000, 65000, 66000, 200000;
--- request
GET /v1/models
--- error_code: 200



=== bodies in a temporary file, whatever their size
--- config
location / {
    client_body_in_file_only clean;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- init
main::edited($_) for 52, 20000;
--- request
GET /v1/models
--- error_code: 200



=== bodies in one buffer
--- config
location / {
    client_body_in_single_buffer on;
    client_body_buffer_size 16k;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- init
main::edited($_) for 52, 15000, 40000;
--- request
GET /v1/models
--- error_code: 200



=== 8 MB, as clawd_proxy.conf takes it
--- init
main::edited(8 * 1024 * 1024);
--- request
GET /v1/models
--- error_code: 200



=== 8 MB that need no edit
--- init
{
    my $body = main::body(8 * 1024 * 1024, '"model":"m",', '');
    main::arrives('/v1/embeddings', $body, $body);
}
--- request
GET /v1/models
--- error_code: 200



=== 8 MB that are refused at their very end
--- init
main::refused(400, main::body(8 * 1024 * 1024, '"model":"m",', ''). 'x');
main::refused(400, main::body(8 * 1024 * 1024, '"model":"m",',
                              ',"MODEL":"n"'));
main::refused(400, main::body(8 * 1024 * 1024, '', ''));
Test::More::is(scalar(main::upstream()->requests), 0, 'nothing went upstream');
--- request
GET /v1/models
--- error_code: 200



=== edits where pieces of a file meet
--- config
location / {
    client_body_buffer_size 8k;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- init
main::across_pieces();
--- request
GET /v1/models
--- error_code: 200



=== edits where pieces of memory meet
--- init
main::across_pieces();
--- request
GET /v1/models
--- error_code: 200



=== chunks, in memory and in a file
--- config
location / {
    client_body_buffer_size 64k;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- init
main::chunked($_) for 1000, 50000, 300000;
--- request
GET /v1/models
--- error_code: 200



=== another upstream gets the edited body from its beginning, out of memory
--- http_config eval
main::gate_http('upstream both { server 127.0.0.1:$TEST_NGINX_UPSTREAM_PORT '
    . 'max_fails=0; '
    . 'server 127.0.0.1:$TEST_NGINX_SPARE_PORT backup; }')
--- config
location / {
    proxy_next_upstream error http_503 non_idempotent;
    clawd_pass http://both;
}
--- upstream eval
[[main::reply(503, '{}')]]
--- spare eval
[sub { Clawd::Gate::answer($_[0]) }]
--- init
main::retried(500000);
--- request
GET /v1/models
--- error_code: 200



=== another upstream gets the edited body from its beginning, out of a file
--- http_config eval
main::gate_http('upstream both { server 127.0.0.1:$TEST_NGINX_UPSTREAM_PORT '
    . 'max_fails=0; '
    . 'server 127.0.0.1:$TEST_NGINX_SPARE_PORT backup; }')
--- config
location / {
    client_body_buffer_size 8k;
    proxy_next_upstream error http_503 non_idempotent;
    clawd_pass http://both;
}
--- upstream eval
[[main::reply(503, '{}')]]
--- spare eval
[sub { Clawd::Gate::answer($_[0]) }]
--- init
main::retried(100);
main::retried(500000);
--- request
GET /v1/models
--- error_code: 200



=== another upstream by error_page, out of a file
--- config
location / {
    client_body_buffer_size 8k;
    proxy_intercept_errors on;
    error_page 503 = @spare;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
location @spare {
    client_body_buffer_size 8k;
    clawd_pass http://127.0.0.1:$TEST_NGINX_SPARE_PORT;
}
--- upstream eval
[[main::reply(503, '{}')]]
--- spare eval
[sub { Clawd::Gate::answer($_[0]) }]
--- init
main::retried(100);
main::retried(500000);
--- request
GET /v1/models
--- error_code: 200



=== a generation that may have begun is not begun again elsewhere
--- http_config eval
main::gate_http('upstream both { server 127.0.0.1:$TEST_NGINX_UPSTREAM_PORT; '
    . 'server 127.0.0.1:$TEST_NGINX_SPARE_PORT backup; }')
--- config
location / { clawd_pass http://both; }
--- upstream eval
[[{ reset => 1 }]]
--- request
POST /v1/chat/completions
{"model":"library/m"}
--- refused: openai 502 upstream_unavailable
--- upstream_count: 1
--- upstream_body chomp
{"model":"m"}
--- spare_count: 0
--- error_log
reset by peer



=== an upstream that is not there, before one that is
--- http_config eval
main::gate_http('upstream both { server 127.0.0.1:$TEST_NGINX_RAND_PORT_1; '
    . 'server 127.0.0.1:$TEST_NGINX_SPARE_PORT backup; }')
--- config
location / {
    client_body_buffer_size 8k;
    clawd_pass http://both;
}
--- spare eval
[sub { Clawd::Gate::answer($_[0]) }]
--- init
main::edited(30000, 'spare');
main::edited(3000, 'spare');
--- request
GET /v1/models
--- error_code: 200
--- error_log
connect() failed



=== proxy_request_buffering off does not hurt bodies in files
--- config
location / {
    client_body_buffer_size 8k;
    proxy_request_buffering off;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- init
main::edited(100000);
--- request
GET /v1/models
--- error_code: 200



=== no temporary file is left behind
--- config
location / {
    client_body_buffer_size 8k;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- init
main::edited(100000);
Test::More::is(scalar(grep { -f } map { glob "$_/*" }
                      glob(main::server_root() . '/client_body_temp*')), 0,
               'the folder is empty');
--- request
GET /v1/models
--- error_code: 200
