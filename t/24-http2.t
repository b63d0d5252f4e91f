# The gate behind HTTP/2: wire.md 108, 154-156.

use strict;
use warnings;

use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Gate;
use Clawd::Client;

gate_default(http_config => gate_http(<<'E'), config => '');
server {
    listen 127.0.0.1:$TEST_NGINX_RAND_PORT_1 http2;

    location / { clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT; }
    location /v1/embeddings {
        clawd_max_tokens 5;
        client_body_buffer_size 8k;
        clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
    }
    location /v1/messages {
        clawd_cors https://app.example;
        clawd_max_tokens 5;
        client_body_buffer_size 8k;
        clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
    }
    location /api/ {
        clawd_auth token_arg;
        clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
    }
}
E

worker_connections(512);
no_shuffle();
run_tests();


sub port {
    open my $in, '<', server_root() . '/conf/nginx.conf' or die "$!\n";
    my ($port) = join('', <$in>) =~ /listen 127\.0\.0\.1:(\d+) http2/;
    return $port;
}


sub h2 {
    my ($path, @arguments) = @_;

    return curl('--http2-prior-knowledge', '--path-as-is',
                '-H', 'Authorization: Bearer sk-alice', @arguments,
                'http://127.0.0.1:' . port() . $path);
}


sub body_file {
    my ($body) = @_;
    my $path = server_root() . '/html/body';

    open my $out, '>', $path or die "cannot write $path: $!\n";
    print $out $body;
    close $out or die "cannot write $path: $!\n";
    return "\@$path";
}

sub last_request {
    return (upstream()->requests)[-1] // { raw => '', body => '' };
}


sub passes {
    my $got = h2('/v1/chat/completions?x=y', '-d', '{"model":"library/m"}',
                 '-H', 'Cookie: a=b', '-H', 'Cookie: c=d',
                 '-H', 'TE: trailers', '-H', 'Origin: https://x',
                 '-H', 'X-Kept: yes');

    Test::More::is($got->{code}, 200, 'a request');
    Test::More::like($got->{header}, qr{^HTTP/2 200}, 'by HTTP/2');
    Test::More::like($got->{header}, qr/^x-request-id: [0-9a-f]{24}\r$/m,
                     'with an id');
    Test::More::is(last_request()->{body}, '{"model":"m"}',
                   'its body is edited');
    Test::More::like(last_request()->{raw},
                     qr{\APOST /v1/chat/completions HTTP/1\.1\r\n}, 'its path');
    Test::More::unlike(last_request()->{raw},
                       qr/^(?:authorization|cookie|te|origin|connection):/mi,
                       'what stays here');
    Test::More::like(last_request()->{raw}, qr/^x-kept: yes\r$/mi,
                     'what passes');
    Test::More::is(last_request()->{headers}{'content-length'}, 13,
                   'its length');
}


# 155: the end of the stream ends the body.

sub without_length {
    for my $size (5, 5000, 50000) {
        my $text = 'x' x $size;
        my $got = h2('/v1/messages', '-H', 'Content-Length:', '--data-binary',
                     body_file(qq({"a":"$text","model":"library/m"})));
        my $want = qq({"max_tokens":5,"a":"$text","model":"m"});

        Test::More::is($got->{code}, 200, "$size bytes without a length");
        Test::More::is(last_request()->{body}, $want, 'they arrive, edited');
        Test::More::is(last_request()->{headers}{'content-length'},
                       length $want, 'with a length');
    }
}


# Without bodies: a curl that is answered before it has sent one may call that
# an error.

