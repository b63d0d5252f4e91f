# Keys, users and plans by their records in Redis: whom they let in, that a
# record which is no good lets nobody in, and that changes act at once.

use strict;
use warnings;

use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Redis;
use Clawd::Quota;

no_shuffle();
log_level('info');
run_tests();


# status_of(TOKEN); becomes_status() waits until it is that.

sub status_of {
    my ($token) = @_;

    return exchange('GET', '/v1/models', undef,
                    Authorization => "Bearer $token")->{status};
}

sub becomes_status {
    my ($token, $want, $name) = @_;
    my $got;

    wait_until(sub { ($got = status_of($token)) == $want }, 3);
    Test::More::is($got, $want, $name);
}


# Whole answers, but for what every answer has of its own.

sub whole {
    my ($format, $token) = @_;

    my $raw = post($format, token => $token,
                   headers => ['X-Request-Id' => 'same'])->{raw};
    $raw =~ s/^Date: .*?\r\n//m;
    return $raw;
}

__DATA__

=== a key, its user and the log
--- redis
HSET KEY(sk-bob) user bob name "Bob's laptop" expires 4102444800
HSET clawd:user:bob name Bob priority 5
--- init
package main;
my $answer = admitted(post('chat', token => 'sk-bob'), 'a key');
Test::More::is(log_of($answer->{id})->{user}, 'bob', 'its user');
admitted(post('messages', token => 'sk-bob'), 'again');
admitted(post('native', token => 'sk-bob'), 'and again');
becomes('user_requests_total{user="bob"}', 3);
becomes('ledger_invalid_total', 0);
Test::More::is(usage('sk-bob')->{plan}, 'default', 'its plan');
becomes_used(15, 'what was used', 'sk-bob');
Test::More::is(redis()->state('bob')->{du}, 15, 'the same in Redis');



=== the user, over its plan, over the default one; plans in Redis come first
--- quota
default rpm=11 concurrency=12 tpm=13
gold rpm=21 concurrency=22
silver tokens_per_day=31
--- redis
HSET KEY(sk-bob) user bob
HSET clawd:user:bob plan gold rpm 1
HSET clawd:plan:gold tokens_per_day 500 tpm unlimited
HSET clawd:plan:default concurrency 3 rpm 77
HSET KEY(sk-eve) user eve
HSET clawd:user:eve plan silver tokens_per_month unlimited
--- init
package main;
my $usage = usage('sk-bob');
Test::More::is($usage->{plan}, 'gold', 'the plan');
Test::More::is_deeply({ map { $_->{name} => $_->{limit} }
                            @{ $usage->{limits} } },
    { rpm => 1, tokens_per_day => 500, tpm => undef, concurrency => 3,
      tokens_per_month => undef }, 'bob') or Test::More::diag(
    $usage->{answer}{raw});
$usage = usage('sk-eve');
Test::More::is($usage->{plan}, 'silver', 'a plan of the configuration');
Test::More::is_deeply({ map { $_->{name} => $_->{limit} }
                            @{ $usage->{limits} } },
    { rpm => 77, tokens_per_day => 31, tpm => undef, concurrency => 3,
      tokens_per_month => undef }, 'eve');
early();
admitted(post('chat', token => 'sk-bob'), 'the first');
denied(post('chat', token => 'sk-bob'), 'chat', 429, 'rate_limit_error',
       'rate_limit_exceeded',
       qr/requests per minute: 1 of 1 used; resets in @{[soon()]}/, 'bob');



