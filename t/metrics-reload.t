# Counters outlive reloads and workers; what is in flight does not outlive the
# worker that held it.

use strict;
use warnings;

use POSIX ();
use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Upstream;
use Clawd::Client;

our $http = <<'E';
clawd_zone clawd:1m;
clawd_token sk-alice user=alice;
E

our $config = <<'E';
location = /metrics { clawd_metrics; }
location /v1/ {
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
    proxy_http_version 1.1;
}
E

# a whole answer first, so that the model is known, then streams that are held

our $script = [[main::reply(200, '{"choices":[{"index":0,"message":'
        . '{"role":"assistant","content":"hi"},"finish_reason":"stop"}],'
        . '"usage":{"prompt_tokens":5,"completion_tokens":7}}',
        'Content-Type' => 'application/json')],
    [stream('text/event-stream'),
     sse('{"choices":[{"index":0,"delta":{"content":"a"}}]}'),
     { gate => 'rest' },
     sse('{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}',
         '{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7}}',
         '[DONE]'),
     chunk()]];

master_on();
workers(2);
repeat_each(1);
no_shuffle();
run_tests();


sub scrape {
    return curl('http://127.0.0.1:' . server_port() . '/metrics')->{body};
}


# value(SERIES, PAGE): the value of a series, of a fresh page if none is given.

sub value {
    my ($series, $page) = @_;

    $page //= scrape();
    return $page =~ /^\Qclawdbot_$series\E (\S+)$/m ? $1 : undef;
}


# becomes(SERIES, VALUE, NAME): a test; workers settle on their own time.

sub becomes {
    my ($series, $value, $name) = @_;

    wait_until(sub { (value($series) // '') eq $value });
    Test::More::is(value($series), $value, $name);
}


sub ask {
    my ($rest, @headers) = @_;
    my $client = client();

    $client->request('POST', '/v1/chat/completions',
                     qq({"model":"m","messages":[]$rest}),
                     'Authorization' => 'Bearer sk-alice',
                     'Content-Type' => 'application/json', @headers);
    return $client;
}


sub ask_whole {
    my $client = ask('', Connection => 'close');

    Test::More::like($client->read_all, qr/"hi"/, 'an answer');
    $client->close;
    becomes('model_request_total{model="m"}', 1, 'it is counted');
}


sub ask_stream {
    my $client = ask(',"stream":true', Connection => 'close');

    Test::More::like($client->read_until(qr/"a"/), qr/ 200 /, 'a stream');
    return $client;
}


sub over_reload {
    ask_whole();

    my $client = ask_stream();
    becomes('requests_in_flight{model="m"}', 1, 'the stream is in flight');

    for my $n (1 .. 3) {
        Test::More::ok(reload_nginx(), "reload $n");
        Test::More::is(value('requests_in_flight{model="m"}'), 1,
                       'the stream of the old worker is in flight');
        Test::More::is(value('model_request_total{model="m"}'), 1,
                       'what was counted is still there');
        Test::More::is(value('tokens_total{model="m",type="completion"}'), 7,
                       'so are the tokens');
    }

    upstream()->open_gate('rest');
    Test::More::like($client->read_all, qr/\[DONE\]/, 'the stream ends');
    $client->close;

    becomes('requests_in_flight{model="m"}', 0, 'nothing is in flight');
    becomes('model_request_total{model="m"}', 2,
            'the old worker counted its stream');
    Test::More::is(value('tokens_total{model="m",type="completion"}'), 14,
                   'and its tokens');
    Test::More::is(value('model_error_total{model="m",error_type="reset"}'),
                   0, 'without an error');
}


sub over_kill {
    ask_whole();

    my @clients = map { ask_stream() } 1 .. 4;
    becomes('requests_in_flight{model="m"}', 4, 'four streams are in flight');

    my %old = map { $_ => 1 } worker_pids();
    kill 'KILL', keys %old;

    Test::More::ok(wait_until(sub {
        my @new = grep { !$old{$_} } worker_pids();
        return @new == 2 && scrape() =~ /in_flight/;
    }), 'new workers serve');

    Test::More::is(value('requests_in_flight{model="m"}'), 0,
                   'what the dead held is gone');
    Test::More::is(value('model_request_total{model="m"}'), 1,
                   'what they had counted is not');

    $_->close for @clients;
}


# Many requests at once, by both workers and over reloads: none is lost or
# counted twice, and no page goes back.

sub under_load {
    my ($last, $back) = (0, 0);
    my @children;

    for (1 .. 4) {
        my $pid = fork // die "fork: $!\n";
        push @children, $pid;
        next if $pid;

        for (1 .. 50) {
            my $client = ask('', Connection => 'close');
            POSIX::_exit(1) if $client->read_all !~ /"hi"/;
            $client->close;
        }

        POSIX::_exit(0);
    }

    for my $n (1 .. 4) {
        reload_nginx() or Test::More::fail("reload $n");

        my $page = scrape();
        my $now = value('model_request_total{model="m"}', $page) // 0;
        $back++ if $now < $last;
        $last = $now;
    }

    for my $pid (@children) {
        waitpid $pid, 0;
        Test::More::is($?, 0, 'all requests of a client were answered');
    }

    Test::More::is($back, 0, 'no page went back');
    becomes('model_request_total{model="m"}', 200, 'each request is counted');
    Test::More::is(value('tokens_total{model="m",type="prompt"}'), 1000,
                   'with its tokens');
    Test::More::is(value('user_requests_total{user="alice"}'), 200,
                   'for its user');
    Test::More::is(value('http_request_duration_seconds_count'
                         . '{model="m",code="2xx"}'), 200, 'with its time');
    becomes('requests_in_flight{model="other"}', 0, 'none is in flight');
    becomes('requests_in_flight{model="m"}', 0, 'none is in flight');
}


# A zone of another size is a new one: the old workers keep theirs.

sub other_size {
    ask_whole();

    my $client = ask_stream();
    my $conf = server_root() . '/conf/nginx.conf';

    open my $in, '<', $conf or die "$conf: $!\n";
    my $text = do { local $/; <$in> };
    close $in;

    $text =~ s/clawd:1m/clawd:2m/ or die "no zone in $conf\n";
    open my $out, '>', $conf or die "$conf: $!\n";
    print $out $text;
    close $out or die "$conf: $!\n";

    Test::More::ok(reload_nginx(), 'reload');
    Test::More::is(value('model_request_total{model="other"}'), 0,
                   'a new zone starts at nothing');
    Test::More::is(value('model_request_total{model="m"}'), undef,
                   'and knows no model');

    upstream()->open_gate('rest');
    Test::More::like($client->read_all, qr/\[DONE\]/,
                     'the stream of the old worker ends well');
    $client->close;
}

__DATA__

=== TEST 1: reloads under a stream
--- http_config eval: $::http
--- config eval: $::config
--- upstream eval: $::script
--- init
main::over_reload();
--- request
GET /metrics
--- no_error_log
[error]



=== TEST 2: workers are killed with streams in flight
--- http_config eval: $::http
--- config eval: $::config
--- upstream eval: $::script
--- init
main::over_kill();
--- request
GET /metrics
--- error_log
[alert]



=== TEST 3: a reload with a zone of another size
--- http_config eval: $::http
--- config eval: $::config
--- upstream eval: $::script
--- init
main::other_size();
--- request
GET /metrics
--- no_error_log
[error]



=== TEST 4: reloads under load
--- http_config eval: $::http
--- config eval: $::config
--- upstream eval: [$::script->[0]]
--- init
main::under_load();
--- request
GET /metrics
--- no_error_log
[error]
