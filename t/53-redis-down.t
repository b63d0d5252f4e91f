# Redis is away, slow, foreign or mad: what happens to requests, that nothing
# stays reserved, and that what was used is charged when it is back.

use strict;
use warnings;

BEGIN { $ENV{CLAWD_TEST_SECRET} = 'open sesame'; }

use Time::HiRes qw(time);

use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Redis;
use Clawd::Quota;

env_to_nginx('CLAWD_TEST_SECRET');
no_shuffle();
log_level('info');

# For in_company(): alice's first request waits at the upstream, and bob's
# question for its answer.

our $bob = "HSET KEY(sk-bob) user bob\nHSET clawd:user:bob rpm 1000";
our $first_waits = [[{ gate => 'first' }, sub { Clawd::Gate::answer($_[0]) }],
                    [sub { Clawd::Gate::answer($_[0]) }]];

sub bob_waits {
    my ($words) = @_;
    return is_reserve($words) && $words->[3] =~ /:u:bob$/ ? { late => 'bob' }
                                                          : undef;
}

run_tests();


# The words of a question, and of word that was used.

sub is_reserve {
    my ($words) = @_;
    return uc($words->[0]) =~ /^EVAL/ && @$words >= 6 + 14;
}

sub is_settle {
    my ($words) = @_;
    return uc($words->[0]) =~ /^EVAL/ && @$words == 6 + 12;
}


# unavailable(NAME): so is it in all families.

sub unavailable {
    my ($name, $token) = @_;

    for my $format (qw(chat messages native)) {
        my $no = denied(post($format, token => $token), $format, 503,
            'server_error', 'auth_unavailable',
            qr/accounts can't be looked up at the moment, try again soon/,
            $name);
        limited_headers($no, "$name, $format", 'retry-after' => qr/[1-5]?\d/,
                        'x-should-retry' => undef,
                        'www-authenticate' => undef);
    }
}


# serves(NAME): it does, in a moment.

sub serves {
    my ($name, %opt) = @_;
    my $answer;

    wait_until(sub {
        $answer = post('chat', %opt);
        return $answer->{status} == 200;
    });
    return admitted($answer, $name);
}


# away(): the gateway has noticed that Redis does not run.

sub away {
    redis()->stop;
    Test::More::ok(wait_until(sub { metric('redis_up') == 0 }),
                   'it is noticed');
}


# What Redis has been told in the end.

sub charged {
    my ($user, $tokens, $name) = @_;
    my $got;

    wait_until(sub {
        return ($got = eval { redis()->state($user)->{du} } // 'nothing')
               eq $tokens;
    });
    Test::More::is($got, $tokens, $name);
}

sub nothing_held {
    my ($user, $name) = @_;
    my $got;

    wait_until(sub { ($got = redis()->open_reservations($user)) == 0 });
    Test::More::is($got, 0, $name // 'nothing is held in Redis');
}

# One with word of what one request used.

sub has_company {
    my ($words) = @_;
    return is_reserve($words) && @$words == 6 + 14 + 6;
}


# in_company(SECOND...): alice's second request comes right behind the end of
# her first, on its connection, while bob's question has no answer.  Returns her
# client.

sub in_company {
    my @first = ('POST', '/v1/chat/completions', body_for('chat'));
    my @second = @_ ? @_ : @first;
    my $alice = client();

    $alice->request(@first, Authorization => 'Bearer sk-alice');
    $alice->request(@second, Authorization => 'Bearer sk-alice',
                    Connection => 'close');
    Test::More::ok(upstream()->wait_for(1), 'her first is under way');

    my $bob = send_post('chat', token => 'sk-bob');
    Test::More::ok(redis()->wait_heard(qr/^EVALSHA .*:u:bob /), 'his waits');

    upstream()->open_gate('first');
    $alice->read_until(qr/\}\}/);
    redis()->open_gate('bob');
    Test::More::like($bob->read_all, qr/ 200 /, 'he is served');
    return $alice;
}

__DATA__

