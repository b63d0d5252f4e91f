# Quotas: what each limit lets through and how it says no, and what a request
# is charged in the end.  t/51-quotas-redis.t runs the same blocks with the
# store in Redis.

use strict;
use warnings;

use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Quota;

no_shuffle();
log_level('info');
run_tests();

__DATA__

=== rpm: two pass, the third does not, in all families
--- quota
default rpm=2
--- init
package main;
early();
my $first = admitted(post('chat'), 'the first');
limited_headers($first, 'the first',
    'x-ratelimit-limit-requests' => 2, 'x-ratelimit-remaining-requests' => 1,
    'x-ratelimit-reset-requests' => qr/[1-5]?\d s?|1m\d+s|\d+s/,
    'x-ratelimit-limit-tokens' => undef, 'retry-after' => undef,
    'x-should-retry' => undef);
admitted(post('messages'), 'the second');
for my $format (qw(chat messages native)) {
    my $no = denied(post($format), $format, 429, 'rate_limit_error',
                    'rate_limit_exceeded',
                    qr/requests per minute: 2 of 2 used; resets in @{[soon()]}/,
                    'rpm');
    limited_headers($no, $format,
        'retry-after' => qr/[1-9]|[1-5]\d/, 'x-should-retry' => undef,
        'x-ratelimit-limit-requests' => 2,
        'x-ratelimit-remaining-requests' => 0,
        'x-ratelimit-reset-requests' => qr/(?:[1-9]|[1-5]\d|1m0)s|1m\d+s/);
}
saw(2);



=== tpm: what was not used is free again at once
--- quota
default tpm=230
--- init
package main;
early();
my $est = estimate('chat');
for my $n (1 .. 3) {
    admitted(post('chat'), "request $n");
    becomes_used(5 * $n, "after $n", undef, 'tpm');
}
Test::More::is($est, 219, 'the estimate that the limit is made for');
for my $format (qw(chat messages)) {
    my $no = denied(post($format), $format, 429, 'rate_limit_error',
        'rate_limit_exceeded',
        qr/tokens per minute: 15 of 230 used, this request needs up to $est; resets in @{[soon()]}/,
        'tpm');
    limited_headers($no, $format,
        'retry-after' => qr/[1-9]|[1-5]\d/, 'x-should-retry' => undef,
        'x-ratelimit-limit-requests' => undef,
        'x-ratelimit-limit-tokens' => 230,
        'x-ratelimit-remaining-tokens' => 215,
        'x-ratelimit-reset-tokens' => qr/\d+s|1m\d+s/);
}
saw(3);



=== 145: tokens_per_day: Retry-After says when, x-should-retry that it is late
--- quota
default tokens_per_day=225
--- init
package main;
early();
my $yes = admitted(post('chat'), 'the first');
limited_headers($yes, 'the first',
    'x-ratelimit-limit-tokens' => 225, 'x-ratelimit-remaining-tokens' => 6,
    'x-ratelimit-limit-requests' => undef);