=== 12, 13: nobody learns why a token is no good; metrics and the log do
--- redis
HSET KEY(sk-good) user good
HSET clawd:user:good name Good
HSET KEY(sk-expired) user good expires 1000000000
HSET KEY(sk-disabled) user good disabled 1
HSET KEY(sk-off) user off
HSET clawd:user:off disabled yes
HSET KEY(sk-orphan) user nobody
HSET KEY(sk-key-field) user good expire 4102444800
HSET KEY(sk-key-value) user good expires tomorrow
HSET KEY(sk-key-user) name x
HSET KEY(sk-user-field) user field
HSET clawd:user:field tokens_per_dya 5
HSET KEY(sk-user-value) user value
HSET clawd:user:value rpm 1e9
HSET KEY(sk-user-place) user place
HSET clawd:user:place expires 4102444800
SET KEY(sk-key-type) good
HSET KEY(sk-user-type) user type
LPUSH clawd:user:type a b
HSET KEY(sk-no-plan) user noplan
HSET clawd:user:noplan plan platinum
HSET KEY(sk-plan-field) user badplan
HSET clawd:user:badplan plan bad
HSET clawd:plan:bad rmp 5
HSET KEY(sk-plan-type) user typeplan
HSET clawd:user:typeplan plan typed
SET clawd:plan:typed x
HSET KEY(sk-no-tz) user notz
HSET clawd:user:notz tz Mars/Olympus
--- init
package main;
admitted(post('chat', token => 'sk-good'), 'a good one');
my @bad = qw(expired disabled off orphan key-field key-value key-user
             user-field user-value user-place key-type user-type no-plan
             plan-field plan-type no-tz);
for my $format (qw(chat messages native)) {
    my $want = whole($format, 'sk-unknown');
    Test::More::like($want, qr/\AHTTP\/1\.1 401 .*gateway token invalid/s,
                     "$format: an unknown one");
    Test::More::is(whole($format, "sk-$_"), $want, "$format: $_") for @bad;
}
becomes('rejected_total{reason="bad_token"}', 2 * 3);
becomes('rejected_total{reason="expired_token"}', 3);
becomes('rejected_total{reason="disabled_token"}', 2 * 3);
becomes('rejected_total{reason="invalid_record"}', 12 * 3);
saw(1, 'nothing of it reached the upstream');
my $log = error_log();
for (['KEY(sk-key-field)', 'field "expire": unknown field'],
     ['KEY(sk-key-value)', 'field "expires": '],
     ['KEY(sk-key-user)', 'field "user": '],
     ['clawd:user:field', 'field "tokens_per_dya": unknown field'],
     ['clawd:user:value', 'field "rpm": a limit must be digits'],
     ['clawd:user:place', 'field "expires": a record of this kind has no such'],
     ['KEY(sk-key-type)', 'it is not a hash'],
     ['clawd:user:type', 'it is not a hash'],
     ['clawd:plan:bad', 'field "rmp": unknown field'],
     ['clawd:plan:typed', 'it is not a hash']) {
    my ($key, $why) = @$_;
    $key =~ s/KEY\((.*)\)/key_of($1)/e;
    Test::More::like($log, qr/\[error\] .*clawd: "\Q$key\E" in Redis denies everybody who depends on it: \Q$why\E/,
                     "the log names $key");
}
Test::More::like($log, qr/user "noplan" is denied: there is no plan "platinum", neither as "clawd:plan:platinum" in Redis nor as "clawd_quota platinum"/,
                 'the log names a plan that is missing');
Test::More::like($log, qr/user "notz" is denied: its "tz Mars\/Olympus" is no time zone/,
                 'the log names a time zone');
Test::More::unlike($log, qr/sk-[a-z]/, 'no token is in the log');
Test::More::cmp_ok(metric('ledger_invalid_total'), '>=', 12,
                   'each is counted');
--- error_log
denies everybody who depends on it



=== a plan "default" that is no good lets nobody in
--- redis
HSET KEY(sk-bob) user bob
HSET clawd:user:bob rpm 5
HSET clawd:plan:default rpm five
--- init
package main;
Test::More::is(status_of('sk-bob'), 401, 'a key');
Test::More::is(status_of('sk-alice'), 401, 'a token of the configuration');
redis()->told('HSET clawd:plan:default rpm 5');
becomes_status('sk-bob', 200, 'put right');
becomes_status('sk-alice', 200, 'for all');
--- error_log
"clawd:plan:default" in Redis denies everybody who depends on it: field "rpm"