=== deny: it is not there when NGINX starts
--- quota
default rpm=100
--- redis_down
--- init
package main;
unavailable('down');
unavailable('down, a key', 'sk-unknown');
Test::More::is(exchange('GET', '/v1/models')->{status}, 503, 'a list');
Test::More::is(exchange('GET', '/v1/usage')->{status}, 503, 'the usage');
Test::More::is(exchange('GET', '/v1/models', undef,
                        Authorization => 'Basic x')->{status}, 401,
               'what is no token needs no Redis');
becomes('rejected_total{reason="ledger_unavailable"}', 8);
becomes('redis_up', 0);
Test::More::cmp_ok(metric('redis_errors_total{class="connect"}'), '>', 0,
                   'the errors');
saw(0);
redis()->start;
serves('it comes');
becomes('redis_up', 1);
becomes_used(5, 'and works');
--- error_log
does not serve (connect)



=== deny: it goes and comes back
--- quota
default tokens_per_day=100000
--- redis
HSET KEY(sk-bob) user bob
HSET clawd:user:bob rpm 50
--- init
package main;
admitted(post('chat'), 'up');
admitted(post('chat', token => 'sk-bob'), 'up, a key');
becomes_used(5, 'settled');
away();
unavailable('away');
unavailable('away, a key', 'sk-bob');
saw(2);
redis()->start;
redis()->told('HSET KEY(sk-bob) user bob');
redis()->told('HSET clawd:user:bob rpm 50');
serves('back');
serves('back, a key', token => 'sk-bob');
becomes_used(10, 'what was used before is known still, though Redis lost it');
becomes_used(10, 'of the key, too', 'sk-bob');
--- error_log
does not serve (connect)