becomes_used(5, 'settled');
admitted(post('chat'), 'the second');
becomes_used(10, 'settled');
for my $format (qw(chat messages native)) {
    my $est = estimate($format);
    my $no = denied(post($format), $format, 429, 'insufficient_quota',
        'insufficient_quota',
        qr/daily tokens: 10 of 225 used, this request needs up to $est; resets in (?:\d+ h \d+ min|\d+ min \d+ s|\d+ s)/,
        'the day') if $est <= 225;
    next if !$no;
    my $left = until_midnight();
    Test::More::cmp_ok(abs($no->{header}{'retry-after'} - $left), '<=', 2,
                       "$format: Retry-After is midnight");
    limited_headers($no, $format, 'x-should-retry' => 'false',
        'x-ratelimit-limit-tokens' => 225,
        'x-ratelimit-remaining-tokens' => 215,
        'x-ratelimit-reset-tokens' => qr/(?:\d+m)?\d+s/);
    my ($m, $s) = $no->{header}{'x-ratelimit-reset-tokens'}
                  =~ /^(?:(\d+)m)?(\d+)s$/;
    Test::More::cmp_ok(abs(($m // 0) * 60 + $s - $left), '<=', 2,
                       "$format: so does the reset");
}
saw(2);



=== 145: tokens_per_month
--- quota
default tokens_per_month=240
--- init
package main;
early();
for my $n (1 .. 2) {
    admitted(post('native'), "request $n");
    becomes_used(5 * $n, "after $n", undef, 'tokens_per_month');
}
my $end = usage()->{tokens_per_month}{resets_at};
my @end = gmtime $end;
Test::More::is("@end[0 .. 3]", '0 0 0 1', 'a month ends with its last day');
Test::More::cmp_ok($end - time, '<=', 31 * 86400, 'and soon enough');
for my $format (qw(native)) {
    my $est = estimate($format);
    my $no = denied(post($format), $format, 429, 'insufficient_quota',
        'insufficient_quota',
        qr/monthly tokens: 10 of 240 used, this request needs up to $est; resets in (?:\d+ d \d+ h|\d+ h \d+ min|\d+ min \d+ s|\d+ s)/,
        'the month');
    Test::More::cmp_ok(abs($no->{header}{'retry-after'} - ($end - time)), '<=',
                       2, "$format: Retry-After is its end");
    limited_headers($no, $format, 'x-should-retry' => 'false');
}
saw(2);



=== a day and a month that are spent, for the other families
--- http_config eval
main::quota_http('clawd_quota default tokens_per_day=250;',
                 'clawd_quota monthly tokens_per_month=250 '
                 . 'tokens_per_day=unlimited;',
                 'clawd_token sk-month user=month plan=monthly;')
--- init
package main;
early();
for ('sk-alice', 'sk-month') {
    my $left = 250;
    my $limit = /month/ ? 'tokens_per_month' : 'tokens_per_day';
    for my $n (1 .. 9) {
        last if $left < estimate('native');
        admitted(post('chat', token => $_), "$_: request $n");
        $left -= 5;
        becomes_used(250 - $left, 'settled', $_, $limit);
    }
    for my $format (qw(chat messages native)) {
        my $est = estimate($format, max => 40);
        my $name = /month/ ? 'monthly' : 'daily';
        my $used = 250 - $left;
        denied(post($format, token => $_, max => 40), $format, 429,
            'insufficient_quota', 'insufficient_quota',
            qr/$name tokens: $used of 250 used, this request needs up to $est; resets in .*/,
            $_) if $est <= 250 && $est > $left;
    }
}



=== concurrency: one at a time, and the place is free again
--- quota
default concurrency=1
--- upstream eval
[[main::stream('text/event-stream'),
  main::chunk((main::events('chat'))[0]), { gate => 'rest' },
  main::chunk((main::events('chat'))[1 .. 4]), main::chunk()],
 [sub { Clawd::Gate::answer($_[0]) }]]
--- init
package main;
my $client = send_post('chat', stream => 1);
$client->read_until(qr/Hel/);
for my $format (qw(chat messages native)) {
    my $no = denied(post($format), $format, 429, 'rate_limit_error',
                    'rate_limit_exceeded',
                    qr/concurrent requests: 1 of 1 used/, 'concurrency');
    limited_headers($no, $format, 'retry-after' => qr/[1-9]|[1-5]\d/,
                    'x-should-retry' => undef,
                    'x-ratelimit-limit-requests' => undef,
                    'x-ratelimit-limit-tokens' => undef);
}
Test::More::is(used('concurrency'), 1, 'one is told');
upstream()->open_gate('rest');
Test::More::like($client->read_all, qr/\[DONE\]/, 'the first is not harmed');
unheld();
admitted(post('chat'), 'the next one');
unheld();
saw(2);



=== 149: of many at once no more pass than the limit has room for
--- quota
default tokens_per_day=700
--- upstream eval
[{ gate => 'go' }, sub { Clawd::Gate::answer($_[0]) }]
--- init
package main;
my $est = estimate('chat');
my @clients = map { send_post('chat') } 1 .. 8;
Test::More::ok(upstream()->wait_for(3), 'three go on');
my @no = grep { defined $_->read_until(qr/\A.*\r\n\r\n.*\}\}/s, 1) }
              @clients;
Test::More::is(scalar @no, 5, 'five are refused');
Test::More::is(used('tokens_per_day'), 3 * $est, 'three are reserved');
upstream()->open_gate('go');
$_->read_all for @clients;
becomes_used(15, 'what was used');
unheld();
saw(3);
admitted(post('chat'), 'and there is room again');



