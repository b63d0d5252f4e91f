# The page of metrics and the log say the same of a mixture of requests, and
# the numbers fit each other.

use strict;
use warnings;

use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Observe;

no_shuffle();
log_level('info');


# What an upstream may do; the fates of the mixture.

our %fates = (
    whole   => sub { deliver('whole', framing_of($_[0]), body_of($_[0])) },
    bytes   => sub { deliver('bytes', framing_of($_[0]), body_of($_[0])) },
    early   => sub { deliver('whole', framing_of($_[0]), (events($_[0]))[0]) },
    cut     => sub { deliver('cut', framing_of($_[0]), (events($_[0]))[0]) },
    middle  => sub { deliver('cut', framing_of($_[0]),
                             (events($_[0]))[0] . 'data') },
    hangup  => sub { { close => 1 } },
    missing => sub { reply(404, '{"error":"model not found"}') },
    busy    => sub { reply(503, '{"error":"busy"}') },
    boom    => sub { reply(500, 'boom', 'Content-Type' => 'text/plain') },
    portal  => sub { reply(200, '<html>', 'Content-Type' => 'text/html') },
    moved   => sub { reply(302, '', Location => '/') },
    tell    => sub { reply(200, '{"error":"broken"}') },
    noise   => sub { ("GARBAGE\r\n", { close => 1 }) },
    stall   => sub { (deliver('cut', framing_of($_[0]), (events($_[0]))[0]))[0],
                     { stall => 1 } },
);

sub script {
    my ($request) = @_;
    my ($format, $fate) = split ' ', $request->{headers}{'x-case'};

    return $fates{$fate}->($format);
}

sub page {
    my $client = client();

    $client->request('GET', '/metrics', undef, Connection => 'close');
    return $client->read_all;
}


# sum(PAGE, PATTERN): of all series that match.

sub sum {
    my ($page, $pattern) = @_;
    my $sum = 0;

    $sum += $1 while $page =~ /^clawdbot_$pattern (\S+)$/mg;
    return $sum;
}

sub mixture {
    my (%log, @ids);
    my ($passed, $prompt, $completion) = (0, 0, 0);

    for my $fate (sort keys %fates) {
        for my $format (formats()) {
            my ($path, $body) = asked($format);

            # a few models, one of which nobody ever answers for

            my $model = $fate =~ /^[a-h]/ ? 'a' : $fate =~ /stall/ ? 'b'
                      : $fate =~ /^(?:portal|noise)/ ? 'never' : 'c';
            $body =~ s/"model":"m"/"model":"$model"/;

            my $answer = exchange('POST', $path, $body,
                                  'X-Case' => "$format $fate",
                                  Authorization => $passed % 3
                                  ? 'Bearer sk-alice' : 'Bearer sk-root');
            my $log = log_of($answer->{id});

            $passed++;
            $log{ $log->{error} }++;
            $prompt += $log->{prompt_tokens} || 0;
            $completion += $log->{completion_tokens} || 0;
        }
    }

    # and some that go nowhere

    exchange('POST', '/v1/chat/completions', '{"model":'),
        exchange('GET', '/v1/nope', undef),
        exchange('POST', asked('chat'), Authorization => 'Bearer sk-x')
            for 1 .. 3;

    becomes('requests_in_flight{model="a"}', 0);

    my $page = page();

    Test::More::is(sum($page, 'model_request_total\{[^}]*\}'), $passed,
                   'each request that went upstream is counted');
    Test::More::is(sum($page, 'rejected_total\{[^}]*\}'), 9,
                   'each other is refused');

    delete $log{''};

    for my $type (sort keys %log) {
        Test::More::is(sum($page, 'model_error_total\{[^}]*error_type="'
                                  . $type . '"\}'), $log{$type},
                       "errors: $type");
    }

    Test::More::is_deeply([sort keys %log],
                          [qw(incomplete invalid_response reset timeout
                              upstream_4xx upstream_5xx)],
                          'all kinds were among them');
    Test::More::is(sum($page, 'tokens_total\{[^}]*type="prompt"\}'),
                   $prompt, 'prompt tokens');
    Test::More::is(sum($page, 'tokens_total\{[^}]*type="completion"\}'),
                   $completion, 'completion tokens');
    Test::More::is(sum($page, 'user_tokens_total\{[^}]*type="completion"\}'),
                   $completion, 'the same by user');
    Test::More::is(sum($page, 'user_requests_total\{[^}]*\}'), $passed,
                   'requests by user');
    Test::More::is(sum($page, 'http_request_duration_seconds_count\{[^}]*\}'),
                   $passed, 'each has its time');
    Test::More::is(sum($page, 'http_request_duration_seconds_bucket\{[^}]*'
                              . 'le="\+Inf"\}'), $passed, 'in buckets');
    Test::More::unlike($page, qr/model="never"/,
                       'a model that never answered is "other"');
    Test::More::is(sum($page, 'requests_in_flight\{[^}]*\}'), 0,
                   'nothing is in flight');

    for my $model (qw(a b c other)) {
        my $all = sum($page, "model_request_total\\{model=\"$model\"\\}");
        my $bad = sum($page, "model_error_total\\{model=\"$model\",[^}]*\\}");

        Test::More::cmp_ok($bad, '<=', $all, "$model: an error rate below 1");
    }

    check_buckets($page);
}