sub refused {
    my $port = port();
    my $got = curl('--http2-prior-knowledge', '-X', 'POST',
                   "http://127.0.0.1:$port/v1/messages");

    Test::More::is($got->{code}, 401, 'no token');
    Test::More::like($got->{header}, qr/^www-authenticate: Bearer\r$/mi,
                     'its challenge');
    Test::More::like($got->{body},
                     qr/^\{"type":"error","error":\{"type":"authentication_/,
                     'in its shape');

    my @cases = (
        [400, '/v1/chat/completions', '-d', '{"model":"m","MODEL":"n"}'],
        [400, '/v1/chat/completions', '-X', 'POST'],
        [400, '/v1/models/a%2fb'], [403, '/api/delete', '-X', 'DELETE'],
        [404, '/none'], [405, '/v1/chat/completions'],
        [415, '/v1/chat/completions', '-X', 'POST', '-H',
         'Content-Encoding: gzip'],
    );

    for my $case (@cases) {
        my ($code, @request) = @$case;
        $got = h2(@request);

        Test::More::is($got->{code}, $code, "$code for @request");
        Test::More::like($got->{header},
                         qr{^content-type: application/json\r$}mi,
                         'as JSON');
    }

    Test::More::is(scalar(upstream()->requests), 0, 'nothing went upstream');
}


sub streamed {
    my $got = h2('/v1/chat/completions', '-d', '{"model":"m","stream":true}');

    Test::More::is($got->{code}, 200, 'a stream');
    Test::More::like($got->{body}, qr/"content":"hi".*\[DONE\]\n\n\z/s,
                     'is whole');
    Test::More::unlike($got->{body}, qr/"choices":\[\]/,
                       'without the usage that was asked for here');
    Test::More::unlike($got->{header},
                       qr/^(?:connection|keep-alive|transfer-encoding):/mi,
                       '108: no header of a hop');
}


sub cors {
    my $got = curl('--http2-prior-knowledge', '-X', 'OPTIONS',
                   '-H', 'Origin: https://app.example',
                   'http://127.0.0.1:' . port() . '/v1/messages');

    Test::More::is($got->{code}, 204, 'a preflight');
    Test::More::like($got->{header},
        qr{^access-control-allow-origin: https://app\.example\r$}mi,
        'its permission');
}


sub token_arg {
    my $port = port();
    my $got = curl('--http2-prior-knowledge',
                   "http://127.0.0.1:$port/api/tags?token=sk-alice");

    Test::More::is($got->{code}, 200, 'a token in the query');
    Test::More::like(last_request()->{raw}, qr{\AGET /api/tags HTTP/1\.1\r\n},
                     'stays here');

    my $log = server_root() . '/logs/access.log';
    my $text;

    Test::More::ok(wait_until(sub {
        open my $in, '<', $log or return 0;
        $text = do { local $/; <$in> } // '';
        return $text =~ /token=\*{8}/;
    }), 'it is cut out of the log');
    Test::More::unlike($text, qr/sk-alice/, 'all of it');
}


# 154: a stream that its client resets ends its request upstream.

sub abandoned {
    my $got = h2('/v1/chat/completions', '-d', '{"model":"m","stream":true}',
                 '--max-time', '0.3', '--no-show-error');

    Test::More::is($got->{exit}, 28, 'the client has left');
    Test::More::ok(upstream()->wait_for(1, 'aborted'),
                   'the upstream is left as well');
}


# 154: 100 requests at once on one connection, their answers held back until
# all have arrived.  Frames are written by hand: names and values as literals
# without an index, nobody's compression state involved.

sub frame {
    my ($type, $flags, $stream, $payload) = @_;

    return substr(pack('N', length $payload), 1)
           . pack('CCN', $type, $flags, $stream) . $payload;
}

sub literals {
    my (@headers) = @_;
    return join '', map { "\0" . pack('C/a* C/a*', @$_) } @headers;
}

sub parallel {
    my $client = client(port());

    $client->send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", frame(4, 0, 0, ''));

    for my $i (1 .. 100) {
        $client->send(frame(1, 5, 2 * $i - 1, literals(
            [':method', 'GET'], [':scheme', 'http'], [':authority', 'x'],
            [':path', "/v1/models/m$i"],
            ['authorization', $i % 10 ? 'Bearer sk-alice' : 'Bearer none'])));
    }

    Test::More::ok(upstream()->wait_for(90), '90 of 100 streams go upstream');
    upstream()->open_gate('all');

    my ($ended, %answers) = (0);

    while ($ended < 100) {
        my $head = $client->read_until(qr/\A.{9}/s) // last;
        my ($length, $type, $flags, $stream) =
            unpack 'N C C N', "\0$head";
        my $payload = $length ? $client->read_until(qr/\A.{$length}/s) : '';

        $answers{$stream} .= $payload if $type == 0;
        $ended++ if $type < 2 && $flags & 1;
    }

    Test::More::is($ended, 100, 'all end');
    Test::More::is(scalar(grep { /m\d/ } values %answers), 90,
                   'as they should');
    Test::More::is(scalar(grep { $answers{ 2 * $_ - 1 } =~ /models.m$_"/ }
                          grep { $_ % 10 } 1 .. 100), 90,
                   'each with its own answer');
    Test::More::is(scalar(grep { $answers{ 20 * $_ - 1 } =~ /token invalid/ }
                          1 .. 10), 10, 'or its own refusal');
}

__DATA__

=== 155: a request
--- init
main::passes();
--- request
GET /none
--- error_code: 404
--- no_error_log
[alert]



=== 155: no Content-Length
--- init
main::without_length();
--- request
GET /none
--- error_code: 404
--- no_error_log
[alert]



=== refusals
--- init
main::refused();
--- request
GET /none
--- error_code: 404
--- no_error_log
[alert]



=== streams
--- init
main::streamed();
--- request
GET /none
--- error_code: 404
--- no_error_log
[alert]



=== 152: preflights
--- init
main::cors();
--- request
GET /none
--- error_code: 404
--- no_error_log
[alert]



=== A10: a token in the query
--- log_level: info
--- init
main::token_arg();
--- request
GET /none
--- error_code: 404
--- no_error_log
sk-alice
[alert]



=== 154: a client that leaves
--- upstream eval
[[main::stream('text/event-stream'),
  main::sse('{"model":"m","choices":[{"index":0,"delta":{"content":"one"}}]}'),
  { stall => 1 }]]
--- init
main::abandoned();
--- request
GET /none
--- error_code: 404
--- no_error_log
[alert]



=== 154: many streams
--- upstream eval
[{ gate => 'all' }, sub { main::reply(200, qq({"path":"$_[0]{uri}"})) }]
--- init
main::parallel();
--- request
GET /none
--- error_code: 404
--- no_error_log
[alert]



=== 108: headers of a hop from the upstream
--- upstream eval
main::reply(200, '{"type":"message"}', 'Connection' => 'keep-alive',
            'Keep-Alive' => 'timeout=5', 'Proxy-Connection' => 'close',
            'Upgrade' => 'h2c')
--- init
{
    my $got = main::h2('/v1/messages', '-d', '{"model":"m"}');
    Test::More::is($got->{code}, 200, 'an answer');
    Test::More::unlike($got->{header}, qr/^(?:(?:proxy-)?connection|keep-alive|upgrade):/mi,
                       'without them');
}
--- request
GET /none
--- error_code: 404
--- no_error_log
[alert]