=== a limit of 0 allows nothing, and no time helps
--- http_config eval
main::quota_http(map({; "clawd_quota $_ $_=0;",
                       "clawd_token sk-$_ user=$_ plan=$_;" }
                     qw(rpm tpm tokens_per_day tokens_per_month concurrency)),
                 'clawd_quota default rpm=1000;')
--- init
package main;
my %limits = (
    rpm => ['requests per minute', 'rate_limit_error', 'rate_limit_exceeded'],
    tpm => ['tokens per minute', 'rate_limit_error', 'rate_limit_exceeded'],
    tokens_per_day => ['daily tokens', ('insufficient_quota') x 2],
    tokens_per_month => ['monthly tokens', ('insufficient_quota') x 2],
    concurrency => ['concurrent requests', 'rate_limit_error',
                    'rate_limit_exceeded'],
);
for my $limit (sort keys %limits) {
    my ($text, $type, $code) = @{ $limits{$limit} };
    for my $format (qw(chat messages native)) {
        my $no = denied(post($format, token => "sk-$limit"), $format, 429,
                        $type, $code,
                        qr/$text: the limit is 0, nothing is allowed/, $limit);
        limited_headers($no, "$limit, $format", 'x-should-retry' => 'false',
                        'retry-after' => undef);
    }
    becomes("rejected_total{reason=\"$limit\"}", 3);
}
saw(0);
admitted(post('chat'), 'the default plan has no such limit');



=== unlimited, and no plan at all
--- http_config eval
main::quota_http('clawd_quota gold tokens_per_day=unlimited rpm=unlimited;',
                 'clawd_token sk-gold user=gold plan=gold;',
                 'clawd_token sk-free user=free;')
--- init
package main;
for my $token ('sk-gold', 'sk-free') {
    for my $n (1 .. 3) {
        my $yes = admitted(post('chat', token => $token, max => undef),
                           "$token, $n");
        limited_headers($yes, $token, 'x-ratelimit-limit-requests' => undef,
                        'x-ratelimit-limit-tokens' => undef);
        Test::More::unlike((upstream()->requests)[-1]{body}, qr/max_tokens/,
                           "$token: no cap of the answer");
    }
    becomes_used(15, "$token: what was used is known", $token);
    my $usage = usage($token);
    Test::More::is_deeply([map { $_->{limit} } @{ $usage->{limits} }],
                          [(undef) x 5], "$token: no limit");
}



=== the plan of a token, and what it leaves to the default one
--- http_config eval
main::quota_http('clawd_quota default rpm=1 tokens_per_day=225 concurrency=7;',
                 'clawd_quota gold rpm=3 tokens_per_day=unlimited;',
                 'clawd_token sk-gold user=gold plan=gold;')
--- init
package main;
early();
my $usage = usage('sk-gold');
Test::More::is($usage->{plan}, 'gold', 'the plan');
Test::More::is($usage->{rpm}{limit}, 3, 'a limit of the plan');
Test::More::is($usage->{tokens_per_day}{limit}, undef, 'unlimited by the plan');
Test::More::is($usage->{concurrency}{limit}, 7, 'a limit of the default');
admitted(post('chat', token => 'sk-gold', max => 1000), "request $_")
    for 1 .. 3;
denied(post('chat', token => 'sk-gold'), 'chat', 429, 'rate_limit_error',
       'rate_limit_exceeded',
       qr/requests per minute: 3 of 3 used; resets in @{[soon()]}/, 'gold');
admitted(post('chat'), 'another user has counts of its own');
denied(post('chat'), 'chat', 429, 'rate_limit_error', 'rate_limit_exceeded',
       qr/requests per minute: 1 of 1 used; resets in @{[soon()]}/, 'default');



=== one user with two tokens has one quota
--- http_config eval
main::quota_http('clawd_quota default rpm=2;',
                 'clawd_token sk-laptop user=alice;')
--- init
package main;
early();
admitted(post('chat'), 'one token');
admitted(post('chat', token => 'sk-laptop'), 'the other');
denied(post('chat'), 'chat', 429, 'rate_limit_error', 'rate_limit_exceeded',
       qr/requests per minute: 2 of 2 used; resets in @{[soon()]}/, 'both');