# Buckets grow from one to the next, the last one is the count.

sub check_buckets {
    my ($page) = @_;
    my (%last, %count);

    while ($page =~ /^(clawdbot_\w+)_bucket\{(.*?),?le="([^"]+)"\} (\d+)$/mg) {
        my ($series, $le, $n) = ("$1\{$2\}", $3, $4);

        if ($n < ($last{$series} // 0)) {
            Test::More::fail("$series falls at $le");
        }

        $last{$series} = $n;
    }

    while ($page =~ /^(clawdbot_\w+)_count(?:\{(.*?)\})? (\d+)$/mg) {
        my $series = "$1\{" . ($2 // '') . '}';

        Test::More::is($last{$series}, $3, "$series: count and buckets");
    }
}


# How long things took: two pauses of 120 ms in a stream of three tokens.

sub times {
    my $answer = exchange('POST', asked('chat'));
    my $log = log_of($answer->{id});

    Test::More::cmp_ok($log->{ttft}, '>=', 0.1, 'the first token took time');
    Test::More::cmp_ok($log->{ttft}, '<=', $log->{request_time},
                       'and less than the whole');
    Test::More::cmp_ok($log->{request_time}, '>=', 0.2, 'which took more');

    my $page = page();
    my $at = sub { $page =~ /^clawdbot_\Q$_[0]\E (\S+)$/m ? $1 : undef };

    Test::More::is($at->('time_to_first_token_seconds_bucket{model="m",'
                         . 'le="0.1"}'), 0, 'no sooner');
    Test::More::is($at->('time_to_first_token_seconds_count{model="m"}'), 1,
                   'once');
    Test::More::cmp_ok(abs($at->('time_to_first_token_seconds_sum{model="m"}')
                           - $log->{ttft}), '<', 0.002, 'as in the log');
    Test::More::cmp_ok($at->('http_request_duration_seconds_sum{model="m",'
                             . 'code="2xx"}'), '>=', 0.2, 'the whole');
    Test::More::cmp_ok($at->('time_per_output_token_seconds_sum{model="m"}'),
                       '>=', 0.1, 'from token to token');
    Test::More::cmp_ok($at->('upstream_request_duration_seconds_sum'
                             . '{model="m"}'), '>=', 0.2, 'the upstream');
    Test::More::is($at->('upstream_connect_seconds_count{model="m"}'), 1,
                   'one connection');
}

# The ledger's families are there where it is, with their types, and of Redis
# where that is.

sub families {
    my ($want, @types) = @_;

    for my $accept ('text/plain',
                    'application/openmetrics-text; version=1.0.0') {
        my $page = exchange('GET', '/metrics', undef, Accept => $accept)->{body};

        for (@types) {
            my ($name, $type) = split ' ';

            # in OpenMetrics a counter's family has no _total

            my $family = $accept =~ /openmetrics/ ? $name =~ s/_total$//r
                                                  : $name;
            my $there = () = $page =~ /^# TYPE clawdbot_$family $type\r?$/mg;
            Test::More::is($there, $want, "$accept: $name");
        }
    }
}

our @ledger = ('user_quota_limit gauge', 'user_quota_used gauge',
               'quota_underestimate_tokens_total counter',
               'quota_dry_run_total counter', 'ledger_invalid_total counter');
our @redis = ('redis_up gauge', 'redis_command_duration_seconds histogram',
              'redis_errors_total counter', 'ledger_spooled_total counter');


# A mixture of users under quotas: the sums fit.

sub under_quotas {
    my (%sent, %code);

    for my $i (1 .. 40) {
        my $user = qw(alice few none tiny)[$i % 4];
        my ($path, $body) = asked($i % 3 ? 'chat' : 'native');
        my $answer = exchange('POST', $path, $body,
                              Authorization => "Bearer sk-$user");

        $sent{$user}++;
        $code{ $answer->{status} }++;
    }

    becomes('requests_in_flight{model="m"}', 0);
    becomes('requests_in_flight{model="other"}', 0);

    my $page = page();

    Test::More::is(sum($page, 'rejected_total\{[^}]*\}'),
                   $code{429} + $code{400}, 'refusals');
    Test::More::is(sum($page, 'model_error_total\{[^}]*error_type="quota"\}'),
                   $code{429} + $code{400}, 'are errors of the quota');
    Test::More::is(sum($page, 'model_request_total\{[^}]*\}'), 40,
                   'and requests');
    Test::More::is(sum($page, "user_requests_total\\{user=\"$_\"\\}"),
                   $sent{$_}, "the requests of $_")
        for sort keys %sent;
    Test::More::is(sum($page, 'http_request_duration_seconds_count\{[^}]*\}'),
                   $code{200}, 'their times are not among the others');
    Test::More::is(sum($page, 'tokens_total\{[^}]*type="prompt"\}'),
                   26 * $code{200}, 'nor tokens');
    Test::More::is(sum($page, 'user_quota_used\{user="alice",'
                              . 'limit="tokens_per_day"\}'),
                   36 * $sent{alice}, 'the quota has the same sum');
    Test::More::is(sum($page, 'user_quota_used\{user="none",[^}]*\}'), 0,
                   'and nothing of who may nothing');
    Test::More::is(sum($page, 'user_quota_used\{user="few",limit="rpm"\}'), 3,
                   'and the requests that passed');
    Test::More::is(sum($page, 'rejected_total\{reason="exceeds_limit"\}'),
                   $sent{tiny}, 'what is larger than a limit');
    check_buckets($page);
}

run_tests();

__DATA__

=== a mixture
--- config eval: main::conf('proxy_read_timeout 400ms;')
--- upstream eval
[sub { main::script($_[0]) }]
--- init
main::mixture();
--- error_log
upstream prematurely closed connection



=== times
--- upstream eval
[main::stream('text/event-stream'), main::chunk(": hello\n\n"),
 { pause => 0.12 }, main::chunk((main::events('chat'))[0]),
 { pause => 0.12 }, main::chunk((main::events('chat'))[1 .. 2]),
 main::chunk((main::events('chat'))[3] =~ s/_tokens":10/_tokens":2/r,
             (main::events('chat'))[4]), main::chunk()]
--- init
main::times();



=== what NGINX refuses before the gate, and lists, are no generations
--- config eval
main::conf('') . 'location /v1/models { deny all; '
. 'clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT; }'
--- request eval: ["GET /v1/models", "GET /api/tags", "GET /"]
--- error_code eval: [403, 200, 200]
--- no_error_log
[alert]
--- counted
rejected_total{reason="nginx"} 1
model_request_total{model="other"} 0
requests_in_flight{model="other"} 0



=== the families of the ledger
--- http_config eval: main::http('clawd_quota default rpm=5;')
--- init
main::families(1, @main::ledger);
main::families(0, @main::redis);



=== the families of Redis
--- http_config eval
main::http('clawd_redis redis://127.0.0.1:$TEST_NGINX_RAND_PORT_1;')
--- init
main::families(1, @main::ledger, @main::redis);
main::becomes('redis_up', 0);
--- error_log
does not serve (connect)



=== no ledger, no families of it
--- init
main::families(0, @main::ledger, @main::redis);



=== a mixture under quotas
--- http_config eval
main::http('clawd_quota default tokens_per_day=1000000;',
           'clawd_quota few rpm=3;', 'clawd_quota none concurrency=0;',
           'clawd_quota tiny tokens_per_day=10;',
           map {; "clawd_token sk-$_ user=$_ plan=$_;" } qw(few none tiny))
--- upstream eval
+{ map { my ($f) = $_ eq '/api/chat' ? 'native' : 'chat';
        $_ => [main::deliver('whole', main::framing_of($f),
                             main::body_of($f))] }
      qw(/api/chat /v1/chat/completions) }
--- init
select undef, undef, undef, 0.1 while time % 60 > 50;
main::under_quotas();



=== a stored answer is nothing that the upstream sent
--- http_config eval
Clawd::Observe::http("proxy_cache_path $ENV{TEST_NGINX_SERVER_ROOT}/stored "
                     . "keys_zone=c:1m;")
--- config eval
Clawd::Observe::conf('proxy_cache c; proxy_cache_valid 200 1h; '
                     . 'add_header X-Cache $upstream_cache_status always;')
--- init
package main;
my $heard = 'upstream_last_byte_timestamp_seconds';
for my $case (['MISS', '>'], ['HIT', '==']) {
    my $before = metric($heard);
    select undef, undef, undef, 0.05 while time < $before + 2;
    my $client = client();
    $client->request('GET', '/v1/models', undef, Connection => 'close',
                     Authorization => 'Bearer sk-alice');
    Test::More::like($client->read_all, qr/X-Cache: $case->[0]/, $case->[0]);
    Test::More::cmp_ok(metric($heard), $case->[1], $before, 'what is heard');
}