=== deny: it goes during a request, which is settled when it is back
--- quota
default tokens_per_day=100000 concurrency=2
--- redis_args
--appendonly yes --appendfsync always
--- upstream eval
[{ gate => 'go' }, sub { Clawd::Gate::answer($_[0]) }]
--- init
package main;
my $client = send_post('chat');
upstream()->wait_for(1);
away();
upstream()->open_gate('go');
Test::More::like($client->read_all // '', qr/\A\S+ 200 /, 'it is answered');
redis()->start;
Clawd::Redis::redis_ready();
charged('alice', 5, 'and settled');
nothing_held('alice');
becomes_used(5, 'the usage');
unheld();
--- error_log
does not serve (connect)



=== the same, and it has lost its memory: what was reserved stays charged
--- quota
default tokens_per_day=100000 concurrency=2
--- upstream eval
[[{ gate => 'go' }, sub { Clawd::Gate::answer($_[0]) }],
 [sub { Clawd::Gate::answer($_[0]) }]]
--- init
package main;
my $client = send_post('chat');
upstream()->wait_for(1);
away();
upstream()->open_gate('go');
Test::More::like($client->read_all // '', qr/\A\S+ 200 /, 'it is answered');
redis()->start;
serves('it serves again');
nothing_held('alice');
unheld();
my $used = used('tokens_per_day');
Test::More::cmp_ok($used, '>=', 10, 'never less than was used');
Test::More::cmp_ok($used, '<=', 5 + estimate('chat'), 'at most the estimate');
--- error_log
does not serve (connect)



=== local: a tenth of each limit, and settled when it is back
--- redis_args
--appendonly yes --appendfsync always
--- quota
default rpm=20 tokens_per_day=100000
--- redis_conf
on_down=local
--- redis
HSET KEY(sk-bob) user bob
HSET clawd:user:bob name Bob
--- init
package main;
early(20);
admitted(post('chat'), 'up');
admitted(post('chat', token => 'sk-bob'), 'up, a key');
becomes_used(5, 'settled');
becomes_used(5, 'settled', 'sk-bob');
away();
for my $token ('sk-alice', 'sk-bob') {
    admitted(post('chat', token => $token), "$token: $_") for 1 .. 2;
    my $no = post('messages', token => $token);
    Test::More::is($no->{status}, 429, "$token: the third is too much");
    Test::More::like($no->{header}{'retry-after'} // '', qr/\A[1-5]?\d\z/,
                     'Retry-After');
}
Test::More::is(post('chat', token => 'sk-unknown')->{status}, 503,
               'one that was not seen');
redis()->start;
charged('alice', 15, 'charged when it is back');
charged('bob', 15, 'of the key, too');
becomes_used(15, 'all of it');
nothing_held('alice');
--- error_log
does not serve (connect)



=== local: tokens, concurrency, and limits of less than ten
--- redis_args
--appendonly yes --appendfsync always
--- http_config eval
main::redis_http('on_down=local', 'clawd_quota default tokens_per_day=2300;',
                 'clawd_quota conc concurrency=19 tokens_per_day=unlimited;',
                 'clawd_quota few rpm=3 tokens_per_day=unlimited;',
                 'clawd_quota none rpm=0 tokens_per_day=unlimited;',
                 map {; "clawd_token sk-$_ user=$_ plan=$_;" }
                     qw(conc few none))
--- upstream eval
[[sub { Clawd::Gate::answer($_[0]) }], [sub { Clawd::Gate::answer($_[0]) }],
 [sub { Clawd::Gate::answer($_[0]) }],
 [sub { Clawd::Gate::answer($_[0]) }],
 [{ gate => 'go' }, sub { Clawd::Gate::answer($_[0]) }],
 [sub { Clawd::Gate::answer($_[0]) }]]
--- init
package main;
early(20);
admitted(post('chat', token => $_), "$_: seen") for qw(sk-alice sk-conc sk-few);
Test::More::is(post('chat', token => 'sk-none')->{status}, 429, 'none');
unheld($_, $_) for qw(sk-alice sk-conc sk-few);
away();
admitted(post('chat'), 'tokens: the first');
my $no = post('chat', max => 30);
Test::More::is($no->{status}, 429, 'tokens: more than a tenth is reserved');
my $client = send_post('chat', token => 'sk-conc');
upstream()->wait_for(5);
Test::More::is(post('chat', token => 'sk-conc')->{status}, 429,
               'concurrency: one of 19');
admitted(post('chat', token => 'sk-few'), 'few: one of 3');
Test::More::is(post('chat', token => 'sk-few')->{status}, 429, 'few: not two');
Test::More::is(post('chat', token => 'sk-none')->{status}, 429, 'none of 0');
upstream()->open_gate('go');
$client->read_all;
redis()->start;
charged('conc', 10, 'settled');
charged('alice', 10, 'settled');
nothing_held('conc');
--- error_log
does not serve (connect)



=== open: who is known passes, and is charged when it is back
--- quota
default rpm=2 tokens_per_day=100000
--- redis_conf
on_down=open
--- redis_down
--- init
package main;
admitted(post('chat'), "request $_") for 1 .. 4;
Test::More::is(post('chat', token => 'sk-unknown')->{status}, 503,
               'a key that was not seen');
redis()->start;
charged('alice', 20, 'all is charged');
becomes_used(20, 'the usage');
nothing_held('alice');
becomes('redis_up', 1);
--- error_log
does not serve (connect)



=== open: a key that was seen
--- redis_conf
on_down=open
--- redis
HSET KEY(sk-bob) user bob models m
HSET clawd:user:bob rpm 1
--- init
package main;
admitted(post('chat', token => 'sk-bob'), 'up');
away();
admitted(post('chat', token => 'sk-bob'), "away $_") for 1 .. 2;
Test::More::is(post('chat', token => 'sk-bob', model => 'other')->{status}, 403,
               'its models hold');
--- error_log
does not serve (connect)



=== a password: the right one
--- redis_args
--requirepass sesame
--- redis_conf
password=sesame
--- quota
default rpm=5
--- request
GET /v1/usage
--- error_code: 200
--- response_body_like: "limit":5



=== a password of the environment with a space, and of a file
--- http_config eval
main::redis_http('password=env:CLAWD_TEST_SECRET', 'clawd_quota default rpm=5;')
--- redis
CONFIG SET requirepass "open sesame"
--- request
GET /v1/usage
--- error_code: 200
--- no_error_log
open sesame
[error]



=== an ACL user with what a gateway needs
--- redis_args
--user clawd on >pw ~clawd:* &__redis__:invalidate -@all +hgetall +eval +evalsha +script|load +script|exists +hmget +hset +expire +zadd +zrem +zcard +zscore +zrangebyscore +zrange +time +ping +info +role +select +client|id +client|tracking +client|setname +subscribe +hello +auth +del +hdel +hget
--- redis_conf
user=clawd password=pw
--- quota
default rpm=5
--- init
package main;
serves('it works');
becomes_used(5, 'and is settled', undef, 'tpm');



=== a password that is wrong
--- redis_args
--requirepass sesame
--- redis_conf
password=wrong
--- quota
default rpm=5
--- redis_proxy eval
sub { undef }
--- init
package main;
Test::More::ok(redis()->wait_heard(qr/^AUTH/), 'it is tried');
unavailable('wrong');
Test::More::cmp_ok(metric('redis_errors_total{class="auth"}'), '>', 0,
                   'the errors');
becomes('redis_up', 0);
Test::More::unlike(error_log(), qr/wrong"|=wrong|: wrong/, 'no secret is logged');
--- error_log
does not serve (auth)



=== a password that is missing
--- redis_args
--requirepass sesame
--- quota
default rpm=5
--- redis_proxy eval
sub { undef }
--- init
package main;
Test::More::ok(wait_until(sub { error_log() =~ /does not serve \(auth\)/ }),
               'it is told');
unavailable('missing');
--- error_log
does not serve (auth)



=== a server that is no Redis
--- quota
default rpm=5
--- redis_proxy eval
sub { "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n" }
--- init
package main;
Test::More::ok(wait_until(sub { error_log() =~ /does not serve \(protocol\)/ }),
               'it is told');
unavailable('no Redis') for 1 .. 3;
becomes('redis_up', 0);
Test::More::cmp_ok(metric('redis_errors_total{class="protocol"}'), '>', 0,
                   'the errors');
saw(0);
--- error_log
does not serve (protocol)



=== a server that goes mad between a question and its answer
--- quota
default rpm=50 concurrency=3
--- redis_proxy eval
my %mad = (
    1 => "+OK\r\n+OK\r\n", 2 => "*100000000\r\n", 3 => "*1\r\n" x 5000,
    4 => "\$3\r\nabcd\r\n", 5 => ":99999999999999999999\r\n",
    6 => "*2\r\n:1\r\n:2\r\n", 7 => "\$-1\r\n", 8 => "*-1\r\n",
    9 => "*16\r\n" . ":1\r\n" x 16, 10 => "*16\r\n" . ":9\r\n" x 16,
    11 => "-ERR what\r\n", 12 => "\0" x 100, 13 => "*16\r\n"
    . ":-9223372036854775808\r\n" x 16, 14 => "*16\r\n:0\r\n:77\r\n"
    . ":1\r\n" x 14, 15 => "%1\r\n+a\r\n+b\r\n",
    map({ 15 + $_ => "*16\r\n:0\r\n:$_\r\n" . ":9007199254740992\r\n" x 14,
          19 + $_ => "*16\r\n:0\r\n:$_\r\n" . ":-9007199254740992\r\n" x 14,
          23 + $_ => "*16\r\n:0\r\n:$_\r\n" . ":9223372036854775807\r\n" x 14
        } 1 .. 4),
    28 => "*16\r\n:1\r\n" . ":9223372036854775807\r\n" x 15,
    map({ 29 + $_ => "*16\r\n" . ":1\r\n" x 15
                     . (":-1\r\n", ":9007199254740992\r\n",
                        ":255\r\n")[$_] } 0 .. 2),
);
sub {
    my ($words) = @_;
    my ($n) = grep { main::is_reserve($words)
                     && $words->[3] eq "clawd:{u$_}:u:u$_" } 1 .. 31;
    return $n ? $mad{$n} : undef;
}
--- redis eval
CORE::join "\n", map { ("HSET KEY(sk-u$_) user u$_",
                  "HSET clawd:user:u$_ tokens_per_day 100000 tpm 100000 "
                  . "tokens_per_month 1000000") } 1 .. 31
--- init
package main;
Clawd::Redis::redis_ready();
for my $n (1 .. 31) {
    serves("before $n");
    my $status = 0;
    wait_until(sub {
        $status = post('chat', token => "sk-u$n")->{status};
        return $status;
    });
    Test::More::like($status, qr/\A(?:200|429|503)\z/, "$n: an answer");

    # that is what one of the right form looks like: the others are not it
    Test::More::is($status, 200, 'admitted') if $n == 9;
}
serves('after all that');
unheld();
nothing_held('alice');
--- no_error_log
[alert]



=== what was used is told with the next question
--- quota
default tokens_per_day=100000
--- redis eval: $::bob
--- redis_conf
timeout=5s
--- redis_proxy eval
\&main::bob_waits
--- upstream eval: $::first_waits
--- init
package main;
Clawd::Redis::redis_ready();
Test::More::like(in_company()->read_all, qr/ 200 /, 'and so is she');
charged('alice', 10, 'both are charged');
nothing_held('alice');
unheld();

my @heard = map { [split / /, $_, -1] } redis()->heard(qr/:u:alice /);
Test::More::is(scalar(grep { has_company($_) } @heard), 1, 'one question had');
Test::More::is(scalar(grep { is_settle($_) } @heard), 1, 'the other was told');



=== what was used is told ahead of a look, which can't take it along
--- quota
default tokens_per_day=100000
--- redis eval: $::bob
--- redis_conf
timeout=5s
--- redis_proxy eval
\&main::bob_waits
--- upstream eval: $::first_waits
--- init
package main;
Clawd::Redis::redis_ready();
Test::More::like(in_company('GET', '/v1/usage', undef)->read_all,
                 qr/"used":\s*5\b/, 'she sees what she used');
charged('alice', 5, 'it is charged');

my @heard = map { [split / /, $_, -1] } redis()->heard(qr/:u:alice /);
Test::More::like(join(' ', map { is_settle($_) ? 'settle'
                                 : $_->[7] < 0 ? 'look' : 'question' } @heard),
                 qr/\bquestion settle look$/, 'in this order');



=== the question that it is told with is lost with its answer
--- quota
default tokens_per_day=100000
--- redis eval: $::bob
--- redis_conf
timeout=3s
--- redis_proxy eval
sub { main::has_company($_[0]) ? { late => 'never' } : main::bob_waits($_[0]) }
--- upstream eval: $::first_waits
--- init
package main;
Clawd::Redis::redis_ready();
Test::More::like(in_company()->read_all, qr/ 503 /, 'she is refused');
charged('alice', 5, 'her first is charged once');
nothing_held('alice');
unheld();

my @heard = map { [split / /, $_, -1] } redis()->heard(qr/:u:alice /);
Test::More::is(scalar(grep { has_company($_) } @heard), 1, 'it was asked');
Test::More::cmp_ok(scalar(grep { is_settle($_) } @heard), '>', 0,
                   'and told again');
serves('after that');
charged('alice', 10, 'as ever');
--- error_log
does not serve (timeout)



=== the question that it is told with never gets there
--- quota
default tokens_per_day=100000
--- redis eval: $::bob
--- redis_conf
timeout=5s
--- redis_proxy eval
sub { main::has_company($_[0]) ? { close => 1 } : main::bob_waits($_[0]) }
--- upstream eval: $::first_waits
--- init
package main;
Clawd::Redis::redis_ready();
Test::More::like(in_company()->read_all, qr/ 503 /, 'she is refused');
charged('alice', 5, 'her first is charged');
nothing_held('alice');
unheld();
serves('after that');
charged('alice', 10, 'as ever');
--- error_log
does not serve (connect)



=== a place that is the last one is given back at once
--- quota
default concurrency=1 tokens_per_day=100000
--- redis eval: $::bob
--- redis_conf
timeout=5s
--- redis_proxy eval
\&main::bob_waits
--- upstream eval: $::first_waits
--- init
package main;
Clawd::Redis::redis_ready();
Test::More::like(in_company()->read_all, qr/ 200 /, 'she is served');
charged('alice', 10, 'both are charged');
nothing_held('alice');

my @heard = map { [split / /, $_, -1] } redis()->heard(qr/:u:alice /);
Test::More::is(scalar(grep { has_company($_) } @heard), 0, 'none had company');
Test::More::is(scalar(grep { is_settle($_) } @heard), 2, 'both were told');



=== a server that says nothing: a request waits for its time and no longer
--- quota
default rpm=5
--- redis_conf
timeout=300ms
--- redis_proxy eval
sub { { deaf => 1 } }
--- init
package main;
my $start = time;
unavailable('deaf');
Test::More::cmp_ok(time - $start, '<', 3, 'soon');
--- error_log
does not serve (timeout)



=== a server that stops in the middle of its work
--- quota
default rpm=100
--- redis_conf
timeout=300ms
--- init
package main;
admitted(post('chat'), 'up');
redis()->freeze;
my $start = time;
Test::More::is(post('chat')->{status}, 503, 'frozen');
Test::More::cmp_ok(time - $start, '>=', 0.2, 'it waited');
Test::More::cmp_ok(time - $start, '<', 3, 'not long');
redis()->thaw;
serves('it goes on');
nothing_held('alice');
unheld();
my $before = used('tpm');
Test::More::is($before % 5, 0, 'what was abandoned is not charged');
--- error_log
does not serve (timeout)



=== a script that the server forgot is told again
--- quota
default rpm=100
--- init
package main;
admitted(post('chat'), 'known');
redis()->command('SCRIPT', 'FLUSH');
admitted(post('chat'), 'forgotten and told');
becomes_used(10, 'settled', undef, 'tpm');
nothing_held('alice');



=== a full server admits nothing, and serves when there is room
--- quota
default rpm=100
--- init
package main;
admitted(post('chat'), 'room');
becomes_used(5, 'settled', undef, 'tpm');
redis()->command('CONFIG', 'SET', 'maxmemory', '1');
unavailable('full');
redis()->command('CONFIG', 'SET', 'maxmemory', '0');
serves('room again');
becomes_used(10, 'what was refused cost nothing', undef, 'tpm');
--- error_log
does not serve (oom)



=== a replica that can't be written to
--- quota
default rpm=100
--- init
package main;
admitted(post('chat'), 'a master');
redis()->command('REPLICAOF', '127.0.0.1', '1');
my $status;
wait_until(sub { ($status = post('chat')->{status}) == 503 });
Test::More::is($status, 503, 'a replica');
redis()->command('REPLICAOF', 'NO', 'ONE');
serves('a master again');
--- no_error_log
[alert]



=== 126: a client that leaves while the answer to its question is on the way
--- quota
default concurrency=1 tokens_per_day=100000
--- redis_conf
timeout=5s
--- redis_proxy eval
my $n = 0;
sub { main::is_reserve($_[0]) && $_[0][7] > 0 && !$n++ ? { late => 'go' }
                                                       : undef }
--- init
package main;
Clawd::Redis::redis_ready();
my $client = send_post('chat', headers => ['X-Request-Id' => 'leaves']);
Test::More::ok(wait_until(sub { redis()->open_reservations('alice') == 1 }),
               'it is reserved in Redis');
$client->close;
Test::More::is(log_of('leaves')->{status}, 499, 'the client has left');
redis()->open_gate('go');
nothing_held('alice');
unheld();
charged('alice', 0, 'nothing is charged');
saw(0);
serves('the next one');
becomes_used(5, 'is charged');
saw(1);



=== 126: a client that leaves while nobody answers
--- quota
default concurrency=1 tokens_per_day=100000
--- redis_conf
timeout=300ms
--- redis_proxy eval
my $n = 0;
sub { main::is_reserve($_[0]) && $_[0][7] > 0 && !-e "$ENV{TEST_NGINX_SERVER_ROOT}/html/awake"
      ? { deaf => 1 } : undef }
--- init
package main;
Clawd::Redis::redis_ready();
my $client = send_post('chat', headers => ['X-Request-Id' => 'leaves']);
Test::More::ok(redis()->wait_heard(qr/^EVAL\S* \S+ 3 \S+ \S+ \S+ [0-9a-f]{32} \d+ 90000/),
               'it is asked');
$client->close;
Test::More::is(log_of('leaves')->{status}, 499, 'the client has left');
open my $awake, '>', server_root() . '/html/awake';
serves('the next one');
nothing_held('alice');
unheld();
becomes_used(5, 'only that is charged');
saw(1);
--- error_log
does not serve (timeout)



=== 126: a client that leaves while its key is looked up
--- redis_conf
timeout=5s
--- redis
HSET KEY(sk-bob) user bob
HSET clawd:user:bob rpm 5
--- redis_proxy eval
my $key = main::key_of('sk-bob');
my $n = 0;
sub { $_[0][0] eq 'HGETALL' && $_[0][1] eq $key && !$n++ ? { late => 'go' }
                                                         : undef }
--- init
package main;
Clawd::Redis::redis_ready();
my @clients = map { send_post('chat', token => 'sk-bob',
                              headers => ['X-Request-Id' => "leaves-$_"]) }
                  1 .. 3;
Test::More::ok(redis()->wait_heard(qr/^HGETALL clawd:key:/), 'it is asked');
$clients[0]->close;
$clients[1]->reset;
Test::More::is(log_of("leaves-$_")->{status}, 499, "client $_ has left")
    for 1, 2;
redis()->open_gate('go');
Test::More::like($clients[2]->read_all // '', qr/\A\S+ 200 /,
                 'the one that stays is served');
saw(1);
nothing_held('bob');
unheld('nothing is held', 'sk-bob');
becomes('rejected_total{reason="client_abort"}', 2);



=== 126: many that leave
--- quota
default concurrency=8 tokens_per_day=1000000
--- redis_conf
timeout=5s
--- redis_proxy eval
my $n = 0;
sub { main::is_reserve($_[0]) && $_[0][7] > 0 && !$n++ ? { late => 'go' }
                                                       : undef }
--- init
package main;
Clawd::Redis::redis_ready();
my @clients = map { send_post('chat', headers => ['X-Request-Id' => "m-$_"]) }
                  1 .. 20;
redis()->wait_heard(qr/^EVAL\S* \S+ 3 \S+ \S+ \S+ [0-9a-f]{32} \d+ 90000/);
$_ % 2 ? $clients[$_]->close : $clients[$_]->reset for 0 .. 19;
Test::More::is(log_of("m-$_")->{status}, 499, "client $_ has left") for 1, 20;
redis()->open_gate('go');
nothing_held('alice');
unheld();
saw(0);
serves('the next one');
becomes_used(5, 'is all that is charged');



=== 147: Redis goes between question and settlement, and the file keeps it
--- redis_args
--appendonly yes --appendfsync always
--- http_config eval
main::redis_http('', 'clawd_quota default tokens_per_day=100000;',
                 "clawd_state $ENV{TEST_NGINX_SERVER_ROOT}/html/state;")
--- upstream eval
[{ gate => 'go' }, sub { Clawd::Gate::answer($_[0]) }]
--- init
package main;
my @clients = map { send_post('chat') } 1 .. 3;
upstream()->wait_for(3);
away();
upstream()->open_gate('go');
Test::More::like($_->read_all // '', qr/\A\S+ 200 /, 'answered') for @clients;
becomes('ledger_spooled_total', 3);
my $file = server_root() . '/html/state.spool';
Test::More::ok(-s $file, 'they are in the file');
redis()->start;
Clawd::Redis::redis_ready();
charged('alice', 15, 'and settled when it is back');
nothing_held('alice');
Test::More::ok(wait_until(sub { !-e $file && !-e "$file.replay" }),
               'the file is gone');
becomes_used(15, 'once');
--- error_log
does not serve (connect)



=== error_page in another gated location, with Redis: one reservation
--- quota
default concurrency=1 rpm=5
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
admitted(post('chat'), 'the second answers');
nothing_held('alice');
unheld();
becomes_used(5, 'what the second said', undef, 'tpm');