=== larger than a whole limit: 400, with both figures
--- http_config eval
main::quota_http('clawd_quota default tokens_per_day=500;',
                 'clawd_quota tpm tpm=500 tokens_per_day=unlimited;',
                 'clawd_quota month tokens_per_month=500 tokens_per_day=unlimited;',
                 map {; "clawd_token sk-$_ user=$_ plan=$_;" } qw(tpm month))
--- init
package main;
my %names = (alice => 'daily tokens', tpm => 'tokens per minute',
             month => 'monthly tokens');
for my $user (sort keys %names) {
    for my $format (qw(chat messages native responses)) {
        my $est = estimate($format, max => 600);
        my $no = denied(post($format, max => 600, token => "sk-$user"),
            $format, 400, 'invalid_request_error', 'request_exceeds_quota',
            qr/$names{$user}: this request needs up to $est, the whole limit is 500: shorten it, or ask for fewer output tokens/,
            $user);
        limited_headers($no, "$user, $format", 'x-should-retry' => 'false',
                        'retry-after' => undef);
    }
    becomes_used(0, "$user: it costs nothing", "sk-$user");
}
becomes('rejected_total{reason="exceeds_limit"}', 12);
saw(0);
admitted(post('chat', max => 500 - bound('chat', max => 500)),
         'what just fits passes');



=== 146: what was used is what the upstream said, all formats
--- quota
default tokens_per_day=100000
--- init
package main;
my $sum = 0;
for my $format (qw(chat completions responses messages native generate
                   embeddings embed)) {
    admitted(post($format), $format);
    becomes_used($sum += $format =~ /^embed/ ? 3 : 5, "$format: settled");
}
unheld();
becomes('quota_underestimate_tokens_total', 0);



=== 146: embeddings without usage are charged as large as they can be
--- quota
default tokens_per_day=100000
--- init
package main;
admitted(post('embed', path => '/api/embeddings'), 'embeddings');
becomes_used(bound('embed'), 'the bound of the prompt');



=== 146: streams, all formats
--- quota
default tokens_per_day=100000
--- upstream eval
[sub {
    my ($format) = $_[0]{headers}{'x-case'};
    main::deliver('whole', main::framing_of($format), main::body_of($format));
}]
--- init
package main;
my $sum = 0;
for my $format (formats()) {
    my $answer = admitted(post($format, stream => 1,
                               headers => ['X-Case' => $format]), $format);
    Test::More::ok($answer->{whole}, "$format: whole");
    becomes_used($sum += 36, "$format: settled");
}
unheld();
becomes('quota_underestimate_tokens_total', 0);



=== 148: a stream without usage: the prompt's bound and what was seen
--- quota
default tokens_per_day=100000
--- upstream eval
[sub {
    main::deliver('whole', 'application/x-ndjson',
                  main::body_of('native') =~ s/,"prompt_eval_count".*?\}/}/sr);
}]
--- init
package main;
admitted(post('native', stream => 1), 'a stream');
becomes_used(bound('native', stream => 1) + 2, 'two events');



=== more than was reserved is charged, and told
--- quota
default tokens_per_day=100000
--- upstream eval
main::reply(200, '{"model":"m","choices":[{"message":{"content":"x"},'
            . '"finish_reason":"stop"}],"usage":{"prompt_tokens":3,'
            . '"completion_tokens":9000}}')
--- init
package main;
admitted(post('chat'), 'a liar');
becomes_used(9003, 'all of it');
becomes('quota_underestimate_tokens_total', 9003 - estimate('chat'));



=== errors of the upstream cost nothing
--- quota
default tokens_per_day=100000 concurrency=1
--- upstream eval
[[main::reply(404, '{"error":"model not found"}')],
 [main::reply(400, '{"error":"no"}')],
 [main::reply(503, '{"error":"busy"}')],
 [main::reply(500, 'boom', 'Content-Type' => 'text/plain')],
 [main::reply(401, '')], [main::reply(302, '', Location => '/')],
 [main::reply(200, '{"error":"broken"}')]]
--- init
package main;
for my $status (404, 400, 503, 500, 502, 502, 200) {
    Test::More::is(post('native')->{status}, $status, "the status $status");
    unheld();
    becomes_used(0, "$status costs nothing");
}
saw(7);
--- error_log
the upstream answered 401



=== an answer of a type that is not read costs its prompt's bound
--- quota
default tokens_per_day=100000
--- upstream eval
[[main::reply(200, 'a generation', 'Content-Type' => 'text/plain')],
 [main::reply(200, '<p>one</p>', 'Content-Type' => 'text/html')]]