=== the role is the user's
--- redis
HSET KEY(sk-bob) user bob
HSET clawd:user:bob role admin
HSET KEY(sk-eve) user eve
HSET clawd:user:eve role user
HSET KEY(sk-mallory) user eve role admin
HSET KEY(sk-root2) user root2
HSET clawd:user:root2 role root
--- request eval
[("POST /api/show\n{\"model\":\"m\"}") x 4]
--- more_headers eval
["Authorization: Bearer sk-bob", "Authorization: Bearer sk-eve",
 "Authorization: Bearer sk-mallory", "Authorization: Bearer sk-root2"]
--- error_code eval
[200, 403, 401, 401]
--- no_error_log
[alert]



=== the models of the key and of the user both hold
--- quota
default models=llama*
--- redis
HSET KEY(sk-bob) user bob models "qwen3:* gemma*"
HSET clawd:user:bob models "qwen3:8b,mistral"
HSET KEY(sk-eve) user eve models qwen3:*
HSET clawd:user:eve rpm 100
HSET KEY(sk-none) user eve models ""
--- init
package main;
my %allowed = (
    bob => { 'qwen3:8b' => 200, 'qwen3:4b' => 403, 'gemma3' => 403,
             'mistral' => 403, 'llama3' => 403 },
    eve => { 'qwen3:8b' => 403, 'llama3' => 403 },
    alice => { 'llama3' => 200, 'qwen3:8b' => 403 },
    none => { 'llama3' => 403, 'qwen3:8b' => 403 },
);
for my $user (sort keys %allowed) {
    for my $model (sort keys %{ $allowed{$user} }) {
        my $answer = post('chat', token => "sk-$user", model => $model);
        Test::More::is($answer->{status}, $allowed{$user}{$model},
                       "$user: $model");
    }
}
redis()->told('HSET clawd:user:eve models *');
wait_until(sub { post('chat', token => 'sk-eve',
                      model => 'qwen3:8b')->{status} == 200 }, 3);
admitted(post('chat', token => 'sk-eve', model => 'qwen3:8b'), 'eve by herself');



=== a token of the configuration with a record of its user
--- quota
default rpm=100
gold rpm=200
--- redis
HSET clawd:user:alice plan gold tokens_per_day 300
--- init
package main;
my $usage = usage();
Test::More::is("$usage->{plan} $usage->{rpm}{limit} "
               . $usage->{tokens_per_day}{limit}, 'gold 200 300', 'both');
redis()->told('HSET clawd:user:alice disabled 1');
becomes_status('sk-alice', 401, 'it can be disabled');
redis()->told('DEL clawd:user:alice');
becomes_status('sk-alice', 200, 'and be without one');
Test::More::is(usage()->{rpm}{limit}, 100, 'the default plan');
redis()->told('HSET clawd:user:root role user');
Test::More::is(exchange('POST', '/api/show', '{"model":"m"}',
                        Authorization => 'Bearer sk-root')->{status}, 200,
               'an admin of the configuration stays one');



