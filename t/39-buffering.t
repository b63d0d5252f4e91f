# Streams are not held back, whatever else is configured around them.

use strict;
use warnings;

use POSIX ();
use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Observe;

no_shuffle();
log_level('info');


# Each format's events, one by one: the next is sent when the client has the
# one before it.

sub script {
    my ($request) = @_;
    my ($format) = $request->{headers}{'x-case'};
    my @events = events($format);

    return stream(framing_of($format), 'X-Accel-Buffering' => 'yes',
                  'X-Accel-Redirect' => '/secret',
                  'X-Accel-Limit-Rate' => '1',
                  'X-Accel-Expires' => '3600', 'Cache-Control' => 'max-age=9'),
           (map { (chunk($events[$_]), { gate => "$format-$_" }) }
                0 .. $#events),
           chunk();
}

our $usage = ',"stream_options":{"include_usage":true}';

sub one_by_one {
    my (%opt) = @_;

    for my $format (@{ $opt{formats} // [formats()] }) {
        my ($path, $body) = asked($format, $usage);
        my @events = events($format);
        my $client = client();

        $client->send("POST $path HTTP/" . ($opt{version} // '1.1')
                      . "\r\nHost: localhost\r\nX-Case: $format\r\n"
                      . "Accept-Encoding: gzip\r\nConnection: close\r\n"
                      . "Authorization: Bearer sk-alice\r\nContent-Length: "
                      . length($body) . "\r\n\r\n$body");

        my $head = $client->read_until(qr/\r\n\r\n/) // '';

        Test::More::like($head, qr/ 200 OK\r\n/, "$format: the status");
        Test::More::unlike($head, qr/X-Accel-(?!Buffering: no)|encoding: gzip/i,
                           "$format: the headers");

        for my $n (0 .. $#events) {
            my $got = $client->read_until(qr/\Q$events[$n]\E/, 5);

            Test::More::ok(defined $got, "$format: event $n");
            last if !defined $got;
            upstream()->open_gate("$format-$n");
        }

        Test::More::ok(defined $client->read_all, "$format: the end");
    }
}


# The same over HTTP/2, by a curl whose output is looked at.

sub over_http2 {
    my ($path, $body) = asked('chat', $usage);
    my @events = events('chat');
    my $file = server_root() . '/html/h2.out';

    my $pid = fork // die "fork: $!\n";

    if ($pid == 0) {
        open STDOUT, '>', $file or POSIX::_exit(1);
        exec 'curl', '-sSN', '--http2-prior-knowledge', '--max-time', 20,
             '-H', 'Authorization: Bearer sk-alice', '-H', 'X-Case: chat',
             '-d', $body, 'http://127.0.0.1:'
             . Clawd::Observe::h2_port() . $path or POSIX::_exit(1);
    }

    for my $n (0 .. $#events) {
        my $so_far = join '', @events[0 .. $n];

        Test::More::ok(wait_until(sub {
            open my $in, '<', $file or return 0;
            return (do { local $/; <$in> } // '') eq $so_far;
        }), "event $n");
        upstream()->open_gate("chat-$n");
    }

    waitpid $pid, 0;
    Test::More::is($?, 0, 'the end');
}

our $cache = http('proxy_cache_path kept_cache keys_zone=c:1m;');

our $cached = conf("proxy_cache c;\nproxy_cache_methods POST;\n"
    . "proxy_cache_key \$request_uri;\nproxy_cache_valid any 1h;\n"
    . 'add_header X-Cache $upstream_cache_status;');

run_tests();

__DATA__

=== as it comes
--- upstream eval
[sub { main::script($_[0]) }]
--- init
main::one_by_one();



=== a client of HTTP/1.0
--- upstream eval
[sub { main::script($_[0]) }]
--- init
main::one_by_one(version => '1.0');



=== with buffers, a cache and compression
--- http_config eval: $::cache
--- config eval
$::cached =~ s/proxy_cache c;/proxy_cache c; proxy_buffering on;
    gzip on; gzip_min_length 1; gzip_proxied any; gzip_types *;
    proxy_buffers 8 64k; postpone_output 1460;/r
--- upstream eval
[sub { main::script($_[0]) }]
--- init
main::one_by_one();



=== over HTTP/2
--- http_config eval: main::h2_conf()
--- upstream eval
[sub { main::script($_[0]) }]
--- init
main::over_http2();



=== a stream is not stored
--- http_config eval: $::cache
--- config eval: $::cached
--- upstream eval
[main::deliver('whole', 'text/event-stream', main::body_of('chat'))]
--- request eval: [(main::ask('chat', $::usage)) x 2]
--- response_headers eval
[('X-Cache: MISS') x 2]
--- response_body eval: [(main::body_of('chat')) x 2]
--- upstream_count: 1
--- logged eval
[('prompt_tokens=26 completion_tokens=10 error=') x 2]



=== a whole answer out of the cache is metered as what it is
--- http_config eval: $::cache
--- config eval: $::cached
--- upstream eval
[main::reply(200, '{"choices":[{"index":0,"message":{"content":"hi"},'
    . '"finish_reason":"stop"}],"usage":{"prompt_tokens":5,'
    . '"completion_tokens":7}}')]
--- request eval
[("POST /v1/chat/completions\n{\"model\":\"m\",\"messages\":[]}") x 2]
--- response_headers eval
['X-Cache: MISS', 'X-Cache: HIT']
--- logged eval
['status=200 prompt_tokens=5 completion_tokens=7 error=',
 'status=200 error=']
--- counted
requests_in_flight{model="m"} 0



=== an error is not stored
--- http_config eval: $::cache
--- config eval: $::cached
--- upstream eval
[[main::reply(500, '{"error":"boom"}')],
 [main::reply(200, '{"choices":[{"index":0,"message":{"content":"hi"},'
    . '"finish_reason":"stop"}]}')]]
--- request eval
[("POST /v1/chat/completions\n{\"model\":\"m\",\"messages\":[]}") x 2]
--- error_code eval: [500, 200]



=== steering headers of the upstream's do nothing and go nowhere
--- config eval
main::conf('') . 'location /secret { internal; return 200 "secret"; }'
--- upstream eval
[main::reply(200, '{"choices":[]}', 'X-Accel-Redirect' => '/secret',
             'X-Accel-Buffering' => 'no', 'X-Accel-Charset' => 'koi8-r',
             'X-Accel-Limit-Rate' => '1', 'X-Accel-Expires' => '9')]
--- request
POST /v1/chat/completions
{"model":"m","messages":[]}
--- response_body chomp
{"choices":[]}
--- raw_response_headers_unlike: (?i)x-accel|koi8



=== a range of an answer: it is whole, and metered
--- config eval: main::conf('proxy_force_ranges on;')
--- upstream eval
[main::reply(200, '{"choices":[{"message":{"content":"hi"},'
                  . '"finish_reason":"stop"}],"usage":{"prompt_tokens":26,'
                  . '"completion_tokens":10}}')]
--- request
POST /v1/chat/completions
{"model":"m","messages":[]}
--- more_headers
Authorization: Bearer sk-alice
Range: bytes=1-
If-Range: "x"
--- error_code: 200
--- response_body_like: ^\{"choices".*\}$
--- upstream_request_unlike: (?i)^(?:if-)?range:
--- logged: prompt_tokens=26 completion_tokens=10 usage_source=upstream error=