--- init
package main;
my $bound = bound('native');
for my $n (1, 2) {
    Test::More::is(post('native')->{status}, $n == 1 ? 200 : 502, "number $n");
    unheld();
    becomes_used($n * $bound, "$n of them");
}
--- error_log
the upstream's answer with status 200 is not relayed



=== a connection that is refused costs nothing
--- quota
default tokens_per_day=100000
--- config
location / { clawd_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1; }
location = /metrics { clawd off; clawd_metrics; }
--- init
package main;
for my $format (qw(chat messages native)) {
    Test::More::is(post($format)->{status}, 502, $format);
    unheld();
    becomes_used(0, 'it costs nothing');
}
--- error_log
Connection refused



=== a hang-up before the first byte: nobody knows, the prompt is charged
--- quota
default tokens_per_day=100000
--- upstream eval
[{ close => 1 }]
--- init
package main;
Test::More::is(post('chat')->{status}, 502, 'the status');
becomes_used(bound('chat'), 'the bound of the prompt');
unheld();
--- error_log
upstream prematurely closed connection



=== a stream that is cut: the prompt's bound and what was seen
--- quota
default tokens_per_day=100000
--- upstream eval
[main::deliver('cut', 'text/event-stream',
               CORE::join '', (main::events('chat'))[0, 1])]
--- init
package main;
post('chat', stream => 1);
becomes_used(bound('chat', stream => 1) + 2, 'two events');
unheld();
--- error_log
upstream prematurely closed connection



=== a client that leaves: the prompt's bound and what was seen
--- quota
default tokens_per_day=100000
--- upstream eval
[main::stream('text/event-stream'), main::chunk((main::events('chat'))[0, 1]),
 { stall => 1 }]
--- init
package main;
my $sum = 0;
for my $how (qw(close reset)) {
    my $client = send_post('chat', stream => 1);
    $client->read_until(qr/"lo"/);
    Test::More::is(used('concurrency'), 1, 'it is held');
    Test::More::is(used('tokens_per_day'),
                   $sum + estimate('chat', stream => 1), 'all is reserved');
    $client->$how;
    $sum += bound('chat', stream => 1) + 2;
    becomes_used($sum, "$how: two events");
    unheld();
}



=== a client that leaves before the first byte
--- quota
default tokens_per_day=100000
--- upstream eval
[{ stall => 1 }]
--- init
package main;
my $client = send_post('chat');
upstream()->wait_for(1);
$client->close;
becomes_used(bound('chat'), 'the bound of the prompt');
unheld();



=== a client that leaves during its upload costs nothing
--- quota
default tokens_per_day=100000 rpm=1
--- init
package main;
early();
my $client = client();
$client->request('POST', '/v1/chat/completions', undef,
                 Authorization => 'Bearer sk-alice', 'Content-Length' => 1000);
$client->send('{"model":');
$client->close;
becomes('rejected_total{reason="client_abort"}', 1);
becomes_used(0, 'no tokens');
becomes_used(0, 'no request', undef, 'rpm');
unheld();



=== what the gate refuses for other reasons costs nothing
--- quota
default tokens_per_day=100000 rpm=1
--- init
package main;
early();
for (['GET', '/v1/nope'], ['GET', '/v1/models'],
     ['POST', '/v1/chat/completions', '{"model":'],
     ['POST', '/v1/chat/completions', '{"model":"m:cloud"}'],
     ['POST', '/api/pull', '{"model":"m"}']) {
    exchange(@$_[0 .. 2]);
    becomes_used(0, "$_->[1]: no request", undef, 'rpm');
}
unheld();
admitted(post('chat'), 'the one');
becomes_used(1, 'a request', undef, 'rpm');