=== changes by plain commands act at once
--- redis
HSET KEY(sk-bob) user bob
HSET clawd:user:bob rpm 50
HSET clawd:plan:gold rpm 60
--- init
package main;
Test::More::is(status_of('sk-bob'), 200, 'a key');
Test::More::is(status_of('sk-new'), 401, 'one that is not there yet');
redis()->told('HSET KEY(sk-new) user bob');
becomes_status('sk-new', 200, 'HSET of a key');
redis()->told('HSET KEY(sk-bob) disabled 1');
becomes_status('sk-bob', 401, 'HSET: disabled');
redis()->told('HDEL KEY(sk-bob) disabled');
becomes_status('sk-bob', 200, 'HDEL');
redis()->told('DEL KEY(sk-new)');
becomes_status('sk-new', 401, 'DEL of a key');
my $limit = sub { usage('sk-bob')->{rpm}{limit} // '' };
redis()->told('HSET clawd:user:bob rpm 51');
Test::More::ok(wait_until(sub { $limit->() eq 51 }, 3), 'a limit');
redis()->told('HDEL clawd:user:bob rpm');
redis()->told('HSET clawd:user:bob plan gold');
Test::More::ok(wait_until(sub { $limit->() eq 60 }, 3), 'a plan');
redis()->told('HSET clawd:plan:gold rpm 61');
Test::More::ok(wait_until(sub { $limit->() eq 61 }, 3), 'a limit of a plan');
redis()->told('HSET clawd:plan:default tpm 62');
Test::More::ok(wait_until(sub { (usage('sk-bob')->{tpm}{limit} // '') eq 62 },
                          3), 'the default plan');
redis()->told('RENAME KEY(sk-bob) KEY(sk-renamed)');
becomes_status('sk-bob', 401, 'RENAME: the old one');
becomes_status('sk-renamed', 200, 'RENAME: the new one');
redis()->told('FLUSHALL');
becomes_status('sk-renamed', 401, 'FLUSHALL');
Test::More::is(status_of('sk-alice'), 200, 'the configuration has no part');



=== a key expires while it is in use
--- redis
HSET KEY(sk-bob) user bob
HSET clawd:user:bob rpm 50
--- init
package main;
redis()->told('HSET KEY(sk-bob) expires ' . (int(time) + 2));
Test::More::is(status_of('sk-bob'), 200, 'before');
becomes_status('sk-bob', 401, 'after');
becomes('rejected_total{reason="expired_token"}', 1);



=== 14: a key that is revoked during a stream
--- redis
HSET KEY(sk-bob) user bob
HSET clawd:user:bob tokens_per_day 10000
--- upstream eval
{ '/v1/chat/completions' =>
      [main::stream('text/event-stream'),
       main::chunk((main::events('chat'))[0]), { gate => 'rest' },
       main::chunk((main::events('chat'))[1 .. 4]), main::chunk()],
  '*' => [main::reply(200, '{}')] }
--- init
package main;
my $client = send_post('chat', stream => 1, token => 'sk-bob');
$client->read_until(qr/Hel/);
redis()->told('DEL KEY(sk-bob) clawd:user:bob');
becomes_status('sk-bob', 401, 'the next request is refused');
upstream()->open_gate('rest');
Test::More::like($client->read_all // '', qr/\[DONE\]/, 'the stream ends well');
wait_until(sub { (redis()->state('bob')->{du} // 0) == 36 }, 5);
Test::More::is(redis()->state('bob')->{du}, 36, 'and is settled');
Test::More::is(redis()->open_reservations('bob'), 0, 'nothing is held');



=== records are read once, as long as changes are told
--- redis
HSET KEY(sk-bob) user bob
HSET clawd:user:bob rpm 1000
--- redis_proxy eval
sub { undef }
--- init
package main;
Clawd::Redis::redis_ready();
Test::More::ok(redis()->wait_heard(qr/^SUBSCRIBE/), 'changes are told');
my $count = sub { scalar(my @all = redis()->heard(qr/^HGETALL/)) };
my $quiet = sub {
    my $before = $count->();
    status_of('sk-bob') for 1 .. 3;
    return $count->() == $before;
};
Test::More::ok(wait_until($quiet, 5), 'no more is asked');
status_of('sk-bob') for 1 .. 20;
my $settled = $count->();
redis()->told('HSET clawd:user:bob rpm 1001');
Test::More::ok(wait_until(sub { usage('sk-bob')->{rpm}{limit} == 1001 }, 3),
               'a change is heard');
Test::More::cmp_ok($count->() - $settled, '<=', 2, 'and read once');



=== records are read again and again where nothing can be told
--- redis_args
--user default on nopass ~* +@all -client
--- redis
HSET KEY(sk-bob) user bob
HSET clawd:user:bob rpm 1000
--- init
package main;
Test::More::is(status_of('sk-bob'), 200, 'a key');
redis()->told('DEL KEY(sk-bob)');
becomes_status('sk-bob', 401, 'it goes');
redis()->told('HSET KEY(sk-bob) user bob');
becomes_status('sk-bob', 200, 'it comes back');
--- error_log
does not tell of changes



=== HINCRBY epoch starts the usage afresh
--- quota
default tokens_per_day=230
--- redis
HSET KEY(sk-bob) user bob
HSET clawd:user:bob plan default
--- init
package main;
for my $n (1 .. 3) {
    admitted(post('chat', token => 'sk-bob'), "request $n");
    becomes_used(5 * $n, 'settled', 'sk-bob');
}
Test::More::is(post('chat', token => 'sk-bob')->{status}, 429, 'no more');
redis()->told('HINCRBY clawd:user:bob epoch 1');
becomes_used(0, 'afresh', 'sk-bob');
admitted(post('chat', token => 'sk-bob'), 'again');
becomes_used(5, 'and counted', 'sk-bob');



=== an epoch during a request: the old one is not charged to the new
--- quota
default tokens_per_day=1000
--- redis
HSET KEY(sk-bob) user bob
HSET clawd:user:bob plan default
--- upstream eval
{ '/v1/chat/completions' => [{ gate => 'go' },
                             sub { Clawd::Gate::answer($_[0]) }],
  '*' => [sub { Clawd::Gate::answer($_[0]) }] }
--- init
package main;
my $client = send_post('chat', token => 'sk-bob');
upstream()->wait_for(1);
redis()->told('HINCRBY clawd:user:bob epoch 1');
becomes_used(0, 'afresh', 'sk-bob');
admitted(post('messages', token => 'sk-bob'), 'one of the new epoch');
becomes_used(5, 'charged', 'sk-bob');
upstream()->open_gate('go');
$client->read_all;
unheld('settled', 'sk-bob');
Test::More::is(used('tokens_per_day', 'sk-bob'), 5, 'and nothing else');



=== the time zone of a record
--- redis
HSET KEY(sk-bob) user bob
HSET clawd:user:bob tz +05:30 tokens_per_day 1000
HSET KEY(sk-eve) user eve
HSET clawd:user:eve plan west
HSET clawd:plan:west tz -11:00 tokens_per_day 1000
--- init
package main;
early();
for (['bob', '+05:30', 19800], ['eve', '-11:00', -39600]) {
    my ($user, $tz, $offset) = @$_;
    my $usage = usage("sk-$user");
    Test::More::is($usage->{time_zone}, $tz, "$user: the zone");
    Test::More::is($usage->{tokens_per_day}{resets_in},
                   86400 - ($usage->{time} + $offset) % 86400,
                   "$user: when the day ends");
    admitted(post('chat', token => "sk-$user"), $user);
    becomes_used(5, "$user: charged", "sk-$user");
    Test::More::is(redis()->state($user)->{dw},
                   int(($usage->{time} + $offset) / 86400), "$user: its day");
}



=== a key of the quotas that is of another type denies its user alone
--- quota
default rpm=100
--- redis
HSET KEY(sk-bob) user bob
HSET clawd:user:bob rpm 5
SET "clawd:{bob}:u:bob" x
--- init
package main;
Test::More::is(post('chat', token => 'sk-bob')->{status}, 503, 'bob');
admitted(post('chat'), 'alice');
redis()->told('DEL "clawd:{bob}:u:bob"');
wait_until(sub { post('chat', token => 'sk-bob')->{status} == 200 }, 3);
admitted(post('chat', token => 'sk-bob'), 'bob, when it was deleted');
--- no_error_log
[alert]



=== what a gateway knew is put back when the state of a user is deleted
--- quota
default tokens_per_day=230
--- redis
HSET KEY(sk-bob) user bob
HSET clawd:user:bob plan default
--- init
package main;
for my $n (1 .. 3) {
    admitted(post('chat', token => 'sk-bob'), "request $n");
    becomes_used(5 * $n, 'settled', 'sk-bob');
}
redis()->told('DEL "clawd:{bob}:u:bob"');
my ($status, %seen);
wait_until(sub {
    $seen{ $status = post('chat', token => 'sk-bob')->{status} }++;
    return $status == 429;
});
Test::More::is($status, 429, 'no more');
Test::More::ok(!$seen{200}, 'not for a moment');
becomes_used(15, 'it is known still', 'sk-bob');