=== an error_page in another gated location reserves once
--- quota
default tokens_per_day=100000 rpm=2 concurrency=1
--- config
location / {
    proxy_intercept_errors on;
    error_page 500 = @second;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
location @second { clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT; }
location = /metrics { clawd off; clawd_metrics; }
--- upstream eval
[[main::reply(500, '{}')], [sub { Clawd::Gate::answer($_[0]) }]]
--- init
package main;
early();
my $answer = admitted(post('chat'), 'the second answers');
saw(2);
becomes_used(5, 'what the second said');
becomes_used(1, 'one request', undef, 'rpm');
unheld();
becomes('model_request_total{model="m"}', 1);



=== an error_page for refusals is the operator's
--- quota
default rpm=1
--- config
location / {
    error_page 429 = /busy;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
location = /busy { clawd off; return 420 "later"; }
location = /metrics { clawd off; clawd_metrics; }
--- init
package main;
early();
admitted(post('chat'), 'the first');
my $no = post('chat');
Test::More::is("$no->{status} $no->{body}", '420 later', 'their own page');
becomes('rejected_total{reason="rpm"}', 1);
saw(1);



=== a refusal that is sent to another gated location counts once
--- quota
default rpm=1
--- config
location / {
    error_page 429 = @again;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
location @again { clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT; }
location = /metrics { clawd off; clawd_metrics; }
--- init
package main;
early();
admitted(post('chat'), 'the first');
denied(post('chat'), 'chat', 429, 'rate_limit_error', 'rate_limit_exceeded',
       qr/requests per minute: 1 of 1 used; resets in @{[soon()]}/, 'again');
becomes('rejected_total{reason="rpm"}', 1);
becomes('model_error_total{model="m",error_type="quota"}', 1);
becomes_used(1, 'one request', undef, 'rpm');
saw(1);



=== GET /v1/usage: all of it
--- quota
default rpm=3 tokens_per_day=5000 concurrency=4 tz=+02:00
--- init
package main;
early();
admitted(post('chat'), 'a request');
becomes_used(5, 'settled');
my $usage = usage();
my $now = $usage->{time};
my $minute = 60 - $now % 60;
my $day = 86400 - ($now + 7200) % 86400;
my $answer = $usage->{answer};
Test::More::cmp_ok(abs($now - time), '<=', 2, 'the time');
Test::More::is($answer->{header}{'content-type'}, 'application/json',
               'the type');
Test::More::like($answer->{head}, qr/^x-request-id: \Q$answer->{id}\E\r$/m,
                 'the id');
my $got = JSON::PP->new->decode($answer->{body});
my @month = gmtime($got->{limits}[4]{resets_at} + 7200);
Test::More::is("@month[0 .. 3]", '0 0 0 1', 'the month ends there, not here');
my $month = $got->{limits}[4]{resets_at};
Test::More::is_deeply($got, {
    object => 'usage', user => 'alice', plan => 'default',
    time_zone => '+02:00', time => $now, limits => [
        { name => 'concurrency', used => 0, limit => 4, remaining => 4,
          resets_at => undef, resets_in => undef },
        { name => 'rpm', used => 1, limit => 3, remaining => 2,
          resets_at => $now + $minute, resets_in => $minute },
        { name => 'tpm', used => 5, limit => undef, remaining => undef,
          resets_at => $now + $minute, resets_in => $minute },
        { name => 'tokens_per_day', used => 5, limit => 5000,
          remaining => 4995, resets_at => $now + $day, resets_in => $day },
        { name => 'tokens_per_month', used => 5, limit => undef,
          remaining => undef, resets_at => $month,
          resets_in => $month - $now },
    ] }, 'the whole') or Test::More::diag($answer->{body});
limited_headers($answer, 'usage', 'x-ratelimit-limit-requests' => 3,
                'x-ratelimit-remaining-requests' => 2,
                'x-ratelimit-limit-tokens' => 5000,
                'x-ratelimit-remaining-tokens' => 4995);
saw(1);



=== /v1/usage costs nothing and needs a token
--- quota
default rpm=1 concurrency=0
--- request eval
["GET /v1/usage", "GET /v1/usage", "GET /v1/usage?x=y", "GET /v1/usage",
 "POST /v1/usage\n{}", "GET /v1/usage/"]
--- more_headers eval
[("Authorization: Bearer sk-alice") x 3, "X-Other: y",
 ("Authorization: Bearer sk-alice") x 2]
--- error_code eval
[200, 200, 200, 401, 405, 404]
--- response_body_like eval
['"object":"usage"', '"object":"usage"', '"object":"usage"',
 'gateway token missing', 'method_not_allowed', 'endpoint_not_found']
--- upstream_count: 0



=== /v1/usage: HEAD
--- quota
default rpm=1
--- request
HEAD /v1/usage
--- response_headers
Content-Type: application/json
x-ratelimit-limit-requests: 1
--- response_body
--- upstream_count: 0



=== /v1/usage: Allow of a POST
--- quota
default rpm=1
--- request
POST /v1/usage
{}
--- refused: openai 405 method_not_allowed
--- response_headers
Allow: GET, HEAD



=== an answer that is not asked for gets a cap, where tokens are limited
--- http_config eval
main::quota_http('clawd_quota default tokens_per_day=8000;',
                 'clawd_quota tpm tpm=4000 tokens_per_day=unlimited;',
                 'clawd_quota rich tokens_per_month=1000000000 '
                 . 'tokens_per_day=unlimited;',
                 'clawd_quota poor tokens_per_day=900;',
                 'clawd_quota rpm rpm=100 tokens_per_day=unlimited;',
                 map {; "clawd_token sk-$_ user=$_ plan=$_;" }
                     qw(tpm rich poor rpm))
--- init
package main;
my %cap = (alice => 2000, tpm => 1000, rich => 4096, poor => 256, rpm => undef);
my %field = (chat => 'max_tokens', completions => 'max_tokens',
             messages => 'max_tokens', responses => 'max_output_tokens',
             native => 'num_predict', generate => 'num_predict');
for my $user (sort keys %cap) {
    for my $format (sort keys %field) {
        admitted(post($format, token => "sk-$user", max => undef),
                 "$user, $format");
        unheld('settled', "sk-$user");
        my $body = JSON::PP->new->decode((upstream()->requests)[-1]{body});
        my $where = $field{$format} eq 'num_predict' ? $body->{options} // {}
                                                     : $body;
        Test::More::is($where->{ $field{$format} }, $cap{$user},
                       "$user, $format: the cap");
    }
    post('embeddings', token => "sk-$user");
    Test::More::unlike((upstream()->requests)[-1]{body}, qr/max|predict/,
                       "$user: none for embeddings");
}



=== a cap of the client's own stays, one that is none does not
--- quota
default tokens_per_day=8000
--- init
package main;
for (['chat', max => 77, '"max_tokens":77'],
     ['native', max => 77, '"num_predict":77'],
     ['native', max => -1, '"num_predict":2000'],
     ['chat', max => undef, more => '"max_tokens":null', '"max_tokens":2000'],
     ['chat', max => undef, more => '"max_completion_tokens":99',
      '"max_completion_tokens":99']) {
    my ($format, @rest) = @$_;
    my $want = pop @rest;
    admitted(post($format, @rest), "$format, $want");
    Test::More::like((upstream()->requests)[-1]{body}, qr/\Q$want\E[,}]/, $want);
}
becomes_used(25, 'all are settled');



=== clawd_max_tokens and a quota: the smaller cap
--- quota
default tokens_per_day=8000
--- config eval: main::conf('clawd_max_tokens 50;')
--- request
POST /v1/chat/completions
{"model":"m"}
--- upstream_body chomp
{"max_tokens":50,"model":"m"}



=== clawd_dry_run: all pass, and what would not have is counted
--- quota
default rpm=1 tokens_per_day=250
--- config eval: main::conf('clawd_dry_run on;')
--- init
package main;
early();
admitted(post('chat'), "request $_") for 1 .. 3;
becomes_used(15, 'what was used is counted');
becomes('quota_dry_run_total{limit="rpm"}', 2);
becomes('quota_dry_run_total{limit="tokens_per_day"}', 0);
becomes('model_error_total{model="m",error_type="quota"}', 0);
becomes('rejected_total{reason="rpm"}', 0);
unheld();
saw(3);



=== clawd_dry_run: larger than a whole limit
--- quota
default tokens_per_day=100
--- config eval: main::conf('clawd_dry_run on;')
--- init
package main;
admitted(post('chat'), 'it passes');
becomes_used(5, 'and is charged');
becomes('quota_dry_run_total{limit="tokens_per_day"}', 1);
unheld();
admitted(post('chat', max => 50), 'again');
becomes_used(10, 'and is charged');



=== clawd_dry_run in one location only
--- quota
default rpm=0
--- config
location / { clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT; }
location /v1/chat/ {
    clawd_dry_run on;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
location = /metrics { clawd off; clawd_metrics; }
--- request eval
["POST /v1/chat/completions\n{\"model\":\"m\"}", "POST /v1/messages\n{\"model\":\"m\"}"]
--- error_code eval
[200, 429]
--- response_body_like eval: ['"choices"', 'the limit is 0']



=== whoever comes without a token is held to the default plan
--- quota
default rpm=2
--- config eval: main::conf('clawd_auth off;')
--- init
package main;
early();
my $usage = usage('none');
Test::More::is("$usage->{user} $usage->{plan}", 'anonymous default', 'who');
admitted(post('chat'), 'whoever');
admitted(post('chat', token => 'none'), 'whoever else');
denied(post('chat', token => 'other'), 'chat', 429, 'rate_limit_error',
       'rate_limit_exceeded',
       qr/requests per minute: 2 of 2 used; resets in @{[soon()]}/, 'anonymous');
becomes('user_quota_used{user="anonymous",limit="rpm"}', 2);



=== the models of a plan
--- http_config eval
main::quota_http('clawd_quota default "models=qwen3:* llama3*";',
                 'clawd_quota all rpm=100 models=*;',
                 'clawd_quota none models=;',
                 map {; "clawd_token sk-$_ user=$_ plan=$_;" } qw(all none))
--- init
package main;
for my $model ('qwen3:8b', 'QWEN3:8b', 'library/qwen3:8b', 'llama3.2',
               'llama3') {
    admitted(post('chat', model => $model), $model);
}
for my $format (qw(chat messages native)) {
    denied(post($format, model => 'mistral'), $format, 403,
           'permission_error', 'model_not_allowed',
           qr/this model is not allowed: model/, 'mistral');
}
Test::More::is(post('chat', model => $_)->{status}, 403, $_)
    for 'aqwen3:8b', 'qwen3.5:8b', 'mistral:llama3';
admitted(post('chat', model => 'mistral', token => 'sk-all'), 'all');
Test::More::is(post('chat', model => 'qwen3:8b', token => 'sk-none')->{status},
               403, 'none');
becomes('rejected_total{reason="model_denied"}', 7);
becomes('model_request_total{model="other"}', 0);
saw(6);



=== metrics of quotas
--- quota
default rpm=2 tokens_per_day=5000 concurrency=3
--- init
package main;
early();
admitted(post('chat'), "request $_") for 1 .. 2;
post('chat') for 1 .. 3;
becomes_used(10, 'settled');
becomes('user_quota_limit{user="alice",limit="rpm"}', 2);
becomes('user_quota_used{user="alice",limit="rpm"}', 2);
becomes('user_quota_limit{user="alice",limit="tokens_per_day"}', 5000);
becomes('user_quota_used{user="alice",limit="tokens_per_day"}', 10);
becomes('user_quota_limit{user="alice",limit="concurrency"}', 3);
becomes('user_quota_used{user="alice",limit="concurrency"}', 0);
Test::More::is(metric('user_quota_limit{user="alice",limit="tpm"}'), undef,
               'none where there is no limit');
becomes('rejected_total{reason="rpm"}', 3);
becomes('model_request_total{model="m"}', 5);
becomes('model_error_total{model="m",error_type="quota"}', 3);
becomes('http_request_duration_seconds_count{model="m",code="2xx"}', 2);
Test::More::ok(!metric('http_request_duration_seconds_count'
                       . '{model="m",code="4xx"}'),
               'refusals do not shorten durations');
becomes('user_tokens_total{user="alice",type="prompt"}', 6);
becomes('requests_in_flight{model="m"}', 0);
becomes('quota_underestimate_tokens_total', 0);



=== a refusal is in the log
--- quota
default rpm=0
--- request
POST /v1/chat/completions
{"model":"m"}
--- error_code: 429
--- logged: error=rpm status=429 user=alice model=m prompt_tokens=
--- error_log
clawd refused a request: rpm



=== an upstream's own limits are not the caller's
--- quota
default rpm=5
--- upstream eval
main::reply(200, '{"model":"m","choices":[]}',
            'X-RateLimit-Limit-Requests' => 999,
            'x-ratelimit-remaining-tokens' => 998)
--- init
package main;
early();
my $answer = admitted(post('chat'), 'an answer');
limited_headers($answer, 'ours', 'x-ratelimit-limit-requests' => 5,
                'x-ratelimit-remaining-requests' => 4,
                'x-ratelimit-remaining-tokens' => undef);
Test::More::unlike($answer->{head}, qr/: 99[89]\r/, 'nothing of theirs');
